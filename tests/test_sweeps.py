import itertools
from collections import OrderedDict
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import random_mask, random_tokens, token_data
from hypothesis import given
from hypothesis import strategies as st

import assocjax as aj
from assocjax.experiments import _grids, _plans, runs, sweeps
from assocjax.models.params import WEIGHTS

N, T, V, L = 8, 5, 6, 2
RATES, SEEDS, SCALES = (0.3, 0.1), (3, 0), (0.0, 0.05)
THEORIES = ("leading", "effective")


@pytest.fixture
def data():
    return token_data(random_tokens(0, N, T, V), V, random_mask(1, N, T))


def one_run(**config):
    """Memory for no more than one run at a time."""
    itemsize = jnp.dtype(jnp.result_type(float)).itemsize
    config = aj.RunConfig(num_layers=L, **{"theories": ("leading",)} | config)
    return _plans.least_bytes(config, _plans.CorpusSizes(N, V, T, itemsize))


def theory_gradient(theory, params, tokens, mask):
    if theory == "leading":
        statistics = aj.corpus_statistics(tokens, V, mask)
        return aj.leading_gradient(params, statistics, tokens, mask)
    statistics = aj.effective_statistics(tokens, depth=L, vocab_size=V, mask=mask)
    return aj.effective_gradient(params, statistics, tokens, mask)


@partial(jax.jit, static_argnums=(0, 1, 2))
def python_step(theory, optimizer, batch_size, rate, sides, states, data, batch_key, step):
    """A step of one run and one theory: what a sweep records before it, and all after it."""
    tokens, mask = data
    rows = jnp.arange(N)
    if batch_size is not None:
        rows = aj.batch_indices(batch_key, step, N, batch_size)
    loss, gradient = aj.exact_loss_and_gradient(sides["run"], tokens[rows], mask[rows])
    gradients = {
        "run": gradient,
        "corpus": theory_gradient(theory, sides["corpus"], tokens, mask),
        "batches": theory_gradient(theory, sides["batches"], tokens[rows], mask[rows]),
    }
    row = OrderedDict(loss=loss)
    for quantity, of in (("weights", sides), ("gradients", gradients)):
        for name, measures in aj.compare_params(of["run"], of["corpus"]).items():
            row |= {(m, quantity, name): v for m, v in measures._asdict().items()}
    if batch_size is not None:
        for name, measures in aj.compare_params(sides["run"], sides["batches"]).items():
            row["truncation_error", name] = measures.relative_error
            rest = jax.tree.map(jnp.subtract, sides["batches"], sides["corpus"])
            axes = tuple(range(name != "output", getattr(rest, name).ndim))
            norms = [
                jnp.sqrt(jnp.sum(jnp.square(getattr(x, name)), axis=axes))
                for x in (rest, sides["run"])
            ]
            row["sampling_error", name] = norms[0] / norms[1]
    moved, made = {}, optimizer(rate)
    for name, side in sides.items():
        updates, states[name] = made.update(gradients[name], states[name], side)
        moved[name] = optax.apply_updates(side, updates)
    return row, moved, states


def python_run(data, theory, rate, seed, scale, steps, optimizer=optax.sgd, batch_size=None):
    """One run and one theory, step by step in Python: what a sweep records of them."""
    init_key, batch_key = jax.random.split(jax.random.key(seed))
    sizes = {"vocab_size": V, "seq_len": T, "num_layers": L}
    sides = {
        "run": aj.init_params(init_key, **sizes, scale=scale),
        "corpus": aj.init_params(init_key, **sizes),
        "batches": aj.init_params(init_key, **sizes),
    }
    states = {name: optimizer(rate).init(params) for name, params in sides.items()}
    record, corpus = [], (jnp.asarray(data.tokens), jnp.asarray(data.mask))
    step_of = partial(python_step, theory, optimizer, batch_size, rate)
    for step in range(steps + 1):
        row, sides, states = step_of(sides, states, corpus, batch_key, jnp.int32(step))
        record.append(row)
    return {name: np.stack([row[name] for row in record]) for name in record[0]}


