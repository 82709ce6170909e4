"""Contexts of tokens and pairs, and draws from them, against loops over positions."""

import jax
import numpy as np
import pytest
from conftest import random_mask, random_tokens, token_data
from scipy.sparse import csr_array
from scipy.stats import chi2

import assocjax as aj
from assocjax.statistics import contexts, drawing, loops
from assocjax.statistics.drawing import alias_tables


@pytest.fixture(params=[False, True], ids=["full", "masked"])
def data(request):
    """Some tokens of the vocabulary occur seldom, the last two never."""
    N, T, V = 40, 9, 12
    tokens = random_tokens(0, N, T, V - 2)
    return token_data(tokens, V, random_mask(1, N, T) if request.param else None)


def brute_force(data):
    """The definitions: counts, and summed contexts [V,V] and [V,V,V]."""
    V, T = data.vocab_size, data.seq_len
    bigram, token, pair = np.zeros((V, V)), np.zeros((V, V)), np.zeros((V, V, V))
    positions = np.zeros(T)
    for tokens, mask in zip(data.tokens, data.mask, strict=True):
        for t in np.flatnonzero(mask):
            keys = [k for k in range(t + 1) if mask[k]]
            x, y = tokens[t], tokens[t + 1]
            bigram[x, y] += 1
            positions[len(keys) - 1] += 1
            for k in keys:
                token[x, tokens[k]] += 1 / len(keys)
                pair[x, y, tokens[k]] += 1 / len(keys)
    return bigram, token, pair, positions


def test_counts_of_four_tokens_in_a_row(data, monkeypatch):
    """Against a loop; a masked position interrupts a row."""
    monkeypatch.setattr(contexts, "_BLOCK_PAIRS", 7 * 45)
    V = data.vocab_size
    expected = np.zeros((V, V, V, V), int)
    for tokens, mask in zip(data.tokens, data.mask, strict=True):
        for t in range(2, data.seq_len):
            if mask[t - 2 : t + 1].all():
                a, b, x, y = tokens[t - 2 : t + 2]
                expected[x, y, a, b] += 1
    found = aj.context_statistics(data)
    x, y = found.bigram.nonzero()
    before = found.before.toarray()
    np.testing.assert_array_equal(before, expected[x, y][:, x, y])
    assert before.sum() == expected.sum() > 100
    limited = aj.context_statistics(data, max_entries=100)
    kept = np.diff(limited.before.indptr) > 0
    assert 0 < limited.before.nnz <= 100
    np.testing.assert_array_equal(limited.before.toarray()[kept], before[kept])


def assert_same_bits(one, other):
    for a, b in zip(one, other, strict=True):
        if isinstance(a, csr_array):
            for field in ("data", "indices", "indptr"):
                np.testing.assert_array_equal(getattr(a, field), getattr(b, field))
        else:
            np.testing.assert_array_equal(a, b)


def test_brute_force(data, monkeypatch):
    bigram, token, pair, positions = brute_force(data)
    monkeypatch.setattr(contexts, "_BLOCK_PAIRS", 7 * 45)  # several blocks
    found = aj.context_statistics(data)
    np.testing.assert_array_equal(found.bigram.toarray(), bigram)
    np.testing.assert_array_equal(found.positions, positions)
    unit = 2.0**-found.digits
    np.testing.assert_allclose(found.token.toarray() * unit, token, rtol=1e-12)
    np.testing.assert_allclose(found.pair.toarray() * unit, pair[bigram > 0], rtol=1e-12)


def test_mean_contexts_are_those_of_the_effective_theory(data, x64):
    found = aj.mean_contexts(aj.context_statistics(data)).toarray()
    expected = aj.effective_statistics(data, depth=1).conditional_mean[0]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_arrays_blocks_threads_and_parts_do_not_change_a_bit(data, monkeypatch):
    whole = aj.context_statistics(data, max_entries=600)
    assert 0 < np.sum(np.diff(whole.pair.indptr) == 0) < whole.bigram.nnz
    assert_same_bits(
        aj.context_statistics(data.tokens, data.vocab_size, data.mask, max_entries=600), whole
    )
    monkeypatch.setattr(contexts, "_BLOCK_PAIRS", 5 * 45)
    monkeypatch.setattr(loops.config, "NUMBA_NUM_THREADS", 3)
    counts = aj.bigram_counts(data)
    assert_same_bits([counts], [whole.bigram])
    parts = [range(30, 40), range(4), range(4, 30)]
    total = sum((aj.bigram_counts(data, sequences=part) for part in parts[1:]), start=counts * 0)
    assert_same_bits([total + aj.bigram_counts(data, sequences=parts[0])], [counts])
    each = [
        aj.context_statistics(data, sequences=part, bigram=counts, max_entries=600)
        for part in parts
    ]
    assert_same_bits(aj.merge_contexts(each), whole)


