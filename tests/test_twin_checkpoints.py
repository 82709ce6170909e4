"""Twins beside checkpoints, against changes of weights that are trained and compared by hand."""

import dataclasses
import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr
from conftest import random_tokens, token_data

import assocjax as aj
from assocjax import figures, llm
from assocjax.models.decoder import Decoder, DecoderModel, neox
from assocjax.models.model import Sizes

V, T, ROWS, DRAWS, STEPS = 11, 6, 12, 2, (2, 3)
CONFIG = neox(V, T, 1, 16, 2)
MODEL = DecoderModel("neox", CONFIG)
TWINS = [
    aj.StatisticsTwin(0, ROWS),
    aj.StatisticsTwin(4, ROWS),
    aj.StatisticsTwin(2, ROWS, shuffle_seed=0),
]
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2))


def text(seed, number):
    """Every token has two followers, which are the same in all texts."""
    rng = np.random.default_rng(seed)
    followers = np.random.default_rng(9).integers(0, V, (V, 2))
    tokens = np.empty((number, T + 1), np.int32)
    tokens[:, 0] = rng.integers(0, V, number)
    for t in range(T):
        tokens[:, t + 1] = followers[tokens[:, t], rng.integers(0, 2, number)]
    return tokens


def train(start, gradient, optimizer=OPTIMIZER):
    """Weights after some updates, by number; the gradient is a function of weights and step."""

    @jax.jit
    def advance(params, state, step):
        updates, state = optimizer.update(gradient(params, step), state, params)
        return optax.apply_updates(params, updates), state

    params, state, found = start, optimizer.init(start), {}
    for step in range(max(STEPS)):
        params, state = advance(params, state, step)
        found[step + 1] = params
    return {step: found[step] for step in STEPS}


def of_twin(prepared, order, key):
    decoder = Decoder(CONFIG)

    def gradient(params, step):
        drawn = jax.random.fold_in(key, step)
        loss = lambda params: aj.twin_loss(  # noqa: E731
            decoder, params, prepared, drawn, order=order, rows=ROWS
        )
        return jax.grad(loss)(params)

    return gradient


