import os
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numba
import numpy as np
import pytest
from conftest import assert_trees_close, random_mask, random_tokens, token_data
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import assocjax as aj
from assocjax.corpora import compilation
from assocjax.statistics import loops, scatter

NAMES = (
    "bigram",
    "context",
    "interchangeability",
    "substitutability",
    "value",
    "composed",
    "query_key",
    "position",
)


def brute_force(tokens, V, mask):
    """The definitions, position by position, with explicit residuals."""
    N, T = mask.shape
    B, Phi = np.zeros((V, V)), np.zeros((V, V))
    M = mask.sum()
    for n in range(N):
        for t in range(T):
            if not mask[n, t]:
                continue
            r = -np.ones(V) / V
            r[tokens[n, t + 1]] += 1
            keys = [k for k in range(t + 1) if mask[n, k]]
            B[tokens[n, t]] += r / M
            for k in keys:
                Phi[:, tokens[n, k]] += r / len(keys) / M
    Sigma = B.T @ B
    G = Phi.T @ Sigma
    Q, Delta = brute_force_correlation(tokens, G, mask)
    return dict(zip(NAMES, (B, Phi, Sigma, B @ B.T, Phi.T @ B.T, G, Q, Delta), strict=True))


def brute_force_correlation(tokens, Gamma, mask):
    V = len(Gamma)
    N, T = mask.shape
    Q, Delta = np.zeros((V, V)), np.zeros(T)
    M = mask.sum()
    for n in range(N):
        for t in range(T):
            if not mask[n, t]:
                continue
            keys = [k for k in range(t + 1) if mask[n, k]]
            r = -np.ones(V) / V
            r[tokens[n, t + 1]] += 1
            m = [Gamma[tokens[n, k]] @ r for k in keys]
            for k, m_k in zip(keys, m, strict=True):
                D = (m_k - np.mean(m)) / len(keys) / M
                Q[tokens[n, t], tokens[n, k]] += D
                Delta[t - k] += D
    return Q, Delta


def assert_statistics(actual, expected, rtol):
    assert_trees_close({k: getattr(actual, k) for k in NAMES}, expected, rtol=rtol)


def test_golden(golden):
    V = golden["bigram"].shape[0]
    actual = aj.corpus_statistics(golden["tokens"], V)
    for name in golden.keys() & set(NAMES):
        np.testing.assert_allclose(getattr(actual, name), golden[name], rtol=1e-10, atol=1e-17)
    B = golden["bigram"]
    np.testing.assert_allclose(actual.substitutability, B @ B.T, rtol=1e-10, atol=1e-17)


@pytest.mark.parametrize("masked", [False, True])
def test_brute_force_in_both_precisions(tolerance, masked, monkeypatch):
    """By loops, and in a transformation by blocks of two sequences, the last of one."""
    N, T, V = 9, 7, 5
    tokens = random_tokens(0, N, T, V)
    mask = random_mask(1, N, T) if masked else np.ones((N, T), bool)
    expected = brute_force(tokens, V, mask)
    actual = aj.corpus_statistics(tokens, V, mask if masked else None)
    assert_statistics(actual, expected, tolerance / 100 if tolerance < 1e-6 else tolerance)
    monkeypatch.setattr(scatter, "_BLOCK_PAIRS", 2 * T**2)
    traced = jax.jit(lambda tokens, mask: aj.corpus_statistics(tokens, V, mask))(tokens, mask)
    assert_statistics(traced, expected, 10 * tolerance)


@st.composite
def corpora(draw):
    # Few shapes, since each is compiled; any content.
    N, T, V = draw(st.sampled_from([(1, 1, 2), (3, 1, 4), (1, 5, 3), (2, 3, 2), (3, 4, 4)]))
    tokens = draw(hnp.arrays(np.int32, (N, T + 1), elements=st.integers(0, V - 1)))
    mask = draw(hnp.arrays(bool, (N, T)).filter(np.any))
    return tokens, V, mask


@given(corpora())
def test_brute_force_on_any_tiny_corpus(corpus):
    tokens, V, mask = corpus
    jax.config.update("jax_enable_x64", True)  # fixtures do not reset between examples
    try:
        actual = aj.corpus_statistics(tokens, V, mask)
        expected = brute_force(tokens, V, mask)
        for name in NAMES:
            # Absolute: a matrix may vanish, and entries are at most of order 1.
            np.testing.assert_allclose(getattr(actual, name), expected[name], atol=1e-13)
        Gamma = np.random.default_rng(0).normal(size=(V, V))
        actual = aj.attention_correlation(tokens, jnp.asarray(Gamma), mask)
        chex.assert_trees_all_close(
            actual, brute_force_correlation(tokens, Gamma, mask), atol=1e-13
        )
    finally:
        jax.config.update("jax_enable_x64", False)


