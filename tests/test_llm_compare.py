"""One Dataset of all pairs, each entry against the functions that it is made of."""

from typing import NamedTuple

import numpy as np
import pytest

import assocjax as aj
from assocjax import llm
from assocjax.llm import compare_model, frequency_bins, permutation_null
from assocjax.llm.compare import STREAMS

N, D, LAYERS, HEADS, RANK = 12, 5, 2, 3, 2
CENTERINGS = ["feature", "token"]  # each takes seconds to compile
OPTIONS = {"num_shuffles": 6, "num_bins": 3, "seed": 2}


class Streams(NamedTuple):
    before: np.ndarray
    after_attention: np.ndarray
    after_layer: np.ndarray


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    streams = Streams(*rng.normal(size=(3, LAYERS, N, D)).astype(np.float32))
    matrices = {
        residual: {name: rng.normal(size=(N, N)) for name in ("value", "query_key")}
        for residual in ("uniform", "unigram")
    }
    # The theory of one pairing is planted: value of the unigram residual, after layer 2.
    matrices["unigram"]["value"][:, :D] += 5 * streams.after_layer[1]
    counts = rng.integers(1, 100, size=N)
    factors = rng.normal(size=(LAYERS, 2, HEADS, N, RANK)).astype(np.float32)
    return streams, matrices, counts, [tuple(layer) for layer in factors]


@pytest.fixture(scope="module")
def dataset(inputs):
    streams, matrices, counts, attention = inputs
    return compare_model(
        streams, matrices, counts, attention=iter(attention), centerings=CENTERINGS, **OPTIONS
    )


def reference(A, M, centering, kind, counts):
    bins = frequency_bins(counts, OPTIONS["num_bins"]) if kind == "frequency" else None
    options = {"num_shuffles": OPTIONS["num_shuffles"], "seed": OPTIONS["seed"]}
    null = permutation_null(A, M.astype(np.float32), centering=centering, bins=bins, **options)
    return dict(zip(("similarity", "null_mean", "null_sd", "z", "p"), null, strict=True))


def assert_entry(dataset, prefix, selection, expected):
    for name, value in expected.items():
        where = dict(selection)
        if name == "similarity":
            where.pop("null")
        found = dataset[prefix + name].sel(where).item()
        # z divides by an sd, of few shuffles, that may be a hundredth of the scores.
        tolerance = 1e-3 if name == "z" else 1e-5
        assert found == pytest.approx(float(value), rel=tolerance, abs=1e-6), (name, selection)


# Every coordinate takes each of its values once at least.
@pytest.mark.parametrize(
    ("residual", "theory", "centering", "layer", "stream", "null"),
    [
        ("uniform", "value", "feature", 1, 0, "all"),
        ("unigram", "query_key", "token", 2, 1, "frequency"),
        ("uniform", "query_key", "token", 1, 2, "frequency"),
        ("unigram", "value", "feature", 2, 2, "all"),
    ],
)
def test_streams(inputs, dataset, residual, theory, centering, layer, stream, null):
    streams, matrices, counts, _ = inputs
    expected = reference(
        streams[stream][layer - 1], matrices[residual][theory], centering, null, counts
    )
    selection = {
        "residual": residual,
        "theory": theory,
        "centering": centering,
        "layer": layer,
        "stream": STREAMS[stream],
        "null": null,
    }
    assert_entry(dataset, "", selection, expected)


@pytest.mark.parametrize(
    ("residual", "centering", "layer", "head", "null"),
    [
        ("uniform", "feature", 2, 0, "frequency"),
        ("unigram", "token", 1, 2, "all"),
        ("unigram", "token", 2, "mean", "all"),
    ],
)
def test_attention(inputs, dataset, residual, centering, layer, head, null):
    _, matrices, counts, attention = inputs
    queries, keys = attention[layer - 1]
    scores = np.einsum("hnr,hmr->hnm", queries, keys)
    A = scores.mean(axis=0) if head == "mean" else scores[head]
    expected = reference(A, matrices[residual]["query_key"], centering, null, counts)
    selection = {
        "residual": residual,
        "centering": centering,
        "layer": layer,
        "head": str(head),
        "null": null,
    }
    assert_entry(dataset, "attention_", selection, expected)


