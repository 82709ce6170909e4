"""Token associations in a matrix, and their precision against a known truth."""

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Int32
from scipy.sparse.linalg import LinearOperator

from assocjax.arguments import TOP, UNKNOWN, check_integer, check_is, check_sequence, check_string
from assocjax.checks import CorpusLike, as_array, check_tokens, is_traced
from assocjax.errors import InputError, InputTypeError
from assocjax.precision import matmul
from assocjax.statistics.dense import Statistics, attention_correlation
from assocjax.statistics.sparse import rows

MATRICES = {
    "bigram": "tokens that follow it",
    "interchangeability": "tokens that follow the same tokens as it",
    "context": "tokens that stand anywhere before it",
    "composed": "output tokens that it predicts from anywhere before (Phi^T Sigma)",
    "value": "tokens whose followers it announces (Phi^T B^T)",
    "query_key": "key tokens that it should attend to (Q)",
}
"""Matrices with associations in their rows, and the meaning of the row of a token."""


def frequency_corrected(
    statistics: Statistics, data: CorpusLike, mask: ArrayLike | None = None
) -> Statistics:
    """The same statistics, corrected for token frequencies.

    The residual is centred on the unigram distribution instead of the uniform one, r = y - p(y),
    and each entry is divided by the square root of its expected value under independence (Pearson
    residuals, as in correspondence analysis):

        B' = (joint(x,y) - p(x) p(y)) / sqrt(p(x) p(y))    Phi' likewise with the context frequency

    The compositions are formed from B' and Phi'; `interchangeability` is scaled to cosines between
    columns of B', and `query_key` is divided by the square root of the product of its two
    frequencies. `position` is Delta of the corrected composed matrix. Entries of a token that does
    not occur are 0.

    Args:
      statistics: `corpus_statistics` of the corpus.
      data, mask: the same corpus, as in `corpus_statistics`; `query_key` is computed from it.

    Raises:
      InputError, InputTypeError: the corpus is not that of the statistics.

    Cost: as `corpus_statistics`, without the counting of B and Phi.
    """
    tokens, mask = check_counted(statistics, data, mask)
    B, Phi = statistics.bigram, statistics.context
    V = B.shape[0]
    p_x, p_y = statistics.input_frequency, statistics.target_frequency
    c = statistics.context_frequency

    def over_root(matrix, rows, columns):
        expected = jnp.outer(rows, columns)
        scale = jnp.sqrt(jnp.where(expected > 0, expected, 1))
        return jnp.where(expected > 0, matrix / scale, 0)

    B = over_root(B + jnp.outer(p_x, 1 / V - p_y), p_x, p_y)
    Phi = over_root(Phi + jnp.outer(1 / V - p_y, c), p_y, c)
    Sigma = matmul(B.T, B)
    value = matmul(Phi.T, B.T)
    composed = matmul(value, B)
    query_key, position = attention_correlation(tokens, composed, mask)
    norms = jnp.diag(Sigma)
    return statistics.replace(  # type: ignore[attr-defined]
        bigram=B,
        context=Phi,
        interchangeability=over_root(Sigma, norms, norms),
        value=value,
        composed=composed,
        query_key=over_root(query_key, p_x, c),
        position=position,
    )


def check_counted(
    statistics: Any, data: CorpusLike, mask: ArrayLike | None
) -> tuple[Int32[Array, "N T+1"], Bool[Array, "N T"]]:
    """Tokens and mask of a corpus, after checking that V and M are those of the statistics.

    Raises:
      InputError, InputTypeError: they are not.
    """
    check_is("statistics", statistics, Statistics)
    tokens, mask = check_tokens(data, mask, len(statistics.bigram))
    if not is_traced(mask) and int(jnp.sum(mask)) != int(statistics.num_positions):
        raise InputError(
            f"data must be the corpus of statistics, with {int(statistics.num_positions)} valid "
            f"positions; got {int(jnp.sum(mask))}"
        )
    return tokens, mask


class Association(NamedTuple):
    """A token, its score in a row of a matrix, and how often the text shows it, if known."""

    token: str
    score: float
    occurrences: int | None = None


class AbsentTokenWarning(UserWarning):
    """A token does not occur in the text, or in no place where it could have associations."""


