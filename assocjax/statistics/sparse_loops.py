"""The loops of `assocjax.statistics.loops` in exact integers, for a [V,V] that is never held.

The positions of a block are sorted by the token whose row they add to. A row is added up in a
vector [V] that stays in cache and is then stored as a sparse one; where the next block begins, it
is put back. Numbers are int64: sums do not depend on the division into blocks and threads.
"""

import itertools
from collections.abc import Callable
from functools import partial

import numpy as np
from jaxtyping import Float, Int
from numba import config
from scipy.sparse import csr_array

from assocjax.statistics.loops import Block, compiled, run

_PARTS = 16  # of the rows, a thread: some take longer than others


def sum_contexts(
    block: Block, first: Int[np.ndarray, " M"], weights: Int[np.ndarray, " M"], total: csr_array
) -> csr_array:
    """total[y_t, x_k] + the sum of weights[t] over positions t and k = first[t]..t."""
    start, order = _sort(block.y, total.shape[0])
    function = partial(_sum_contexts, start, order, block.x, first, weights, *_arrays(total))
    return _csr(_over_rows(function, start), total.shape)


def sum_correlations(
    block: Block, matrix: csr_array, factor: Float[np.ndarray, " T+1"], total: csr_array
) -> tuple[csr_array, Int[np.ndarray, " T"]]:
    """total[x_k, x_t] + the sum of D[t,k] over positions t and their n_t keys k; sums by t - k.

    D[t,k] = round((n_t m[t,k] - sum_k' m[t,k']) factor[n_t])        m[t,k] = matrix[y_t, x_k]
    """
    start, order = _sort(block.y, total.shape[0])
    sums = np.zeros(block.x.size, np.int64)
    by_target = partial(_sum_m, start, order, block.x, block.first, *_arrays(matrix), sums)
    _over_rows(by_target, start)
    start, order = _sort(block.x, total.shape[0])
    matrices = *_arrays(matrix.T.tocsr()), *_arrays(total)
    by_key = partial(_sum_correlations, start, order, *block, sums, factor, *matrices)
    found = _over_rows(by_key, start)
    return _csr(found, total.shape), np.sum([lags for *_, lags in found], axis=0)


def _over_rows(function: Callable, start: Int[np.ndarray, " V+1"]) -> list:
    """function(low, high) of all rows, in parts of like numbers of positions."""
    parts = _PARTS * config.NUMBA_NUM_THREADS
    cuts = np.searchsorted(start, np.linspace(0, start[-1], parts + 1)[1:-1])
    cuts = [0, *cuts.tolist(), start.size - 1]
    return run(function, [(a, b) for a, b in itertools.pairwise(cuts) if a < b])


def _csr(parts: list, shape: tuple[int, int]) -> csr_array:
    parts = [part[:3] for part in parts]
    sizes, columns, values = (np.concatenate(a) for a in zip(*parts, strict=True))
    return csr_array((values, columns.view(np.int32), np.append(0, np.cumsum(sizes))), shape=shape)


def _arrays(matrix: csr_array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return matrix.indptr.astype(np.int64), matrix.indices.astype(np.uint32), matrix.data


@compiled
def _sort(tokens, vocab_size):
    """Where each token starts [V+1], and the positions in the order of their tokens."""
    start = np.zeros(vocab_size + 1, np.int64)
    for t in range(tokens.size):
        start[tokens[t] + 1] += 1
    for token in range(vocab_size):
        start[token + 1] += start[token]
    order, place = np.empty(tokens.size, np.int64), start.copy()
    for t in range(tokens.size):
        order[place[tokens[t]]] = t
        place[tokens[t]] += 1
    return start, order


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
                # The queries t = k + i, of which the first has n keys.
                n, queries = k + 1 - first[k], x[k : stop[k]]
                of_y, total, places = y[k : stop[k]], sums[k : stop[k]], place[k : stop[k]]
                for i in range(queries.size):
                    # Exact until one product and one rounding: the same on any machine.
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
    """Both with a place for `size` entries at least."""
    if size <= columns.size:
        return columns, values
    more = np.empty(size, np.uint32), np.empty(size, np.int64)
    return np.append(columns, more[0]), np.append(values, more[1])


@compiled
def _store(row, which, columns, values, used):
    """Moves what is not 0 in some columns of a row behind the `used` entries; how many are then."""
    for i in range(which.size):
        c = which[i]
        if row[c] != 0:
            columns[used], values[used] = c, row[c]
            used += 1
            row[c] = 0
    return used