@pytest.fixture(scope="module")
def trained():
    """The start, a real run, random changes, statistics of another text, and their comparison."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        start = jax.jit(lambda key: MODEL.init(key, Sizes(V, T, 1), 1.0))(jax.random.key(0))
        tokens = jnp.asarray(text(0, 16))
        mask = jnp.ones((16, T), bool)
        real = train(start, lambda params, step: jax.grad(MODEL.loss)(params, tokens, mask))
        rng = np.random.default_rng(0)
        random = {
            step: jax.tree.map(lambda a: a + rng.normal(size=a.shape), start) for step in STEPS
        }
        statistics = aj.context_statistics(text(1, 40), V)
        options = {"optimizer": OPTIMIZER, "twins": TWINS, "num_draws": DRAWS, "seed": 3}
        found = aj.compare_checkpoints(MODEL, start, [real, random], statistics, **options)
        yield start, real, random, statistics, found


def changes(start, params):
    """Vectors of the changes, by weight; there is one layer."""
    weights, origin = MODEL.weights(params), MODEL.weights(start)
    return {name: np.asarray(weights[name] - origin[name]).ravel() for name in origin}


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_measures(trained):
    start, real, random, statistics, found = trained
    assert found.twin.values.tolist() == ["run", "twin-0", "twin-4", "twin-2-shuffled"]
    drawn = {}
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        for i, twin in enumerate(TWINS):
            prepared = aj.prepare_twin(statistics, shuffle_seed=twin.shuffle_seed)
            key = jax.random.fold_in(jax.random.key(3), i)
            keys = [jax.random.fold_in(key, d) for d in range(DRAWS)]
            drawn[twin.name] = [train(start, of_twin(prepared, twin.order, k)) for k in keys]
    for step in STEPS:
        runs = [changes(start, of[step]) for of in (real, random)]
        twins = {name: [changes(start, of[step]) for of in draws] for name, draws in drawn.items()}
        for weight in found.weight.values:
            of_weight = found.sel(weight=weight, layers="all", step=step)
            means = {n: np.mean([d[weight] for d in of], axis=0) for n, of in twins.items()}
            for h, run in enumerate(runs):
                cell, r = of_weight.sel(held_out=h), run[weight]
                for name, m in means.items():
                    value = float(cell.cosine.sel(twin=name))
                    assert value == pytest.approx(cosine(r, m), abs=1e-9)
                    draws = [d[weight] for d in twins[name]]
                    expected = [cosine(r, d) for d in draws]
                    np.testing.assert_allclose(cell.draw_cosine.sel(twin=name), expected, atol=1e-9)
                    ratio = np.sqrt(np.mean([d @ d for d in draws]) / (r @ r))
                    assert float(cell.norm_ratio.sel(twin=name)) == pytest.approx(ratio)
                    if name == "twin-0":
                        continue
                    unit = means["twin-0"] / np.linalg.norm(means["twin-0"])
                    left = [a - a @ unit * unit for a in (r, m)]
                    if min(np.linalg.norm(a) for a in left) > 1e-2 * np.linalg.norm(r):
                        value = float(cell.partial_cosine.sel(twin=name))
                        assert value == pytest.approx(cosine(*left), abs=1e-6)
                other = cosine(r, runs[1 - h][weight])
                assert float(cell.cosine.sel(twin="run")) == pytest.approx(other, abs=1e-9)


def test_a_model_that_learned_from_a_text_is_told_from_one_that_changed_at_random(trained):
    """From another text of the same kind; the controls, which know frequencies only, fail."""
    *_, found = trained
    for weight in ("embedding", "unembedding"):
        of = found.draw_cosine.sel(weight=weight, layers="all", step=3)
        assert abs(of.sel(held_out=1)).max() < 5 / np.sqrt(V * 16)
        twins = of.sel(held_out=0, twin="twin-4").min()
        assert twins > 0.2 + of.sel(held_out=0, twin=["twin-0", "twin-2-shuffled"]).max()


def test_changes_that_storage_hides(trained):
    """Of a model that is stored in float16, and moved by less than half a spacing in one layer."""
    start, _, _, statistics, found = trained
    assert float(found.visible.sel(held_out=0, layers="all").min()) == 1
    half = jax.tree.map(lambda a: np.asarray(a, np.float16).astype(np.float32), start)
    small = {2: jax.tree.map(lambda a: a + np.float32(1e-6), half)}
    stored = {2: jax.tree.map(lambda a: a.astype(np.float16).astype(np.float32), small[2])}
    with jax.numpy_dtype_promotion("standard"):
        hidden = aj.compare_checkpoints(
            MODEL, half, [stored], statistics, optimizer=OPTIMIZER, twins=TWINS[:1], num_draws=1
        )
    of = hidden.isel(held_out=0).sel(layers="all", step=2)
    assert float(of.visible.sel(weight="norms")) == 0.5  # gains of 1 stay, biases of 0 move
    expected = np.mean(stored[2]["embedding"] != half["embedding"])
    assert 0 < expected < 0.5
    assert float(of.visible.sel(weight="embedding")) == pytest.approx(expected)
    assert hidden.twin.values.tolist() == ["twin-0"]  # no other run, no ceiling
    with pytest.raises(aj.InputError, match="at least 2 runs; it has 1"):
        aj.twin_shares(hidden)


def test_datasets_are_those_of_compare_twins(trained, tmp_path):
    *_, found = trained
    drawn = {line.get_label(): line.get_ydata() for line in figures.plot_twins(found).axes[0].lines}
    expected = found.cosine.sel(layers="all", step=2).mean("held_out")
    np.testing.assert_allclose(np.array(drawn["twin-4"]), expected.sel(twin="twin-4"))
    shares = aj.twin_shares(found)["share"].sel(layers="all")
    np.testing.assert_allclose(shares.sum("part"), 1)
    aj.save(found, tmp_path / "twins.nc")
    assert aj.load(tmp_path / "twins.nc").equals(found)


def test_bad_arguments(trained):
    start, real, _, statistics, _ = trained
    call: dict[str, Any] = {
        "model": MODEL,
        "start": start,
        "runs": [real],
        "statistics": statistics,
    }
    call |= {"optimizer": OPTIMIZER, "twins": TWINS[:1]}
    other = jax.tree.map(lambda a: a[:1], real[2])
    for change, message in (
        ({"runs": []}, "runs"),
        ({"runs": [real, {2: real[2]}]}, "runs must all have the same steps"),
        ({"runs": [{0: start}]}, "steps of runs must be at least 1"),
        ({"runs": [{2: other}]}, "step 2 of run 0 must have the shapes of start"),
        ({"runs": [{2: 5}]}, "step 2 of run 0 must be the weights of a decoder"),
        ({"runs": [3]}, "each of runs"),
        ({"start": None}, "start must be the weights of a decoder"),
        ({"twins": TWINS[:1] * 2}, "twins must have different names"),
        ({"num_draws": 0}, "num_draws must be at least 1"),
        ({"statistics": aj.context_statistics(random_tokens(0, 9, T, 5), 5)}, "of the 11 tokens"),
    ):
        with pytest.raises((aj.InputError, aj.InputTypeError), match=message):
            aj.compare_checkpoints(**(call | change))  # type: ignore[arg-type]
    for orders in ([2, 2], [8], [-1]):
        with pytest.raises(aj.InputError, match="order"):
            aj.checkpoint_twins(orders)


def test_twins_of_a_large_vocabulary_are_sparse():
    small, large = (aj.checkpoint_twins([4], rows=8, vocab_size=V) for V in (512, 4096))
    assert [t.name for t in small] == ["twin-0", "twin-4", "twin-2-shuffled"]
    assert {(t.entries, t.rematerialize, t.rows) for t in small} == {(None, False, 8)}
    assert {(t.entries, t.rematerialize, t.rows) for t in large} == {(256, True, 8)}


# Files of a language model

RECIPE = llm.Recipe(
    name="mine",
    source="this test",
    learning_rate=1e-2,
    steps=8,
    warmup_steps=4,
    first_update=0,
    schedule="constant",
    last_rate=1.0,
    beta1=0.9,
    beta2=0.999,
    eps=1e-8,
    weight_decay=0.0,
    decayed="all",
    clip=0.0,
    batch_size=5,
    seq_len=T,
)


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    """Checkpoints, the last one rounded to float16; and a run from another start."""
    start, real, *_ = trained
    folder = tmp_path_factory.mktemp("model")
    rounded = jax.tree.map(lambda a: np.asarray(a, np.float16), real[3])
    for name, params in (("step0", start), ("tokens1B-step2", real[2]), ("step3", rounded)):
        llm.save_decoder(folder / "a" / name, MODEL, params)
        llm.save_decoder(folder / "other" / name, MODEL, real[3])
        llm.save_decoder(folder / "half" / name, MODEL, rounded)
    return folder


REVISIONS = ["step3", "step0", "tokens1B-step2"]


def called(monkeypatch, *arguments, **options):
    """What `compare_checkpoints` is called with, and what becomes of its result."""
    calls = {}

    def compare(model, start, runs, statistics, **others):
        read = [{step: run[step] for step in run} for run in runs]
        calls.update(start=start, runs=read, statistics=statistics, **others)
        shape = xr.DataArray(np.zeros((len(runs), 2)), {"step": [2, 3]}, ("held_out", "step"))
        return xr.Dataset({"visible": shape}, attrs={"config": "{}"})

    monkeypatch.setattr("assocjax.llm.twins.compare_checkpoints", compare)
    with jax.numpy_dtype_promotion("standard"):
        found = llm.compare_with_twins(*arguments, **options)
    return calls, found


def test_checkpoints_of_a_folder(folder, trained, monkeypatch):
    start, real, *_ = trained
    data = token_data(text(2, 12), V)
    calls, found = called(monkeypatch, folder / "a", REVISIONS, data, RECIPE, orders=[4], seed=5)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), calls["start"], start)
    (run,) = calls["runs"]
    assert list(run) == [2, 3]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), run[2], real[2])
    assert (calls["statistics"].bigram != aj.context_statistics(data).bigram).nnz == 0
    assert calls["seed"] == 5
    assert {twin.rows for twin in calls["twins"]} == {5 * T}
    assert found["revision"].values.tolist() == ["tokens1B-step2", "step3"]
    np.testing.assert_allclose(found["summed_rate"], [0.0025, 0.0075], rtol=1e-6)
    assert (found.attrs["stored_as"], float(found["token_share"])) == ("float32", 1)
    _, half = called(monkeypatch, folder / "half", REVISIONS, data, RECIPE)
    assert half.attrs["stored_as"] == "float16"


def test_the_most_frequent_tokens_only(folder, trained, monkeypatch):
    start, *_ = trained
    tokens, n = text(2, 12), 4
    data = token_data(tokens, V)
    calls, found = called(monkeypatch, folder / "a", REVISIONS, data, RECIPE, top_tokens=n)
    counts = np.bincount(tokens[:, :-1].ravel(), minlength=V)
    ids = sorted(np.argsort(-counts, kind="stable")[:n].tolist())
    rows = {name: np.asarray(start[name]) for name in ("embedding", "unembedding")}
    np.testing.assert_allclose(calls["start"]["embedding"], rows["embedding"][ids], rtol=1e-6)
    expected = rows["unembedding"][:, ids]
    np.testing.assert_allclose(calls["start"]["unembedding"], expected, rtol=1e-6)
    assert len(calls["runs"][0][3]["embedding"]) == n
    bigram = np.zeros((n, n), int)
    for row in tokens.tolist():
        for x, y in itertools.pairwise(row):
            if x in ids and y in ids:
                bigram[ids.index(x), ids.index(y)] += 1
    np.testing.assert_array_equal(calls["statistics"].bigram.toarray(), bigram)
    assert 0 < bigram.sum() < tokens[:, 1:].size
    assert float(found["token_share"]) == bigram.sum() / tokens[:, 1:].size


def test_a_vocabulary_that_is_padded(folder, monkeypatch):
    """Models have more rows than tokens."""
    calls, _ = called(monkeypatch, folder / "a", REVISIONS, token_data(text(2, 12), V), RECIPE)
    fewer = token_data(text(2, 12) % 7, 7)
    padded, _ = called(monkeypatch, folder / "a", REVISIONS, fewer, RECIPE)
    assert padded["statistics"].bigram.shape == calls["statistics"].bigram.shape == (V, V)


def test_bad_checkpoints(folder):
    data = token_data(text(2, 12), V)
    unpublished = dataclasses.replace(RECIPE, decayed=None)
    for revisions, options, message in (
        (["step0", "main"], {}, "different steps, such as step16"),
        (["step2", "step3"], {}, "that of step 0 and others"),
        (["step0"], {}, "that of step 0 and others"),
        (REVISIONS, {"recipe": "nosuch"}, "recipe must be one of"),
        (REVISIONS, {"recipe": unpublished}, "'mine' has no decayed"),
        (REVISIONS, {"top_tokens": 12}, "top_tokens must be at most 1"),
        (REVISIONS, {"source": token_data(text(2, 9) + 1, V + 1)}, "source must be in the 11 tok"),
        (REVISIONS, {"other_runs": [folder / "other"]}, "'.*other' starts from other weights"),
        (REVISIONS, {"orders": [8]}, "order"),
    ):
        call: dict[str, Any] = {
            "name_or_path": folder / "a",
            "source": data,
            "recipe": RECIPE,
        } | options
        with pytest.raises(aj.InputError, match=message):
            llm.compare_with_twins(revisions=revisions, **call)


def test_the_clock_of_any_dataset():
    steps = xr.Dataset(coords={"step": ("revision", [0, 8])})
    found = llm.with_summed_rate(steps, "pretrain-tiny")["summed_rate"]
    np.testing.assert_array_equal(found, llm.RECIPES["pretrain-tiny"].summed_rate([0, 8]))
    assert found.dims == ("revision",)
    with pytest.raises(aj.InputError, match="must have a coordinate 'step'"):
        llm.with_summed_rate(xr.Dataset(), "pretrain-tiny")


def test_figures_over_the_clock(trained):
    *_, found = trained
    with pytest.raises(aj.InputError, match=r"'summed_rate' \(llm\.with_"):
        aj.plot_twins_by_step(found, over="summed_rate")
    timed = found.assign_coords(summed_rate=("step", [0.1, 0.3]))
    panel = aj.plot_twins_by_step(timed, measure="norm_ratio", over="summed_rate").axes[0]
    assert panel.get_title() == "embedding"
    lines = {line.get_label(): line.get_xydata() for line in panel.lines}
    expected = found["norm_ratio"].sel(weight="embedding", layers="all", twin="twin-4")
    np.testing.assert_allclose(
        np.array(lines["twin-4"]), np.transpose([[0.1, 0.3], expected.mean("held_out")])
    )
    assert "other runs" in lines
