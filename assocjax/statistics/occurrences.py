"""How often a text shows an association of two tokens: the occurrences that support an entry.

A list of associates claims only what the text shows: the score of an associate is positive, and
the pair occurs. What an occurrence of the pair [i, j] is depends on the matrix, and is defined
here for all lists of this package. A key of a position is a valid position of the same sequence, up
to the position itself, as in the statistics.

    bigram               positions where j directly follows i
    context              pairs of a position with target i and a key j: j stands before i
    composed             pairs of a position with target j and a key i: i stands before j
    query_key            pairs of a position with input i and a key j
    interchangeability   different tokens that i and j both follow directly
    substitutability     different tokens that follow both i and j directly
    value                different tokens that follow j directly and have i before them

The first four are numbers of places in the text. In the last three, two tokens are associated
through a third one, and its different values are counted. Columns are the rows of the transposed
counts.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import ArrayLike, Int
from scipy.sparse import csr_array

from assocjax.arguments import MATRICES, check_choice, check_integers
from assocjax.checks import CorpusLike
from assocjax.statistics import loops
from assocjax.statistics.contexts import as_source, bigram_counts, read_blocks
from assocjax.statistics.sparse import SparseStatistics
from assocjax.storage.display import summarized


@summarized
class Occurrences(NamedTuple):
    """Counts of pairs in a text, int64 [V,V], from which those of every matrix follow.

    follows  [x,y]: positions with input x and target y
    before   [y,x]: pairs of a position with target y and a key x
    attends  [q,x]: pairs of a position with input q and a key x
    """

    follows: csr_array
    before: csr_array
    attends: csr_array

    def rows(self, matrix: str, tokens: Sequence[int] | None = None) -> Int[np.ndarray, "n V"]:
        """Numbers of occurrences in the rows of a matrix.

        Args:
          matrix: a name of `arguments.MATRICES`.
          tokens: ids of the rows [n]; all by default.

        Raises:
          InputError, InputTypeError: the name is unknown, or an id is out of range.

        Cost: that of a sparse product for the last three of the module's docstring.
        """
        check_choice("matrix", matrix, MATRICES)
        follows, before, attends = self
        V = len(follows.indptr) - 1
        ids: Any = slice(None)
        if tokens is not None:
            ids = np.array(check_integers("tokens", tokens, minimum=0, maximum=V - 1))
        if matrix == "bigram":
            found = follows[ids]
        elif matrix == "context":
            found = before[ids]
        elif matrix == "composed":
            found = before.T.tocsr()[ids]
        elif matrix == "query_key":
            found = attends[ids]
        else:
            pairs = _indicator(follows)
            if matrix == "interchangeability":
                found = pairs.T.tocsr()[ids] @ pairs
            elif matrix == "substitutability":
                found = pairs[ids] @ pairs.T
            else:
                found = _indicator(before).T.tocsr()[ids] @ pairs.T
        return found.toarray()


def count_occurrences(
    data: CorpusLike,
    vocab_size: int | None = None,
    mask: ArrayLike | None = None,
    *,
    tokens: Sequence[int] | None = None,
) -> Occurrences:
    """Counts the occurrences of pairs of tokens in a text.

    Args:
      data, vocab_size, mask: as in `corpus_statistics`; a `TokenFile` is read in blocks.
      tokens: ids of the tokens whose rows will be read. By default those of all tokens.

    Returns:
      `Occurrences`. With `tokens`, `before` and `attends` hold only what their rows need.

    Raises:
      InputError, InputTypeError: as `corpus_statistics`; an id is out of range.

    Cost: up to N T^2 additions of integers in compiled loops. Memory: two matrices [V,V], with
    `tokens` three of [V,n].
    """
    source = as_source(data, vocab_size, mask)
    V = source.vocab_size
    if tokens is None:
        ids = np.arange(V)
    else:
        ids = np.unique(check_integers("tokens", tokens, minimum=0, maximum=V - 1))
    n = ids.size
    place = np.full(V, n)  # of each token among those that are counted; all others are last
    place[ids] = np.arange(n)
    before, attends, after = (np.zeros((n + 1, V), np.int64) for _ in range(3))
    for block in read_blocks(source, None):
        positions, ones = np.arange(block.x.size), np.ones(block.x.size, np.int64)
        for sums, of in ((before, block.y), (attends, block.x)):
            row = place[of]
            first = np.where(row < n, block.first, positions + 1)  # no keys for other tokens
            loops.sum_contexts(block._replace(y=row.astype(of.dtype)), first, ones, sums)
        if n < V:
            keys = block._replace(x=place[block.x].astype(block.x.dtype))
            sums = np.zeros((V, n + 1), np.int64)
            after += loops.sum_contexts(keys, block.first, ones, sums).T
    after[:, ids] = 0  # these are in `before`
    rows = csr_array((np.ones(n, np.int64), (ids, np.arange(n))), shape=(V, n))
    found = [csr_array(rows @ csr_array(sums[:n])) for sums in (before, attends, after)]
    return Occurrences(bigram_counts(source), csr_array(found[0] + found[2].T), found[1])


def observed(statistics: Any) -> Occurrences:
    """The pairs that occur in a text of which only the statistics are known.

    Args:
      statistics: `Statistics`, its Dataset (`statistics_dataset`) or `SparseStatistics`, not
        corrected for frequency.

    Returns:
      `Occurrences`, of which `follows` holds counts; entries of `before` and `attends` are 1 where
      the pair occurs, so that `rows` of `context`, `composed` and `query_key` are 1 too. Pairs of
      `query_key` whose entry is 0 are left out.
    """
    M = int(statistics.num_positions)
    if isinstance(statistics, SparseStatistics):
        B, Phi, Q = (
            getattr(statistics, name).sparse for name in ("bigram", "context", "query_key")
        )
        return Occurrences(_rounded(B * M), _indicator(abs(Phi)), _indicator(abs(Q)))
    names = ("bigram", "context", "query_key", "input_frequency", "context_frequency", "position")
    B, Phi, Q, f, c, lags = (np.asarray(getattr(statistics, name)) for name in names)
    # B = joint - f / V; Phi likewise, where a pair that occurs adds at least 1 / (M T).
    joint, chance = B + f[:, None] / len(f), c / len(c)
    least = np.maximum(0.5 / (M * len(lags)), 4 * np.finfo(Phi.dtype).eps * chance)
    before = csr_array((Phi + chance > least).astype(np.int64))
    # Q is a sum over the places where the pair occurs, and 0 without any.
    return Occurrences(_rounded(csr_array(joint * M)), before, _indicator(csr_array(abs(Q))))


def _rounded(matrix: csr_array) -> csr_array:
    values = np.rint(matrix.data).astype(np.int64)
    counts = csr_array((values, matrix.indices, matrix.indptr), shape=matrix.shape)
    counts.eliminate_zeros()
    return counts


def _indicator(matrix: csr_array) -> csr_array:
    """1 where an entry is positive."""
    positive: Any = matrix > 0
    return positive.astype(np.int64)
