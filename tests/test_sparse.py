"""Statistics by sparse integer sums, against the dense ones."""

import numpy as np
import pytest
from conftest import random_mask, random_tokens, token_data
from numba import config
from test_statistics import brute_force

import assocjax as aj
from assocjax.statistics import counting, sparse

MATRICES = (
    "bigram",
    "context",
    "interchangeability",
    "substitutability",
    "value",
    "composed",
    "query_key",
)


def dense(operator):
    return operator @ np.eye(operator.shape[0])


def assert_close(actual, expected, rtol=1e-10):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=rtol * np.max(np.abs(expected)))


@pytest.fixture(autouse=True, params=[8192, 0], ids=["held", "sparse"])
def loops(request, monkeypatch):
    """Sums in matrices [V,V], as those of small vocabularies are, or sparse ones."""
    monkeypatch.setattr(counting, "_DENSE_VOCAB_SIZE", request.param)


@pytest.fixture(params=[False, True], ids=["full", "masked"])
def data(request):
    """Some tokens of the vocabulary occur seldom, the last two never."""
    N, T, V = 40, 9, 12
    tokens = random_tokens(0, N, T, V - 2)
    return token_data(tokens, V, random_mask(1, N, T) if request.param else None)


def same(one, other):
    """The same bits: of sparse matrices, entries and where they stand."""
    for a, b in zip(one, other, strict=True):
        if isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a, b)
        else:
            for field in ("data", "indices", "indptr"):
                np.testing.assert_array_equal(getattr(a, field), getattr(b, field))