def test_memory_is_bounded_by_leaving_out_the_rarest_pairs(data):
    full = aj.context_statistics(data)
    counts = full.bigram.data
    for limit in (0, 50, 600, 10**9):
        found = aj.context_statistics(data, max_entries=limit)
        kept = np.diff(found.pair.indptr) > 0
        assert found.pair.nnz <= limit
        dropped = counts[~kept]
        assert not kept.any() or not dropped.size or dropped.max() < counts[kept].min()
        np.testing.assert_array_equal(found.pair.toarray()[kept], full.pair.toarray()[kept])
        assert_same_bits([found.token, found.bigram], [full.token, full.bigram])
    assert kept.all()


def test_errors(data):
    with pytest.raises(aj.InputError, match="vocab_size must be given"):
        aj.context_statistics(data.tokens)
    with pytest.raises(aj.InputError, match="mask must be left out"):
        aj.bigram_counts(data, mask=data.mask)
    with pytest.raises(aj.InputError, match="vocab_size must be left out"):
        aj.bigram_counts(data, 5)
    with pytest.raises(aj.InputError, match="within the 40 sequences"):
        aj.bigram_counts(data, sequences=range(30, 41))
    with pytest.raises(aj.InputError, match="must be in memory"):
        jax.jit(lambda tokens: aj.bigram_counts(tokens, 12))(data.tokens)
    half = aj.bigram_counts(data, sequences=range(3))
    with pytest.raises(aj.InputError, match="lacks some pairs"):
        aj.context_statistics(data, bigram=half)
    with pytest.raises(aj.InputError, match="bigram must have shape"):
        aj.context_statistics(data, bigram=half[:3])
    with pytest.raises(aj.InputError, match="at least one"):
        aj.merge_contexts([])
    small = aj.context_statistics(data, sequences=range(3))
    with pytest.raises(aj.InputError, match="same corpus"):
        aj.merge_contexts([small, small._replace(digits=3)])
    with pytest.raises(aj.InputError, match="nonnegative"):
        alias_tables(csr_array(np.array([[1.0, -1.0]])))


def p_value(counts, probabilities):
    """Of Pearson's chi-square test; columns of probability 0 must not have been drawn."""
    possible = probabilities > 0
    assert counts[~possible].sum() == 0
    expected = counts.sum() * probabilities[possible]
    assert expected.min() > 5
    statistic = np.sum((counts[possible] - expected) ** 2 / expected)
    return chi2.sf(statistic, possible.sum() - 1)


def test_draws_have_the_exact_probabilities():
    rng = np.random.default_rng(0)
    weights = (0.1 + rng.random((6, 17))) * (rng.random((6, 17)) < 0.6)
    weights[2] = 0  # an empty row between others
    weights[3] = np.eye(17)[5]  # certain
    weights[4, 0] = 3 * weights[4].sum()
    tables = alias_tables(csr_array(weights))
    probabilities = weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-300)
    rows = np.repeat([0, 1, 3, 4, 5], 400_000).reshape(5, -1)
    columns = np.asarray(jax.jit(drawing.draw)(tables, jax.random.key(0), rows))
    for row, drawn in zip(rows[:, 0], columns, strict=True):
        counts = np.bincount(drawn, minlength=17)
        if row == 3:
            assert counts[5] == counts.sum()
            continue
        assert p_value(counts, probabilities[row]) > 1e-3
        wrong = probabilities[row] * (1 + 0.03 * (-1) ** np.arange(17))
        assert p_value(counts, wrong / wrong.sum()) < 1e-6


def test_tables_hold_the_exact_probabilities():
    """Without chance: what a table gives, summed over its columns."""
    rng = np.random.default_rng(1)
    weights = rng.random((4, 500)) ** 8
    tables = alias_tables(csr_array(weights))
    found = np.zeros_like(weights)
    for r in range(4):
        e = slice(500 * r, 500 * (r + 1))
        threshold = np.asarray(tables.threshold[e], np.float64)
        np.add.at(found[r], tables.own[e], threshold / 500)
        np.add.at(found[r], tables.alias[e], (1 - threshold) / 500)
    expected = weights / weights.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=2**-23 / 500 * 20, rtol=1e-6)
