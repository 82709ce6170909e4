from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_trees_close, random_mask, random_tokens, token_data
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import assocjax as aj
from assocjax.statistics import loops, scatter
from assocjax.statistics.moments import EffectiveStatistics, effective_statistics, second_moments


def brute_force(tokens, V, L, mask):
    """The definitions, with dense one-hots: the statistics, and C_jk."""
    N, T = mask.shape
    M = mask.sum()
    Phi, C = np.zeros((L + 1, V, V)), np.zeros((L + 1, L + 1, V, V))
    for n in range(N):
        A, R, Z = np.zeros((T, T)), np.zeros((T, V)), np.zeros((L + 1, T, V))
        for t in range(T):
            if mask[n, t]:
                keys = [s for s in range(t + 1) if mask[n, s]]
                A[t, keys] = 1 / len(keys)
                Z[0, t, tokens[n, t]] = 1
                R[t] = -1 / V
                R[t, tokens[n, t + 1]] += 1
        for k in range(1, L + 1):
            Z[k] = A @ Z[k - 1]
        for k in range(L + 1):
            Phi[k] += R.T @ Z[k] / M
            for j in range(L + 1):
                C[j, k] += Z[j].T @ Z[k] / M
    f = np.diag(C[0, 0])
    mean = np.zeros((L, V, V))
    covariance = C[1:, 1:].copy()
    for x in range(V):
        if f[x] > 0:
            mean[:, x] = C[0, 1:, x] / f[x]
            for j in range(L):
                for k in range(L):
                    covariance[j, k] -= f[x] * np.outer(mean[j, x], mean[k, x])
    return EffectiveStatistics(Phi, f, mean, covariance, M), C


def corpus_with_an_unseen_token():
    N, T, V = 9, 7, 6
    return random_tokens(0, N, T, V - 1), V, random_mask(1, N, T)


def test_brute_force_in_both_precisions(tolerance, monkeypatch):
    """By loops, and in a transformation by blocks of two sequences, the last of one."""
    tokens, V, ragged = corpus_with_an_unseen_token()
    monkeypatch.setattr(scatter, "_BLOCK_PAIRS", 2 * ragged.shape[1] ** 2)
    traced = jax.jit(partial(effective_statistics, depth=3, vocab_size=V))
    for mask in (None, ragged):
        actual = effective_statistics(tokens, depth=3, vocab_size=V, mask=mask)
        in_jit = traced(tokens, mask=mask)
        mask = np.ones_like(ragged) if mask is None else mask
        expected, C = brute_force(tokens, V, 3, mask)
        rtol = tolerance / 100 if tolerance < 1e-6 else tolerance
        assert_trees_close(actual, expected, rtol=rtol)
        assert_trees_close(in_jit, expected, rtol=10 * tolerance)
        assert_trees_close(second_moments(actual), C, rtol=tolerance)
        assert actual.frequency.dtype == jnp.result_type(float)


def test_threads_do_not_change_a_bit(monkeypatch, x64):
    tokens, V, mask = corpus_with_an_unseen_token()
    monkeypatch.setattr(loops.config, "NUMBA_NUM_THREADS", 1)
    expected = effective_statistics(tokens, depth=2, vocab_size=V, mask=mask)
    monkeypatch.setattr(loops.config, "NUMBA_NUM_THREADS", 3)
    actual = effective_statistics(token_data(tokens, V, mask), depth=2)
    chex.assert_trees_all_equal(actual, expected)


def test_first_layers_are_those_of_a_smaller_depth(x64):
    tokens, V, mask = corpus_with_an_unseen_token()
    deep = effective_statistics(tokens, depth=3, vocab_size=V, mask=mask)
    for L in (1, 2):
        expected = deep.replace(
            context=deep.context[: L + 1],
            conditional_mean=deep.conditional_mean[:L],
            conditional_covariance=deep.conditional_covariance[:L, :L],
        )
        actual = effective_statistics(tokens, depth=L, vocab_size=V, mask=mask)
        assert_trees_close(actual, expected, rtol=1e-13)


def test_agrees_with_the_basis_functions(tolerance):
    tokens, V, mask = corpus_with_an_unseen_token()
    actual = effective_statistics(tokens, depth=3, vocab_size=V, mask=mask)
    stats = aj.corpus_statistics(tokens, V, mask)
    np.testing.assert_array_equal(actual.context[0], stats.bigram.T)
    assert_trees_close(actual.context[1], stats.context, rtol=tolerance)
    np.testing.assert_array_equal(actual.frequency, stats.input_frequency)
    assert int(actual.num_positions) == int(stats.num_positions)


