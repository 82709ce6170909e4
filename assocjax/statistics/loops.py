"""Sums over the positions of a corpus and over their keys, on the host, multithreaded.

Positions are sorted by the token whose row of a matrix they add to or read, so that the row stays
in cache while all of its positions are visited. Rows are divided into ranges with similar numbers
of positions; a range is one task. So tasks run in parallel without copies of the matrix, and since
the ranges do not depend on the number of threads, results are the same bits for any number. Sums
are in float64, or exact in int64.

If a token occurs several times in a sequence, keys (or queries) that its positions have in common
are visited once. The keys of the next few positions are fetched into cache in advance, which the
processor cannot do by itself, because sorted positions lie anywhere in the corpus.

The loops themselves are in `_compiled`. The environment variable NUMBA_NUM_THREADS sets the number
of threads, by default the number of cores.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import ArrayLike, Bool, Float, Int, Num, UInt
from numba import config
from scipy.sparse import csc_array, csr_array

from assocjax.checks import is_hidden
from assocjax.statistics import _compiled

_RANGES = 128  # of rows


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


def lay_out(
    tokens: Int[ArrayLike, "N T+1"], mask: Bool[ArrayLike, "N T"], vocab_size: int
) -> Block:
    kind = np.uint16 if vocab_size <= 1 << 16 else np.uint32  # half of the memory to be read
    tokens, mask = np.asarray(tokens).astype(kind), np.asarray(mask)
    places = np.broadcast_to(np.arange(mask.shape[1], dtype=np.uint32), mask.shape)
    x, y, place = (a[mask] for a in (tokens[:, :-1], tokens[:, 1:], places))
    sizes = mask.sum(axis=1)
    stop = np.cumsum(sizes)
    first, stop = (np.repeat(a, sizes) for a in (stop - sizes, stop))
    return Block(x, y, place, first, stop)


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
    start, order = _compiled.sort(block.y, len(sums))
    by_row = partial(_compiled.add_contexts, start, order, block.x, first, weights)
    run(by_row, [(sums[a:b], a) for a, b in _ranges(start)])
    return sums


def sum_correlations(
    block: Block,
    matrix: Num[np.ndarray, "V V"],
    factor: Float[np.ndarray, " T+1"],
    sums: Num[np.ndarray, "V V"],
) -> Num[np.ndarray, " T"]:
    """Adds D[t,k] to sums[x_k, x_t] for all positions t and their n_t keys k.

    D[t,k] = (n_t m[t,k] - sum_k' m[t,k']) factor[n_t]        m[t,k] = matrix[x_k, y_t]

    If the sums are integers, D is rounded to integers. Returns the sums of D by t - k.

    There are two passes: one by target for the sums over k', and one by key for D.
    """
    totals = np.empty(block.x.size, matrix.dtype)
    start, order = _compiled.sort(block.y, len(sums))
    by_target = partial(_compiled.add_keys, start, order, block.x, block.first, totals)
    run(lambda a, b: by_target(_columns(matrix, a, b), a), _ranges(start))
    start, order = _compiled.sort(block.x, len(sums))
    by_key = partial(_compiled.add_correlations, start, order, block, totals, factor)
    ranges = _ranges(start)
    lags = np.zeros((len(ranges), factor.size - 1), sums.dtype)
    run(
        by_key, [(matrix[a:b], sums[a:b], own, a) for (a, b), own in zip(ranges, lags, strict=True)]
    )
    return lags.sum(axis=0)


def add_tables(
    rows: UInt[np.ndarray, "n T"],
    columns: UInt[np.ndarray, "n T"],
    table: Float[np.ndarray, "T T c"],
    sums: Float[np.ndarray, "V V c"],
) -> None:
    """Adds table[t,k] to sums[rows[t], columns[k]], for every sequence and all k <= t."""
    start, order = _compiled.sort(rows.ravel(), len(sums))
    run(partial(_compiled.add_tables, start, order, columns, table, sums), _ranges(start))


def _columns(matrix: Num[np.ndarray, "V V"], low: int, high: int) -> Num[np.ndarray, "n V"]:
    """Columns of a matrix as rows, of which those in the same cache lines are copied together."""
    return np.concatenate([matrix[:, a : min(a + 8, high)].T for a in range(low, high, 8)])


def _ranges(start: Int[np.ndarray, " V+1"]) -> list[tuple[int, int]]:
    """Ranges of rows with similar numbers of positions."""
    cuts = np.searchsorted(start, np.linspace(0, start[-1], _RANGES + 1)[1:-1])
    cuts = [0, *cuts.tolist(), start.size - 1]
    return [(a, b) for a, b in pairwise(cuts) if a < b]


def hold(matrix: csr_array | csc_array) -> Int[np.ndarray, "V V"]:
    """A matrix in the form that the loops add to."""
    return matrix.toarray(order="C")


def to_csr(sums: Int[np.ndarray, "V V"]) -> csr_array:
    return as_csr(*_compiled.compress(sums))


def as_csr(values: np.ndarray, columns: np.ndarray, start: np.ndarray) -> csr_array:
    """A matrix [V,V] with 32-bit indices, where they suffice."""
    V, size = start.size - 1, start[-1]
    start = start.astype(np.int32 if size <= np.iinfo(np.int32).max else np.int64)
    return csr_array((values, columns, start), shape=(V, V))