def test_padding_counts_in_nothing(x64):
    """Left or right padding, of any length and content, leaves every statistic as it was."""
    N, T, V = 6, 5, 4
    tokens = random_tokens(0, N, T, V)
    expected = aj.corpus_statistics(tokens, V)
    junk = random_tokens(1, N, 3, V)
    for left, right in ((junk[:, :3], junk[:, :0]), (junk[:, :0], junk[:, :3])):
        padded = np.concatenate([left, tokens, right], axis=1)
        mask = np.zeros((N, T + 3), bool)
        mask[:, left.shape[1] : left.shape[1] + T] = True
        actual = aj.corpus_statistics(padded, V, mask)
        np.testing.assert_array_equal(actual.position[T:], 0)
        actual = actual.replace(position=actual.position[:T])
        chex.assert_trees_all_close(actual, expected, rtol=1e-12, atol=1e-16)


def test_threads_do_not_change_a_bit(monkeypatch, x64):
    """Of the loops, whose rows are divided among them."""
    tokens, mask, V = random_tokens(0, 50, 6, 40), random_mask(1, 50, 6), 40
    monkeypatch.setattr(loops.config, "NUMBA_NUM_THREADS", 1)
    expected = aj.corpus_statistics(tokens, V, mask)
    for threads in (2, 5):
        monkeypatch.setattr(loops.config, "NUMBA_NUM_THREADS", threads)
        chex.assert_trees_all_equal(aj.corpus_statistics(tokens, V, mask), expected)


def test_a_corpus_stands_for_its_tokens(x64):
    tokens, mask, V = random_tokens(0, 5, 6, 4), random_mask(1, 5, 6), 4
    data = token_data(tokens, V, mask)
    expected = aj.corpus_statistics(tokens, V, mask)
    chex.assert_trees_all_equal(aj.corpus_statistics(data), expected)
    composed = expected.composed
    chex.assert_trees_all_equal(
        aj.attention_correlation(data, composed), (expected.query_key, expected.position)
    )
    for call, message in (
        (lambda: aj.corpus_statistics(data, 5), "vocab_size must be left out, or that of the data"),
        (lambda: aj.corpus_statistics(data, mask=mask), "mask must be left out"),
        (lambda: aj.corpus_statistics(tokens), "vocab_size must be given"),
    ):
        with pytest.raises(aj.InputError, match=message):
            call()


@pytest.mark.parametrize(("N", "T", "V"), [(8000, 30, 2), (700, 100, 400)])
def test_sums_keep_their_digits_in_float32(N, T, V):
    """On text of 10^5 tokens: entries are those of float64, rounded once."""
    tokens = random_tokens(0, N, T, V)
    single = aj.corpus_statistics(tokens, V)
    jax.config.update("jax_enable_x64", True)
    double = aj.corpus_statistics(tokens, V)
    Q, Delta = aj.attention_correlation(tokens, jnp.asarray(np.asarray(single.composed, float)))
    double, Q, Delta = jax.tree.map(np.asarray, (double, Q, Delta))
    jax.config.update("jax_enable_x64", False)
    for actual, expected in (
        (single.bigram, double.bigram),
        (single.context, double.context),
        (single.context_frequency, double.context_frequency),
        (single.query_key, Q),
        (single.position, Delta),
    ):
        np.testing.assert_array_equal(actual, expected.astype(np.float32))


def test_a_pair_that_meets_millions_of_times_keeps_its_digits(x64):
    """Half of the tokens are alike: sums against those in extended precision."""
    N, T, V = 600, 100, 5
    tokens = random_tokens(0, N, T, V)
    tokens[np.random.default_rng(1).random(tokens.shape) < 0.5] = 0
    found = aj.corpus_statistics(tokens, V)
    x, y = tokens[:, :-1], tokens[:, 1:]
    one_hots = np.eye(V)[x]
    means = np.cumsum(one_hots.astype(np.longdouble), axis=1) / np.arange(1, T + 1)[:, None]
    context = np.stack([means[y == j].sum(axis=0) for j in range(V)]) / (N * T)
    expected = context - context.mean(axis=0)
    error = np.abs(np.asarray(found.context) - expected).max()
    assert error < 1e-11 * np.abs(context).max()  # of 3 million additions