def test_identities(tolerance):
    tokens, V, mask = corpus_with_an_unseen_token()
    stats = effective_statistics(tokens, depth=3, vocab_size=V, mask=mask)
    seen = np.isin(np.arange(V), tokens[:, :-1][mask])
    assert not seen.all()
    total = np.sum(stats.conditional_mean, axis=2)
    np.testing.assert_allclose(total, np.tile(seen * 1.0, (3, 1)), atol=tolerance)
    np.testing.assert_allclose(np.sum(stats.context, axis=1), 0, atol=tolerance)
    covariance = np.asarray(stats.conditional_covariance)
    np.testing.assert_allclose(np.sum(covariance, axis=3), 0, atol=tolerance)
    np.testing.assert_array_equal(covariance, covariance.transpose(1, 0, 3, 2))
    np.testing.assert_array_equal(covariance[:, :, ~seen], 0)
    joint = covariance.swapaxes(1, 2).reshape(3 * V, 3 * V)
    assert np.linalg.eigvalsh(joint).min() > -tolerance  # it is a covariance


@st.composite
def corpora(draw):
    # Few shapes, since each is compiled; any content.
    N, T, V = draw(st.sampled_from([(1, 1, 2), (3, 4, 3)]))
    tokens = draw(hnp.arrays(np.int32, (N, T + 1), elements=st.integers(0, V - 1)))
    mask = draw(hnp.arrays(bool, (N, T)).filter(np.any))
    return tokens, V, mask


@given(corpora())
def test_brute_force_on_any_tiny_corpus(corpus):
    tokens, V, mask = corpus
    jax.config.update("jax_enable_x64", True)  # fixtures do not reset between examples
    try:
        actual = effective_statistics(tokens, depth=2, vocab_size=V, mask=mask)
        expected, C = brute_force(tokens, V, 2, mask)
        # Absolute: a matrix may vanish, and entries are at most of order 1.
        chex.assert_trees_all_close(actual, expected, rtol=0, atol=1e-13)
        np.testing.assert_allclose(second_moments(actual), C, atol=1e-13)
    finally:
        jax.config.update("jax_enable_x64", False)


@pytest.mark.parametrize(("N", "T", "V"), [(600, 64, 50), (10, 800, 50)])
def test_sums_keep_their_digits_in_float32(N, T, V):
    """On text of some 10^4 tokens: entries are those of float64, rounded once."""
    tokens = random_tokens(0, N, T, V)
    single = effective_statistics(tokens, depth=2, vocab_size=V)
    jax.config.update("jax_enable_x64", True)
    double = effective_statistics(tokens, depth=2, vocab_size=V)
    double = jax.tree.map(np.asarray, double)
    jax.config.update("jax_enable_x64", False)
    for name in ("context", "frequency", "conditional_mean", "conditional_covariance"):
        expected = np.asarray(getattr(double, name)).astype(np.float32)
        np.testing.assert_array_equal(getattr(single, name), expected)


def test_one_trace_for_many_batches_of_one_shape():
    N, T, V = 5, 4, 3

    @chex.assert_max_traces(n=1)
    def statistics(tokens, mask):
        return effective_statistics(tokens, depth=1, vocab_size=V, mask=mask)

    function = jax.jit(jax.vmap(statistics))
    tokens = np.stack([random_tokens(seed, N, T, V) for seed in range(2)])
    masks = np.stack([random_mask(seed, N, T) for seed in range(2)])
    batch = function(tokens, masks)
    function(tokens[::-1], masks)
    chex.assert_shape(batch.context, (2, 2, V, V))
    chex.assert_shape(batch.conditional_covariance, (2, 1, 1, V, V))
    for i in range(2):
        one = jax.tree.map(lambda x: x[i], batch)  # noqa: B023
        expected = effective_statistics(tokens[i], depth=1, vocab_size=V, mask=masks[i])
        assert_trees_close(one, expected, rtol=2e-6)


@pytest.mark.parametrize(
    ("tokens", "V", "depth", "mask", "error", "message"),
    [
        (np.zeros((2, 3), np.int32), 4, 0, None, aj.InputError, "depth must be at least 1; got 0"),
        (np.zeros((2, 3), np.int32), 4, 1.0, None, aj.InputTypeError, "depth must be an integer"),
        (np.zeros((2, 3), np.float32), 4, 1, None, aj.InputTypeError, "data must hold integers"),
        (np.full((2, 3), 4), 4, 1, None, aj.InputError, r"\[0, vocab_size=4\); got 4"),
        (np.zeros((2, 3), np.int32), 4, 1, np.ones((2, 3), bool), aj.InputError, "mask must have"),
        (np.zeros((2, 3), np.int32), 4, 1, np.zeros((2, 2), bool), aj.InputError, "at least one"),
    ],
)
def test_bad_input(tokens, V, depth, mask, error, message):
    with pytest.raises(error, match=message):
        effective_statistics(tokens, depth=depth, vocab_size=V, mask=mask)