def top_associations(
    matrix: Float[ArrayLike, "V V"] | LinearOperator,
    vocabulary: Sequence[str],
    token: str,
    k: int = TOP,
    *,
    occurrences: Int[ArrayLike, " V"] | None = None,
) -> list[Association]:
    """The k highest entries of a token's row, highest first: its associations.

    An association is above chance, so that its entry is positive, and, if `occurrences` are given,
    it occurs in the text. Others are left out, and so are the token itself and `<unk>`, which
    stands for many tokens. So there may be fewer than k, or none.

    Args:
      matrix: [V,V], an array or an operator of `SparseStatistics`.
      vocabulary: token of each row.
      occurrences: integers [V], how often the text shows each pair of the row:
        `count_occurrences(data).rows(name, [id])[0]` for the matrix of this name.

    Raises:
      InputError: the token is not in the vocabulary, or the matrix has another size.
      InputTypeError: an argument has the wrong type.

    Warns:
      AbsentTokenWarning: the token does not occur where the rows of the matrix count it, such as
        among inputs: its occurrences are 0 or, if they are not given, all entries of its row are
        equal.

    Examples:
      >>> import numpy as np
      >>> matrix = np.array([[9.0, 1.0, 3.0], [0.0, 9.0, -1.0], [0.0, 0.0, 9.0]])
      >>> [found.token for found in top_associations(matrix, ["bird", "swam", "flew"], "bird")]
      ['flew', 'swam']
      >>> top_associations(matrix, ["bird", "swam", "flew"], "swam")
      []
      >>> top_associations(
      ...     matrix, ["bird", "swam", "flew"], "bird", occurrences=np.array([0, 4, 0])
      ... )
      [Association(token='swam', score=1.0, occurrences=4)]
    """
    k = check_integer("k", k, minimum=1)
    matrix, words = _check_matrix(matrix, vocabulary)
    if check_string("token", token) not in words:
        raise InputError(f"token {token!r} is not in the vocabulary")
    own = np.array([words.index(token)])
    row = np.array(rows(matrix, own) if isinstance(matrix, LinearOperator) else matrix[own], float)
    absent = np.ptp(row) == 0
    counts = None
    if occurrences is not None:
        counts = as_array("occurrences", occurrences)
        if counts.shape != (len(words),) or not np.issubdtype(counts.dtype, np.integer):
            raise InputError(
                f"occurrences must be integers, one for each of the {len(words)} tokens; got "
                f"shape {counts.shape}, dtype {counts.dtype}"
            )
        row[:, counts <= 0] = -np.inf
        absent = not counts.any()
    if absent:
        warnings.warn(
            f"no association can be listed: token {token!r} does not occur where the rows of this "
            "matrix count it",
            AbsentTokenWarning,
            stacklevel=2,
        )
    row[:, own] = -np.inf
    if UNKNOWN in words:
        row[:, words.index(UNKNOWN)] = -np.inf
    # Stable, so that among equal scores the lower id, the more frequent token, comes first.
    best: list[int] = np.argsort(-row[0], kind="stable")[:k].tolist()
    return [
        Association(words[i], float(row[0, i]), None if counts is None else int(counts[i]))
        for i in best
        if row[0, i] > 0
    ]


def precision_at_k(
    matrix: Float[ArrayLike, "V V"] | LinearOperator,
    vocabulary: Sequence[str],
    truth: Mapping[str, Collection[str]],
    k: int,
) -> float:
    """Share of the true associates among the k highest of a row, averaged over query tokens.

    For a query with n < k true associates, the n highest are used instead, so that a precision of 1
    is always possible. Entries that are not positive do not count as associations. Queries and
    associates outside the vocabulary are left out.

    Args:
      matrix: [V,V] scores, an array or an operator; the query tokens are rows.
      vocabulary: token of each row.
      truth: query token -> its true associates.
      k: number of highest entries.

    Raises:
      InputError: no query token with a true associate is in the vocabulary, or the matrix has
        another size.
      InputTypeError: an argument has the wrong type.
    """
    k = check_integer("k", k, minimum=1)
    matrix, words = _check_matrix(matrix, vocabulary)
    check_truth("truth", truth)
    ids = {token: i for i, token in enumerate(words)}
    known = {
        ids[query]: {ids[token] for token in associates if token in ids}
        for query, associates in truth.items()
        if query in ids
    }
    known = {query: associates for query, associates in known.items() if associates}
    if not known:
        raise InputError("truth has no query token with an associate in the vocabulary")
    queries = np.array(list(known))
    scores = rows(matrix, queries) if isinstance(matrix, LinearOperator) else matrix[queries]
    ranking = _ranking(scores, queries)
    precisions = []
    for row, best, associates in zip(scores, ranking, known.values(), strict=True):
        best = best[: min(k, len(associates))]
        precisions.append((np.isin(best, list(associates)) & (row[best] > 0)).mean())
    return float(np.mean(precisions))


def check_truth(name: str, truth: Any) -> None:
    """Checks that `truth` maps query tokens to collections of tokens, their true associates.

    Raises:
      InputTypeError: it does not.
    """
    if not isinstance(truth, Mapping):
        raise InputTypeError(f"{name} must map a token to a set of tokens; got {truth!r}")
    for associates in truth.values():
        if isinstance(associates, str) or not isinstance(associates, Collection):
            raise InputTypeError(f"{name} must map a token to a set of tokens; got {associates!r}")


def _check_matrix(
    matrix, vocabulary: Sequence[str]
) -> tuple[np.ndarray | LinearOperator, list[str]]:
    if not isinstance(matrix, LinearOperator):
        matrix = np.asarray(as_array("matrix", matrix))
    vocabulary = check_sequence("vocabulary", vocabulary, "tokens")
    if not all(isinstance(token, str) for token in vocabulary):
        raise InputTypeError("vocabulary must be a sequence of strings; got another type")
    if matrix.shape != (len(vocabulary),) * 2:
        raise InputError(
            f"matrix must be square with a row for each of the {len(vocabulary)} tokens of the "
            f"vocabulary; got shape {matrix.shape}"
        )
    return matrix, vocabulary


def _ranking(scores: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Token ids of each row from high to low score, without the row's own token."""
    scores = np.array(scores, float)
    scores[np.arange(len(own)), own] = -np.inf
    # Stable, so that among equal scores the lower id, the more frequent token, comes first.
    return np.argsort(-scores, axis=1, kind="stable")[:, :-1]