@pytest.mark.parametrize("centering", CENTERINGS)
def test_tokens_that_carry_a_score(inputs, dataset, centering):
    """Against sums over pairs of tokens: shares of all tokens are the similarity."""
    streams, matrices, _, attention = inputs
    queries, keys = attention[0]
    pairs = {
        "": (streams.before[1], "value", {"theory": "value", "layer": 2, "stream": "before"}),
        "attention_": (queries[1] @ keys[1].T, "query_key", {"layer": 1, "head": "1"}),
    }
    for prefix, (A, theory, where) in pairs.items():
        M = matrices["unigram"][theory]
        M = M / np.linalg.norm(M, axis=1, keepdims=True)
        axis = {"feature": 1, "token": 0}[centering]
        A, M = (of - of.mean(axis=axis, keepdims=True) for of in (A.astype(float), M))
        A, M = A @ A.T, M @ M.T
        shares = (A * M).sum(axis=1) / (np.linalg.norm(A) * np.linalg.norm(M))
        at = dataset.sel(where | {"residual": "unigram", "centering": centering})
        assert float(at[f"{prefix}similarity"]) == pytest.approx(shares.sum(), abs=1e-5)
        np.testing.assert_allclose(at[f"{prefix}top_share"], np.sort(shares)[::-1][:10], atol=1e-5)
        np.testing.assert_allclose(
            shares[at[f"{prefix}top_token"]], at[f"{prefix}top_share"], atol=1e-5
        )


def test_planted_theory_stands_out(dataset):
    z = dataset.z.sel(null="all", centering="token", theory="value")
    best = z.where(z == z.max(), drop=True)
    assert (best.residual.item(), best.layer.item()) == ("unigram", 2)
    assert best.stream.item() == "after_layer"
    assert z.max() > 3
    # Of 6 shuffles none reaches it.
    p = dataset.p.sel(null="all", centering="token", theory="value", residual="unigram")
    assert p.sel(layer=2, stream="after_layer").item() == pytest.approx(1 / 7)


def test_coordinates_and_files(inputs, dataset, tmp_path):
    streams, matrices, counts, _ = inputs
    assert dict(dataset.sizes) == {
        "residual": 2,
        "theory": 2,
        "centering": 2,
        "layer": LAYERS,
        "stream": 3,
        "null": 2,
        "head": HEADS + 1,
        "rank": 10,
    }
    assert dataset.attrs == {"num_tokens": N, **OPTIONS}
    aj.save(dataset, tmp_path / "compare.nc")
    assert aj.load(tmp_path / "compare.nc").identical(dataset)
    # Some layers of a model, one centring, no attention.
    part = compare_model(
        Streams(*(stream[1:] for stream in streams)),
        {"unigram": matrices["unigram"]},
        counts,
        layers=[17],
        centerings=["token"],
        **OPTIONS,
    )
    assert list(part.layer.values) == [17]
    assert "attention_similarity" not in part
    found = part.similarity.sel(layer=17, centering="token", residual="unigram")
    same = dataset.similarity.sel(layer=2, centering="token", residual="unigram")
    np.testing.assert_allclose(found, same, rtol=1e-5)


def change(streams, **parts):
    return streams._replace(**parts)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda s, m: {"matrices": {}}, "at least one residual"),
        (lambda s, m: {"matrices": {"uniform": {}}}, "at least one residual"),
        (
            lambda s, m: {"matrices": m | {"unigram": {"value": m["unigram"]["value"]}}},
            r"same names for every residual; got .*'unigram': \['value'\]",
        ),
        (
            lambda s, m: {"matrices": {"uniform": {"value": m["uniform"]["value"][:5]}}},
            r"one n; got \[\(5, 12\)\]",
        ),
        (
            lambda s, m: {"streams": change(s, before=s.before[:, :5])},
            r"before must .* \[layers, 12",
        ),
        (lambda s, m: {"streams": change(s, before=s.before[:1])}, "streams must have one shape"),
        (lambda s, m: {"counts": np.ones(3)}, r"counts must have shape \[n\] = \(12,\)"),
        (lambda s, m: {"layers": [1]}, r"the 2 layers of streams; got \[1\]"),
        (lambda s, m: {"centerings": ["none"]}, "every entry of centerings must be one of"),
        (lambda s, m: {"num_bins": 7}, "num_bins must leave two tokens"),
        (
            lambda s, m: {"matrices": {"uniform": {"value": m["uniform"]["value"]}}},
            "must hold 'query_key'",
        ),
        (lambda s, m: {"attention": [np.ones((2, HEADS, N, RANK))]}, "have 2 layers; got 1"),
        (
            lambda s, m: {"attention": [np.ones((2, HEADS, 4, RANK))]},
            r"shape \[H, 12, r\] for every layer; got \(3, 4, 2\)",
        ),
    ],
)
def test_bad_arguments(inputs, changed, message):
    streams, matrices, counts, attention = inputs
    arguments = {"streams": streams, "matrices": matrices, "counts": counts, "attention": attention}
    with pytest.raises(aj.InputError, match=message):
        compare_model(**(arguments | OPTIONS | changed(streams, matrices)))


def test_every_public_name_is_documented():
    for name in llm.__all__:
        assert getattr(llm, name).__doc__ or name.isupper(), name
    assert aj.llm is llm
