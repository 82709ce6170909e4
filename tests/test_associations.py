"""Reading associations off matrices, and finding those that the fables plant."""

import dataclasses

import jax
import numpy as np
import pytest
import xarray as xr
from conftest import random_mask, random_tokens

import assocjax as aj
from assocjax import cli
from assocjax.corpora import fables
from assocjax.storage import results

VOCABULARY = ("a", "b", "c", "d")

# Row 0: ties between 1 and 3. Row 1: its own entry is the largest. Row 2: all negative.
MATRIX = np.array(
    [
        [0.0, 2.0, 1.0, 2.0],
        [3.0, 9.0, 4.0, -1.0],
        [-3.0, -2.0, -0.5, -1.0],
        [0.0, 0.0, 0.0, 0.0],
    ],
    np.float32,
)


@pytest.mark.parametrize(
    ("token", "k", "expected"),
    [
        # Ties go to the lower id.
        ("a", 3, [("b", 2.0), ("d", 2.0), ("c", 1.0)]),
        # The token itself is left out, however high its score.
        ("b", 2, [("c", 4.0), ("a", 3.0)]),
        # What is not positive is no association: of these there is none, or are fewer than k.
        ("c", 3, []),
        ("b", 3, [("c", 4.0), ("a", 3.0)]),
        # More than there are: all of them.
        ("a", 10, [("b", 2.0), ("d", 2.0), ("c", 1.0)]),
    ],
)
def test_top_associations_by_hand(token, k, expected):
    best = aj.top_associations(MATRIX, VOCABULARY, token, k)
    assert best == [(other, score, None) for other, score in expected]
    assert all(isinstance(each.score, float) for each in best)


def test_what_does_not_occur_is_no_association():
    counts = np.array([7, 5, 0, 0])
    best = aj.top_associations(MATRIX, ("a", "b", "c", "<unk>"), "b", occurrences=counts)
    assert best == [("a", 3.0, 7)]
    counts = np.array([0, 0, 4, 4])  # d, with as high a score as b, stands for many tokens
    best = aj.top_associations(MATRIX, ("a", "b", "c", "<unk>"), "a", occurrences=counts)
    assert best == [("c", 1.0, 4)]
    with pytest.warns(aj.AbsentTokenWarning, match="'d' does not occur"):
        assert aj.top_associations(MATRIX, VOCABULARY, "d") == []


def test_vocabularies_may_be_arrays():
    assert aj.top_associations(MATRIX, np.array(VOCABULARY), "b", 1) == [("c", 4.0, None)]


def test_what_is_not_a_number_is_no_association():
    matrix = np.where(MATRIX == 4, np.nan, MATRIX)
    assert aj.top_associations(matrix, VOCABULARY, "b", 2) == [("a", 3.0, None)]


def test_top_associations_reads_jax_arrays():
    best = aj.top_associations(jax.numpy.asarray(MATRIX), VOCABULARY, "b", 1)
    assert best == [aj.Association("c", 4.0)]


@pytest.mark.parametrize(
    ("truth", "k", "expected"),
    [
        # Row b ranks c, a, d; row c ranks d, b, a.
        ({"b": {"c"}}, 1, 1.0),
        ({"b": {"a"}}, 1, 0.0),
        ({"b": {"a", "d"}}, 2, 1 / 2),
        # One associate is searched for among one, although k is 3.
        ({"b": {"a"}}, 3, 0.0),
        # Of row c nothing is positive, so that it finds nothing; nor does d, third of row b.
        ({"b": {"c", "d"}, "c": {"d"}}, 2, (1 / 2 + 0) / 2),
        ({"b": {"c", "a", "d"}}, 3, 2 / 3),
        ({"b": {"c", "d"}, "c": {"a"}}, 1, (1 + 0) / 2),
        # What is outside the vocabulary counts neither as a query nor as an associate.
        ({"b": {"c", "x"}, "y": {"a"}, "c": {"x"}}, 2, 1.0),
    ],
)
def test_precision_at_k_by_hand(truth, k, expected):
    assert aj.precision_at_k(MATRIX, VOCABULARY, truth, k) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: aj.top_associations(MATRIX, VOCABULARY, "x"), ValueError, "'x'"),
        (lambda: aj.top_associations(MATRIX, VOCABULARY, "a", 0), ValueError, "k must be"),
        (lambda: aj.top_associations(MATRIX, VOCABULARY, "a", 1.5), TypeError, "k must be"),
        (lambda: aj.top_associations(MATRIX.astype(str), VOCABULARY, "a"), TypeError, "numbers"),
        (lambda: aj.top_associations(MATRIX, "abcd", "a"), TypeError, "sequence of tokens"),
        (
            lambda: aj.precision_at_k(MATRIX, VOCABULARY, {"b": "c"}, 1),
            TypeError,
            "a set of tokens; got 'c'",
        ),
        (
            lambda: aj.precision_at_k(MATRIX, VOCABULARY, {"b": None}, 1),
            TypeError,
            "a set of tokens; got None",
        ),
        (lambda: aj.precision_at_k(MATRIX, VOCABULARY, None, 1), TypeError, "truth must map"),
        (lambda: aj.formation(xr.Dataset()), ValueError, "must be from track"),
        (lambda: aj.mean_overlap(None, "bigram"), TypeError, "a Dataset from track"),
        (lambda: aj.top_associations(MATRIX[:3], VOCABULARY, "a"), ValueError, r"\(3, 4\)"),
        (lambda: aj.top_associations(MATRIX, VOCABULARY[:3], "a"), ValueError, "3 tokens"),
        (lambda: aj.precision_at_k(MATRIX, VOCABULARY, {"b": {"c"}}, 0), ValueError, "k must be"),
        (lambda: aj.precision_at_k(MATRIX, VOCABULARY, {}, 1), ValueError, "truth"),
        (lambda: aj.precision_at_k(MATRIX, VOCABULARY, {"b": {"x"}}, 1), ValueError, "truth"),
        (
            lambda: aj.precision_at_k(MATRIX[:3, :3], VOCABULARY, {"b": {"c"}}, 1),
            ValueError,
            r"\(3, 3\)",
        ),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


