import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import assert_trees_close, random_mask, random_params, random_tokens

import assocjax as aj
from assocjax.models.params import WEIGHTS

N, T, V, L = 6, 4, 5, 2
TOKENS, MASK = random_tokens(0, N, T, V), random_mask(1, N, T)


def zero():
    return random_params(0, V=V, T=T, L=L, scale=0.0)


def by_exact(params):
    return aj.exact_gradient(params, TOKENS, MASK)


def at(params, index):
    return jax.tree.map(lambda leaf: leaf[index], params)


def worst_error(actual, expected):
    """Largest error of any leaf at each time, relative to that leaf's largest entry then."""

    def errors(x, y):
        axes = tuple(range(1, x.ndim))
        return np.max(np.abs(x - y), axis=axes) / np.max(np.abs(y), axis=axes)

    return np.max(jax.tree.leaves(jax.tree.map(errors, actual, expected)), axis=0)


# From zero, query_key at the first time is 1e-24 of what it is at the last.
TIMES = np.geomspace(3e-6, 3.0, 13)


@jax.jit
def exact_flow(rtol):
    return aj.gradient_flow(zero(), by_exact, TIMES, rtol=rtol)


def test_leading_flow_from_zero_is_the_closed_form(x64):
    stats = aj.corpus_statistics(TOKENS, V, MASK)
    times = [0.0, 0.01, 0.3, 1.0, 2.5]

    @jax.jit
    def follow(start):
        return aj.gradient_flow(
            start, lambda params: aj.leading_gradient(params, stats, TOKENS, MASK), times
        )

    flow = follow(zero())
    for index, tau in enumerate(times):
        expected = aj.Params(
            query_key=jnp.stack([tau**4 / 8 * stats.query_key] * L),
            position=jnp.stack([tau**4 / 8 * stats.position] * L),
            value=jnp.stack([tau**2 / 2 * stats.value] * L),
            output=tau * stats.bigram,
        )
        assert_trees_close(at(flow.params, index), expected, rtol=1e-11)


def test_descent_converges_to_the_flow_at_first_order(x64):
    tau, steps = TIMES[-1], np.array([32, 64, 128, 256])
    flow = at(exact_flow(1e-9).params, -1)

    @jax.jit
    @jax.vmap
    def descend(rate, step):
        _, trajectory = aj.train(
            zero(),
            lambda params, step: (jnp.zeros(()), by_exact(params)),
            optax.sgd(rate),
            int(steps.max()),
            observe=lambda snapshot: snapshot.params,
        )
        return aj.compare_params(flow, at(trajectory, step))

    with jax.numpy_dtype_promotion("standard"):  # for optax
        compared = descend(jnp.asarray(tau / steps), jnp.asarray(steps))
    for name in WEIGHTS:
        errors = np.asarray(compared[name].relative_error).reshape(len(steps), -1).max(axis=1)
        slope = np.polyfit(np.log(tau / steps), np.log(errors), 1)[0]
        assert slope == pytest.approx(1, abs=0.05), name


def test_errors_of_every_weight_follow_rtol_at_every_time(x64):
    reference = exact_flow(1e-11).params
    before = np.inf
    for rtol in (1e-3, 1e-5, 1e-7):
        flow = exact_flow(rtol)
        errors = worst_error(flow.params, reference)
        assert errors.max() < 3 * rtol
        assert errors[-1] < before / 10
        before = errors[-1]
        # First order in 1/steps, descent would need 1/rtol steps or so.
        assert 5 < flow.num_steps < 5 + 4 * rtol**-0.2


def test_a_leaf_is_followed_however_small(x64):
    """sin and cos of time, at 1e-200 of their neighbour and seven times as fast."""

    def gradient(params):
        circle = 7 * jnp.stack([-params["tiny"][1], params["tiny"][0]])
        return {"large": -params["large"], "tiny": circle, "zero": 0 * params["zero"]}

    start = {"large": jnp.ones(2), "tiny": jnp.array([0.0, 1e-200]), "zero": jnp.zeros(3)}
    tau = np.array([0.3, 1.0, 2.0])
    end = jax.jit(lambda start: aj.gradient_flow(start, gradient, tau, rtol=1e-7))(start).params
    circle = np.stack([np.sin(7 * tau), np.cos(7 * tau)], axis=1)
    np.testing.assert_allclose(end["tiny"] / 1e-200, circle, rtol=0, atol=1e-6)
    np.testing.assert_allclose(end["large"][:, 0], np.exp(tau), rtol=1e-6)
    np.testing.assert_array_equal(end["zero"], 0)