def entry(cell, name):
    """Of a run in a sweep what `python_run` calls so: [step], or [step, layer]."""
    if name == "loss":
        return cell["loss"].values
    measure, *quantity, weight = name
    values = cell[measure].sel(weight=weight, **dict(zip(("quantity",), quantity, strict=False)))
    values = values.transpose("step", "layer").values
    if weight == "output":
        assert np.isnan(values[:, :-1]).all()
        return values[:, -1]
    return values


@pytest.mark.parametrize(("optimizer", "batch_size"), [("sgd", None), ("sgd", 3), ("adam", None)])
def test_a_sweep_equals_a_python_loop_over_its_runs(x64, promote, data, optimizer, batch_size):
    steps = 4
    dataset = aj.sweep(
        data,
        learning_rates=RATES,
        seeds=SEEDS,
        init_scales=SCALES,
        steps=steps,
        num_layers=L,
        theories=THEORIES,
        optimizer=optimizer,
        batch_size=batch_size,
    )
    assert dict(dataset.sizes) == {
        "learning_rate": 2,
        "seed": 2,
        "init_scale": 2,
        "theory": 2,
        "quantity": 2,
        "weight": 4,
        "layer": L,
        "step": steps + 1,
    }
    # Half of the runs: every value of every axis, and none at the same place of two axes.
    pairs = zip(RATES, reversed(SEEDS), strict=True)
    for theory, (rate, seed), scale in itertools.product(THEORIES, pairs, SCALES):
        cell = dataset.sel(theory=theory, learning_rate=rate, seed=seed, init_scale=scale)
        expected = python_run(
            data, theory, rate, seed, scale, steps, getattr(optax, optimizer), batch_size
        )
        measures = {name if name == "loss" else name[0] for name in expected}
        assert measures == set(cell.data_vars) - {"diverged_step", "theory_diverged_step"}
        for name, values in expected.items():
            found = entry(cell, name)
            if name[0] == "sampling_error":  # of a theory that is zero it is 0, or undefined
                values = np.where(np.isnan(found), np.nan, values)
                assert np.isfinite(values[-1]).all()
            # Rounding, 1e-16, relative to weights that are 1e-7 of the largest.
            np.testing.assert_allclose(found, values, rtol=1e-7, atol=1e-9, err_msg=str(name))


def test_an_optimizer_may_be_a_function(x64, promote, data):
    """Linear: the closed form by scalars is the optimizer's own run."""

    def momentum(rate):
        return optax.sgd(rate, momentum=0.5)

    dataset = aj.sweep(
        data,
        learning_rates=[0.2],
        init_scales=[0.1],
        steps=5,
        num_layers=L,
        theories=["leading"],
        optimizer=momentum,
    )
    expected = python_run(data, "leading", 0.2, 0, 0.1, 5, momentum)
    for name, values in expected.items():
        found = entry(dataset.squeeze(), name)
        np.testing.assert_allclose(found, values, rtol=1e-7, atol=1e-9, err_msg=str(name))


def test_theories_with_full_batches_are_computed_once_a_rate(data):
    """Under the inner vmap, over starts, no array of the theory has their axis."""
    config = aj.RunConfig(steps=2, num_layers=L, theories=THEORIES)
    corpus = aj.Corpus.of(data, config)
    starts = 13  # a size that nothing else has
    made = jax.make_jaxpr(
        jax.vmap(lambda *run: aj.run_comparison(config, corpus, *run), in_axes=(None, 0, 0))
    )(jnp.float32(0.1), jnp.arange(starts), jnp.full(starts, 0.1))
    loops = [eqn for eqn in made.jaxpr.eqns if eqn.primitive.name == "scan"]
    training = max(loops, key=lambda eqn: len(eqn.params["jaxpr"].jaxpr.eqns))
    carried = [v.aval.shape for v in training.outvars if v.aval.shape[-2:] == (V, V)]
    assert carried.count((starts, L, V, V)) == 2  # query_key and value of the runs
    assert carried.count((L, V, V)) == 2  # and of the effective theory