def corrected_by_brute_force(tokens, mask, V):
    """The formulas of `frequency_corrected`, position by position in float64."""
    N, T = mask.shape
    M = mask.sum()
    joint, context = np.zeros((V, V)), np.zeros((V, V))
    keys_of = {}
    for n in range(N):
        for t in np.flatnonzero(mask[n]):
            keys_of[n, t] = [k for k in range(t + 1) if mask[n, k]]
            y = tokens[n, t + 1]
            joint[tokens[n, t], y] += 1 / M
            for k in keys_of[n, t]:
                context[y, tokens[n, k]] += 1 / len(keys_of[n, t]) / M
    p_x, p_y, c = joint.sum(1), joint.sum(0), context.sum(0)

    def over_root(matrix, rows, columns):
        out = np.zeros_like(matrix)
        for i in range(V):
            for j in range(V):
                if rows[i] > 0 and columns[j] > 0:
                    out[i, j] = matrix[i, j] / np.sqrt(rows[i] * columns[j])
        return out

    B = over_root(joint - np.outer(p_x, p_y), p_x, p_y)
    Phi = over_root(context - np.outer(p_y, c), p_y, c)
    Sigma = B.T @ B
    composed = Phi.T @ Sigma
    query_key, position = np.zeros((V, V)), np.zeros(T)
    for (n, t), keys in keys_of.items():
        m = [composed[tokens[n, k], tokens[n, t + 1]] - composed[tokens[n, k]].mean() for k in keys]
        for k, value in zip(keys, m, strict=True):
            D = (value - np.mean(m)) / len(keys) / M
            query_key[tokens[n, t], tokens[n, k]] += D
            position[t - k] += D
    return {
        "bigram": B,
        "context": Phi,
        "interchangeability": over_root(Sigma, np.diag(Sigma), np.diag(Sigma)),
        "value": Phi.T @ B.T,
        "composed": composed,
        "query_key": over_root(query_key, p_x, c),
        "position": position,
    }


# V = 9 of Zipfian frequencies in few tokens: some of them do not occur.
@pytest.mark.parametrize("sizes", [(5, 6, 9), (1, 3, 4), (8, 1, 3)])
def test_frequency_corrected_against_brute_force(sizes, x64):
    N, T, V = sizes
    tokens, mask = random_tokens(N + T, N, T, V), random_mask(N + T, N, T)
    raw = aj.corpus_statistics(tokens, V, mask)
    corrected = aj.frequency_corrected(raw, tokens, mask)
    for name, expected in corrected_by_brute_force(tokens, mask, V).items():
        # Tens of float64 additions of entries of order one.
        np.testing.assert_allclose(getattr(corrected, name), expected, atol=1e-13, err_msg=name)
    for name in ("input_frequency", "target_frequency", "context_frequency", "num_positions"):
        np.testing.assert_array_equal(getattr(corrected, name), getattr(raw, name))


def test_frequency_corrected_interchangeability_is_a_cosine():
    tokens = random_tokens(0, 200, 8, 6)
    raw = aj.corpus_statistics(tokens, 6)
    cosines = np.asarray(aj.frequency_corrected(raw, tokens).interchangeability)
    np.testing.assert_allclose(np.diag(cosines), 1, rtol=1e-5)
    assert np.abs(cosines).max() <= 1 + 1e-5


