import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import random_mask, random_tokens, token_data

import assocjax as aj
from assocjax import runs, sweeps
from assocjax.params import WEIGHTS

N, T, V, L = 8, 5, 6, 2
RATES, SEEDS, SCALES = (0.3, 0.1), (3, 0), (0.0, 0.05)


@pytest.fixture
def data():
    return token_data(random_tokens(0, N, T, V), V, random_mask(1, N, T))


def python_run(data, rate, seed, scale, steps, optimizer=optax.sgd, batch_size=None):
    """One run, step by step in Python: the loss, and agreement of weights and gradients."""
    tokens, mask = jnp.asarray(data.tokens), jnp.asarray(data.mask)
    stats = aj.corpus_statistics(tokens, V, mask)
    init_key, batch_key = jax.random.split(jax.random.key(seed))
    sizes = {"vocab_size": V, "seq_len": T}
    params = aj.init_params(init_key, **sizes, num_layers=L, scale=scale)
    theory = aj.init_params(init_key, **sizes, num_layers=L)
    made = optimizer(rate)
    state, theory_state = made.init(params), made.init(theory)
    record = []
    for step in range(steps + 1):
        rows = jnp.arange(N)
        if batch_size is not None:
            rows = aj.batch_indices(batch_key, jnp.int32(step), N, batch_size)
        loss, gradient = aj.exact_loss_and_gradient(params, tokens[rows], mask[rows])
        leading = aj.leading_gradient(theory, stats, tokens, mask)
        row = {"loss": loss}
        for suffix, pair in (("", (params, theory)), ("_gradient", (gradient, leading))):
            for name, measures in aj.compare_params(*pair).items():
                row |= {f"{name}{suffix}_{m}": v for m, v in measures._asdict().items()}
        record.append(row)
        updates, state = made.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        updates, theory_state = made.update(leading, theory_state, theory)
        theory = optax.apply_updates(theory, updates)
    return {name: np.stack([row[name] for row in record]) for name in record[0]}


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
        optimizer=optimizer,
        batch_size=batch_size,
    )
    assert dict(dataset.sizes) == {
        "learning_rate": 2,
        "seed": 2,
        "init_scale": 2,
        "step": steps + 1,
        "layer": L,
    }
    for rate in RATES:
        for seed in SEEDS:
            for scale in SCALES:
                cell = dataset.sel(learning_rate=rate, seed=seed, init_scale=scale)
                expected = python_run(
                    data, rate, seed, scale, steps, getattr(optax, optimizer), batch_size
                )
                assert set(expected) == set(cell.data_vars) - {"diverged_step"}
                for name, values in expected.items():
                    # Rounding, 1e-16, relative to weights that are 1e-7 of the largest.
                    np.testing.assert_allclose(
                        cell[name], values, rtol=1e-7, atol=1e-9, err_msg=name
                    )


def test_an_optimizer_may_be_a_function(x64, promote, data):
    def momentum(rate):
        return optax.sgd(rate, momentum=0.5)

    dataset = aj.sweep(
        data,
        learning_rates=[0.2],
        init_scales=[0.1],
        steps=3,
        num_layers=L,
        optimizer=momentum,
    )
    expected = python_run(data, 0.2, 0, 0.1, 3, momentum)
    for name, values in expected.items():
        np.testing.assert_allclose(
            dataset[name].squeeze(), values.squeeze(), rtol=1e-7, atol=1e-9, err_msg=name
        )


def test_closed_form_and_leading_run_are_one_theory(x64, promote, data):
    """The name "sgd" takes the closed form; an equal optimizer runs the leading gradient."""
    common = {"learning_rates": RATES, "init_scales": SCALES, "steps": 6, "num_layers": L}
    closed = aj.sweep(data, **common, optimizer="sgd")
    run = aj.sweep(data, **common, optimizer=lambda rate: optax.sgd(rate))
    for name in closed.data_vars:
        np.testing.assert_allclose(closed[name], run[name], rtol=1e-8, atol=1e-10, err_msg=name)