@pytest.mark.parametrize("theory", ["leading", "effective"])
def test_trained_by_its_gradient_a_theory_is_exact(x64, data, theory):
    common = {"learning_rates": RATES, "steps": 5, "num_layers": L}
    dataset = aj.sweep(data, **common, gradient=theory, theories=[theory])
    for name in WEIGHTS:
        of_weight = dataset.sel(weight=name, quantity="weights")
        of_weight = of_weight.isel(layer=slice(-1 if name == "output" else 0, None))
        error = of_weight["relative_error"].isel(step=slice(4, None))
        np.testing.assert_allclose(error, 0, atol=1e-12)
        np.testing.assert_allclose(of_weight["cosine"].isel(step=-1), 1, rtol=1e-12)
    if theory == "effective":
        return
    stats = aj.corpus_statistics(data.tokens, V, data.mask)
    for rate in RATES:
        weights = aj.leading_weights(stats, L, rate, 5)
        loss = aj.loss(weights, data.tokens, data.mask)
        actual = dataset["loss"].sel(learning_rate=rate).isel(step=-1)
        np.testing.assert_allclose(actual, loss, rtol=1e-12)


def test_where_the_theory_is_zero_the_cosine_is_undefined(data):
    leading = {"theories": ["leading"]}
    dataset = aj.sweep(data, learning_rates=[0.1], steps=4, num_layers=L, **leading)
    first = {"output": 1, "value": 2, "query_key": 3, "position": 3}
    for name, step in first.items():
        cosine = dataset["cosine"].sel(weight=name, quantity="weights").squeeze(drop=True)
        cosine = cosine.isel(layer=slice(-1 if name == "output" else 0, None))
        assert cosine.isel(step=slice(0, step)).isnull().all()
        assert not cosine.isel(step=slice(step, None)).isnull().any()


def test_one_compilation_for_any_grid(data, monkeypatch):
    """Rates, seeds and scales are traced: other values of them reuse the program."""
    jax.clear_caches()
    traced = chex.assert_max_traces(runs.advance_run, n=1)
    monkeypatch.setattr(_grids, "advance_run", traced)
    for rates, seeds, scales in (
        ((0.1, 0.2), (0, 1), (0.0, 0.1)),
        ((0.3, 0.7), (5, 9), (0.0, 0.2)),
    ):
        # A small budget: several chunks, of which the last is filled up.
        dataset = aj.sweep(
            data,
            learning_rates=rates,
            seeds=seeds,
            init_scales=scales,
            steps=2,
            num_layers=L,
            theories=["leading"],
            memory_limit=one_run(steps=2),
            progress=lambda done, total: None,
        )
        assert not dataset["loss"].isnull().any()
    jax.clear_caches()


def test_chunks_do_not_change_the_result(x64, data):
    grid = {"learning_rates": RATES, "seeds": SEEDS, "init_scales": (0.1, 0.2)}
    grid["theories"] = ["leading"]
    together = aj.sweep(data, **grid, steps=3, num_layers=L)
    seen = []
    apart = aj.sweep(
        data,
        **grid,
        steps=3,
        num_layers=L,
        memory_limit=one_run(steps=3),
        progress=lambda *a: seen.append(a),
    )
    chunks = 8  # one run at a time: fewer cannot be
    assert sorted(seen) == [(i + 1, 4 * chunks) for i in range(4 * chunks)]
    for name in together.data_vars:
        np.testing.assert_allclose(together[name], apart[name], rtol=1e-9, atol=1e-12)