@pytest.fixture(scope="module")
def fable_data():
    return aj.load_tokens("fables", seq_len=32, num_sequences=2000)


@pytest.fixture(scope="module")
def scores(fable_data):
    """(corpus, corrected or raw, basis function) -> precision at 5 of the planted associations."""
    tokens = np.random.default_rng(0).permutation(fable_data.tokens.ravel())
    control = dataclasses.replace(fable_data, tokens=tokens.reshape(fable_data.tokens.shape))
    found = {}
    for corpus, data in (("fables", fable_data), ("shuffled", control)):
        raw = aj.corpus_statistics(data)
        corrected = aj.frequency_corrected(raw, data.tokens, data.mask)
        for kind, statistics in (("raw", raw), ("corrected", corrected)):
            for name, truth in fables.ground_truth().items():
                matrix = getattr(statistics, name)
                found[corpus, kind, name] = aj.precision_at_k(matrix, data.vocabulary, truth, 5)
    return found


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Results of `statistics` of one text, dense and sparse."""
    folders = {}
    for matrices in ("dense", "sparse"):
        folder = folders[matrices] = tmp_path_factory.mktemp("statistics") / matrices
        corpus = ["--num-documents", "60", "--seq-len", "8", "--matrices", matrices]
        cli.main(["statistics", *corpus, "--out", str(folder)])
    return folders


def listing(arguments, capsys) -> list[str]:
    capsys.readouterr()
    cli.main(["associations", "bird", "--top", "3", *map(str, arguments)])
    return capsys.readouterr().out.partition("bird in fables")[2].split()


@pytest.mark.parametrize("matrices", ["dense", "sparse"])
def test_the_command_reads_statistics_of_either_kind(folders, matrices, capsys):
    corpus = ["--num-documents", 60, "--seq-len", 8, "--scoring", "raw"]
    expected = listing(corpus, capsys)
    found = listing(["--statistics", folders[matrices]], capsys)
    # Numbers of places are known of bigrams only; others are in the text alone.
    assert 0 < sum("(" in w for w in found) < sum("(" in w for w in expected)
    found, expected = ([w for w in of if "(" not in w] for of in (found, expected))
    assert len(found) == len(expected) > 30
    # Rounding of other sums may show in the last of two digits; words do not differ.
    assert [w for w in found if w.isalpha()] == [w for w in expected if w.isalpha()]


def test_the_command_says_in_a_line_what_it_cannot_read(folders, tmp_path, capsys):
    results.save(xr.Dataset({"loss": 1.0}), tmp_path / "statistics.nc")
    (tmp_path / "both").mkdir()
    for name in ("dense/statistics.nc", "sparse/counts.nc"):
        kind, file = name.split("/")
        (tmp_path / "both" / file).symlink_to(folders[kind] / file)
    for folder, message in (
        (tmp_path / "none", "neither statistics.nc nor counts.nc"),
        (tmp_path, "statistics.nc holds no statistics"),
        (tmp_path / "both", "has both statistics.nc and counts.nc"),
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main(["associations", "bird", "--statistics", str(folder)])
        assert stop.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line


BASIS = ("bigram", "interchangeability", "context", "composed", "value", "query_key")


@pytest.mark.parametrize("name", BASIS)
def test_planted_associations_are_recovered(scores, name):
    # Nothing else in the grammar competes, so all should be found; one query in ten is allowed to
    # fail, as the rarest planted words occur some seventy times only.
    assert scores["fables", "corrected", name] >= 0.9


@pytest.mark.parametrize("name", ["bigram", "context"])
def test_planted_associations_show_without_correction(scores, name):
    # Their truth lies in rows of one rare token, where frequent words have no place: bigram rows
    # of adjectives and manner words, context rows of verbs.
    assert scores["fables", "raw", name] >= 0.9


def test_composition_needs_the_correction(scores):
    # Frequent tokens (the, full stop) lead in every row: the verb of an animal never comes first.
    assert scores["fables", "raw", "composed"] <= 0.1
    assert scores["fables", "raw", "interchangeability"] < 0.9


@pytest.mark.parametrize("kind", ["raw", "corrected"])
@pytest.mark.parametrize("name", BASIS)
def test_nothing_is_recovered_from_shuffled_text(scores, kind, name):
    # By chance an associate is among the top with probability n / 201 for n <= 8 of them: less
    # than 0.05. Twice that allows for the scatter of the few queries.
    assert scores["shuffled", kind, name] <= 0.1
