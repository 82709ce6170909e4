"""Every public function takes a corpus in every form, and finds the same in each."""

import inspect
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr
from conftest import random_params, random_tokens
from scipy.sparse import issparse

import assocjax as aj
from assocjax.analysis.strengths import Associations
from assocjax.corpora.tokens import as_token_data
from assocjax.models.decoder import DecoderModel, neox

N, T, V = 6, 4, 5
NAMES = tuple(map(str, range(V)))  # as those of an array's ids are called

OF_CORPORA = {
    name: inspect.signature(function).parameters
    for name in dir(aj)
    if not inspect.isclass(function := getattr(aj, name))
    and callable(function)
    and "data" in inspect.signature(function).parameters
    and name != "write_explorer"  # of results, with their corpus for passages
}
"""Parameters of every public function of a corpus."""


def arguments(name: str, tokens, mask) -> dict:
    """The other arguments of a function, by name."""
    params = random_params(1, V=V, T=T, L=1)
    statistics = aj.corpus_statistics(tokens, vocab_size=V, mask=mask)
    moments = aj.effective_statistics(tokens, vocab_size=V, depth=1, mask=mask)
    counted = {"statistics": statistics, "matrix": "query_key", "row": 0, "column": 1}
    descent = {"statistics": moments, "num_layers": 1, "steps": 3, "learning_rate": 0.1}
    passages = {"row": "0", "column": "1", "matrices": ["value", "query_key"]}
    of_weight = {"optimizer": optax.sgd(0.5), "steps": 2, "weight": "output", "index": (0, 1)}
    twins = {
        "model": DecoderModel("neox", neox(V, T, 1, 8, 1)),
        "optimizer": optax.sgd(0.5),
        "steps": [1],
        "batch_size": 2,
        "num_runs": 2,
        "twins": [aj.StatisticsTwin(1, rows=None)],
    }
    language_model = {name: twins[name] for name in ("model", "optimizer", "batch_size")}
    pairs = [tuple(tokens[0, :2].tolist())]
    language_model |= {"vocab_size": V, "order": 1, "read_sequences": 2}
    return {
        "ablate": {"params": params, "theory": params, "draws": 2},
        "attention_correlation": {"matrix": params.output},
        "attribute": counted,
        "bigram_counts": {"vocab_size": V},
        "compare_twins": {"vocab_size": V, **twins},
        "context_statistics": {"vocab_size": V},
        "corpus_statistics": {"vocab_size": V},
        "corrected_weights": {**descent, "nodes": 1},
        "count_distinct": {},
        "count_occurrences": {"vocab_size": V, "tokens": [0, 2]},
        "data_parallel_loss_and_gradient": {"params": params, "mesh": jax.make_mesh((2,), "data")},
        "effective_gradient": {"params": params, "statistics": moments},
        "effective_statistics": {"vocab_size": V, "depth": 1},
        "effective_weights": descent,
        "exact_gradient": {"params": params},
        "exact_loss_and_gradient": {"params": params, "form": "tables"},
        "find_passages": passages,
        "frequency_corrected": {"statistics": statistics},
        "leading_gradient": {"params": params, "statistics": statistics},
        "leave_out": counted,
        "loss": {"params": params},
        "pair_shares": {**counted, "sequences": [0, 3]},
        "statistics_dataset": {"statistics": statistics},
        "predict_formation": {
            **language_model,
            "steps": 1,
            "num_twins": 1,
            "associations": Associations(np.array(["bigram"], object), *np.ones((5, 1), int)),
        },
        "remove_bigrams": {**language_model, "steps": 1, "pairs": pairs, "real": False},
        "sweep": {"learning_rates": [0.5], "steps": 2, "num_layers": 1},
        "track": {"learning_rate": 0.5, "steps": 2, "num_layers": 1, "k": 2},
        "training_influence": {"params": params, **of_weight},
        "uniform_attention_gradient": {"params": params},
    }[name]


def forms(tokens, mask, folder) -> dict[str, dict]:
    """One corpus in every form: arguments by name."""
    tokens.astype(np.uint16).tofile(folder / "a.bin")
    (1 + mask.sum(axis=1)).astype(np.uint32).tofile(folder / "a.sizes.bin")
    about = {"dtype": "uint16", "vocab_size": V, "seq_len": T}
    (folder / "a.json").write_text(json.dumps(about), "utf-8")
    return {
        "TokenData": {"data": aj.TokenData(tokens, mask, NAMES, "random", "0" * 64)},
        "TokenFile": {"data": aj.open_tokens(folder / "a.bin")},
        "int64": {"data": tokens.astype(np.int64), "mask": mask},
        "JAX": {"data": jnp.asarray(tokens), "mask": jnp.asarray(mask)},
        "lists": {"data": tokens.tolist(), "mask": mask.tolist()},
    }


