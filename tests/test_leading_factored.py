"""The leading terms of the factored model against its training and its exact series."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_mask, random_tokens, token_data
from jax.flatten_util import ravel_pytree

import assocjax as aj
from assocjax.theories.leading_factored import factored_slopes
from assocjax.theories.taylor import taylor_series, taylor_weights
from assocjax.theories.theory import Batch, Training

N, T, V, L = 6, 5, 7, 2
SIZES = aj.Sizes(V, T, L)
THEORY = aj.get_theory("leading-factored")
MODELS = {
    "plain": aj.Factored(width=4),
    "frozen": aj.Factored(width=4, frozen_seed=0),
    "heads": aj.Factored(width=4, heads=2),
    "tied": aj.Factored(width=4, tied=True),
}


@pytest.fixture(scope="module")
def batch():
    tokens, mask = random_tokens(0, N, T, V), random_mask(1, N, T)
    return Batch(jnp.asarray(tokens), jnp.asarray(mask), V)


def start_of(model, **scales):
    """The model's random start, with each weight but the embedding times its scale, or zero."""
    found = model.init(jax.random.key(0), SIZES, 1.0)
    scales = {"embedding": 1.0} | scales
    return {name: scales.get(name, 0.0) * weight for name, weight in found.items()}


def theory_of(model, start, batch):
    """(eta, s) -> the theory's weights and gradient."""
    prepared = THEORY.prepare(model, SIZES, batch)

    @jax.jit
    def at(rate, steps):
        training = Training(model, SIZES, start, "sgd", jnp.asarray(rate), 0)
        return THEORY.solution(training, THEORY.solve(training, prepared, batch), prepared, steps)

    return at


# Orders in eta of what moves, and of its error; the rest does not move.
FROM_ZERO = {"output": 1, "embedding": 2, "value": 2, "query_key": 4, "position": 4}
FROM_OUTPUT = {"output": 1, "embedding": 1, "value": 1, "query_key": 2, "position": 2}
OF_FACTORS = FROM_OUTPUT | {"query": 3, "key": 3}
CASES = {
    "plain, zero": ("plain", lambda rate: {}, FROM_ZERO),
    "plain, output": ("plain", lambda rate: {"output": 1.0}, FROM_OUTPUT),
    "plain, small": (
        "plain",
        lambda rate: {"output": rate, "value": rate**2, "query_key": rate**2, "position": rate**2},
        FROM_ZERO,
    ),
    "frozen, zero": ("frozen", lambda rate: {}, FROM_ZERO),
    "heads, zero": ("heads", lambda rate: {}, FROM_ZERO),
    "heads, factors": (
        "heads",
        lambda rate: {"output": 1.0, "query": rate, "key": rate},
        OF_FACTORS,
    ),
    "tied": ("tied", lambda rate: {}, FROM_OUTPUT),
}


@pytest.mark.parametrize("case", CASES)
def test_order_of_the_error_in_the_learning_rate(x64, batch, case):
    """The theory's error is one order above what it predicts: their orders by slopes."""
    name, scales, orders = CASES[case]
    model, rates, steps = MODELS[name], (4e-3, 2e-3), 5

    @jax.jit
    def sizes(rate, start):
        def step(params, _):
            found = jax.grad(model.loss)(params, batch.tokens, batch.mask)
            return jax.tree.map(lambda w, g: w - rate * g, params, found), None

        trained, _ = jax.lax.scan(step, start, length=steps)
        theory, _ = theory_of(model, start, batch)(rate, steps)
        norm = partial(jax.tree.map, lambda a, b: jnp.linalg.norm((a - b).ravel()))
        return norm(trained, start), norm(trained, theory)

    found = [sizes(rate, start_of(model, **scales(rate))) for rate in rates]
    (move, error), (small_move, small_error) = found
    still = {"query", "key"} if name == "heads" and "query" not in orders else set()
    assert {weight for weight in move if move[weight] == 0} == still
    for weight in move.keys() - still:
        for quantity, small, order in (
            (move, small_move, orders[weight]),
            (error, small_error, orders[weight] + 1),
        ):
            slope = np.log2(quantity[weight] / small[weight])
            assert slope == pytest.approx(order, abs=0.1), weight


