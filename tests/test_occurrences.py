"""Occurrences of pairs, and lists of them, against plain counts of the text."""

import numpy as np
import pytest
from conftest import count_by_loops, random_mask, random_tokens, token_data

import assocjax as aj
from assocjax.analysis.associations import AbsentTokenWarning
from assocjax.analysis.listings import list_associations
from assocjax.arguments import MATRICES
from assocjax.statistics.occurrences import observed

N, T, V = 6, 5, 9


@pytest.fixture(scope="module")
def text():
    tokens, mask = random_tokens(3, N, T, V - 1), random_mask(3, N, T)  # one token never occurs
    return token_data(tokens, V, mask), count_by_loops(tokens, mask, V)


def test_occurrences_of_all_tokens(text):
    data, expected = text
    found = aj.count_occurrences(data)
    of_arrays = aj.count_occurrences(data.tokens, V, data.mask)
    for name in MATRICES:
        np.testing.assert_array_equal(found.rows(name), expected[name], err_msg=name)
        np.testing.assert_array_equal(of_arrays.rows(name), expected[name])


@pytest.mark.parametrize("tokens", [[2, 0, 2, 4], [8], list(range(V))])
def test_occurrences_of_some_tokens(text, tokens):
    data, expected = text
    found = aj.count_occurrences(data, tokens=tokens)
    for name in MATRICES:
        np.testing.assert_array_equal(found.rows(name, tokens), expected[name][tokens])


@pytest.mark.parametrize("kind", ["dense", "dataset", "sparse"])
def test_statistics_know_what_occurs(text, kind):
    data, expected = text
    statistics = aj.sparse_statistics(data) if kind == "sparse" else aj.corpus_statistics(data)
    Q = np.asarray(aj.corpus_statistics(data).query_key)
    if kind == "dataset":
        statistics = aj.statistics_dataset(data, statistics)
    found = observed(statistics)
    for name in MATRICES:
        rows = found.rows(name)
        if name in ("bigram", "interchangeability", "value"):
            np.testing.assert_array_equal(rows, expected[name], err_msg=name)
        else:
            # A position with one key adds nothing to Q, so that a pair may occur without an entry.
            occurs = (expected[name] > 0) & ((Q != 0) | (name != "query_key"))
            np.testing.assert_array_equal(rows, occurs, err_msg=name)


@pytest.mark.parametrize("corpus", ["fables", "kjv", "tinystories_sample"])
def test_lists_of_associations_occur(corpus, request):
    """Whatever is listed is positive, and found again in the text by a plain count."""
    source = corpus
    if corpus != "fables":
        source = request.getfixturevalue("data_dir") / f"{corpus}.txt"
    data = aj.load_tokens(source, seq_len=16, num_sequences=64, num_documents=500, vocab_size=150)
    expected = count_by_loops(data.tokens, data.mask, 150)
    raw, occurrences = aj.corpus_statistics(data), aj.count_occurrences(data)
    corrected, listed = aj.frequency_corrected(raw, data), 0
    for statistics in (corrected, raw):
        matrices = {name: np.asarray(getattr(statistics, name)) for name in MATRICES}
        for i, token in enumerate(data.vocabulary):
            found = list_associations(matrices, occurrences, data.vocabulary, token, 10)
            for name, (associations, reason) in found.items():
                assert bool(associations) != bool(reason)
                assert not associations or token != "<unk>"
                for each in associations:
                    j = data.vocabulary.index(each.token)
                    assert each.score == matrices[name][i, j] > 0
                    assert each.occurrences == expected[name][i, j] > 0
                    assert each.token not in ("<unk>", token)
                    listed += 1
                if "no token" in reason:
                    others = np.delete(expected[name][i], [i, data.vocabulary.index("<unk>")])
                    assert not others.any()
    assert listed > 2000


def test_a_token_that_does_not_occur_warns(text):
    data, counts = text
    statistics = aj.corpus_statistics(data)
    absent = {"match": "'w8' does not occur"}
    with pytest.warns(AbsentTokenWarning, **absent):
        assert aj.top_associations(statistics.bigram, data.vocabulary, "w8") == []
    row, matrix = counts["interchangeability"][8], statistics.interchangeability
    with pytest.warns(AbsentTokenWarning, **absent):
        assert aj.top_associations(matrix, data.vocabulary, "w8", occurrences=row) == []
    with pytest.warns(AbsentTokenWarning, **absent):
        found = aj.find_passages(data, "w8", "w0", matrices=["context"], top=1)
    assert found["occurrences"].values.tolist() == [0]
    at = data.vocabulary.index("w1"), data.vocabulary.index("w0")
    found = aj.find_passages(data, "w1", "w0", matrices=["context", "value"], top=1)
    assert found["occurrences"].values.tolist() == [counts[of][at] for of in ("context", "value")]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda found: found.rows("bigrams"), ValueError, "matrix must be one of"),
        (lambda found: found.rows("bigram", [V]), ValueError, "at most 8"),
        (
            lambda _: aj.count_occurrences(np.zeros((1, 2), int), 2, tokens=[2]),
            ValueError,
            "at most 1",
        ),
        (lambda _: aj.count_occurrences(np.zeros((1, 2)), 2), TypeError, "must hold integers"),
        (
            lambda _: aj.top_associations(np.eye(2), ("a", "b"), "a", occurrences=np.ones(2)),
            ValueError,
            "occurrences must be integers",
        ),
    ],
)
def test_bad_arguments(text, call, error, message):
    with pytest.raises(error, match=message):
        call(aj.count_occurrences(text[0]))
