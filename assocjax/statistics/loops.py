"""Compiled loops over the positions of a corpus and over their keys, on the host, multithreaded.

The matrix that a loop adds to is divided by rows into a fixed number of parts. Each part is one
task, which adds the contributions of all positions that belong to its rows. So tasks run in
parallel without copies of the matrix, and results are the same bits for any number of threads.
Sums are in float64, or exact in int64.

Numba compiles a loop at its first call and caches the program in `__pycache__` beside this file or,
if it cannot write there, in the user's cache folder; the environment variable NUMBA_CACHE_DIR sets
another folder. NUMBA_NUM_THREADS sets the number of threads, by default the number of cores.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import ArrayLike, Bool, Float, Int, Num, UInt
from numba import config, njit

from assocjax.checks import is_hidden

_PARTS = 32


def compiled(function: Callable) -> Callable:
    """Compiles a function at its first call; threads run it in parallel. If no cache folder can be
    written, each process compiles it again.
    """
    options = {"nogil": True, "error_model": "numpy"}  # no error for division by 0
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:
        return njit(**options)(function)


class Block(NamedTuple):
    """The valid positions of some sequences, concatenated: the keys of t are first[t]..t.

    x, y         input and target; unsigned, which avoids code for negative indices
    place        index of the position in its sequence, counting masked positions
    first, stop  the range of valid positions of the same sequence
    """

    x: UInt[np.ndarray, " M"]
    y: UInt[np.ndarray, " M"]
    place: UInt[np.ndarray, " M"]
    first: Int[np.ndarray, " M"]
    stop: Int[np.ndarray, " M"]

    @property
    def num_keys(self) -> Int[np.ndarray, " M"]:
        return np.arange(1, self.x.size + 1) - self.first


def on_host(*arrays: Any) -> bool:
    """Whether all arrays are in host memory, with values that can be read."""
    return not any(
        is_hidden(a) or any(device.platform != "cpu" for device in a.devices()) for a in arrays
    )


def lay_out(tokens: Int[ArrayLike, "N T+1"], mask: Bool[ArrayLike, "N T"]) -> Block:
    tokens, mask = np.asarray(tokens), np.asarray(mask)
    x, y = (a[mask].astype(np.uint32) for a in (tokens[:, :-1], tokens[:, 1:]))
    sizes = mask.sum(axis=1)
    stop = np.cumsum(sizes)
    first, stop = (np.repeat(a, sizes) for a in (stop - sizes, stop))
    return Block(x, y, np.nonzero(mask)[1].astype(np.uint32), first, stop)


def num_threads() -> int:
    return config.NUMBA_NUM_THREADS  # pyright: ignore[reportAttributeAccessIssue]


def run(function: Callable, arguments: list[tuple]) -> list:
    """Calls a compiled function with each tuple of arguments, on several threads."""
    with ThreadPoolExecutor(num_threads()) as pool:
        return list(pool.map(lambda each: function(*each), arguments))


def count_bigrams(block: Block, vocab_size: int) -> Int[np.ndarray, "V V"]:
    """Entry [i,j]: number of positions with input i and target j."""
    index = block.x.astype(np.int64) * vocab_size + block.y
    return np.bincount(index, minlength=vocab_size**2).reshape(vocab_size, vocab_size)


def sum_contexts(
    block: Block,
    first: Int[np.ndarray, " M"],
    weights: Num[np.ndarray, " M"],
    sums: Num[np.ndarray, "V V"],
) -> Num[np.ndarray, "V V"]:
    """Adds weights[t] to sums[y_t, x_k] for all positions t and k = first[t]..t."""
    by_row = partial(_sum_contexts, block.x, block.y, first, weights, sums)
    run(by_row, _parts(block.y))
    return sums


@compiled
def _sum_contexts(x, y, first, weights, sums, positions):
    for t in positions:
        row, keys, weight = sums[y[t]], x[first[t] : t + 1], weights[t]
        for i in range(keys.size):
            row[keys[i]] += weight


def sum_correlations(
    block: Block,
    matrix: Num[np.ndarray, "V V"],
    factor: Float[np.ndarray, " T+1"],
    sums: Num[np.ndarray, "V V"],
) -> tuple[Num[np.ndarray, "V V"], Num[np.ndarray, " T"]]:
    """Adds D[t,k] to sums[x_t, x_k] for all positions t and their n_t keys k.

    D[t,k] = (n_t m[t,k] - sum_k' m[t,k']) factor[n_t]        m[t,k] = matrix[y_t, x_k]

    If the sums are integers, D is rounded to integers. Returns `sums`, and the sums of D by t - k.
    """
    lags = np.zeros((_PARTS, factor.size - 1), sums.dtype)
    rounded = sums.dtype.kind == "i"
    by_row = partial(_sum_correlations, *block[:4], matrix, factor, rounded, sums)
    run(by_row, [(*part, own) for part, own in zip(_parts(block.x), lags, strict=True)])
    return sums, lags.sum(axis=0)


@compiled
def _sum_correlations(x, y, place, first, matrix, factor, rounded, sums, positions, lags):
    m, D = np.empty(lags.size, matrix.dtype), np.empty(lags.size, sums.dtype)
    for t in positions:
        of_y, keys, places = matrix[y[t]], x[first[t] : t + 1], place[first[t] : t + 1]
        n, total = keys.size, matrix.dtype.type(0)
        for i in range(n):
            m[i] = of_y[keys[i]]
            total += m[i]
        # For integers this is exact up to one product and one rounding: the same on any machine.
        for i in range(n):
            value = (n * m[i] - total) * factor[n]
            D[i] = np.rint(value) if rounded else value
        row = sums[x[t]]
        for i in range(n):
            row[keys[i]] += D[i]
        if place[t] - places[0] == n - 1:  # no masked position in between: faster
            for i in range(n):
                lags[n - 1 - i] += D[i]
        else:
            for i in range(n):
                lags[place[t] - places[i]] += D[i]


def add_tables(
    rows: UInt[np.ndarray, "n T"],
    columns: UInt[np.ndarray, "n T"],
    table: Float[np.ndarray, "T T c"],
    sums: Float[np.ndarray, "V V c"],
) -> None:
    """Adds table[t,k] to sums[rows[t], columns[k]], for every sequence and all k <= t."""
    by_row = partial(_add_tables, rows, columns, table, sums)
    run(by_row, _parts(rows.ravel()))


@compiled
def _add_tables(rows, columns, table, sums, positions):
    for position in positions:
        n, t = divmod(position, rows.shape[1])
        row = sums[rows[n, t]]
        for k in range(t + 1):
            for c in range(table.shape[2]):
                row[columns[n, k], c] += table[t, k, c]


def _parts(rows: UInt[np.ndarray, " M"]) -> list[tuple[Int[np.ndarray, " part"]]]:
    """The positions of each part of the rows: row r belongs to part r % _PARTS."""
    start, order = sort(rows % _PARTS, _PARTS)
    return [(order[a:b],) for a, b in pairwise(start.tolist())]


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
def compress(matrix):
    """Columns and values of the nonzero entries, row by row, and where each row starts."""
    start = np.zeros(len(matrix) + 1, np.int64)
    for i in range(len(matrix)):
        start[i + 1] = start[i] + np.count_nonzero(matrix[i])
    columns, values = np.empty(start[-1], np.int32), np.empty(start[-1], matrix.dtype)
    place = 0
    for i in range(len(matrix)):
        for j in range(len(matrix)):
            if matrix[i, j] != 0:
                columns[place], values[place] = j, matrix[i, j]
                place += 1
    return columns, values, start
