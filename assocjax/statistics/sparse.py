"""The statistics of `assocjax.statistics.dense` without a dense [V,V]: operators on sparse counts.

With the sums `bigram`, `context`, `query_key` and `position` of `statistics.counting`, and the
marginals f of inputs, g of targets and a of attended keys, every matrix is sparse plus rank one, or
a product of such matrices:

    B     = bigram / M  - f 1^T / V         Phi = context / M - 1 a^T / V
    Sigma = B^T B       value = Phi^T B^T       G = Phi^T B^T B     substitutability = B B^T
    Q     = query_key / M                   Delta = position / M

With `residual="unigram"` targets are centred on their unigram distribution instead of on 1/V: the
residual is r = y - g, and g takes the place of 1/V:

    B = bigram / M - f g^T      Phi = context / M - g a^T      m[t,k] = x_k^T G (y_t - g)

Each is a `scipy.sparse.linalg.LinearOperator` [V,V]: `value @ X` and `value.T @ X` for X [V,d] cost
d times the entries of B and Phi, and `rows(value, ids)` returns rows as dense vectors. The second
pass needs G only for pairs of a target and a preceding key, which are the entries of Phi.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csc_array, csr_array, diags_array
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from assocjax.arguments import UNKNOWN, check_choice, check_flag, check_is
from assocjax.checks import Sequences
from assocjax.errors import InputError
from assocjax.statistics._compiled import compiled
from assocjax.statistics.counting import (
    Correlations,
    Counts,
    Units,
    choose_units,
    correlate,
    count,
    scale,
)
from assocjax.statistics.loops import run
from assocjax.storage.display import summarized

RESIDUALS = ("uniform", "unigram")
"""The distribution on which the residual of a target is centred."""

_BLOCK_COLUMNS = 32  # of G computed together; of more, rows with no entry are a smaller share


class SparsePlusRankOne(LinearOperator):
    """S + u v^T, float64 [V,V]: products with [V,d] in time d times the entries of S."""

    def __init__(self, sparse: csr_array, left: np.ndarray, right: np.ndarray):
        super().__init__(np.dtype(np.float64), sparse.shape)
        self.sparse, self.left, self.right = sparse, left, right

    def _matmat(self, X):
        return self.sparse @ X + np.outer(self.left, self.right @ X)

    def _rmatmat(self, X):
        return self.sparse.T @ X + np.outer(self.right, self.left @ X)

    def largest(self, known: np.ndarray) -> tuple[float, int, int]:
        """The largest entry of S + u v^T among the stored entries of S, its row and its column.

        `known` [V] says which rows and columns may be named, unless there are no others.
        """
        rows = np.repeat(np.arange(self.sparse.indptr.size - 1), np.diff(self.sparse.indptr))
        columns = self.sparse.indices
        values = self.sparse.data + self.left[rows] * self.right[columns]
        i = int(np.argmax(np.where(known[rows] & known[columns], values, -np.inf)))
        return float(values[i]), int(rows[i]), int(columns[i])

    def sums_of_squares(self, axis: int) -> np.ndarray:
        """Those of the columns (axis 0) or of the rows (axis 1), [V]."""
        along, across = (self.left, self.right) if axis == 0 else (self.right, self.left)
        mixed = (self.sparse.T if axis == 0 else self.sparse) @ along * across
        squares = self.sparse.multiply(self.sparse).sum(axis=axis)
        return squares + 2 * mixed + np.sum(along**2) * across**2


@summarized
class Basis(NamedTuple):
    """The statistics from the first pass; fields as in `SparseStatistics`.

    `chance` [V] is the distribution of targets on which rows of G are centred in the second pass.
    """

    bigram: SparsePlusRankOne
    context: SparsePlusRankOne
    input_frequency: np.ndarray
    target_frequency: np.ndarray
    context_frequency: np.ndarray
    num_positions: int
    frequency_corrected: bool
    chance: np.ndarray


@summarized
class SparseStatistics(NamedTuple):
    """As `Statistics`, with operators instead of dense matrices; all in float64.

    `bigram`, `context`, `interchangeability`, `substitutability`, `value`, `composed` and
    `query_key` are linear operators [V,V], `position` is [T], the frequencies are [V].
    """

    bigram: LinearOperator
    context: LinearOperator
    interchangeability: LinearOperator
    substitutability: LinearOperator
    value: LinearOperator
    composed: LinearOperator
    query_key: LinearOperator
    position: np.ndarray
    input_frequency: np.ndarray
    target_frequency: np.ndarray
    context_frequency: np.ndarray
    num_positions: int


def sparse_statistics(
    source: Sequences,
    *,
    frequency_corrected: bool = False,
    residual: str = "uniform",
    counts: Counts | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SparseStatistics:
    """Computes the statistics of a corpus larger than memory, or with a large vocabulary.

    Args:
      source: `TokenData`, or `TokenFile` for a corpus that stays on disk.
      frequency_corrected: compute those of `assocjax.analysis.associations.frequency_corrected`
        instead.
      residual: "uniform", y - 1/V, or "unigram", y - g with g the frequency of targets.
      counts: sums of a first pass over `source` made before; the first pass is then skipped.
      progress: called with (sequences read, sequences to read) after each block; every sequence
        is read in both passes.

    Returns:
      `SparseStatistics`, the same bits on every call. Relative to exact arithmetic, errors are
      those of `assocjax.statistics.counting.Units` and of float64 products.

    Raises:
      InputError: no valid position, more than 2^40 positions, an unknown residual, a residual
        together with `frequency_corrected`, which has its own, or counts of another vocabulary.

    Cost: time N T^2 for the two passes and at most 2 V nnz(B) between them; memory about 60 bytes
    per entry of Phi (ordered pairs of tokens that occur in the same sequence), and half a GiB.
    """
    check_is("source", source, Sequences)
    frequency_corrected = check_flag("frequency_corrected", frequency_corrected)
    every = range(source.num_sequences)
    report = progress or (lambda done, total: None)
    first = len(every) if counts is None else 0
    total = first + len(every)

    if frequency_corrected and residual != "uniform":
        raise InputError(f"residual must be left out with frequency_corrected; got {residual!r}")
    if counts is None:
        counts = count(source, every, after_block=lambda done, _: report(done, total))
    elif (size := counts.bigram.indptr.size - 1) != source.vocab_size:
        raise InputError(f"counts must be of the {source.vocab_size} tokens of source; got {size}")
    units = choose_units(source.num_sequences, source.seq_len)
    found = basis(counts, units, frequency_corrected=frequency_corrected, residual=residual)
    del counts  # large, and no longer needed
    composed = composed_on_pattern(found)
    sums = correlate(
        source, every, composed, after_block=lambda done, _: report(first + done, total)
    )
    return assemble(found, sums, correlation_unit(composed, units))


def basis(
    counts: Counts,
    units: Units,
    *,
    frequency_corrected: bool = False,
    residual: str = "uniform",
) -> Basis:
    """B, Phi and the marginals from the sums of the first pass.

    Raises:
      InputError: no valid position, or an unknown residual.
    """
    check_choice("residual", residual, RESIDUALS)
    M = int(counts.bigram.sum())
    if M == 0:
        raise InputError("mask must leave at least one valid position; all are False")
    joint = _times(counts.bigram, 1 / M)
    attention = _times(counts.context, 2.0**-units.attention / M)
    f = counts.bigram.sum(axis=1) / M
    g = counts.bigram.sum(axis=0) / M
    a = attention.sum(axis=0)
    chance = g if residual == "unigram" else np.full(f.size, 1 / f.size)
    if frequency_corrected:
        root_f, root_g, root_a = np.sqrt(f), np.sqrt(g), np.sqrt(a)
        bigram = SparsePlusRankOne(_scaled(joint, root_f, root_g), -root_f, root_g)
        context = SparsePlusRankOne(_scaled(attention, root_g, root_a), -root_g, root_a)
    else:
        bigram = SparsePlusRankOne(joint, -f, chance)
        context = SparsePlusRankOne(attention, -chance, a)
    return Basis(bigram, context, f, g, a, M, frequency_corrected, chance)


def composed_on_pattern(found: Basis) -> csr_array:
    """x_k^T G r_y for every target y and preceding key k of the corpus: float64, entry [y,k].

    It is G[k,y] - sum_j chance[j] G[k,j], where r_y = y - chance.

    G (V^2 entries) is computed for some columns of Phi at a time, in the rows where any of them has
    an entry, and only the needed entries are kept. With B = S + u v^T and Phi = P + p a^T, G^T is
    S^T S P plus a matrix of rank three:

        G^T = S^T S P + v (u^T S P) + (B^T B p) a^T + (B^T u) (v^T P)

    Cost: at most 2 V nnz(B).
    """
    B, Phi = found.bigram, found.context
    V = B.shape[0]
    S, P = B.sparse, Phi.sparse.tocsc()
    St = S.T.tocsr()
    mean = Phi.T @ (B.T @ (B @ found.chance))
    left = np.stack([B.right, B.T @ (B @ Phi.left), B.T @ B.left, np.ones(V)], axis=1)
    right = np.stack([P.T @ (St @ B.left), Phi.right, P.T @ B.right, -mean], axis=1)
    entries = np.empty(P.nnz)
    matrices = [a for M in (St, P) for a in (M.indptr, M.indices, M.data)]
    run(
        partial(_compose_columns, *matrices, left, right, entries),
        [(start, min(start + _BLOCK_COLUMNS, V)) for start in range(0, V, _BLOCK_COLUMNS)],
    )
    return csc_array((entries, P.indices, P.indptr), P.shape).tocsr()


@compiled
def _compose_columns(
    St_indptr, St_indices, St_data, P_indptr, P_indices, P_data, left, right, entries, low, high
):
    """Computes columns `low` to `high` in all rows where any of them has an entry, and stores the
    needed entries."""
    needed, columns = np.zeros(len(left), np.bool_), np.zeros((len(left), high - low))
    for k in range(low, high):
        for i in range(P_indptr[k], P_indptr[k + 1]):
            needed[P_indices[i]] = True
            columns[P_indices[i], k - low] = P_data[i]
    rows, product = np.nonzero(needed)[0], np.zeros_like(columns)
    for y in rows:
        row = columns[y]
        for i in range(St_indptr[y], St_indptr[y + 1]):
            to, value = product[St_indices[i]], St_data[i]
            for c in range(row.size):
                to[c] += value * row[c]
    for y in rows:
        row = columns[y]
        row[:] = 0
        for i in range(St_indptr[y], St_indptr[y + 1]):
            other, value = product[St_indices[i]], St_data[i]
            for c in range(row.size):
                row[c] += value * other[c]
    for k in range(low, high):
        for i in range(P_indptr[k], P_indptr[k + 1]):
            y = P_indices[i]
            entries[i] = columns[y, k - low]
            for j in range(left.shape[1]):
                entries[i] += left[y, j] * right[k, j]


def correlation_unit(composed: csr_array, units: Units) -> float:
    """The value of the integer 1 in `Correlations`."""
    return scale(composed) * 2.0**-units.correlation


def assemble(found: Basis, sums: Correlations, unit: float) -> SparseStatistics:
    """The statistics from both passes; integers of `sums` are multiples of `unit`."""
    M = found.num_positions
    Q = _times(sums.query_key, unit / M)
    B, Phi = found.bigram, found.context
    Sigma, alike = B.T @ B, B @ B.T
    if found.frequency_corrected:
        Q = _scaled(Q, np.sqrt(found.input_frequency), np.sqrt(found.context_frequency))
        by_column, by_row = (
            aslinearoperator(diags_array(_inverse(np.sqrt(B.sums_of_squares(axis)))))
            for axis in (0, 1)
        )
        Sigma, alike = by_column @ Sigma @ by_column, by_row @ alike @ by_row
    value = Phi.T @ B.T
    nothing = np.zeros_like(found.input_frequency)
    return SparseStatistics(
        bigram=B,
        context=Phi,
        interchangeability=Sigma,
        substitutability=alike,
        value=value,
        composed=value @ B,
        query_key=SparsePlusRankOne(Q, nothing, nothing),
        position=sums.position * (unit / M),
        input_frequency=found.input_frequency,
        target_frequency=found.target_frequency,
        context_frequency=found.context_frequency,
        num_positions=M,
    )


def sparse_summary(statistics: SparseStatistics, vocabulary: Sequence[str]) -> list[dict[str, Any]]:
    """Entries, Frobenius norm and largest entry, with its tokens, of the stored matrices.

    The largest entry is not one of `<unk>`.
    """
    known, summary = np.array([token != UNKNOWN for token in vocabulary]), []
    for name in ("bigram", "context", "query_key"):
        matrix = getattr(statistics, name)
        value, i, j = matrix.largest(known)
        summary.append(
            {
                "matrix": name,
                "entries": matrix.sparse.nnz,
                "norm": float(np.sqrt(matrix.sums_of_squares(0).sum())),
                "largest": value,
                "row": vocabulary[i],
                "column": vocabulary[j],
            }
        )
    return summary


def rows(matrix: LinearOperator, ids: np.ndarray) -> np.ndarray:
    """The rows `ids` of an operator as a dense array [len(ids), V]."""
    ids = np.asarray(ids)
    chosen = np.zeros((matrix.shape[0], ids.size))
    chosen[ids, np.arange(ids.size)] = 1
    return matrix.rmatmat(chosen).T


def _times(matrix: csr_array, factor: float) -> csr_array:
    """A product that shares its indices with the matrix."""
    return csr_array((matrix.data * factor, matrix.indices, matrix.indptr), matrix.shape)


def _scaled(matrix: csr_array, rows: np.ndarray, columns: np.ndarray) -> csr_array:
    """matrix / outer(rows, columns); entries of tokens that do not occur stay 0."""
    return (diags_array(_inverse(rows)) @ matrix @ diags_array(_inverse(columns))).tocsr()


def _inverse(values: np.ndarray) -> np.ndarray:
    return np.divide(1.0, values, out=np.zeros_like(values), where=values > 0)
