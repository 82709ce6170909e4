import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import (
    assert_trees_close,
    equations,
    planned_memory,
    random_mask,
    random_params,
    random_tokens,
)

import assocjax as aj
from assocjax.models.params import WEIGHTS
from assocjax.models.plan import FORMS

N, T, V, L = 5, 6, 7, 3


def lemma_d8(params, tokens, mask):
    """Exact gradients by the backward recursion of Lemma D.8, in NumPy, with explicit Jacobians."""
    T = mask.shape[1]
    V = params.output.shape[0]
    L = len(params.value)
    M = mask.sum()
    W, P, Va, W_O = (np.asarray(getattr(params, name)) for name in WEIGHTS)
    gradient = {name: np.zeros(getattr(params, name).shape) for name in WEIGHTS}
    for sequence, valid in zip(tokens, mask, strict=True):
        h, A = [np.eye(V)[sequence[:-1]]], []
        for layer in range(L):
            S = h[-1] @ W[layer] @ h[-1].T
            attention = np.zeros((T, T))
            for t in range(T):
                keys = [k for k in range(t + 1) if valid[k] or k == t]
                score = np.exp([S[t, k] + P[layer][t - k] for k in keys])
                attention[t, keys] = score / score.sum()
            A.append(attention)
            h.append(h[-1] + attention @ h[-1] @ Va[layer])
        z = np.exp(h[-1] @ W_O)
        R = (np.eye(V)[sequence[1:]] - z / z.sum(-1, keepdims=True)) * valid[:, None]
        gradient["output"] -= h[-1].T @ R / M
        G = R @ W_O.T
        for layer in reversed(range(L)):
            a, x = A[layer], h[layer]
            gradient["value"][layer] -= x.T @ a.T @ G / M
            GVx = G @ Va[layer].T @ x.T
            S = np.zeros((T, T))
            for t in range(T):
                S[t] = (np.diag(a[t]) - np.outer(a[t], a[t])) @ GVx[t]
            gradient["query_key"][layer] -= x.T @ S @ x / M
            for t in range(T):
                for k in range(t + 1):
                    gradient["position"][layer][t - k] -= S[t, k] / M
            G = G + a.T @ G @ Va[layer].T + S @ x @ W[layer].T + S.T @ x @ W[layer]
    return aj.Params(**gradient)