def test_starts_that_cannot_differ_are_computed_once():
    grid = {"seed": np.array([4, 5, 6], np.int32), "init_scale": np.array([0.0, 0.1])}
    starts, cells = sweeps._distinct_starts(grid, stochastic=False)
    assert len(starts) == 1 + 3
    assert cells.shape == (3, 2)
    for j, seed in enumerate(grid["seed"]):
        for k, scale in enumerate(grid["init_scale"]):
            np.testing.assert_array_equal(starts[cells[j, k]], [seed if scale else 4, scale])
    starts, _ = sweeps._distinct_starts(grid, stochastic=True)
    assert len(starts) == 6


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 8), st.integers(1, 100))
def test_a_plan_covers_the_grid_within_memory(rates, starts, devices, largest):
    shape = rates, starts
    division, chunk, _ = _plans.divide(shape, devices, largest)
    assert np.prod(division) <= min(devices, largest)
    assert np.prod(chunk) <= largest
    for size, count, parts in zip(chunk, shape, division, strict=True):
        assert size % parts == 0
        chunks = -(-count // size)
        assert chunks * size - count < size  # no chunk of copies alone
        assert -(-count // (size - parts or size)) > chunks or size == parts  # nor larger than due


def test_a_diverged_run_is_nan_from_there_and_named(data):
    grid = {"seeds": [0], "init_scales": [0.0], "steps": 4, "num_layers": L}
    grid["theories"] = ["leading"]
    dataset = aj.sweep(data, learning_rates=[0.1, 1e30], **grid)
    alone = aj.sweep(data, learning_rates=[0.1], **grid)
    step = dataset["diverged_step"].sel(learning_rate=1e30).item()
    assert 1 <= step <= 4
    ends = ["diverged_step", "theory_diverged_step"]
    lost = dataset.sel(learning_rate=1e30).drop_vars(ends)
    for name, values in lost.data_vars.items():
        assert values.sel(step=slice(step, None)).isnull().all(), name
    assert not lost["loss"].sel(step=slice(0, step - 1)).isnull().any()
    assert dataset.attrs["diverged"] == f"learning_rate=1e+30 seed=0 init_scale=0 at step {step}"
    assert dataset["diverged_step"].sel(learning_rate=0.1).item() == -1
    for name, values in alone.data_vars.items():
        expected = values.sel(learning_rate=0.1)
        # float32, in another vectorisation.
        np.testing.assert_allclose(dataset[name].sel(learning_rate=0.1), expected, rtol=1e-4)
    assert "diverged" not in alone.attrs


def test_differentiable_in_the_learning_rate_and_the_start(x64, data):
    """The gradient of a cosine at a late step, under jit and vmap, against finite differences."""
    config = aj.RunConfig(steps=6, num_layers=1, theories=("leading",))
    corpus = aj.Corpus.of(data, config)

    def cosines(rate, scale):
        record = aj.run_comparison(config, corpus, rate, jnp.int32(0), scale)
        return record["cosine"][0, 0, :, 0, -1]

    rates, scale, step = jnp.array([0.2, 0.5]), 0.01, 1e-5
    forward = jax.jit(jax.vmap(jax.jacfwd(cosines), (0, None)))(rates, scale)
    reverse = jax.jit(jax.vmap(jax.jacrev(cosines), (0, None)))(rates, scale)
    run = jax.jit(jax.vmap(cosines, (0, None)))
    slope = (run(rates + step, scale) - run(rates - step, scale)) / (2 * step)
    assert jnp.all(jnp.abs(slope) > 1e-4)
    np.testing.assert_allclose(forward, slope, rtol=1e-5)
    np.testing.assert_allclose(reverse, slope, rtol=1e-5)
    by_scale = jax.jit(jax.grad(lambda s: cosines(0.5, s)[0]))(scale)
    slope = (run(rates, scale + 1e-6)[1, 0] - run(rates, scale - 1e-6)[1, 0]) / 2e-6
    np.testing.assert_allclose(by_scale, slope, rtol=1e-4)


def test_coordinates_attributes_and_summary(data):
    dataset = aj.sweep(
        data,
        learning_rates=RATES,
        seeds=SEEDS,
        init_scales=SCALES,
        steps=3,
        num_layers=L,
        theories=["leading"],
    )
    np.testing.assert_array_equal(dataset["learning_rate"], RATES)
    np.testing.assert_array_equal(dataset["seed"], SEEDS)
    np.testing.assert_array_equal(dataset["init_scale"], SCALES)
    np.testing.assert_array_equal(dataset["step"], range(4))
    np.testing.assert_array_equal(dataset["layer"], [1, 2])
    assert dataset["loss"].attrs["units"] == "nat"
    assert all("long_name" in dataset[name].attrs for name in dataset.data_vars)
    axes = ("theory", "quantity", "weight", "layer", "step")
    assert dataset["cosine"].dims == (*sweeps.GRID, *axes)
    assert dataset["quantity"].values.tolist() == ["weights", "gradients"]
    assert dataset["weight"].values.tolist() == list(WEIGHTS)
    assert "a weight without layers is at the last one" in dataset["distance"].attrs["comment"]
    assert dataset.attrs["corpus_sha256"] == data.sha256
    rows = aj.summary(dataset)
    assert [(row["init_scale"], row["learning_rate"]) for row in rows] == [
        (0.0, 0.3),
        (0.0, 0.1),
        (0.05, 0.3),
        (0.05, 0.1),
    ]
    assert {row["theory"] for row in rows} == {"leading"}
    cell = dataset.isel(step=-1).sel(learning_rate=0.1, init_scale=0.05, quantity="weights")
    assert rows[-1]["value"] == float(cell["cosine"].sel(weight="value").min())
    error = cell["relative_error"].sel(weight="output", layer=L)
    assert rows[-1]["error"] == float(error.max())
    assert rows[-1]["s*eta"] == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": -1}, aj.InputError, "steps must be at least 0; got -1"),
        ({"num_layers": 0}, aj.InputError, "num_layers must be at least 1"),
        ({"learning_rates": []}, aj.InputError, "learning_rates must not be empty"),
        ({"learning_rates": [0.0]}, aj.InputError, "learning_rates must be positive"),
        ({"learning_rates": [0.1, 0.1]}, aj.InputError, "must not repeat"),
        ({"learning_rates": 0.1}, aj.InputTypeError, "learning_rates must be a sequence"),
        ({"learning_rates": ["a"]}, aj.InputTypeError, "every entry of learning_rates"),
        ({"seeds": [0.5]}, aj.InputTypeError, "every entry of seeds"),
        ({"seeds": [-1]}, aj.InputError, "every entry of seeds"),
        ({"seeds": [2**31]}, aj.InputError, "seeds must be at most 2147483647"),
        ({"init_scales": [-0.1]}, aj.InputError, "every entry of init_scales"),
        ({"gradient": "wrong"}, aj.InputError, "gradient must be one of"),
        ({"theories": ["leading"] * 2}, aj.InputError, "theories must be distinct names"),
        ({"theories": ["exact"]}, aj.InputError, "every entry of theories must be one of"),
        ({"theories": "leading"}, aj.InputTypeError, "theories must be a tuple of names"),
        ({"optimizer": "nosuch"}, aj.InputError, "optimizer must be the name"),
        ({"optimizer": "apply_updates"}, aj.InputError, "optimizer must be the name"),
        ({"optimizer": "lbfgs"}, aj.InputError, "optimizer 'lbfgs' cannot train by gradients"),
        ({"optimizer": 3}, aj.InputTypeError, "optimizer must be a name or a function"),
        ({"batch_size": 9}, aj.InputError, "batch_size must be at most .* 8; got 9"),
        ({"batch_size": 0}, aj.InputError, "batch_size must be at least 1"),
        ({"memory_limit": 0}, aj.InputError, "memory_limit"),
    ],
)
def test_bad_input(data, options, error, message):
    good = {"learning_rates": [0.1], "steps": 1, "num_layers": 1}
    with pytest.raises(error, match=message):
        aj.sweep(data, **(good | options))


def test_data_must_be_token_data():
    with pytest.raises(aj.InputTypeError, match="data must be TokenData"):
        aj.sweep(np.zeros((2, 3)), learning_rates=[0.1], steps=1, num_layers=1)