def test_from_a_zero_output_every_weight_is_its_lowest_order_of_the_series(x64, batch):
    model = MODELS["plain"]
    start = start_of(model)
    series = taylor_series(model, start, batch, 4)
    zero = jax.tree.map(jnp.zeros_like, start)
    order_of = np.repeat(range(5), range(1, 6))  # of d_kj, in the order of `taylor_series`
    for steps in (2, 3, 7):
        theory, _ = theory_of(model, start, batch)(1.0, steps)
        for weight, order in FROM_ZERO.items():
            for k in range(1, order + 1):
                only = jnp.where(order_of[:, None] == k, series, 0)
                found = taylor_weights(only, zero, 1.0, steps)[weight]
                expected = theory[weight] - start[weight] if k == order else 0 * found
                scale = abs(expected).max() if k == order else 1e-5
                np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10 * scale)
        assert (abs(theory["query_key"]).max() > 0) == (steps > 2)


@pytest.mark.parametrize("name", ["plain", "tied"])
def test_from_another_output_the_lowest_orders_are_those_of_the_series(x64, batch, name):
    """The theory's own coefficients of eta are its derivatives at eta = 0."""
    model = MODELS[name]
    start = start_of(model, output=1.0)
    d_11, d_22 = (taylor_series(model, start, batch, 2)[i] for i in (2, 5))
    prepared = THEORY.prepare(model, SIZES, batch)
    slopes = partial(factored_slopes, model, start, prepared, batch)
    first, second = jax.jit(partial(jax.jvp, slopes))((0.0,), (1.0,))
    unravel = ravel_pytree(start)[1]
    for weight in start:
        of_attention = weight in ("query_key", "position")
        found = second[weight][1] if of_attention else first[weight][0]
        expected = unravel(d_22 if of_attention else d_11)[weight]
        atol = 1e-10 * abs(expected).max()
        assert atol > 0
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=atol)


@pytest.mark.parametrize("name", ["plain", "heads", "tied"])
def test_the_gradient_is_exact_at_the_start_and_is_what_moves_the_weights(x64, batch, name):
    model = MODELS[name]
    start = start_of(model, output=1.0)
    at = theory_of(model, start, batch)
    exact = jax.jit(jax.grad(model.loss))(start, batch.tokens, batch.mask)
    for weight, found in at(0.3, 0)[1].items():
        np.testing.assert_allclose(found, exact[weight], rtol=1e-10, atol=1e-15)
    for step in range(6):
        (before, gradient), (after, _) = at(0.3, step), at(0.3, step + 1)
        for weight in start:
            expected = before[weight] - 0.3 * gradient[weight]
            np.testing.assert_allclose(after[weight], expected, rtol=1e-12, atol=1e-15)
    assert jnp.isfinite(at(0.0, 3)[1]["value"]).all()


def test_with_the_identity_as_embedding_it_is_the_leading_terms(x64, batch):
    model = aj.Factored(width=V)
    start = start_of(model) | {"embedding": jnp.eye(V)}
    statistics = aj.corpus_statistics(batch.tokens, V, batch.mask)
    expected = aj.leading_weights(statistics, L, 0.3, 5)
    weights, _ = theory_of(model, start, batch)(0.3, 5)
    for weight in aj.WEIGHTS:
        np.testing.assert_allclose(
            weights[weight], getattr(expected, weight), rtol=1e-9, atol=1e-16
        )


def test_tokens_that_are_followed_alike_move_together(x64, batch):
    """E(s) - E(0) is C(s,2) eta^2 B B^T E(0)."""
    model = MODELS["plain"]
    start = start_of(model)
    weights, _ = theory_of(model, start, batch)(0.3, 5)
    B = np.asarray(aj.corpus_statistics(batch.tokens, V, batch.mask).bigram)
    expected = 10 * 0.3**2 * B @ B.T @ np.asarray(start["embedding"])
    change = weights["embedding"] - start["embedding"]
    np.testing.assert_allclose(change, expected, rtol=1e-10, atol=1e-15)


def test_it_is_swept_beside_the_factored_model():
    """By default, compiled, over rates and starts; other models and optimizers are refused."""
    data = token_data(random_tokens(0, N, T, V), V, random_mask(1, N, T))
    model = MODELS["heads"]
    run = partial(aj.sweep, data, learning_rates=[0.02, 0.01], steps=4, num_layers=L)
    found = run(model=model, init_scales=[0.01, 0.02])
    assert found["theory"].values.tolist() == ["leading-factored"]
    moved = found["cosine"].sel(quantity="gradients").isel(step=-1, layer=-1)
    assert (moved.sel(weight=["embedding", "value", "output"]) > 0.99).all()
    for other, optimizer, message in (
        ("attention-only", "sgd", "theory 'leading-factored' is of models of class Factored"),
        (model, "adam", "theory 'leading-factored' is of optimizer 'sgd'; got 'adam'"),
    ):
        with pytest.raises(aj.InputError, match=message):
            run(model=other, optimizer=optimizer, theories=["leading-factored"])
