"""N-grams, against loops over positions with dictionaries."""

import math
from collections import Counter

import numpy as np
import pytest
from conftest import random_mask, random_tokens, token_data

import assocjax as aj

N, T, V = 12, 6, 5


@pytest.fixture(scope="module")
def data():
    mask = random_mask(1, N, T)
    assert mask[0, -1]
    assert not mask[0, :-1].all()  # holes, not only padding
    return token_data(random_tokens(0, N, T, V), V, mask)


def ngrams_by_loops(data, sequences, n):
    """The last n tokens of every position whose n-1 last inputs are all valid, and its place."""
    found = []
    for i in sequences:
        tokens, valid = data.tokens[i].tolist(), data.mask[i]
        for t in range(T):
            if t >= max(n - 2, 0) and valid[max(t - n + 2, 0) : t + 1].all() and valid[t]:
                found.append((i, t, tuple(tokens[t + 2 - n : t + 2])))
    return found


def probability(counts, n, gram, k):
    """p_n of the last token after the others, by the recursion."""
    if n == 0:
        return 1 / V
    lower = probability(counts, n - 1, gram[1:], k)
    after = {y: counts[n][(*gram[:-1], y)] for y in range(V)}
    total, weight = sum(after.values()), sum(map(bool, after.values())) if k is None else k
    if total + weight == 0:
        return lower
    return (after[gram[-1]] + weight * lower) / (total + weight)


@pytest.mark.parametrize("smoothing", [None, 2.5])
def test_probabilities_and_cross_entropies(data, smoothing, monkeypatch):
    monkeypatch.setattr("assocjax.statistics.ngrams._BLOCK_POSITIONS", 3 * T)  # several blocks
    counted, read = range(9), range(9, N)
    ngrams = aj.count_ngrams(data, counted, smoothing=smoothing)
    counts = {n: Counter(g for *_, g in ngrams_by_loops(data, counted, n)) for n in (1, 2, 3)}
    # Of gram length n: unigrams are told by the target alone.
    unigram = [probability(counts, 1, (y,), smoothing) for y in range(V)]
    np.testing.assert_allclose(ngrams.unigram(), unigram, rtol=1e-12)
    ids = np.array([3, 0])
    bigram = [[probability(counts, 2, (x, y), smoothing) for y in range(V)] for x in ids]
    np.testing.assert_allclose(ngrams.bigram(ids), bigram, rtol=1e-12)
    np.testing.assert_allclose(ngrams.bigram(np.arange(V)).sum(1), 1, rtol=1e-12)
    expected = [[counts[2][x, y] for y in range(V)] for x in ids.tolist()]
    assert ngrams.bigram_counts(ids).toarray().tolist() == expected

    found = ngrams.cross_entropies(data, read)
    longest = {}  # at each position the probability of the longest n-gram up to n
    for n in (1, 2, 3):
        for i, t, gram in ngrams_by_loops(data, read, n):
            longest[i, t] = -math.log(probability(counts, n, gram, smoothing))
        np.testing.assert_allclose(found[n - 1], np.mean(list(longest.values())), rtol=1e-12)


def test_entropies_are_those_of_relative_frequencies(data):
    found = aj.count_ngrams(data).entropies()
    for n in (1, 2, 3):
        grams = [gram for *_, gram in ngrams_by_loops(data, range(N), n)]
        counts, contexts = Counter(grams), Counter(gram[:-1] for gram in grams)
        expected = -np.mean([math.log(counts[g] / contexts[g[:-1]]) for g in grams])
        np.testing.assert_allclose(found[n - 1], expected, rtol=1e-12)


def test_entropies_bound_that_of_a_markov_chain():
    """Relative frequencies are below, a held-out text is above."""
    rng = np.random.default_rng(0)
    chain = rng.dirichlet(np.full(V, 0.5), V)
    tokens = np.zeros((400, T + 1), np.int32)
    for t in range(T):
        steps = rng.random(400)[:, None] > chain[tokens[:, t]].cumsum(1)
        tokens[:, t + 1] = np.minimum(steps.sum(1), V - 1)
    source = token_data(tokens, V)
    frequency = np.bincount(tokens[:, :-1].ravel(), minlength=V) / tokens[:, :-1].size
    entropy = -np.sum(frequency[:, None] * chain * np.log(chain))
    low = aj.count_ngrams(source).entropies()
    high = aj.count_ngrams(source, range(200)).cross_entropies(source, range(200, 400))
    assert low[2] < low[1] < low[0]
    assert low[2] < entropy < high[2]
    assert high[1] == pytest.approx(entropy, abs=0.06)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"order": 1}, aj.InputError, "order must be at least 2; got 1"),
        ({"order": 40}, aj.InputError, "fewer than 2.62 n-grams of 5 tokens; got 40"),
        ({"smoothing": 0}, aj.InputError, "smoothing must be positive"),
        ({"smoothing": "x"}, aj.InputTypeError, "smoothing"),
        ({"sequences": range(0, 99)}, aj.InputError, "sequences must be some of 12"),
        ({"sequences": [0]}, aj.InputTypeError, "sequences must be"),
    ],
)
def test_bad_arguments(data, options, error, message):
    with pytest.raises(error, match=message):
        aj.count_ngrams(data, **options)


def test_another_vocabulary_and_nothing_to_count(data):
    with pytest.raises(aj.InputError, match="source must be in 5 tokens, as the n-grams; got 7"):
        aj.count_ngrams(data).cross_entropies(token_data(data.tokens, 7))
    with pytest.raises(aj.InputTypeError, match="source"):
        aj.count_ngrams(data.tokens)
    with pytest.raises(aj.InputError, match="at least one valid position"):
        aj.count_ngrams(token_data(data.tokens, V, np.zeros((N, T), bool)))