def assert_same(found, expected):
    if isinstance(expected, xr.Dataset):
        return xr.testing.assert_equal(found, expected)
    found, expected = (
        jax.tree.map(lambda leaf: leaf.toarray() if issparse(leaf) else leaf, each)
        for each in (found, expected)
    )
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    return jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("name", OF_CORPORA)
def test_every_form_of_a_corpus_gives_the_same(name, tmp_path):
    function, takes_mask = getattr(aj, name), "mask" in OF_CORPORA[name]
    tokens = random_tokens(0, N, T, V)
    sizes = np.array([[4], [2], [4], [3], [4], [1]]) if takes_mask else T
    mask = np.broadcast_to(np.arange(T) < sizes, (N, T)).copy()
    others = arguments(name, tokens, mask)
    of_array = {"data": tokens} | ({"mask": mask} if takes_mask else {})
    expected = function(**of_array, **others)
    for form in forms(tokens, mask, tmp_path).values():
        if not takes_mask:
            form.pop("mask", None)
        assert_same(function(**form, **others), expected)


def test_corpora_of_runs_are_the_same_in_every_form(tmp_path):
    tokens = random_tokens(0, N, T, V)
    mask = np.ones((N, T), bool)
    config = aj.RunConfig(steps=1, num_layers=1, theories=("leading", "effective"))
    expected = aj.Corpus.of(tokens, config, vocab_size=V)
    for form in forms(tokens, mask, tmp_path).values():
        assert_same(aj.Corpus.of(**form, config=config, vocab_size=V), expected)


@pytest.mark.parametrize("name", ["loss", "exact_gradient", "uniform_attention_gradient"])
def test_under_jit_a_corpus_is_closed_over_and_arrays_are_traced(name, tmp_path):
    function, params = getattr(aj, name), random_params(1, V=V, T=T, L=1)
    tokens, mask = random_tokens(0, N, T, V), np.ones((N, T), bool)
    given = forms(tokens, mask, tmp_path)
    # Of arrays that are traced, the number of distinct tokens is not known.
    known = {"max_distinct": aj.count_distinct(tokens)} if name == "exact_gradient" else {}
    expected = jax.jit(lambda p, *of: function(p, *of, **known))(params, tokens, mask)
    for form in given.values():
        assert_same(jax.jit(lambda p, form=form: function(p, **form))(params), expected)


def test_a_mask_beside_a_corpus_that_has_its_own_is_refused(tmp_path):
    tokens, mask = random_tokens(0, N, T, V), np.ones((N, T), bool)
    params = random_params(1, V=V, T=T, L=1)
    for form in ("TokenData", "TokenFile"):
        data = forms(tokens, mask, tmp_path)[form]["data"]
        with pytest.raises(aj.InputError, match=f"mask must be left out: a {form} has its own"):
            aj.loss(params, data, mask)


def test_a_corpus_of_more_tokens_than_the_weights_is_refused():
    tokens = np.full((2, 3), 7, np.int32)
    data = aj.TokenData(tokens, np.ones((2, 2), bool), tuple("abcdefgh"), "random", "")
    with pytest.raises(aj.InputError, match=r"in \[0, vocab_size=5\); got 7"):
        aj.loss(random_params(1, V=V, T=T, L=1), data)


def test_any_corpus_as_token_data(tmp_path):
    tokens, mask = random_tokens(0, N, T, V), np.ones((N, T), bool)
    mask[1, 2:] = False
    given = forms(tokens, mask, tmp_path)
    assert as_token_data(given["TokenData"]["data"]) is given["TokenData"]["data"]
    file = given["TokenFile"]["data"]
    read = as_token_data(file)
    np.testing.assert_array_equal(read.tokens, tokens)
    np.testing.assert_array_equal(read.mask, mask)
    for name in ("name", "sha256", "vocabulary"):
        assert getattr(read, name) == getattr(file, name)
    found = as_token_data(tokens)
    assert (found.name, found.vocabulary, found.mask.all()) == ("array", NAMES, True)
    assert found.describe() == as_token_data(tokens.astype(np.int64)).describe()
    other = as_token_data(tokens[::-1])
    assert other.sha256 != found.sha256
    assert other.tokens_sha256 != found.tokens_sha256


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ("fables", aj.InputTypeError, "must be TokenData, .* array .N, T.1.; got str"),
        (None, aj.InputTypeError, "got NoneType"),
        ([[1, 2], [3]], aj.InputTypeError, "got list"),
        (np.zeros((2, 3)), aj.InputTypeError, "got float64"),
        (np.zeros(3, int), aj.InputError, r"T\+1 >= 2\], got \[3\]"),
        (np.zeros((2, 1), int), aj.InputError, r"got \[2, 1\]"),
        (np.array([[0, -1]]), aj.InputError, "from 0 to 16777215, got -1 to 0"),
        (np.array([[0, 2**40]]), aj.InputError, "got 0 to 1099511627776"),
    ],
)
def test_what_is_no_corpus(data, error, message):
    with pytest.raises(error, match=message):
        as_token_data(data)


def test_distinct_tokens_of_a_corpus_are_counted_once(monkeypatch):
    tokens = random_tokens(0, N, 20, 9)
    data = aj.TokenData(tokens, np.ones((N, 20), bool), tuple("abcdefghi"), "random", "")
    most = max(len(set(row[:-1].tolist())) for row in tokens)
    assert aj.count_distinct(tokens) == min(20, -(-most // 8) * 8)
    assert aj.count_distinct(data) == aj.count_distinct(tokens)
    monkeypatch.setattr(np, "sort", None)
    assert aj.count_distinct(data) == min(20, -(-most // 8) * 8)
