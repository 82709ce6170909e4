"""The effective theory, against its definition with dense arrays and against exact training."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import assert_trees_close, random_mask, random_params, random_tokens

import assocjax as aj

N, T, V, L = 5, 6, 7, 3


def corpus(seed: int = 1):
    tokens, mask = random_tokens(seed, N, T, V), random_mask(seed + 1, N, T)
    return tokens, mask, aj.effective_statistics(tokens, depth=L, vocab_size=V, mask=mask)


def uniform(params: aj.Params) -> aj.Params:
    """The weights with attention at its start."""
    return params.replace(
        query_key=jnp.zeros_like(params.query_key), position=jnp.zeros_like(params.position)
    )


def dense_logits(params, tokens, mask):
    """Inputs, targets and logits of all valid positions at uniform attention, and their Z_k."""
    logits, Z, inputs, targets = [], [], [], []
    for sequence, valid in zip(tokens, mask, strict=True):
        x, y = sequence[:-1][valid], sequence[1:][valid]
        A = np.tril(np.ones((len(x), len(x)))) / np.arange(1, len(x) + 1)[:, None]
        Z.append([np.linalg.matrix_power(A, k) @ np.eye(V)[x] for k in range(L + 1)])
        h = np.eye(V)[x]
        for value in np.asarray(params.value, np.float64):
            h = h + A @ h @ value
        logits.append(h @ np.asarray(params.output, np.float64))
        inputs.append(x)
        targets.append(y)
    return *(np.concatenate(a) for a in (inputs, targets, logits)), np.concatenate(Z, axis=1)


def dense_loss(params, tokens, mask, around: str) -> float:
    """Log-sum-exp to second order about zero, or about the mean logits of every token."""
    x, y, u, _ = dense_logits(params, tokens, mask)
    M = len(x)
    target = np.mean(u[np.arange(M), y])
    if around == "zero":
        return np.log(V) + np.mean(u) + np.mean(np.var(u, axis=1)) / 2 - target
    b = np.stack([u[x == token].mean(axis=0) if token in x else 0 * u[0] for token in range(V)])
    lse = np.log(np.sum(np.exp(b), axis=1))
    p = np.exp(b - lse[:, None])[x]
    q = p.mean(axis=0)
    rest = u - b[x]
    variance = rest**2 @ q - (rest @ q) ** 2
    return np.mean(lse[x]) + np.mean(variance) / 2 - target


@pytest.mark.parametrize("around", ["token", "zero"])
def test_loss_is_the_definition(x64, around):
    tokens, mask, statistics = corpus()
    for seed, scale in ((0, 0.3), (1, 2.0)):
        params = random_params(seed, V=V, T=T, L=L, scale=scale)
        actual = aj.effective_loss(params, statistics, around=around)
        np.testing.assert_allclose(actual, dense_loss(params, tokens, mask, around), rtol=1e-12)


def test_around_zero_is_the_formula_in_second_moments(x64):
    _, _, statistics = corpus()
    params = random_params(0, V=V, T=T, L=L)
    M = [np.eye(V)] + [np.zeros((V, V))] * L
    for value in np.asarray(params.value):
        M = [M[k] + (M[k - 1] @ value if k else 0) for k in range(L + 1)]
    H = np.stack([M_k @ np.asarray(params.output) for M_k in M])
    centred = H - H.mean(axis=2, keepdims=True)
    C = np.asarray(aj.second_moments(statistics))
    quadratic = np.einsum("jiv,jkil,klv->", centred, C, centred) / (2 * V)
    linear = np.einsum("kyi,kiy->", np.asarray(statistics.context), H)
    actual = aj.effective_loss(params, statistics, around="zero")
    np.testing.assert_allclose(actual, np.log(V) - linear + quadratic, rtol=1e-12)


def test_it_is_exact_where_context_says_nothing(x64):
    """One position a sequence: all there is to know is the current token, at any weights."""
    tokens = random_tokens(0, 40, 1, V)
    statistics = aj.effective_statistics(tokens, depth=L, vocab_size=V)
    params = random_params(0, V=V, T=1, L=L, scale=1.5)
    np.testing.assert_allclose(
        aj.effective_loss(params, statistics), aj.loss(params, tokens), rtol=1e-13
    )
    exact, actual = aj.exact_gradient(params, tokens), aj.effective_gradient(params, statistics)
    for name in ("value", "output"):
        np.testing.assert_allclose(getattr(actual, name), getattr(exact, name), atol=1e-14)


@pytest.mark.parametrize(("around", "order"), [("token", 5), ("zero", 3)])
def test_order_of_what_it_neglects(x64, around, order):
    """Logits are of first order in the weights; what context adds to them is of second."""
    tokens, mask, statistics = corpus()
    direction = uniform(random_params(0, V=V, T=T, L=L, scale=1.0))
    scales = np.array([3e-2, 1e-2, 3e-3])
    errors = []
    for scale in scales:
        params = jax.tree.map(lambda a, s=scale: s * a, direction)
        exact = aj.loss(params, tokens, mask)
        errors.append(abs(exact - aj.effective_loss(params, statistics, around=around)))
    slope = np.polyfit(np.log(scales), np.log(errors), 1)[0]
    np.testing.assert_allclose(slope, order, atol=0.1)


def test_gradient_is_that_of_the_loss_in_every_mode(x64):
    _, _, statistics = corpus()
    params = random_params(0, V=V, T=T, L=L)
    gradient = aj.effective_gradient(params, statistics)
    direction = random_params(1, V=V, T=T, L=L, scale=1.0)

    @jax.jit
    def along(step):
        moved = jax.tree.map(lambda a, d: a + step * d, params, direction)
        return aj.effective_loss(moved, statistics)

    slope = jax.jvp(along, (0.0,), (1.0,))[1]
    inner = sum(jnp.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (gradient, direction))))  # noqa: B905
    np.testing.assert_allclose(slope, inner, rtol=1e-12)
    h = 1e-3
    np.testing.assert_allclose(slope, (along(h) - along(-h)) / (2 * h), rtol=1e-4)
    curvature = (along(h) - 2 * along(0.0) + along(-h)) / h**2
    for second in (jax.jacfwd(jax.grad(along)), jax.jacrev(jax.grad(along))):
        np.testing.assert_allclose(second(0.0), curvature, rtol=1e-4)
    # With respect to the statistics too: the covariance is where it enters by a rule of its own.
    tangent = jax.tree.map(jnp.zeros_like, statistics.replace(num_positions=0.0))

    def scaled(factor):
        covariance = factor * statistics.conditional_covariance
        return aj.effective_loss(params, statistics.replace(conditional_covariance=covariance))

    assert tangent is not None
    np.testing.assert_allclose(jax.grad(scaled)(1.0), scaled(1.0) - scaled(0.0), rtol=1e-10)


def test_attention_gradient_is_exact_at_uniform_attention(tolerance):
    tokens, mask, statistics = corpus()
    for layers in (1, 3):
        params = random_params(0, V=V, T=T + 1, L=layers, scale=0.5)
        exact = aj.exact_gradient(uniform(params), tokens, mask)
        query_key, position = aj.uniform_attention_gradient(params, tokens, mask)
        for actual, expected in ((query_key, exact.query_key), (position, exact.position)):
            np.testing.assert_allclose(actual, expected, atol=tolerance * np.max(np.abs(expected)))
        full = aj.effective_gradient(params, statistics, tokens, mask)
        chex.assert_trees_all_equal_shapes_and_dtypes(full, params)
        np.testing.assert_array_equal(full.query_key, query_key)
        assert not np.any(aj.effective_gradient(params, statistics).query_key)


@pytest.mark.optimized
def test_long_sequences_are_computed_rightly_together():
    """What the compiler fuses when sequences of many positions are computed at once.

    jaxlib 0.10.2 computes attention minus its mean, a * (m - sum(a * m)), wrongly on CPUs there.
    """
    N, T, V = 3, 160, 6
    rng = np.random.default_rng(0)
    a = np.tril(np.ones((T, T))) / np.arange(1, T + 1)[:, None]
    m, a_32 = rng.normal(size=(N, T, T)), jnp.asarray(a, jnp.float32)
    actual = jax.jit(jax.vmap(lambda m: a_32 * (m - jnp.sum(a_32 * m, axis=-1, keepdims=True))))(
        m.astype(np.float32)
    )
    expected = a * (m - np.sum(a * m, axis=-1, keepdims=True))
    np.testing.assert_allclose(actual, expected, atol=1e-6 * np.max(np.abs(expected)))

    params, tokens = random_params(0, V=V, T=T, L=2, scale=0.5), random_tokens(1, N, T, V)
    of_attention = aj.uniform_attention_gradient(params, tokens)
    one_by_one, together = (
        aj.exact_gradient(uniform(params), tokens, form="dense", microbatch_size=size)
        for size in (1, N)
    )
    assert_trees_close(together, one_by_one, rtol=2e-5)
    assert_trees_close(of_attention, (together.query_key, together.position), rtol=2e-5)


def test_it_stays_with_exact_training_far_longer_than_the_leading_terms(x64):
    tokens, mask, statistics = corpus()
    leading = aj.corpus_statistics(tokens, V, mask)
    start = random_params(0, V=V, T=T, L=L, scale=0.0)
    rate, steps = 0.05, 20

    def trained(gradient):
        return jax.jit(
            lambda p: aj.train(p, lambda q, _: (0.0, gradient(q)), optax.sgd(rate), steps)[0]
        )(start)

    exact = trained(lambda p: aj.exact_gradient(p, tokens, mask))
    effective = trained(lambda p: aj.effective_gradient(p, statistics, tokens, mask))
    close = aj.compare_params(exact, effective)
    far = aj.compare_params(exact, aj.leading_weights(leading, L, rate, steps))
    for name in aj.WEIGHTS:
        assert np.max(close[name].relative_error) < 0.05 * np.min(far[name].relative_error)


def test_bad_arguments():
    tokens, mask, statistics = corpus()
    params = random_params(0, V=V, T=T, L=L)
    with pytest.raises(aj.InputError, match=r"around must be one of .*token.*zero.*; got 'mean'"):
        aj.effective_loss(params, statistics, around="mean")
    with pytest.raises(
        aj.InputError, match="statistics must have a depth of at least 4 layers; got 3"
    ):
        aj.effective_gradient(random_params(0, V=V, T=T, L=4), statistics)
    with pytest.raises(
        aj.InputError, match="statistics must be of the vocabulary of params, 8; got 7"
    ):
        aj.effective_gradient(random_params(0, V=8, T=T, L=L), statistics)
    with pytest.raises(aj.InputError, match="data must have at most 5 positions"):
        aj.uniform_attention_gradient(random_params(0, V=V, T=5, L=L), tokens, mask)


def summed(statistics, tokens, mask, rate, steps):
    """Weights of the effective theory, with a pass over the data at every step."""
    start = aj.init_params(jax.random.key(0), vocab_size=V, seq_len=T, num_layers=L)

    def gradient(params, step):
        return 0.0, aj.effective_gradient(params, statistics, tokens, mask)

    return jax.jit(lambda p: aj.train(p, gradient, optax.sgd(rate), steps)[0])(start)


@pytest.mark.parametrize(("rate", "steps", "most"), [(0.1, 5, 3), (0.01, 300, 14), (0.5, 60, 58)])
def test_quadrature_is_the_sum_over_all_steps(x64, rate, steps, most):
    """Few steps: exactly. Many small ones: few passes. Far beyond the theory: it says so."""
    tokens, mask, statistics = corpus()
    expected = summed(statistics, tokens, mask, rate, steps)
    seen = []
    found = aj.effective_weights(
        statistics, tokens, mask, num_layers=L, steps=steps, learning_rate=rate,
        tolerance=1e-4, progress=seen.append,
    )  # fmt: skip
    assert found.passes <= most
    assert seen == list(range(1, found.passes + 1))
    worst = 0.0
    for name, measures in aj.compare_params(expected, found.params).items():
        error = float(np.max(measures.relative_error))
        if name in ("output", "value"):
            assert error < 1e-12
        else:
            worst = max(worst, error)
    assert worst <= max(found.error, 1e-12)
    assert found.error < 5e-4


def test_no_tolerance_is_every_step(x64):
    tokens, mask, statistics = corpus()
    found = aj.effective_weights(
        statistics, tokens, mask, num_layers=L, steps=30, learning_rate=0.1, tolerance=0
    )
    assert found.passes == 28  # the gradient of the first two steps is zero
    assert found.error == 0
    expected = summed(statistics, tokens, mask, 0.1, 30)
    chex.assert_trees_all_close(found.params, expected, rtol=1e-10, atol=1e-18)


def test_flow_is_the_limit_of_small_steps(x64):
    tokens, mask, statistics = corpus()
    flow = aj.effective_weights(
        statistics, tokens, mask, num_layers=L, duration=2.0, tolerance=1e-7
    )
    errors = []
    for steps in (50, 200):
        descent = summed(statistics, tokens, mask, 2.0 / steps, steps)
        agreement = aj.compare_params(flow.params, descent)
        errors.append([np.max(agreement[name].relative_error) for name in aj.WEIGHTS])
    slopes = np.log(np.divide(*errors)) / np.log(4)
    np.testing.assert_allclose(slopes, 1, atol=0.08)
    # At the beginning it is the leading terms.
    early = aj.effective_weights(statistics, tokens, mask, num_layers=L, duration=1e-3)
    terms = aj.weights_from_coefficients(
        aj.corpus_statistics(tokens, V, mask), L, aj.flow_coefficients(1e-3)
    )
    for measures in aj.compare_params(early.params, terms).values():
        assert np.max(measures.relative_error) < 5e-3


def test_weights_of_no_steps_are_zero():
    tokens, mask, statistics = corpus()
    for options in ({"steps": 0, "learning_rate": 0.1}, {"duration": 0.0}):
        found = aj.effective_weights(statistics, tokens, mask, num_layers=2, **options)
        assert found.passes == 0
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(found.params))


def test_bad_arguments_of_weights():
    tokens, mask, statistics = corpus()
    for options in ({}, {"steps": 3}, {"steps": 3, "learning_rate": 0.1, "duration": 1.0}):
        with pytest.raises(aj.InputError, match="either steps and learning_rate or duration must"):
            aj.effective_weights(statistics, tokens, mask, num_layers=2, **options)
    with pytest.raises(aj.InputError, match="the effective theory diverges before step"):
        aj.effective_weights(statistics, tokens, mask, num_layers=L, steps=200, learning_rate=1e4)
