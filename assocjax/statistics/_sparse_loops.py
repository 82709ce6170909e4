"""The loops of `assocjax.statistics.loops` in exact integers, without a dense [V,V].

The positions of a block are sorted by the token whose row they add to. A row is summed in a dense
vector [V], which stays in cache, and then stored as a sparse row; for the next block, the sparse
row is copied back to the vector first. Numbers are int64, so sums do not depend on the division
into blocks and threads.
"""

import itertools
from collections.abc import Callable
from functools import partial

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array

from assocjax.statistics.loops import Block, compiled, num_threads, run, sort

_PARTS = 16  # parts of the rows per thread, since some take longer than others


def sum_contexts(
    block: Block, first: Int[np.ndarray, " M"], weights: Int[np.ndarray, " M"], total: csr_array
) -> csr_array:
    """As `loops.sum_contexts`, except that the columns in a row are not sorted."""
    V = total.indptr.size - 1
    start, order = sort(block.y, V)
    function = partial(_sum_contexts, start, order, block.x, first, weights, *_arrays(total))
    return _csr(_over_rows(function, start), V)


def sum_correlations(
    block: Block, matrix: csr_array, factor: Float[np.ndarray, " T+1"], total: csr_array
) -> tuple[csr_array, Int[np.ndarray, " T"]]:
    """As `loops.sum_correlations`, but summed by rows of keys, so that also the key's row of the
    matrix is in cache. The sum over all keys, which each query needs, is computed beforehand.
    """
    V = total.indptr.size - 1
    start, order = sort(block.y, V)
    sums = np.zeros(block.x.size, np.int64)
    _over_rows(partial(_sum_m, start, order, block.x, block.first, *_arrays(matrix), sums), start)
    start, order = sort(block.x, V)
    by_key = *_arrays(matrix.T.tocsr()), *_arrays(total.T.tocsr())
    function = partial(_sum_correlations, start, order, *block, sums, factor, *by_key)
    found = _over_rows(function, start)
    return _csr(found, V).T.tocsr(), np.sum([lags for *_, lags in found], axis=0)


def _over_rows(function: Callable, start: Int[np.ndarray, " V+1"]) -> list:
    """Calls function(low, high) for parts of the rows with similar numbers of positions."""
    parts = _PARTS * num_threads()
    cuts = np.searchsorted(start, np.linspace(0, start[-1], parts + 1)[1:-1])
    cuts = [0, *cuts.tolist(), start.size - 1]
    return run(function, [(a, b) for a, b in itertools.pairwise(cuts) if a < b])


def _csr(parts: list, vocab_size: int) -> csr_array:
    sizes, columns, values = (np.concatenate([part[i] for part in parts]) for i in range(3))
    start = np.append(0, np.cumsum(sizes))
    return csr_array((values, columns.view(np.int32), start), shape=(vocab_size, vocab_size))


def _arrays(matrix: csr_array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return matrix.indptr.astype(np.int64), matrix.indices.astype(np.uint32), matrix.data


@compiled
def _sum_contexts(start, order, x, first, weights, indptr, indices, data, low, high):
    row = np.zeros(start.size - 1, np.int64)
    sizes, columns, values = _start_rows(high - low)
    used = 0
    for r in range(low, high):
        old = indices[indptr[r] : indptr[r + 1]]
        row[old] = data[indptr[r] : indptr[r + 1]]
        most = old.size
        for t in order[start[r] : start[r + 1]]:
            keys, weight = x[first[t] : t + 1], weights[t]
            for i in range(keys.size):
                row[keys[i]] += weight
            most += keys.size
        before = used
        columns, values = _grow(columns, values, used + min(most, row.size))
        if most < row.size:
            used = _store(row, old, columns, values, used)
            for t in order[start[r] : start[r + 1]]:
                used = _store(row, x[first[t] : t + 1], columns, values, used)
        else:
            used = _store(row, np.arange(row.size).astype(np.uint32), columns, values, used)
        sizes[r - low] = used - before
    return sizes, columns[:used], values[:used]


@compiled
def _sum_m(start, order, x, first, indptr, indices, data, sums, low, high):
    m = np.zeros(start.size - 1, np.int64)
    for r in range(low, high):
        if start[r] < start[r + 1]:
            columns = indices[indptr[r] : indptr[r + 1]]
            m[columns] = data[indptr[r] : indptr[r + 1]]
            for t in order[start[r] : start[r + 1]]:
                keys, total = x[first[t] : t + 1], 0
                for i in range(keys.size):
                    total += m[keys[i]]
                sums[t] = total
            m[columns] = 0


@compiled
def _sum_correlations(
    start, order, x, y, place, first, stop, sums, factor,
    m_indptr, m_indices, m_data, indptr, indices, data, low, high,
):  # fmt: skip
    row, m = np.zeros(start.size - 1, np.int64), np.zeros(start.size - 1, np.int64)
    D, lags = np.empty(factor.size, np.int64), np.zeros(factor.size - 1, np.int64)
    sizes, columns, values = _start_rows(high - low)
    used = 0
    for r in range(low, high):
        old = indices[indptr[r] : indptr[r + 1]]
        row[old] = data[indptr[r] : indptr[r + 1]]
        most = old.size
        if start[r] < start[r + 1]:
            targets = m_indices[m_indptr[r] : m_indptr[r + 1]]
            m[targets] = m_data[m_indptr[r] : m_indptr[r + 1]]
            for k in order[start[r] : start[r + 1]]:
                # The queries are t = k + i; the first of them has n keys.
                n, queries = k + 1 - first[k], x[k : stop[k]]
                of_y, total, places = y[k : stop[k]], sums[k : stop[k]], place[k : stop[k]]
                for i in range(queries.size):
                    # Exact up to one product and one rounding: the same on any machine.
                    D[i] = np.rint(((n + i) * m[of_y[i]] - total[i]) * factor[n + i])
                for i in range(queries.size):
                    row[queries[i]] += D[i]
                for i in range(queries.size):
                    lags[places[i] - places[0]] += D[i]
                most += queries.size
            m[targets] = 0
        before = used
        columns, values = _grow(columns, values, used + min(most, row.size))
        if most < row.size:
            used = _store(row, old, columns, values, used)
            for k in order[start[r] : start[r + 1]]:
                used = _store(row, x[k : stop[k]], columns, values, used)
        else:
            used = _store(row, np.arange(row.size).astype(np.uint32), columns, values, used)
        sizes[r - low] = used - before
    return sizes, columns[:used], values[:used], lags


@compiled
def _start_rows(rows):
    return np.empty(rows, np.int64), np.empty(0, np.uint32), np.empty(0, np.int64)


@compiled
def _grow(columns, values, size):
    """Enlarges both arrays, if necessary, to at least `size` entries."""
    if size <= columns.size:
        return columns, values
    more = np.empty(size, np.uint32), np.empty(size, np.int64)
    return np.append(columns, more[0]), np.append(values, more[1])


@compiled
def _store(row, which, columns, values, used):
    """Moves nonzero entries of the columns `which` behind the first `used` ones; returns the new
    number of entries."""
    for i in range(which.size):
        c = which[i]
        if row[c] != 0:
            columns[used], values[used] = c, row[c]
            used += 1
            row[c] = 0
    return used
