"""The loops of `assocjax.statistics.loops` in exact integers, without a dense [V,V].

A row is summed in a dense vector [V], and then stored as a sparse row; for the next block, the
sparse row is copied back to the vector first. Numbers are int64, so sums do not depend on the
division into blocks and threads.

Sums are a list of parts: row r belongs to part r % SPARSE_PARTS. While a block is added, each part
is replaced by a new one, so that only few of them are in memory twice.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array

from assocjax.statistics import _compiled
from assocjax.statistics._compiled import SPARSE_PARTS
from assocjax.statistics.loops import Block, as_csr, run


class Part(NamedTuple):
    """Rows `number`, `number` + SPARSE_PARTS, ...; the columns of a row may be in any order."""

    number: int
    start: Int[np.ndarray, " rows+1"]
    columns: np.ndarray  # uint32
    values: np.ndarray


def hold(matrix: csr_array) -> list[Part]:
    """A matrix in the form that the loops add to."""
    return [
        Part(p, *_arrays(matrix[p::SPARSE_PARTS]))
        for p in range(min(SPARSE_PARTS, matrix.indptr.size - 1))
    ]


def to_csr(sums: list[Part]) -> csr_array:
    V = sum(part.start.size - 1 for part in sums)
    start = np.zeros(V + 1, np.int64)
    for part in sums:
        start[1 + part.number :: SPARSE_PARTS] = np.diff(part.start)
    np.cumsum(start, out=start)
    columns, values = np.empty(start[-1], np.uint32), np.empty(start[-1], np.int64)
    run(partial(_compiled.copy_rows, start, columns, values), [(part,) for part in sums])
    return as_csr(values, columns.view(np.int32), start)


def sum_contexts(
    block: Block, first: Int[np.ndarray, " M"], weights: Int[np.ndarray, " M"], sums: list[Part]
) -> None:
    """As `loops.sum_contexts`."""
    V = sum(part.start.size - 1 for part in sums)
    stop = np.arange(1, block.x.size + 1)
    _replace(
        sums,
        partial(
            _compiled.sparse_contexts, *_compiled.sort(block.y, V), block.x, first, stop, weights
        ),
    )


def sum_correlations(
    block: Block,
    matrix: tuple[csr_array, csr_array],
    factor: Float[np.ndarray, " T+1"],
    sums: list[Part],
) -> Int[np.ndarray, " T"]:
    """As `loops.sum_correlations`; the matrix is given by key and, transposed, by target."""
    by_key, by_target = map(_arrays, matrix)
    V = matrix[0].indptr.size - 1
    totals = np.zeros(block.x.size, np.int64)
    function = partial(
        _compiled.sparse_keys, *_compiled.sort(block.y, V), block.x, block.first, totals, by_target
    )
    run(function, [(part.number,) for part in sums])
    lags = np.zeros((len(sums), factor.size - 1), np.int64)
    own = np.arange(block.x.size)
    _replace(
        sums,
        partial(
            _compiled.sparse_correlations,
            *_compiled.sort(block.x, V),
            own,
            block,
            totals,
            factor,
            by_key,
            lags,
        ),
    )
    return lags.sum(axis=0)


def _replace(sums: list[Part], function: Callable) -> None:
    """Replaces each part by what the function returns for it."""

    def replace(p: int) -> None:
        sums[p] = Part(p, *function(sums[p]))

    run(replace, [(p,) for p in range(len(sums))])


def _arrays(matrix: csr_array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    columns = matrix.indices.astype(np.int32, copy=False).view(np.uint32)
    return matrix.indptr.astype(np.int64), columns, matrix.data
