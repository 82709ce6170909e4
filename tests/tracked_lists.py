"""Datasets in the form of `track`, of random lists, and pages made of them."""

import json

import numpy as np
import xarray as xr

import assocjax as aj
from assocjax.analysis.scorings import LAYERED, MATRICES, SCORINGS, SIDES

K, S, L = 10, 4, 3
STEPS = [0, 1, 10, 100]
SCORING = SCORINGS[0]
# What could break a page, a search or a string.
AWKWARD = [
    "</script>", "<unk>", "<!--", '"quoted"', "it's", "naïve", "日本語", "a b", "&amp;", "\n", "🐦",
    "[[META]]", "\\u003c", "constructor", "ĠĠ", " ", "a\0", "\ufeff", "\u202eb", "\u3000", "שלום",
]  # fmt: skip


def random_lists(words: list[str]) -> xr.Dataset:
    """Lists that change a little from step to step; the counts are random too."""
    rng, V = np.random.default_rng(0), len(words)
    variables = {}

    def lists(*shape):
        # Distinct ids, none of them the token's own.
        start = rng.integers(0, V - 2 * K, (*shape, V, 1))
        ids = (start + rng.permutation(2 * K)[:K]) % (V - 1)
        ids = ids + (ids >= np.arange(V)[:, None])
        scores = -np.sort(-rng.random((*shape, V, K)), axis=-1) * 10.0 ** rng.integers(-9, 2)
        # Most lists are full, some short, and some empty.
        length = np.where(rng.random((*shape, V)) < 0.6, K, rng.integers(0, K, (*shape, V)))
        length[..., 290:300] = K  # among which the test by keyboard finds its way
        ended = np.arange(K) >= length[..., None]
        ids, counts = np.where(ended, 0, ids), rng.integers(1, 10**5, ids.shape)
        scores = np.where(ended, np.nan, scores).astype(np.float32)
        return ids.astype(np.uint16), scores, np.where(ended, 0, counts).astype(np.int32)

    def add(name, dims, values):
        for what, of in zip(("id", "score", "count"), values, strict=True):
            variables[f"{name}_{what}"] = (dims, of)

    for name in [*MATRICES, "context"]:
        side = () if name == "interchangeability" else ("side",)
        dims = ("scoring", *side, "token", "rank")
        theory = lists(3, *[2 for _ in side])
        add(f"{name}_theory", dims, theory)
        if name not in MATRICES:
            continue
        layer = ("layer",) * (name in LAYERED)
        shape = (S, *[L for _ in layer], 3, *[2 for _ in side])
        ids, scores, counts = lists(*shape)
        keep = rng.random(shape) < 0.4
        ids = np.where(keep[..., None, None], theory[0], ids).astype(np.uint16)
        scores[0] = np.nan  # nothing at the start
        dims = ("step", *layer, *dims)
        cosine = rng.uniform(-1, 1, ids.shape[:-1]).astype(np.float32)
        cosine[0] = np.nan
        expected = np.where(np.isnan(theory[1]), -1, theory[0].astype(int))
        common = (ids[..., None] == expected[..., None, :]).any(-1) & ~np.isnan(scores)
        with np.errstate(invalid="ignore"):  # 0 / 0 of an empty list
            overlap = (common.sum(-1) / (expected >= 0).sum(-1)).astype(np.float32)
        overlap[0] = np.nan
        add(name, dims, (ids, scores, counts))
        variables |= {
            f"{name}_overlap": (dims[:-1], overlap),
            f"{name}_cosine": (dims[:-1], cosine),
        }
    frequency = 1 / np.arange(1, V + 1)
    variables["input_frequency"] = "token", frequency / frequency.sum()
    variables["loss"] = "step", np.linspace(8, 5, S)
    coords = {
        "step": STEPS, "layer": range(1, L + 1), "scoring": list(SCORINGS), "side": list(SIDES),
        "token": np.array(words, object), "rank": range(1, K + 1),
    }  # fmt: skip
    attrs = {
        "config": '{"learning_rate": 0.5, "init_scale": 1e-05}',
        "corpus": '{"tokenizer": "<word>"}',
        "versions": '{"jax": "1.2.3"}',
        "corpus_name": "a <made-up> corpus",
        "corpus_sha256": "0" * 64,
    }
    return xr.Dataset(variables, coords, attrs)


def with_text() -> tuple[xr.Dataset, aj.TokenData]:
    """The same for a vocabulary of 40 tokens, with a text of 60 sequences, of which 2 are padded.

    w3 and w5 never occur together. `composed` has one planted pair.
    """
    rng = np.random.default_rng(1)
    words = ["bird", "flew", *(f"w{i}" for i in range(2, 38)), "<unk>", "."]
    tokens = np.minimum(rng.zipf(1.3, (60, 13)) - 1, 39).astype(np.int32)
    tokens[(tokens == 3).any(1, keepdims=True) & (tokens == 5)] = 7
    mask = np.ones((60, 12), bool)
    tokens[:2, 8:], mask[:2, 7:] = 0, False
    data = aj.TokenData(tokens, mask, tuple(words), "text", "1" * 64)
    truth = {"composed": {"bird": ["flew", "nowhere"]}, "context": {"flew": ["w3"]}}
    described = {"corpus": json.dumps(data.describe()), "truth": json.dumps(truth)}
    return random_lists(words).assign_attrs(described), data


def same_scores(found, expected):
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    # Rounded to 127ths of the largest, whose logarithm is rounded in 65534 steps of at most 30.
    errors = np.abs(found - expected) / expected[..., :1]
    assert (errors[~np.isnan(errors)] < 0.5 / 127 + 5e-4).all()


def random_comparison() -> xr.Dataset:
    """In the form of `llm.compare_revisions`: 3 revisions of a model of 2 layers and 2 heads."""
    rng = np.random.default_rng(3)
    axes = {
        "revision": ["step0", "step16", "step512"],
        "null": ["all", "frequency"],
        "residual": ["uniform", "unigram"],
        "theory": ["bigram", "value", "query_key"],
        "centering": ["feature", "token"],
        "layer": [1, 2],
        "stream": ["before", "after_attention", "after_layer"],
        "head": ["0", "1", "mean"],
        "rank": list(range(1, 6)),
    }
    of = {
        "": ("residual", "theory", "centering", "layer", "stream"),
        "attention_": ("residual", "centering", "layer", "head"),
    }

    def draw(*dims):
        return rng.random([len(axes[dim]) for dim in dims]).astype(np.float32)

    variables = {}
    for prefix, dims in of.items():
        dims = ("revision", *dims)
        variables[f"{prefix}similarity"] = (dims, draw(*dims))
        with_null = ("revision", "null", *dims[1:])
        for name, scale in (("null_mean", 0.5), ("null_sd", 0.05), ("p", 1.0), ("z", 9.0)):
            variables[prefix + name] = (with_null, scale * draw(*with_null))
        ranked = (*dims, "rank")
        shares = -np.sort(-draw(*ranked), axis=-1) / 10
        variables[f"{prefix}top_share"] = (ranked, shares)
        ids = rng.integers(0, len(AWKWARD), shares.shape).astype(np.int32)
        variables[f"{prefix}top_token"] = (ranked, ids)
    variables["token_count"] = ("token", rng.integers(10, 10**5, len(AWKWARD)))
    coords = axes | {"token": np.array(AWKWARD, object)}
    shared = '[{"revisions": ["step0", "step16"], "unit": "tensors", "shared": 2, "of": 5}]'
    attrs = {"model": "a <model>", "corpus_name": "a text", "shared_weights": shared}
    return xr.Dataset(variables, coords, attrs)