@pytest.mark.optimized
def test_counts_are_integers_until_the_end():
    """2^24 + 5 positions: float32, which holds no odd number above 2^24, would lose count."""
    N, T = 2**22 + 2, 4
    mask = np.ones((N, T), bool)
    mask[0, :3] = False
    stats = aj.corpus_statistics(np.zeros((N, T + 1), np.int32), 2, mask)
    assert int(stats.num_positions) == 2**24 + 5


def test_marginals():
    tokens, V = random_tokens(0, 20, 6, 5), 5
    mask = random_mask(1, 20, 6)
    stats = aj.corpus_statistics(tokens, V, mask)
    x, y = tokens[:, :-1][mask], tokens[:, 1:][mask]
    M = mask.sum()
    np.testing.assert_allclose(stats.input_frequency, np.bincount(x, minlength=V) / M, rtol=1e-6)
    np.testing.assert_allclose(stats.target_frequency, np.bincount(y, minlength=V) / M, rtol=1e-6)
    np.testing.assert_allclose(jnp.sum(stats.context_frequency), 1, rtol=1e-6)
    np.testing.assert_allclose(jnp.sum(stats.bigram, axis=1), 0, atol=1e-7)
    np.testing.assert_allclose(jnp.sum(stats.context, axis=0), 0, atol=1e-7)


def test_attention_correlation_is_linear_and_differentiable(x64):
    tokens, V = random_tokens(0, 7, 6, 5), 5
    rng = np.random.default_rng(0)
    a, b = jnp.asarray(rng.normal(size=(2, V, V)))

    def of(Gamma):
        return aj.attention_correlation(tokens, Gamma)

    both = jax.tree.map(lambda x, y: 2 * x - y, of(a), of(b))
    chex.assert_trees_all_close(of(2 * a - b), both, atol=1e-15)
    # The derivative of a linear map is the map, in both modes and under vmap.
    chex.assert_trees_all_close(jax.jvp(of, (a,), (b,))[1], of(b), atol=1e-15)
    weights = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), of(a))

    def inner(x, y):
        return jax.tree.reduce(jnp.add, jax.tree.map(jnp.vdot, x, y))

    gradient = jax.grad(lambda Gamma: inner(of(Gamma), weights))(a)
    np.testing.assert_allclose(jnp.vdot(gradient, b), inner(of(b), weights), rtol=1e-12)
    batched = jax.vmap(of)(jnp.stack([a, b]))
    chex.assert_trees_all_close(jax.tree.map(lambda x: x[1], batched), of(b), atol=1e-15)