def test_trained_by_the_leading_gradient_the_theory_is_exact(x64, data):
    dataset = aj.sweep(data, learning_rates=RATES, steps=5, num_layers=L, gradient="leading")
    for name in WEIGHTS:
        error = dataset[f"{name}_relative_error"].isel(step=slice(4, None))
        np.testing.assert_allclose(error, 0, atol=1e-12)
        np.testing.assert_allclose(dataset[f"{name}_cosine"].isel(step=-1), 1, rtol=1e-12)
    stats = aj.corpus_statistics(data.tokens, V, data.mask)
    for rate in RATES:
        weights = aj.leading_weights(stats, L, rate, 5)
        loss = aj.loss(weights, data.tokens, data.mask)
        actual = dataset["loss"].sel(learning_rate=rate).isel(step=-1)
        np.testing.assert_allclose(actual, loss, rtol=1e-12)


def test_where_the_theory_is_zero_the_cosine_is_undefined(data):
    dataset = aj.sweep(data, learning_rates=[0.1], steps=4, num_layers=L)
    first = {"output": 1, "value": 2, "query_key": 3, "position": 3}
    for name, step in first.items():
        cosine = dataset[f"{name}_cosine"].squeeze(drop=True)
        assert cosine.isel(step=slice(0, step)).isnull().all()
        assert not cosine.isel(step=slice(step, None)).isnull().any()


def test_one_compilation_for_any_grid(data, monkeypatch):
    """Rates, seeds and scales are traced: other values of them reuse the program."""
    jax.clear_caches()
    traced = chex.assert_max_traces(runs.run_comparison, n=1)
    monkeypatch.setattr(sweeps, "run_comparison", traced)
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
            memory_limit=1,
            progress=lambda done, total: None,
        )
        assert not dataset["loss"].isnull().any()
    jax.clear_caches()


def test_chunks_do_not_change_the_result(x64, data):
    grid = {"learning_rates": RATES, "seeds": SEEDS, "init_scales": (0.1, 0.2)}
    together = aj.sweep(data, **grid, steps=3, num_layers=L)
    seen = []
    apart = aj.sweep(
        data,
        **grid,
        steps=3,
        num_layers=L,
        memory_limit=1,
        progress=lambda *a: seen.append(a),
    )
    chunks = 8  # one run at a time: fewer cannot be
    assert sorted(seen) == [(i + 1, 4 * chunks) for i in range(4 * chunks)]
    for name in together.data_vars:
        np.testing.assert_allclose(together[name], apart[name], rtol=1e-9, atol=1e-12)


def test_runs_that_cannot_differ_are_computed_once():
    grid = {
        "learning_rate": np.array([0.1, 0.2]),
        "seed": np.array([4, 5, 6], np.int32),
        "init_scale": np.array([0.0, 0.1]),
    }
    flat, cells = sweeps._distinct_runs(grid, stochastic=False)
    assert len(flat["seed"]) == 2 * (1 + 3)
    assert cells.shape == (2, 3, 2)
    for i, rate in enumerate(grid["learning_rate"]):
        for j, seed in enumerate(grid["seed"]):
            for k, scale in enumerate(grid["init_scale"]):
                run = {name: values[cells[i, j, k]] for name, values in flat.items()}
                assert run["learning_rate"] == rate
                assert run["init_scale"] == scale
                assert run["seed"] == (seed if scale else 4)
    flat, _ = sweeps._distinct_runs(grid, stochastic=True)
    assert len(flat["seed"]) == 12


def test_a_diverged_run_is_nan_from_there_and_named(data):
    grid = {"seeds": [0], "init_scales": [0.0], "steps": 4, "num_layers": L}
    dataset = aj.sweep(data, learning_rates=[0.1, 1e30], **grid)
    alone = aj.sweep(data, learning_rates=[0.1], **grid)
    step = dataset["diverged_step"].sel(learning_rate=1e30).item()
    assert 1 <= step <= 4
    lost = dataset.sel(learning_rate=1e30).drop_vars("diverged_step")
    for name, values in lost.data_vars.items():
        assert values.sel(step=slice(step, None)).isnull().all(), name
    assert not lost["loss"].sel(step=slice(0, step - 1)).isnull().any()
    assert dataset.attrs["diverged"] == f"learning_rate=1e+30 seed=0 init_scale=0 at step {step}"
    assert dataset["diverged_step"].sel(learning_rate=0.1).item() == -1
    for name, values in alone.data_vars.items():
        expected = values.sel(learning_rate=0.1)
        # float32, in another vectorisation.
        np.testing.assert_allclose(dataset[name].sel(learning_rate=0.1), expected, rtol=1e-4)
    assert alone.attrs["diverged"] == ""


