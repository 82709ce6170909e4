"""Compiled loops over the positions of a corpus and over their keys, on the host, by threads.

What a loop adds to is divided by rows: a part of the rows goes through all positions and adds what
belongs to it. So parts run at once without a copy of a matrix each, and as their number is fixed,
results are the same bits for any number of threads. Sums are in float64, counts in int64.

Numba compiles a loop when it is first called, and keeps the program in `__pycache__` beside this
file or, where it cannot write there, in the user's cache folder; the environment variable
NUMBA_CACHE_DIR names another. NUMBA_NUM_THREADS is the number of threads, by default of cores.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt
from numba import config, njit

from assocjax.checks import is_hidden

compiled = njit(cache=True, nogil=True, error_model="numpy")
"""Threads run it at once, and a division by zero is no error, as in NumPy."""

_PARTS = 16


class Block(NamedTuple):
    """The valid positions of some sequences, one after another: the keys of t are first[t]..t.

    x, y         input and target; unsigned, so that no index counts from the end
    place        where a position stands in its sequence, masked positions counted
    first, stop  the range of the valid positions of its sequence
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
    """Whether all are arrays in the memory of the host, whose values can be looked at."""
    return not any(
        is_hidden(a) or any(device.platform != "cpu" for device in a.devices()) for a in arrays
    )


def lay_out(tokens: Int[np.ndarray, "N T+1"], mask: Bool[np.ndarray, "N T"]) -> Block:
    tokens, mask = np.asarray(tokens), np.asarray(mask)
    x, y = (a[mask].astype(np.uint32) for a in (tokens[:, :-1], tokens[:, 1:]))
    sizes = mask.sum(axis=1)
    stop = np.cumsum(sizes)
    first, stop = (np.repeat(a, sizes) for a in (stop - sizes, stop))
    return Block(x, y, np.nonzero(mask)[1].astype(np.uint32), first, stop)


def run(function: Callable, arguments: list[tuple]) -> list:
    """A compiled function of each of some arguments, divided among the threads."""
    with ThreadPoolExecutor(config.NUMBA_NUM_THREADS) as pool:
        return list(pool.map(lambda each: function(*each), arguments))


def count_bigrams(block: Block, vocab_size: int) -> Int[np.ndarray, "V V"]:
    """[i,j]: positions with input i and target j."""
    index = block.x.astype(np.int64) * vocab_size + block.y
    return np.bincount(index, minlength=vocab_size**2).reshape(vocab_size, vocab_size)


def sum_contexts(
    block: Block, weights: Float[np.ndarray, " M"], vocab_size: int
) -> Float[np.ndarray, "V V"]:
    """[j,i]: the sum of weights[t] over positions with target j and each of their keys i."""
    sums = np.zeros((vocab_size, vocab_size))
    by_row = partial(_sum_contexts, block.x, block.y, block.first, weights, sums)
    run(by_row, [(part, _PARTS) for part in range(_PARTS)])
    return sums


@compiled
def _sum_contexts(x, y, first, weights, sums, part, parts):
    for t in range(x.size):
        if y[t] % parts == part and weights[t] != 0:
            row, keys, weight = sums[y[t]], x[first[t] : t + 1], weights[t]
            for i in range(keys.size):
                row[keys[i]] += weight


def sum_correlations(
    block: Block, matrix: Float[np.ndarray, "V V"], seq_len: int
) -> tuple[Float[np.ndarray, "V V"], Float[np.ndarray, " T"]]:
    """Sums of D[t,k] over positions t and their keys k: by tokens [x_t, x_k], and by t - k.

    D[t,k] = (m[t,k] - mean_k' m[t,k']) / number of keys        m[t,k] = matrix[y_t, x_k]
    """
    sums, lags = np.zeros_like(matrix), np.zeros((_PARTS, seq_len))
    by_row = partial(_sum_correlations, *block[:4], matrix, sums)
    run(by_row, [(lags[part], part, _PARTS) for part in range(_PARTS)])
    return sums, lags.sum(axis=0)


@compiled
def _sum_correlations(x, y, place, first, matrix, sums, lags, part, parts):
    D = np.empty(lags.size)
    for t in range(x.size):
        if x[t] % parts == part:
            row, of_y, keys, places = (
                sums[x[t]],
                matrix[y[t]],
                x[first[t] : t + 1],
                place[first[t] :],
            )
            n, total = keys.size, 0.0
            for i in range(n):
                D[i] = of_y[keys[i]]
                total += D[i]
            mean = total / n
            for i in range(n):
                D[i] = (D[i] - mean) / n
            for i in range(n):
                row[keys[i]] += D[i]
            if place[t] - places[0] == n - 1:  # lags one after another, which is faster
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
    run(by_row, [(part, _PARTS) for part in range(_PARTS)])


@compiled
def _add_tables(rows, columns, table, sums, part, parts):
    for n in range(rows.shape[0]):
        for t in range(rows.shape[1]):
            if rows[n, t] % parts == part:
                row = sums[rows[n, t]]
                for k in range(t + 1):
                    for c in range(table.shape[2]):
                        row[columns[n, k], c] += table[t, k, c]