class UnderJit(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_with_and_without_jit(self):
        tokens, V = random_tokens(0, 5, 4, 3), 3
        mask = random_mask(1, 5, 4)
        function = self.variant(aj.corpus_statistics, static_argnums=1)
        stats = function(tokens, V, mask)
        assert_trees_close(stats, aj.corpus_statistics(tokens, V, mask), rtol=2e-6)
        chex.assert_shape([getattr(stats, n) for n in NAMES[:-1]], (V, V))
        chex.assert_shape(stats.position, (4,))


def test_one_trace_for_many_corpora_of_one_shape():
    traced = chex.assert_max_traces(lambda t: aj.corpus_statistics(t, 5), n=1)
    function = jax.jit(traced)
    for seed in range(3):
        function(random_tokens(seed, 5, 4, 5))


def _is_jaxpr(parameter):
    return hasattr(parameter, "jaxpr")


def scatter_and_gather_work(jaxpr, times=1):
    """Elements moved by all scatters and gathers of a program, counting loop iterations."""
    total = 0
    for eqn in jaxpr.eqns:
        inner_times = times * (eqn.params["length"] if eqn.primitive.name == "scan" else 1)
        if eqn.primitive.name in ("scatter-add", "scatter_add", "gather"):
            total += times * max(v.aval.size for v in eqn.invars[1:])
        for parameter in jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(parameter):
                total += scatter_and_gather_work(parameter.jaxpr, inner_times)
    return total


def test_work_grows_linearly_in_sequences_and_memory_does_not(monkeypatch):
    T, V = 8, 16
    # Small blocks, so that these corpora have many.
    monkeypatch.setattr(scatter, "_BLOCK_PAIRS", 14 * T**2)
    work, memory = [], []
    for N in (560, 1000, 4480):  # 14 sequences a block; 1000 are no whole number of blocks
        shape = jax.ShapeDtypeStruct((N, T + 1), jnp.int32)
        function = jax.jit(lambda t: aj.corpus_statistics(t, V))
        work.append(scatter_and_gather_work(jax.make_jaxpr(function)(shape).jaxpr))
        analysis = function.lower(shape).compile().memory_analysis()
        memory.append(analysis.temp_size_in_bytes / shape.size)
    pairs = 4480 * T * (T + 1) // 2
    assert work[0] > 0
    np.testing.assert_allclose(np.array(work) / work[0], [1, 1000 / 560, 8], rtol=0.02)
    assert work[-1] < 20 * pairs  # no hidden factor of V or T
    # Besides [V,V] sums, a few bytes a token for the rearranged input; not [N,T,T] or [N,T,V].
    assert memory[-1] < 4 * T


@pytest.mark.parametrize(
    ("tokens", "V", "mask", "error", "message"),
    [
        (np.zeros((2, 3), np.float32), 4, None, aj.InputTypeError, "data must hold integers"),
        (np.zeros(3, np.int32), 4, None, aj.InputError, r"data must have shape \[N, T\+1\]"),
        (np.zeros((2, 1), np.int32), 4, None, aj.InputError, "data must have shape"),
        (np.full((2, 3), 4), 4, None, aj.InputError, r"\[0, vocab_size=4\); got 4"),
        (np.full((2, 3), -1), 4, None, aj.InputError, "got -1"),
        (np.zeros((2, 3), np.int32), 1, None, aj.InputError, "vocab_size must be at least 2"),
        (np.zeros((2, 3), np.int32), 4.0, None, aj.InputTypeError, "vocab_size"),
        (np.zeros((2, 3), np.int32), 4, np.ones((2, 3), bool), aj.InputError, "mask must have"),
        (np.zeros((2, 3), np.int32), 4, np.ones((2, 2)), aj.InputTypeError, "mask must be bool"),
        (np.zeros((2, 3), np.int32), 4, np.zeros((2, 2), bool), aj.InputError, "at least one"),
    ],
)
def test_bad_input(tokens, V, mask, error, message):
    with pytest.raises(error, match=message):
        aj.corpus_statistics(tokens, V, mask)


def test_bad_matrix():
    with pytest.raises(aj.InputTypeError, match="matrix must be floating; got dtype int32"):
        aj.attention_correlation(np.zeros((2, 3), np.int32), jnp.zeros((4, 4), jnp.int32))
    with pytest.raises(aj.InputError, match="matrix must have shape"):
        aj.attention_correlation(np.zeros((2, 3), np.int32), jnp.zeros((4, 3)))


def test_a_device_that_is_not_the_first(tolerance):
    tokens, mask, V = random_tokens(0, 5, 6, 7), random_mask(1, 5, 6), 7
    device = jax.local_devices()[1]
    found = aj.corpus_statistics(jax.device_put(tokens, device), V, jax.device_put(mask, device))
    assert_trees_close(found, aj.corpus_statistics(tokens, V, mask), rtol=tolerance)


def test_programs_are_kept_where_numba_is_told_to(tmp_path):
    """And importing the package, and its command line's help, leave numba alone."""
    code = (
        "import sys, assocjax, assocjax.cli; assert 'numba' not in sys.modules;"
        "print(assocjax.corpus_statistics([[0, 1, 0]], 2).bigram)"
    )
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    run = [sys.executable, "-W", "error", "-c", code]
    printed = {subprocess.check_output(run, env=environment, text=True) for _ in range(2)}
    assert printed == {"[[-0.25  0.25]\n [ 0.25 -0.25]]\n"}
    kept = [path.name for path in tmp_path.rglob("_compiled.*.nbi")]
    for name in ("sort", "add_contexts", "add_keys", "add_correlations"):
        assert any(file.startswith(f"_compiled.{name}-") for file in kept), name


def test_where_no_program_can_be_kept_it_is_compiled(monkeypatch):
    def njit(cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return numba.njit(**options)

    monkeypatch.setattr(compilation, "njit", njit)
    assert compilation.compiled(lambda x: x + 1)(1) == 2