def test_golden(golden):
    V = golden["bigram"].shape[0]
    found = aj.sparse_statistics(token_data(golden["tokens"].astype(np.int32), V))
    for name in golden.keys() & set(MATRICES):
        np.testing.assert_allclose(dense(getattr(found, name)), golden[name], rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(found.position, golden["position"], rtol=1e-9, atol=1e-15)


def test_agrees_with_dense_statistics(data, x64):
    found = aj.sparse_statistics(data)
    expected = aj.corpus_statistics(data)
    X = np.random.default_rng(2).normal(size=(data.vocab_size, 3))
    for name in MATRICES:
        operator, matrix = getattr(found, name), np.asarray(getattr(expected, name))
        assert_close(operator @ X, matrix @ X)
        assert_close(operator.T @ X, matrix.T @ X)
        assert_close(operator @ X[:, 0], matrix @ X[:, 0])
        assert_close(sparse.rows(operator, np.array([3, 0])), matrix[[3, 0]])
    for name in ("position", "input_frequency", "target_frequency", "context_frequency"):
        assert_close(getattr(found, name), np.asarray(getattr(expected, name)))
    assert found.num_positions == int(expected.num_positions)


def test_frequency_corrected_agrees(data, x64):
    found = aj.sparse_statistics(data, frequency_corrected=True)
    plain = aj.corpus_statistics(data)
    expected = aj.frequency_corrected(plain, data.tokens, data.mask)
    for name in MATRICES:
        assert_close(dense(getattr(found, name)), np.asarray(getattr(expected, name)))
    assert_close(found.position, np.asarray(expected.position))


def test_associations_read_operators(data, x64):
    found = aj.sparse_statistics(data)
    expected = aj.corpus_statistics(data)
    truth = {"w0": {"w1", "w3"}, "w2": {"w4"}}
    for name in MATRICES:
        operator, matrix = getattr(found, name), getattr(expected, name)
        best = aj.top_associations(operator, data.vocabulary, "w1", k=4)
        again = aj.top_associations(matrix, data.vocabulary, "w1", k=4)
        assert [a.score for a in best] == pytest.approx([a.score for a in again], abs=1e-12)
        assert aj.precision_at_k(operator, data.vocabulary, truth, 2) == aj.precision_at_k(
            matrix, data.vocabulary, truth, 2
        )
    with pytest.raises(aj.InputError, match="square with a row for each of the 3 tokens"):
        aj.top_associations(found.value, data.vocabulary[:3], "w1")


def test_blocks_and_their_order_do_not_change_a_bit(data, monkeypatch):
    N, T = data.num_sequences, data.seq_len
    counts = counting.count(data, range(N))
    found = sparse.basis(counts, counting.choose_units(N, T))
    composed = sparse.composed_on_pattern(found)
    correlations = counting.correlate(data, range(N), composed)
    monkeypatch.setattr(counting, "_BLOCK_PAIRS", 3 * 45)
    stops = []
    again = counting.count(data, range(N), after_block=lambda stop, _: stops.append(stop))
    same(again, counts)
    assert stops == [*range(3, N, 3), N]
    same(counting.correlate(data, range(N), composed), correlations)
    parts = [range(25, N), range(0, 11), range(11, 25)]
    same(counting.add(counting.count(data, part) for part in parts), counts)
    same(counting.add(counting.correlate(data, part, composed) for part in parts), correlations)
    # By other loops, and by other numbers of threads.
    for vocab_size, threads in ((8192, 1), (0, 1), (0, 3)):
        monkeypatch.setattr(counting, "_DENSE_VOCAB_SIZE", vocab_size)
        monkeypatch.setattr(config, "NUMBA_NUM_THREADS", threads)
        same(counting.count(data, range(N)), counts)
        same(counting.correlate(data, range(N), composed), correlations)
    # By columns, of which the last are fewer.
    monkeypatch.setattr(sparse, "_BLOCK_COLUMNS", 5)
    assert_close(sparse.composed_on_pattern(found).toarray(), composed.toarray(), 1e-14)


def test_sums_of_integers_are_as_wide_as_they_may_be():
    """At the sizes that leave fewest digits, no sum that can occur overflows."""
    for N, T in ((1, 1), (3, 7), (10**6, 128), (2**27, 2**13 - 1)):
        units = counting.choose_units(N, T)
        assert min(units) > 0
        assert N * T * 2**units.attention < 2**63
        assert 2 * T * 2**units.matrix < 2**63
        assert N * T * 2 * 2**units.correlation < 2**63
    with pytest.raises(aj.InputError, match="up to 2\\^40 positions"):
        counting.choose_units(2**28, 2**13)


def test_rounding_is_that_of_the_units(monkeypatch):
    """With few digits, an attention weight is off by half a unit, and no more."""
    monkeypatch.setattr(counting, "_LARGEST_SUM", 22)
    N, T, V = 5, 7, 4
    data = token_data(random_tokens(0, N, T, V), V)
    units = counting.choose_units(N, T)
    assert units.attention == 16
    counts = counting.count(data, range(N))
    context = counts.context.toarray() * 2.0**-units.attention / (N * T)
    expected = brute_force(data.tokens, V, data.mask)["context"]
    error = np.abs(context - context.mean(axis=0) - expected)
    pairs = T * (T + 1) / 2
    assert 0 < error.max() <= 2 * N * pairs * 2.0 ** -(units.attention + 1) / (N * T)


def test_text_at_chance():
    """Every bigram equally often: B is 0, and all that is made of it."""
    tokens = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.int32)
    found = aj.sparse_statistics(token_data(tokens, 2))
    for name in ("bigram", "value", "composed", "query_key"):
        np.testing.assert_array_equal(dense(getattr(found, name)), 0)
    np.testing.assert_array_equal(found.position, 0)


def test_no_valid_position():
    data = token_data(np.zeros((2, 3), np.int32), 4, np.zeros((2, 2), bool))
    with pytest.raises(aj.InputError, match="at least one valid position"):
        aj.sparse_statistics(data)


def test_progress_tells_both_passes(monkeypatch):
    monkeypatch.setattr(counting, "_BLOCK_PAIRS", 1)
    seen = []
    data = token_data(random_tokens(0, 3, 4, 5), 5)
    aj.sparse_statistics(data, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 6) for i in range(1, 7)]


def test_large_vocabulary_against_dense_on_real_text(data_dir, x64):
    data = aj.load_tokens(
        data_dir / "brown.txt", vocab_size=1500, seq_len=32, num_sequences=300, short="pad"
    )
    found = aj.sparse_statistics(data)
    expected = aj.corpus_statistics(data)
    ids = np.arange(0, 1500, 50)
    for name in MATRICES:
        assert_close(
            sparse.rows(getattr(found, name), ids), np.asarray(getattr(expected, name))[ids], 1e-9
        )
    assert_close(found.position, np.asarray(expected.position), 1e-9)