def test_starts_may_be_vmapped_and_differentiated(x64):
    """Two layers of a linear network, from scale times a random start."""
    draws = np.random.default_rng(0).normal(size=(4, 3, 3))
    target, weigh = draws[2:]
    gradient = jax.grad(lambda params: jnp.sum((params["a"] @ params["b"] - target) ** 2) / 2)

    def end(scale):
        start = {"a": scale * draws[0], "b": scale * draws[1]}
        return at(aj.gradient_flow(start, gradient, [0.3, 2.0], rtol=1e-9).params, -1)

    # One start by itself, one of a batch, and the differences between its neighbours there.
    value, slope = jax.jit(jax.value_and_grad(lambda scale: jnp.vdot(end(scale)["a"], weigh)))(0.5)
    batch = jax.jit(jax.vmap(end))(jnp.array([0.01, 0.499, 0.5, 0.501]))["a"]
    _, behind, same, ahead = jax.vmap(jnp.vdot)(batch, jnp.stack([weigh] * 4))
    np.testing.assert_allclose(same, value, rtol=1e-12)
    np.testing.assert_allclose(slope, (ahead - behind) / 0.002, rtol=1e-4)


ONE = {"a": np.ones((), np.float32)}


def decay(params):
    return params


def explode(params):
    """The flow start / (1 - start tau), which ends at tau = 1 / start."""
    return jax.tree.map(lambda leaf: -leaf * leaf, params)


@pytest.mark.parametrize(
    ("times", "error", "message"),
    [
        ([2.0, 1.0], aj.InputError, r"times must increase; got \[2.0, 1.0\]"),
        ([1.0, 1.0], aj.InputError, "times must not repeat"),
        ([-1.0, 1.0], aj.InputError, "times must be finite and at least 0; got -1"),
        ([1.0, np.inf], aj.InputError, "times must be finite"),
        ([], aj.InputError, "times must not be empty"),
        (np.ones((1, 2)), aj.InputError, r"times must be a non-empty vector; got shape \(1, 2\)"),
        ([[1.0, 2.0]], aj.InputTypeError, "every entry of times must be a number"),
        (1.0, aj.InputTypeError, "times must be a sequence of numbers; got 1.0"),
    ],
)
def test_bad_times(times, error, message):
    with pytest.raises(error, match=message):
        aj.gradient_flow(ONE, decay, times)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rtol": 0.0}, "rtol must be positive; got 0"),
        ({"rtol": -1e-3}, "rtol must be finite and at least 0; got -0.001"),
        ({"atol": -1.0}, "atol must be finite and at least 0; got -1"),
        ({"max_steps": 0}, "max_steps must be at least 1; got 0"),
        ({"max_steps": 3}, "the flow needed more than max_steps=3 steps before tau=2"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(aj.InputError, match=message):
        aj.gradient_flow(ONE, decay, [1e-6, 2.0], **arguments)


def test_bad_trees():
    with pytest.raises(aj.InputTypeError, match=r"one dtype; got \['float32', 'float64'\]"):
        aj.gradient_flow({**ONE, "b": np.ones(2)}, decay, [1.0])
    with pytest.raises(aj.InputTypeError, match="params must be float32 or float64"):
        aj.gradient_flow({"a": np.ones(2, np.int32)}, decay, [1.0])
    with pytest.raises(aj.InputTypeError, match="gradient must return a tree like params"):
        aj.gradient_flow(ONE, lambda params: (params["a"], params), [1.0])


def test_divergence():
    times = [0.5, 0.9, 1.5]
    with pytest.raises(aj.InputError, match=r"diverged or had .* not finite before tau=1\.5"):
        aj.gradient_flow(ONE, explode, times)
    flows = jax.jit(jax.vmap(lambda start: aj.gradient_flow({"a": start}, explode, times)))
    starts = jnp.array([1, 0.5, jnp.nan], jnp.float32)
    end, num_steps = flows(starts)
    expected = [[2, 10, np.nan], 1 / (2 - np.array(times)), [np.nan] * 3]
    np.testing.assert_allclose(end["a"], expected, rtol=1e-3)
    assert np.all(num_steps < 1000)  # it gives up long before max_steps


def test_times_may_be_traced():
    flows = jax.jit(jax.vmap(lambda times: aj.gradient_flow(ONE, decay, times)))
    times = [[0, 1, 2], [0, 0, 0], [0.3, 0.2, 1], [-1, 1, 2], [1, 2, np.inf]]
    end, num_steps = flows(jnp.array(times, jnp.float32))
    expected = np.full((5, 3), np.nan)
    expected[:2] = np.exp(-np.array(times[:2]))
    np.testing.assert_allclose(end["a"], expected, rtol=1e-5)
    assert num_steps[0] > 0
    np.testing.assert_array_equal(num_steps[1:], 0)
    among_numbers = jax.eval_shape(lambda tau: aj.gradient_flow(ONE, decay, [0.5, tau]), 1.0)
    assert among_numbers.params["a"].shape == (2,)