def test_differentiable_in_the_learning_rate_and_the_start(x64, data):
    """The gradient of a cosine at a late step, under jit and vmap, against finite differences."""
    config = aj.RunConfig(steps=6, num_layers=L)
    corpus = aj.Corpus.of(data)

    def cosines(rate, scale):
        record = aj.run_comparison(config, corpus, rate, jnp.int32(0), scale)
        return jnp.stack([jnp.sum(record[f"{name}_cosine"][-1]) for name in WEIGHTS])

    rates, scale, step = jnp.array([0.2, 0.5]), 0.01, 1e-5
    forward = jax.jit(jax.vmap(jax.jacfwd(cosines), (0, None)))(rates, scale)
    reverse = jax.jit(jax.vmap(jax.jacrev(cosines), (0, None)))(rates, scale)
    run = jax.jit(jax.vmap(cosines, (0, None)))
    slope = (run(rates + step, scale) - run(rates - step, scale)) / (2 * step)
    assert jnp.all(jnp.abs(slope) > 1e-4)
    np.testing.assert_allclose(forward, slope, rtol=1e-5)
    np.testing.assert_allclose(reverse, slope, rtol=1e-5)
    by_scale = jax.jit(jax.grad(lambda s: cosines(0.5, s)[0]))(scale)
    slope = (cosines(0.5, scale + 1e-6)[0] - cosines(0.5, scale - 1e-6)[0]) / 2e-6
    np.testing.assert_allclose(by_scale, slope, rtol=1e-4)


def test_coordinates_attributes_and_summary(data):
    dataset = aj.sweep(
        data, learning_rates=RATES, seeds=SEEDS, init_scales=SCALES, steps=3, num_layers=L
    )
    np.testing.assert_array_equal(dataset["learning_rate"], RATES)
    np.testing.assert_array_equal(dataset["seed"], SEEDS)
    np.testing.assert_array_equal(dataset["init_scale"], SCALES)
    np.testing.assert_array_equal(dataset["step"], range(4))
    np.testing.assert_array_equal(dataset["layer"], [1, 2])
    assert dataset["loss"].attrs["units"] == "nat"
    assert all("long_name" in dataset[name].attrs for name in dataset.data_vars)
    assert dataset["output_cosine"].dims == ("learning_rate", "seed", "init_scale", "step")
    assert dataset["value_gradient_cosine"].dims[-1] == "layer"
    assert dataset.attrs["corpus_sha256"] == data.sha256
    rows = aj.summary(dataset)
    assert [(row["init_scale"], row["learning_rate"]) for row in rows] == [
        (0.0, 0.3),
        (0.0, 0.1),
        (0.05, 0.3),
        (0.05, 0.1),
    ]
    cell = dataset.isel(step=-1).sel(learning_rate=0.1, init_scale=0.05)
    assert rows[-1]["value"] == float(cell["value_cosine"].min())
    assert rows[-1]["error"] == float(cell["output_relative_error"].max())
    assert rows[-1]["s*eta"] == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": -1}, aj.InputError, "steps must be at least 0; got -1"),
        ({"num_layers": 0}, aj.InputError, "num_layers must be at least 1"),
        ({"learning_rates": []}, aj.InputError, "learning_rates must be a non-empty list"),
        ({"learning_rates": [0.0]}, aj.InputError, "learning_rates must be positive"),
        ({"learning_rates": [0.1, 0.1]}, aj.InputError, "must not repeat"),
        ({"learning_rates": 0.1}, aj.InputTypeError, "learning_rates must be a sequence"),
        ({"learning_rates": ["a"]}, aj.InputTypeError, "every entry of learning_rates"),
        ({"seeds": [0.5]}, aj.InputTypeError, "every entry of seeds"),
        ({"seeds": [-1]}, aj.InputError, "every entry of seeds"),
        ({"seeds": [2**31]}, aj.InputError, r"below 2\^31"),
        ({"init_scales": [-0.1]}, aj.InputError, "every entry of init_scales"),
        ({"gradient": "wrong"}, aj.InputError, "gradient must be one of"),
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
    with pytest.raises(aj.InputTypeError, match="data must be a TokenData"):
        aj.sweep(np.zeros((2, 3)), learning_rates=[0.1], steps=1, num_layers=1)