@pytest.mark.parametrize("form", FORMS)
def test_golden_gradients_and_descent(golden, form):
    params = aj.Params(**{name: jnp.asarray(golden[f"init_{name}"]) for name in WEIGHTS})
    tokens, rate = golden["tokens"], float(golden["learning_rate"])
    gradient = aj.exact_gradient(params, tokens, form=form)
    for name in WEIGHTS:
        np.testing.assert_allclose(
            getattr(gradient, name), golden[f"grad_{name}"], rtol=1e-10, atol=1e-16
        )
    steps = sum(key.endswith("_output") and key.startswith("step") for key in golden)
    assert steps >= 4
    _, (trajectory, losses) = aj.train(
        params,
        lambda params, step: aj.exact_loss_and_gradient(
            params, tokens, form=form, microbatch_size=4
        ),
        optax.sgd(rate),
        steps,
        observe=lambda snapshot: (snapshot.params, snapshot.loss),
    )
    for step in range(1, steps + 1):
        for name in WEIGHTS:
            np.testing.assert_allclose(
                getattr(trajectory, name)[step],
                golden[f"step{step}_{name}"],
                rtol=1e-10,
                atol=1e-16,
            )
        np.testing.assert_allclose(losses[step - 1], golden[f"loss{step - 1}"], rtol=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_exact_gradient_is_the_recursion_of_lemma_d8(tolerance, layers, masked, form):
    params = random_params(0, V=V, T=T, L=layers)
    tokens = random_tokens(1, N, T, V)
    mask = random_mask(2, N, T) if masked else np.ones((N, T), bool)
    actual = aj.exact_gradient(params, tokens, mask if masked else None, form=form)
    assert_trees_close(actual, lemma_d8(params, tokens, mask), rtol=10 * tolerance)


def test_exact_gradient_agrees_with_central_differences(x64):
    params = random_params(0, V=V, T=T, L=L)
    tokens, mask = random_tokens(1, N, T, V), random_mask(2, N, T)
    gradient = aj.exact_gradient(params, tokens, mask)
    loss = jax.jit(lambda p: aj.loss(p, tokens, mask))
    for seed in range(8):
        direction = random_params(10 + seed, V=V, T=T, L=L, scale=1.0)
        step = 1e-4  # truncation step^2 and rounding 1e-16 / step are both below 1e-8
        ahead, behind = (
            jax.tree.map(lambda p, d, s=s: p + s * d, params, direction) for s in (step, -step)
        )
        slope = (loss(ahead) - loss(behind)) / (2 * step)
        inner = jax.tree.reduce(jnp.add, jax.tree.map(jnp.vdot, gradient, direction))
        np.testing.assert_allclose(inner, slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("microbatch_size", [1, 2, 3, 100])
def test_microbatches_do_not_change_the_gradient(x64, microbatch_size, form):
    params, tokens = random_params(0, V=V, T=T, L=2), random_tokens(1, N, T, V)
    mask = random_mask(2, N, T)
    expected = jax.jit(jax.value_and_grad(aj.loss))(params, tokens, mask)
    actual = aj.exact_loss_and_gradient(
        params, tokens, mask, form=form, microbatch_size=microbatch_size
    )
    chex.assert_trees_all_close(actual, expected, rtol=1e-12, atol=1e-16)


@pytest.mark.optimized
@pytest.mark.parametrize("form", FORMS)
def test_memory_is_that_of_one_microbatch(form):
    params = random_params(0, V=V, T=T, L=2)

    def memory(N):
        function = jax.jit(lambda p, t: aj.exact_gradient(p, t, form=form, microbatch_size=4))
        tokens = jax.ShapeDtypeStruct((N, T + 1), jnp.int32)
        return planned_memory(function.lower(params, tokens)).temp_size_in_bytes

    # Only the tokens and mask grow, by a few bytes a position; activations would take hundreds.
    assert memory(4000) - memory(400) < 3600 * (T + 1) * 16


def test_the_first_layer_reads_tokens_by_gathers():
    """No comparison with the vocabulary; the only products are A V and h W_O."""
    vocab = 11  # a size that nothing else has
    params, x = random_params(0, V=vocab, T=T, L=1), jnp.zeros(T, jnp.int32)
    found = list(equations(jax.make_jaxpr(aj.logits)(params, x).jaxpr))
    products = [eqn for eqn in found if eqn.primitive.name == "dot_general"]
    assert [tuple(v.aval.shape for v in eqn.invars) for eqn in products] == [
        ((T, T), (T, vocab)),
        ((T, vocab), (vocab, vocab)),
    ]
    compared = [eqn for eqn in found if eqn.primitive.name == "eq"]
    assert not any(vocab in eqn.outvars[0].aval.shape for eqn in compared)


def test_leading_gradient_is_the_formula(tolerance):
    params = random_params(0, V=V, T=T, L=L)
    tokens, mask = random_tokens(1, N, T, V), random_mask(2, N, T)
    stats = aj.corpus_statistics(tokens, V, mask)
    actual = aj.leading_gradient(params, stats, tokens, mask)
    chex.assert_trees_all_equal_shapes_and_dtypes(actual, params)
    for layer in range(L):
        Gamma = jnp.asarray(np.asarray(params.value[layer]) @ np.asarray(params.output))
        Q, Delta = aj.attention_correlation(tokens, Gamma, mask)
        np.testing.assert_allclose(actual.query_key[layer], -Q, atol=tolerance)
        np.testing.assert_allclose(actual.position[layer], -Delta, atol=tolerance)
        expected = -np.asarray(stats.context).T @ np.asarray(params.output).T
        np.testing.assert_allclose(actual.value[layer], expected, atol=tolerance)
    np.testing.assert_array_equal(actual.output, -stats.bigram)


def test_leading_gradient_is_the_limit_of_the_exact_one(x64):
    """Near zero weights each term is met at its own order; the relative difference is linear."""
    tokens, mask = random_tokens(1, N, T, V), random_mask(2, N, T)
    stats = aj.corpus_statistics(tokens, V, mask)
    direction = random_params(0, V=V, T=T, L=L, scale=1.0)
    scales = np.array([1e-2, 1e-3, 1e-4])
    errors = []
    for scale in scales:
        params = jax.tree.map(lambda a, s=scale: s * a, direction)
        agreement = aj.compare_params(
            aj.exact_gradient(params, tokens, mask),
            aj.leading_gradient(params, stats, tokens, mask),
        )
        errors.append([np.max(agreement[name].relative_error) for name in WEIGHTS])
    slopes = np.polyfit(np.log(scales), np.log(errors), 1)[0]
    np.testing.assert_allclose(slopes, 1, atol=0.05)


def test_leading_gradient_of_short_sequences_and_other_statistics():
    params, tokens = random_params(0, V=V, T=T, L=2), random_tokens(1, N, 3, V)
    stats = aj.corpus_statistics(tokens, V)
    actual = aj.leading_gradient(params, stats, tokens)
    np.testing.assert_array_equal(actual.position[:, 3:], 0)
    assert np.any(actual.position[:, :3])
    other = aj.corpus_statistics(tokens, V + 1)
    with pytest.raises(aj.InputError, match="statistics must be of the same vocabulary"):
        aj.leading_gradient(params, other, tokens)
    with pytest.raises(aj.InputError, match=r"data must have at most 6 positions.* got 7"):
        aj.leading_gradient(params, stats, random_tokens(1, N, 7, V))


def test_gradients_trace_once_and_run_without_jit():
    tokens = random_tokens(1, N, T, V)
    traced = chex.assert_max_traces(lambda p: aj.exact_gradient(p, tokens), n=1)
    jitted = jax.jit(traced)
    for seed in range(3):
        params = random_params(seed, V=V, T=T, L=2)
        actual = jitted(params)
    with chex.fake_jit():
        chex.assert_trees_all_close(aj.exact_gradient(params, tokens), actual, atol=1e-6)


def test_bad_microbatch():
    params, tokens = random_params(0, V=V, T=T, L=1), random_tokens(1, N, T, V)
    with pytest.raises(aj.InputError, match="microbatch_size must be at least 1; got 0"):
        aj.exact_gradient(params, tokens, microbatch_size=0)


def test_sequences_divided_among_devices_give_the_same(x64):
    """Uneven shares: sequences that no device count divides, and masks."""
    V, T, N = 9, 6, 5
    params = random_params(0, V=V, T=T, L=2)
    tokens, mask = random_tokens(1, N, T, V), random_mask(2, N, T)
    mesh = jax.make_mesh((2,), ("data",))
    expected = aj.exact_loss_and_gradient(params, tokens, mask)
    found = aj.data_parallel_loss_and_gradient(params, tokens, mask, mesh=mesh)
    assert_trees_close(found, expected, rtol=1e-12)
    traced = jax.jit(lambda p, t, m: aj.data_parallel_loss_and_gradient(p, t, m, mesh=mesh))
    assert_trees_close(traced(params, tokens, mask), expected, rtol=1e-12)
    # One device has padding alone.
    alone = aj.data_parallel_loss_and_gradient(params, tokens[:1], mask[:1], mesh=mesh)
    assert_trees_close(alone, aj.exact_loss_and_gradient(params, tokens[:1], mask[:1]), rtol=1e-12)
    with pytest.raises(
        aj.InputError, match=r"mesh must have an axis 'model'; got axes \('data',\)"
    ):
        aj.data_parallel_loss_and_gradient(params, tokens, mesh=mesh, axis="model")
