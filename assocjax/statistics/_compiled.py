"""The loops of `loops` and `_sparse_loops`, compiled by Numba.

They are in one module, since Numba compiles a cached program again only if the module of that
function has changed, not if that of a function it calls has.

Numba compiles a loop at its first call and caches the program in `__pycache__` beside this file or,
if it cannot write there, in the user's cache folder; the environment variable NUMBA_CACHE_DIR sets
another folder.
"""

from functools import partial

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from assocjax.corpora.compilation import compiled

SPARSE_PARTS = 128
_AHEAD = 4  # positions between the one that is visited and the one whose keys are fetched


@intrinsic
def _prefetch(_, array, index):
    """Starts to load the cache line of an element of a contiguous array."""

    def generate(context, builder, signature, arguments):
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        address = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
        # To be read, kept in all levels of the cache, data.
        builder.call(prefetch, [address, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


@compiled
def _fetch(array, first, size):
    """Starts to load array[first : first + size] into cache."""
    for i in range(first, first + size, 64 // array.itemsize):
        _prefetch(array, i)  # pyright: ignore[reportCallIssue]


@compiled
def sort(tokens, vocab_size):
    """Positions sorted by their tokens, and the start [V+1] of each token in that order."""
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
def add_contexts(start, order, x, first, weights, sums, low):
    """Adds to `sums`, which are rows `low`, `low` + 1, ... of those of `sum_contexts`."""
    for r in range(len(sums)):
        row, begin, weight = sums[r], -1, weights.dtype.type(0)
        # Backward: a key belongs to all positions of the sequence that come later.
        for i in range(start[low + r + 1] - 1, start[low + r] - 1, -1):
            if i >= 2 * _AHEAD:
                _fetch(first, order[i - 2 * _AHEAD], 1)
                _fetch(weights, order[i - 2 * _AHEAD], 1)
            if i >= _AHEAD:
                t = order[i - _AHEAD]
                if first[t] != first[order[i - _AHEAD + 1]]:
                    _fetch(x, first[t], t + 1 - first[t])
            t = order[i]
            if first[t] != begin:
                begin, weight = first[t], weights.dtype.type(0)
            weight += weights[t]
            again = i > start[low + r] and first[order[i - 1]] == begin
            keys = x[order[i - 1] + 1 if again else begin : t + 1]
            for k in range(keys.size):
                row[keys[k]] += weight


@partial(compiled, fastmath={"reassoc"})
def add_keys(start, order, x, first, totals, matrix, low):
    """Sets totals[t] to the sum of matrix[y_t - low, x_k] over the keys k of t, for targets y_t
    from `low`."""
    for r in range(len(matrix)):
        m, begin, k, total = matrix[r], -1, 0, matrix.dtype.type(0)
        for i in range(start[low + r], start[low + r + 1]):
            if i + 2 * _AHEAD < order.size:
                _fetch(first, order[i + 2 * _AHEAD], 1)
            if i + _AHEAD < order.size:
                t, before = order[i + _AHEAD], order[i + _AHEAD - 1]
                new = before if first[before] == first[t] else first[t]
                _fetch(x, new, t + 1 - new)
                _fetch(totals, t, 1)
            t = order[i]
            if first[t] != begin:
                begin, k, total = first[t], first[t], matrix.dtype.type(0)
            keys = x[k : t + 1]
            for j in range(keys.size):
                total += m[keys[j]]
            totals[t], k = total, t + 1


@compiled
def add_correlations(start, order, block, totals, factor, matrix, sums, lags, low):
    """Adds to `sums` and `lags`; matrix and sums are rows `low`, `low` + 1, ... of those of
    `sum_correlations`, and totals[t] is the sum over k'."""
    x, y, place, first, stop = block
    D, sizes = np.empty(factor.size, sums.dtype), np.arange(factor.size).astype(sums.dtype)
    for r in range(len(sums)):
        m, row, end, origin, times = matrix[r], sums[r], -1, 0, sums.dtype.type(0)
        for i in range(start[low + r], start[low + r + 1]):
            if i + 2 * _AHEAD < order.size:
                _fetch(first, order[i + 2 * _AHEAD], 1)
                _fetch(stop, order[i + 2 * _AHEAD], 1)
            if i + _AHEAD < order.size:
                k = order[i + _AHEAD]
                if stop[k] != stop[order[i + _AHEAD - 1]]:
                    _fetch(x, k, stop[k] - k)
                    _fetch(y, k, stop[k] - k)
                    _fetch(totals, k, stop[k] - k)
                    _fetch(place, k, 1)
                    _fetch(place, stop[k] - 1, 1)
            k = order[i]
            if stop[k] != end:
                # D of all queries of the sequence from its first key with this token.
                origin, end, times = k, stop[k], sums.dtype.type(0)
                targets, total, n = y[k:end], totals[k:end], k + 1 - first[k]
                size, by = sizes[n : n + end - k], factor[n : n + end - k]
                for j in range(targets.size):
                    D[j] = m[targets[j]]
                if sums.dtype.kind == "i":
                    # Exact up to one product and one rounding: the same on any machine.
                    for j in range(targets.size):
                        D[j] = np.rint((size[j] * D[j] - total[j]) * by[j])
                else:
                    for j in range(targets.size):
                        D[j] = (size[j] * D[j] - total[j]) * by[j]
            times += sums.dtype.type(1)
            again = i + 1 < start[low + r + 1] and stop[order[i + 1]] == end
            queries, own = x[k : order[i + 1] if again else end], D[k - origin : end - origin]
            for j in range(queries.size):
                row[queries[j]] += times * own[j]
            if place[end - 1] - place[k] == end - 1 - k:  # no masked position in between: faster
                for j in range(own.size):
                    lags[j] += own[j]
            else:
                for j in range(own.size):
                    lags[place[k + j] - place[k]] += own[j]


@compiled
def add_tables(start, order, columns, table, sums, low, high):
    for r in range(low, high):
        for position in order[start[r] : start[r + 1]]:
            n, t = divmod(position, columns.shape[1])
            for k in range(t + 1):
                for c in range(table.shape[2]):
                    sums[r, columns[n, k], c] += table[t, k, c]


@compiled
def compress(matrix):
    """Values and columns of the nonzero entries, row by row, and where each row starts."""
    start = np.zeros(len(matrix) + 1, np.int64)
    for i in range(len(matrix)):
        start[i + 1] = start[i] + np.count_nonzero(matrix[i])
    values, columns = np.empty(start[-1], matrix.dtype), np.empty(start[-1], np.int32)
    place = 0
    for i in range(len(matrix)):
        for j in range(len(matrix)):
            if matrix[i, j] != 0:
                values[place], columns[place] = matrix[i, j], j
                place += 1
    return values, columns, start


@compiled
def sparse_contexts(start, order, x, first, stop, weights, old):
    row = np.zeros((1, start.size - 1), np.int64)
    new = _space(start, order, first, stop, old)
    for i in range(old.start.size - 1):
        r = old.number + i * SPARSE_PARTS
        known = _load(row[0], old.start[i : i + 2], old.columns, old.values)
        add_contexts(start, order, x, first, weights, row, r)
        _store(row[0], known, x, first, stop, order[start[r] : start[r + 1]], *new, i)
    return _used(*new)


@compiled
def sparse_keys(start, order, x, first, totals, matrix, number):
    m = np.zeros((1, start.size - 1), np.int64)
    for r in range(number, start.size - 1, SPARSE_PARTS):
        if start[r] < start[r + 1]:
            known = _load(m[0], matrix[0][r : r + 2], matrix[1], matrix[2])
            add_keys(start, order, x, first, totals, m, r)
            m[0][known] = 0


@compiled
def sparse_correlations(start, order, own, block, totals, factor, matrix, lags, old):
    row, m = np.zeros((1, start.size - 1), np.int64), np.zeros((1, start.size - 1), np.int64)
    new = _space(start, order, own, block.stop, old)
    for i in range(old.start.size - 1):
        r = old.number + i * SPARSE_PARTS
        known = _load(row[0], old.start[i : i + 2], old.columns, old.values)
        if start[r] < start[r + 1]:
            targets = _load(m[0], matrix[0][r : r + 2], matrix[1], matrix[2])
            add_correlations(start, order, block, totals, factor, m, row, lags[old.number], r)
            m[0][targets] = 0
        _store(row[0], known, block.x, own, block.stop, order[start[r] : start[r + 1]], *new, i)
    return _used(*new)


@compiled
def _space(start, order, first, stop, old):
    """Where each row of a new part starts, and space for its columns and values: enough for all
    pairs, of which most are never touched and so take no memory."""
    rows, size = old.start.size - 1, old.values.size
    for i in range(rows):
        r = old.number + i * SPARSE_PARTS
        for t in order[start[r] : start[r + 1]]:
            size += stop[t] - first[t]
    size = min(size, rows * (start.size - 1))
    return np.zeros(rows + 1, np.int64), np.empty(size, np.uint32), np.empty(size, np.int64)


@compiled
def _used(start, columns, values):
    return start, columns[: start[-1]].copy(), values[: start[-1]].copy()


@compiled
def _load(row, ends, columns, values):
    """Copies a sparse row to a dense vector; returns its columns."""
    known = columns[ends[0] : ends[1]]
    row[known] = values[ends[0] : ends[1]]
    return known


@compiled
def _store(row, known, x, first, stop, positions, start, columns, values, i):
    """Moves a dense vector to the sparse row i. Its nonzero entries are in the columns `known` and
    x[first[t]] to x[stop[t] - 1] for the positions t."""
    used, most = start[i], known.size
    for t in positions:
        most += stop[t] - first[t]
    if most < row.size:
        used = _move(row, known, columns, values, used)
        for t in positions:
            used = _move(row, x[first[t] : stop[t]], columns, values, used)
    else:
        used = _move(row, np.arange(row.size), columns, values, used)
    start[i + 1] = used


@compiled
def _move(row, which, columns, values, used):
    for i in range(which.size):
        c = which[i]
        if row[c] != 0:
            columns[used], values[used] = c, row[c]
            used += 1
            row[c] = 0
    return used


@compiled
def copy_rows(start, columns, values, part):
    """Copies the rows of a part to those of the whole matrix."""
    for i in range(part.start.size - 1):
        r = part.number + i * SPARSE_PARTS
        low, high = part.start[i], part.start[i + 1]
        columns[start[r] : start[r + 1]] = part.columns[low:high]
        values[start[r] : start[r + 1]] = part.values[low:high]
