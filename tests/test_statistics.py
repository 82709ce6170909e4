import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_trees_close, random_mask, random_tokens
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import assocjax as aj
from assocjax.statistics import sums
from assocjax.statistics.sums import two_sum

NAMES = (
    "bigram",
    "context",
    "interchangeability",
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
    return dict(zip(NAMES, (B, Phi, Sigma, Phi.T @ B.T, G, Q, Delta), strict=True))


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
    for name in NAMES:
        np.testing.assert_allclose(getattr(actual, name), golden[name], rtol=1e-10, atol=1e-17)


@pytest.mark.parametrize("masked", [False, True])
def test_brute_force_in_both_precisions(tolerance, masked):
    N, T, V = 9, 7, 5
    tokens = random_tokens(0, N, T, V)
    mask = random_mask(1, N, T) if masked else np.ones((N, T), bool)
    actual = aj.corpus_statistics(tokens, V, mask if masked else None)
    assert_statistics(actual, brute_force(tokens, V, mask), 10 * tolerance)


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


def test_blocks_and_chunks_do_not_change_the_result(monkeypatch, x64):
    tokens, V = random_tokens(0, 50, 6, 5), 5
    mask = random_mask(1, 50, 6)
    expected = aj.corpus_statistics(tokens, V, mask)
    # Blocks of 2 sequences, in chunks of 2 blocks; 50 is no multiple of 4.
    monkeypatch.setattr(sums, "_BLOCK_PAIRS", 42)
    monkeypatch.setattr(sums, "_CHUNK_POSITIONS", 24)
    jax.clear_caches()
    chex.assert_trees_all_close(
        aj.corpus_statistics(tokens, V, mask), expected, rtol=1e-12, atol=1e-16
    )
    jax.clear_caches()


@pytest.mark.optimized
def test_two_sums_do_not_drift():
    """200,000 additions: float32 alone loses four digits, the pair of floats none."""
    step = np.float32(0.1)
    start = jnp.float32(0), jnp.float32(0)
    (total, error), _ = jax.lax.scan(
        lambda sums, _: (two_sum(*sums, step), None), start, None, length=200_000
    )
    naive = np.float32(0)
    for _ in range(200_000):
        naive += step
    exact = 200_000 * float(step)
    assert abs(float(naive) / exact - 1) > 1e-4
    assert abs((float(total) + float(error)) / exact - 1) < 1e-7


@pytest.mark.optimized
@pytest.mark.parametrize(("N", "T", "V"), [(8000, 30, 2), (700, 100, 400)])
def test_sums_keep_their_digits_in_float32(N, T, V):
    """With the block and chunk sizes as they are, on text of 10^5 tokens, against float64.

    The error of an entry is that of one rounding of the sums it is the difference of, which are
    at most the marginals: no digits are lost to the number of summands.
    """
    tokens = random_tokens(0, N, T, V)
    single = aj.corpus_statistics(tokens, V)
    jax.config.update("jax_enable_x64", True)
    double = aj.corpus_statistics(tokens, V)
    Q, Delta = aj.attention_correlation(tokens, jnp.asarray(np.asarray(single.composed, float)))
    double, Q, Delta = jax.tree.map(np.asarray, (double, Q, Delta))
    jax.config.update("jax_enable_x64", False)
    for name, rows, columns in (
        ("bigram", double.input_frequency, double.target_frequency),
        ("context", double.target_frequency, double.context_frequency),
    ):
        error = np.abs(np.asarray(getattr(single, name), float) - getattr(double, name))
        assert np.all(error <= 2e-7 * np.add.outer(rows, columns)), name
    # D is a difference of rounded terms, and where text is at chance (V = 2) most of it cancels.
    for actual, expected in ((single.query_key, Q), (single.position, Delta)):
        error = np.linalg.norm(np.asarray(actual, float) - expected) / np.linalg.norm(expected)
        assert error < 1e-4


@pytest.mark.optimized
def test_a_pair_that_meets_millions_of_times_keeps_its_digits(monkeypatch):
    """All sequences in one chunk, in which float32 alone would no longer see small weights."""
    monkeypatch.setattr(sums, "_CHUNK_PAIRS", 2**31)
    jax.clear_caches()
    V, random = 50, random_tokens(0, 3000, 100, 50)
    for share in (0.02, 0.5):
        frequent = np.random.default_rng(1).random(random.shape) < share
        tokens = np.where(frequent, 0, random).astype(np.int32)
        single = aj.corpus_statistics(tokens, V)
        jax.config.update("jax_enable_x64", True)
        context = np.asarray(aj.corpus_statistics(tokens, V).context)
        composed = jnp.asarray(np.asarray(single.composed, float))
        expected = context, *map(np.asarray, aj.attention_correlation(tokens, composed))
        jax.config.update("jax_enable_x64", False)
        actual = single.context, single.query_key, single.position
        for values, exact in zip(actual, expected, strict=True):
            error = np.max(np.abs(np.asarray(values, float) - exact)) / np.max(np.abs(exact))
            assert error < 2e-6
    jax.clear_caches()


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
        chex.assert_trees_all_close(stats, aj.corpus_statistics(tokens, V, mask), rtol=1e-6)
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
    monkeypatch.setattr(sums, "_BLOCK_PAIRS", 1 << 9)
    monkeypatch.setattr(sums, "_CHUNK_POSITIONS", 56 * T)
    jax.clear_caches()
    work, memory = [], []
    for N in (560, 1000, 4480):  # 14 sequences a block; 1000 are no whole number of blocks
        shape = jax.ShapeDtypeStruct((N, T + 1), jnp.int32)
        function = jax.jit(lambda t: aj.corpus_statistics(t, V))
        work.append(scatter_and_gather_work(jax.make_jaxpr(function)(shape).jaxpr))
        analysis = function.lower(shape).compile().memory_analysis()
        memory.append(analysis.temp_size_in_bytes / shape.size)
    jax.clear_caches()
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
        (np.zeros((2, 3), np.int32), 10**5, None, aj.InputError, "at most 46340"),
        (np.zeros((1, 8194), np.int32), 4, None, aj.InputError, "positions .* at most 8192"),
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


def test_devices_share_the_sums(tolerance, monkeypatch):
    """The suite runs on two devices; the sequences are odd in number."""
    V, N, T = 7, 5, 6
    tokens, mask = random_tokens(0, N, T, V), random_mask(1, N, T)
    alone = aj.corpus_statistics(tokens, V, mask)
    assert len(jax.local_devices()) > 1
    monkeypatch.setattr(sums, "_DIVIDED_PAIRS", 0)
    shared = aj.corpus_statistics(tokens, V, mask)
    assert_trees_close(shared, alone, rtol=tolerance)
    # Bound to no device: it goes with arrays of any.
    jnp.add(shared.bigram, jax.device_put(alone.bigram, jax.local_devices()[1]))
