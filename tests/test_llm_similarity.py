"""Similarity, its null and what it rests on, against the definitions between tokens, in numpy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import assocjax as aj
from assocjax.llm import (
    CENTERINGS,
    FactoredMatrix,
    common_mean_share,
    covariance_similarity,
    dominating,
    frequency_bins,
    nulls,
    permutation_null,
)

N, D, M_COLUMNS = 9, 5, 7


def scaled(M):
    norms = np.sqrt(np.sum(M**2, axis=1))
    return np.stack([row / norm if norm else row for row, norm in zip(M, norms, strict=True)])


def centred(X, centering):
    if centering in ("feature", "both"):
        X = X - X.mean(axis=1, keepdims=True)
    if centering in ("token", "both"):
        X = X - X.mean(axis=0)
    return X


def cosine(K, L):
    return np.sum(K * L) / np.sqrt(np.sum(K * K) * np.sum(L * L))


def brute_force(A, M, centering, *, scale=True):
    """Between tokens: the cosine of two matrices [n,n]."""
    A, M = centred(A, centering), centred(scaled(M) if scale else M, centering)
    return cosine(A @ A.T, M @ M.T)


def random_pair(seed=0, n=N):
    """Related, and with a mean of their own, so that no part of a score is negligible."""
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(n, D)) + rng.normal(size=D)
    M = A @ rng.normal(size=(D, M_COLUMNS)) + rng.normal(size=(n, M_COLUMNS))
    return A, M


def factored(X, rank, seed=0):
    """X as left right^T, of a rank that no factor shows on its own."""
    mixing = np.random.default_rng(seed).normal(size=(rank, rank))
    u, s, vt = np.linalg.svd(X, full_matrices=False)
    left = np.zeros((len(X), rank))
    right = np.zeros((X.shape[1], rank))
    k = min(rank, s.size)
    left[:, :k], right[:, :k] = u[:, :k] * s[:k], vt[:k].T
    return FactoredMatrix(left @ mixing, right @ np.linalg.inv(mixing).T)


@pytest.mark.parametrize("centering", CENTERINGS)
def test_similarity_is_the_cosine_of_inner_products(centering, tolerance):
    A, M = random_pair()
    dtype = jnp.result_type(float)
    found = covariance_similarity(A.astype(dtype), M.astype(dtype), centering)
    assert found.dtype == dtype
    assert found == pytest.approx(brute_force(A, M, centering), rel=tolerance)


@pytest.mark.parametrize("centering", CENTERINGS)
def test_invariances(centering, x64):
    """A factor, a rotation (which keeps means only without feature centring), reordered tokens."""
    A, M = random_pair()
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(D, D)))[0]
    whole = float(covariance_similarity(A, M, centering))
    assert covariance_similarity(1e-9 * A, -3e5 * M, centering) == pytest.approx(whole, rel=1e-12)
    weights = np.arange(1.0, N + 1)[:, None]
    assert covariance_similarity(A, weights * M, centering) == pytest.approx(whole, rel=1e-12)
    rotated = covariance_similarity(A @ rotation, M, centering)
    assert (abs(rotated - whole) < 1e-12) == (centering == "token")
    order = np.random.default_rng(2).permutation(N)
    reordered = covariance_similarity(A[order], M[order][:, ::-1], centering)
    assert reordered == pytest.approx(whole, rel=1e-12)
    # Of unit rows with M's own centring, A = M is perfectly similar.
    assert covariance_similarity(scaled(M), M, centering) == pytest.approx(1, rel=1e-12)


# Ranks below both numbers of columns, between them and above.
@pytest.mark.parametrize(
    ("rank", "centering"), [(3, "both"), (3, "feature"), (D + 1, "token"), (M_COLUMNS + 4, "both")]
)
def test_factored_is_dense(rank, centering, x64):
    A, M = random_pair()
    factors = factored(A, rank, 1), factored(M, rank, 2)
    dense = [left @ right.T for left, right in factors]
    expected = brute_force(*dense, centering)
    assert covariance_similarity(*factors, centering) == pytest.approx(expected, rel=1e-10)
    assert covariance_similarity(factors[0], dense[1], centering) == pytest.approx(expected)


def test_null_and_what_dominates_read_factors(x64):
    A, M = random_pair()
    factors = factored(A, 3, 1), factored(M, 3, 2)
    dense = [left @ right.T for left, right in factors]
    null = permutation_null(*dense, num_shuffles=5, centering="feature")
    same = permutation_null(*factors, num_shuffles=5, centering="feature")
    np.testing.assert_allclose(same, null, rtol=1e-8)
    for one, other in zip(dominating(*factors), dominating(*dense), strict=True):
        assert one.which == other.which
        assert float(one.drop) == pytest.approx(float(other.drop), abs=1e-10)


def test_layers_by_vmap():
    pairs = [random_pair(seed) for seed in range(3)]
    M = pairs[0][1].astype(np.float32)
    layers = np.stack([A for A, _ in pairs]).astype(np.float32)
    found = jax.vmap(covariance_similarity, in_axes=(0, None))(layers, M)
    for A, similarity in zip(layers, found, strict=True):
        assert similarity == pytest.approx(brute_force(A, M, "feature"), rel=1e-5)
    null = jax.vmap(lambda A: permutation_null(A, M, num_shuffles=3))(layers)
    alone = permutation_null(layers[1], M, num_shuffles=3)
    np.testing.assert_allclose(np.stack(null)[:3, 1], alone[:3], rtol=1e-4)


def test_gradient(x64):
    A, M = random_pair()
    direction = np.random.default_rng(3).normal(size=A.shape)
    left, right = factored(M, 4)

    def along(t):
        factors = FactoredMatrix(left + t * left**2, right - t * right)
        return covariance_similarity(A + t * direction, factors, "both")

    h = 1e-5
    expected = float(along(h) - along(-h)) / (2 * h)
    # Central differences are exact to h^2, and to 1e-16 / h.
    assert jax.grad(along)(0.0) == pytest.approx(expected, rel=1e-6)


def test_nothing_left_is_undefined():
    """All tokens alike: what their centring leaves is rounding, and no similarity."""
    A, M = (X.astype(np.float32) for X in random_pair())
    alike = np.tile(A[:1], (N, 1))
    assert np.isfinite(covariance_similarity(alike, M, "feature"))
    assert np.isnan(covariance_similarity(alike, M, "token"))
    assert np.isnan(covariance_similarity(np.zeros_like(A), M))
    null = permutation_null(alike, M, num_shuffles=4, centering="token")
    assert np.isnan(null).all()
    # A token of which the theory says nothing has a row of zeros.
    M[2] = 0
    expected = brute_force(A, M, "both")
    assert covariance_similarity(A, M, "both") == pytest.approx(expected, rel=1e-5)


def test_small_entries_do_not_vanish():
    """Entries of theory matrices near 1e-12, whose fourth powers float32 does not hold."""
    A, M = (X.astype(np.float32) for X in random_pair())
    expected = brute_force(A, M, "feature")
    found = covariance_similarity(A * np.float32(1e-20), M * np.float32(1e-25))
    assert found == pytest.approx(expected, rel=1e-5)


def reference_null(A, M, centering, permutations):
    A, M = centred(A, centering), centred(scaled(M), centering)
    return np.array([cosine(A @ A.T, M[list(p)] @ M[list(p)].T) for p in permutations])


@pytest.mark.parametrize("centering", CENTERINGS)
def test_null_is_that_of_all_permutations(centering, x64):
    """Of 5 tokens there are 120 orders; 4,000 shuffles know their mean and sd to a few percent."""
    A, M = random_pair(n=5)
    every = reference_null(A, M, centering, itertools.permutations(range(5)))
    null = permutation_null(A, M, num_shuffles=4000, centering=centering)
    assert null.similarity == pytest.approx(every[0], rel=1e-12)
    assert null.mean == pytest.approx(every.mean(), abs=5 * every.std() / np.sqrt(4000))
    assert null.sd == pytest.approx(every.std(), rel=0.1)
    assert null.z == pytest.approx(float((null.similarity - null.mean) / null.sd))
    share = np.mean(every >= every[0] - 1e-12)
    assert null.p == pytest.approx(share, abs=5 * np.sqrt(share * (1 - share) / 4000))


def test_null_within_bins(x64):
    """Two bins of 3 and 2 tokens have 12 orders; those that leave the bins are not among them."""
    A, M = random_pair(n=5)
    bins = np.array([1, 0, 1, 1, 0])
    orders = [p for p in itertools.permutations(range(5)) if (bins[list(p)] == bins).all()]
    assert len(orders) == 12
    every = reference_null(A, M, "token", orders)
    null = permutation_null(A, M, num_shuffles=4000, centering="token", bins=bins)
    assert null.mean == pytest.approx(every.mean(), abs=5 * every.std() / np.sqrt(4000))
    assert null.sd == pytest.approx(every.std(), rel=0.1)
    # The true pairing is one of the twelve, and a shuffle that repeats it reaches it.
    share = np.mean(every >= every[0] - 1e-12)
    assert null.p == pytest.approx(share, abs=0.04)


@pytest.mark.parametrize("rows_at_once", [4, N])
def test_null_in_blocks_of_rows(rows_at_once, x64, monkeypatch):
    """Of 9 rows by 4, the last block has one."""
    A, M = random_pair()
    rng = np.random.default_rng(0)
    shuffles = np.stack([rng.permutation(N) for _ in range(6)]).astype(np.int32)
    monkeypatch.setattr(nulls, "_BLOCK_ENTRIES", rows_at_once * 6 * N)
    found, squares = nulls._relabelled(*map(jnp.asarray, (A, M @ M.T, shuffles)))
    expected = [np.sum((A @ A.T) * (M[p] @ M[p].T)) for p in shuffles]
    assert float(squares) == pytest.approx(np.sum((A @ A.T) ** 2), rel=1e-12)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_p_is_uniform_for_independent_data_and_small_for_a_signal():
    """Each of 300 pairs: without a signal p is k/20 equally often; with one it is 1/20."""
    rng = np.random.default_rng(0)
    A = rng.normal(size=(300, N, D)).astype(np.float32)
    M = rng.normal(size=(300, N, M_COLUMNS)).astype(np.float32)

    def p(A, M):
        return permutation_null(A, M, num_shuffles=19, centering="both").p

    found = np.asarray(jax.vmap(p)(A, M))
    observed = np.histogram(found, bins=np.arange(0.5, 21) / 20)[0]
    # Chi-squared with 19 degrees of freedom exceeds 43.8 in one of a thousand; the seed is fixed.
    assert np.sum((observed - 15) ** 2 / 15) < 43.8
    signal = M.copy()
    signal[..., :D] += 3 * A
    assert np.mean(np.asarray(jax.vmap(p)(A, signal)) == np.float32(0.05)) > 0.95


def test_frequency_bins():
    counts = np.array([5, 100, 1, 7, 5, 2, 900])
    # Ranks 2 5 0 4 3 1 6 of 7 tokens, in three bins of 3, 2 and 2.
    np.testing.assert_array_equal(frequency_bins(counts, 3), [0, 2, 0, 1, 1, 0, 2])
    np.testing.assert_array_equal(frequency_bins(counts, 1), 0)
    assert np.bincount(frequency_bins(np.ones(100), 7)).min() == 14


@pytest.mark.parametrize("centering", CENTERINGS)
def test_common_mean_share(centering, x64):
    A, M = random_pair()
    X, Y = centred(A, centering), centred(scaled(M), centering)
    a, m = np.tile(X.mean(axis=0), (N, 1)), np.tile(Y.mean(axis=0), (N, 1))
    total = np.sum((X.T @ Y) ** 2)
    found = common_mean_share(A, M, centering)
    assert found.mean == pytest.approx(np.sum((a.T @ m) ** 2) / total, abs=1e-12)
    assert found.rest == pytest.approx(np.sum(((X - a).T @ (Y - m)) ** 2) / total, rel=1e-10)
    assert sum(found) == pytest.approx(1)
    if centering == "feature":
        assert found.mean > 0.05
    else:
        assert abs(found.mean) < 1e-20


@pytest.mark.parametrize("centering", CENTERINGS)
def test_dominating_leaves_each_out(centering, x64):
    """A token and a dimension stand out a little; each of the others is tried as well."""
    A, M = random_pair()
    A[4] *= 2
    A[:, 3] *= 2
    found = dominating(A, M, centering)
    whole, unit = brute_force(A, M, centering), scaled(M)
    drops = {
        "token": [
            whole - brute_force(np.delete(A, i, 0), np.delete(M, i, 0), centering) for i in range(N)
        ],
        "feature": [whole - brute_force(np.delete(A, f, 1), M, centering) for f in range(D)],
        "theory": [
            whole - brute_force(A, np.delete(unit, f, 1), centering, scale=False)
            for f in range(M_COLUMNS)
        ],
    }
    for name, expected in drops.items():
        largest = getattr(found, name)
        assert int(largest.which) == np.argmax(expected), name
        assert largest.drop == pytest.approx(np.max(expected), abs=1e-12), name


def test_dominating_where_one_dimension_is_nearly_all():
    """As in large models: of what the others hold float32 squares know nothing.

    In half of 20 cases the theory speaks of that dimension, in half of the others, so that the
    score falls or rises without it.
    """
    cases = 20
    pairs = [random_pair(seed) for seed in range(cases)]
    A = np.stack([A for A, _ in pairs]) * 0.1
    M = np.stack([M for _, M in pairs])
    A[..., 1] = 1e4 * (1 + np.random.default_rng(0).normal(size=(cases, N)))
    M[::2, :, 0] += A[::2, :, 1]
    A, M = A.astype(np.float32), M.astype(np.float32)
    found = jax.vmap(lambda A, M: dominating(A, M, "token").feature)(A, M)
    for i, (one, other) in enumerate(zip(A.astype(float), M.astype(float), strict=True)):
        whole = brute_force(one, other, "token")
        drops = [whole - brute_force(np.delete(one, f, 1), other, "token") for f in range(D)]
        assert float(found.drop[i]) == pytest.approx(max(drops), abs=1e-5)
        assert (found.which[i] == 1) == (drops[1] > 1e-3)
    assert 0.3 < np.mean(found.which == 1) < 0.7


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda A, M: covariance_similarity(A[:4], M), ValueError, "each of the 4 tokens of A"),
        (lambda A, M: covariance_similarity(A[:1], M[:1]), ValueError, "at least 2 tokens"),
        (lambda A, M: covariance_similarity(A, M, "none"), ValueError, "'token', 'both'; got"),
        (lambda A, M: covariance_similarity(A[0], M), ValueError, r"A must have shape \[n, feat"),
        (lambda A, M: covariance_similarity(A.astype(int), M), TypeError, "A must be float32"),
        (
            lambda A, M: covariance_similarity(A, FactoredMatrix(M, M[:, :2])),
            ValueError,
            r"one rank; got \[2, 7\]",
        ),
        (
            lambda A, M: covariance_similarity(FactoredMatrix(A, A.astype(int)), M),
            TypeError,
            "A.right must be float32",
        ),
        (lambda A, M: permutation_null(A, M, num_shuffles=1), ValueError, "num_shuffles"),
        (lambda A, M: permutation_null(A, M, seed=-1), ValueError, "seed"),
        (lambda A, M: permutation_null(A, M, bins=np.zeros(3, int)), ValueError, "each of 9"),
        (lambda A, M: permutation_null(A, M, bins=np.zeros(N)), TypeError, "bins must be integ"),
        (lambda A, M: permutation_null(A, M, bins=np.arange(N)), ValueError, "alone in its bin"),
        (lambda A, M: frequency_bins([1, 2, 3], 2), ValueError, "at most 1 for 3 tokens; got 2"),
        (lambda A, M: frequency_bins([[1, 2]], 1), ValueError, r"shape \[n\]; got \(1, 2\)"),
        (lambda A, M: dominating(A[:2], M[:2]), ValueError, "at least 3 tokens; got 2"),
        (lambda A, M: dominating(A, M[:, :1]), ValueError, "M must have at least 2 columns"),
    ],
)
def test_bad_arguments(call, error, message):
    A, M = (X.astype(np.float32) for X in random_pair())
    with pytest.raises(error, match=message) as caught:
        call(A, M)
    assert isinstance(caught.value, aj.InputError | aj.InputTypeError)
