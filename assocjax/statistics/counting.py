"""Exact sums over a corpus that is too large for dense matrices: sparse, of integers, on the host.

Two passes. The first counts bigrams and adds up uniform attention; the second, once the composed
matrix G of the first is known, adds up D (theory as in `assocjax.statistics.dense`):

    bigram[i,j]    = number of valid positions with input i and target j
    context[j,i]   = sum of A_0[t,k] over pairs with target y_t = j and key x_k = i
    query_key[i,j] = sum of D[t,k] over pairs with query x_t = i and key x_k = j
    position[d]    = sum of D[t,t-d]

Real numbers are added as 64-bit integers, multiples of a fixed unit, as fine as the number of
positions allows before a sum could overflow (`Units`). Integer sums do not depend on their order:
any division of the sequences into blocks, shards or interrupted runs gives the same bits.

Work goes by blocks of sequences. A block's sum is one product of two sparse matrices, (positions
of each row token) x (keys of each position), so that nothing is sorted; its memory is a few dozen
bytes a pair of the block. Sums of blocks are merged in pairs of similar size, so that every
entry is copied a logarithmic number of times only.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
from scipy.sparse import csr_array

from assocjax.errors import InputError

_BLOCK_PAIRS = 1 << 22  # (query, key) pairs a block; larger ones repeat fewer entries
_LARGEST_SUM = 62  # bits: a sum of signed 64-bit integers stays below 2^62


@runtime_checkable
class TokenSource(Protocol):
    """Sequences that are read by ranges, from memory or from a file larger than memory.

    `TokenData` and `TokenFile` (`assocjax.corpora`) are such sources.
    """

    @property
    def num_sequences(self) -> int: ...
    @property
    def seq_len(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens int32 [n, T+1] and mask bool [n, T] of the sequences from `start` to `stop`."""
        ...


class Counts(NamedTuple):
    """Sums of the first pass, int64 [V,V]: rows of `context` are targets, columns are keys."""

    bigram: csr_array
    context: csr_array


class Correlations(NamedTuple):
    """Sums of the second pass: int64 [V,V] and [T]."""

    query_key: csr_array
    position: np.ndarray


Sums = TypeVar("Sums", Counts, Correlations)
AfterBlock = Callable[[int, Callable[[], Sums]], None]


class Units(NamedTuple):
    """Binary digits of the integers, which depend on the size of the whole corpus only.

    Attributes:
      attention: an attention weight 1/n is round(2^attention / n); its relative error is at most
        n / 2^(attention + 1), for a corpus of 10^6 positions n 1.1e-13, of 10^9 n 1.2e-10.
      matrix: entries of G are rounded to 2^-matrix times (a power of two not below) the largest.
      correlation: so are D, to 2^-correlation.
    """

    attention: int
    matrix: int
    correlation: int


def choose_units(num_sequences: int, seq_len: int) -> Units:
    """As many digits as sums over all positions leave.

    Raises:
      InputError: with more than 2^40 positions too few digits are left.
    """
    positions = (num_sequences * seq_len).bit_length()
    if positions > 40:
        raise InputError(
            f"a corpus may have up to 2^40 positions; got {num_sequences} sequences of {seq_len}"
        )
    # Of G: 2 T times an entry is formed, and a float64 has 52 digits. Of D: |D| <= 2 max |G|.
    digits = min(52, _LARGEST_SUM - 1 - seq_len.bit_length())
    return Units(
        min(52, _LARGEST_SUM - positions), digits, min(digits, _LARGEST_SUM - 1 - positions)
    )


def count(
    source: TokenSource,
    sequences: range,
    *,
    start: Counts | None = None,
    after_block: AfterBlock[Counts] | None = None,
) -> Counts:
    """Counts bigrams and adds up attention over a range of sequences.

    Args:
      source: the corpus.
      sequences: those to read, of step 1.
      start: sums to go on from.
      after_block: called after each block with the sequence that is next, and a function without
        arguments that returns the sum so far (which merging makes slower if it is called often).
    """
    V, T = source.vocab_size, source.seq_len
    units = choose_units(source.num_sequences, T)
    pairs = _Pairs(T)

    def block(tokens: np.ndarray, valid: np.ndarray) -> Counts:
        x, y = tokens[:, :-1], tokens[:, 1:]
        ones = valid.astype(np.int64)
        num_keys = np.maximum(np.cumsum(ones, axis=1), 1)
        weight = np.rint(2.0**units.attention / num_keys).astype(np.int64) * ones
        indptr = np.arange(x.size + 1, dtype=np.int32)
        target = csr_array((ones.ravel(), y.ravel(), indptr), shape=(x.size, V))
        return Counts(
            bigram=_rows(x, ones, V) @ target,
            context=_rows(y, weight, V) @ pairs.keys(x, ones[:, pairs.k], V),
        )

    return _add_up(source, sequences, block, start, after_block)


def correlate(
    source: TokenSource,
    sequences: range,
    composed: csr_array,
    *,
    start: Correlations | None = None,
    after_block: AfterBlock[Correlations] | None = None,
) -> Correlations:
    """Adds up D over a range of sequences: the query-key matrix and the position vector.

        m[t,k] = composed[y_t, x_k]      D[t,k] = (m[t,k] - mean_{k'<=t} m[t,k']) / (t+1)

    Args:
      composed: float64 [V,V], sorted, with an entry for every pair (target, key) of the corpus;
        D is counted in units of 2^-correlation times `scale(composed)`.
      source, sequences, start, after_block: as of `count`.
    """
    V, T = source.vocab_size, source.seq_len
    _, digits, kept = choose_units(source.num_sequences, T)
    integers = csr_array(
        (
            np.rint(composed.data * (2.0**digits / scale(composed))).astype(np.int64),
            composed.indices,
            composed.indptr,
        ),
        shape=composed.shape,
    )
    pairs = _Pairs(T)
    q, k = pairs.q, pairs.k

    def block(tokens: np.ndarray, valid: np.ndarray) -> Correlations:
        x, y = tokens[:, :-1], tokens[:, 1:]
        ones = valid.astype(np.int64)
        num_keys = np.maximum(np.cumsum(ones, axis=1), 1)
        pair = ones[:, q] * ones[:, k]
        m = integers[y[:, q].ravel(), x[:, k].ravel()].reshape(pair.shape) * pair
        total = np.add.reduceat(m, pairs.starts, axis=1)
        n = num_keys[:, q]
        # Exact integers until one division and one rounding: the same on any machine.
        surplus = (n * m - total[:, q]).astype(np.float64)
        D = np.rint(surplus / (n * n) * 2.0 ** (kept - digits)).astype(np.int64) * pair
        position = np.zeros(T, np.int64)
        np.add.at(position, q - k, D.sum(axis=0))
        return Correlations(_rows(x, ones, V) @ pairs.keys(x, D, V), position)

    return _add_up(source, sequences, block, start, after_block)


def scale(composed: csr_array) -> float:
    """The power of two that G is measured by: the least that no entry exceeds (1 if G is 0)."""
    largest = float(np.max(np.abs(composed.data), initial=0))
    return 2.0 ** np.ceil(np.log2(largest)) if largest else 1.0


def add(sums: Iterable[Sums]) -> Sums:
    """The sum of sums, its sparse matrices sorted and without zeros: the same in any order."""
    total = _Running()
    for each in sums:
        total.push(each)
    return total.sum()


class _Pairs:
    """The causal pairs (q, k <= q) of T positions, ordered by q, and where each q starts."""

    def __init__(self, seq_len: int):
        t = np.arange(seq_len)
        self.starts = t * (t + 1) // 2
        self.q = np.repeat(t, t + 1)
        self.k = np.arange(self.q.size) - self.starts[self.q]

    def keys(self, x: np.ndarray, values: np.ndarray, vocab_size: int) -> csr_array:
        """Row (n, t) holds values[n, (t,k)] at column x[n,k], [n T, V]; columns may repeat."""
        n, T = x.shape
        first = np.arange(n, dtype=np.int64)[:, None] * self.q.size + self.starts
        indptr = np.append(first, n * self.q.size).astype(np.int32)
        indices = x[:, self.k].ravel()
        return csr_array((values.ravel(), indices, indptr), shape=(n * T, vocab_size))


def _rows(tokens: np.ndarray, values: np.ndarray, vocab_size: int) -> csr_array:
    """Column (n, t) holds values[n,t] in row tokens[n,t]: [V, n T]."""
    tokens = tokens.ravel()
    order = np.argsort(tokens, kind="stable").astype(np.int32)
    indptr = np.zeros(vocab_size + 1, np.int32)
    np.cumsum(np.bincount(tokens, minlength=vocab_size), out=indptr[1:])
    return csr_array((values.ravel()[order], order, indptr), shape=(vocab_size, tokens.size))


def _add_up(
    source: TokenSource,
    sequences: range,
    block: Callable[[np.ndarray, np.ndarray], Sums],
    start: Sums | None,
    after_block: AfterBlock[Sums] | None,
) -> Sums:
    running = _Running()
    if start is not None:
        running.push(start)
    T = source.seq_len
    size = max(1, _BLOCK_PAIRS // (T * (T + 1) // 2))
    for first in range(sequences.start, sequences.stop, size):
        stop = min(first + size, sequences.stop)
        running.push(block(*source.read(first, stop)))
        if after_block is not None:
            after_block(stop, running.sum)
    return running.sum()


class _Running:
    """A sum of sums: those of similar size are merged first."""

    def __init__(self):
        self._parts: list = []

    def push(self, sums) -> None:
        self._parts.append(sums)
        while len(self._parts) > 1 and _size(self._parts[-2]) <= 2 * _size(self._parts[-1]):
            self._merge()

    def sum(self):
        while len(self._parts) > 1:
            self._merge()
        for matrix in self._parts[0]:
            if isinstance(matrix, csr_array):
                matrix.sum_duplicates()  # sorts, too
                matrix.eliminate_zeros()
        return self._parts[0]

    def _merge(self) -> None:
        last, other = self._parts.pop(), self._parts.pop()
        self._parts.append(type(last)(*(a + b for a, b in zip(other, last, strict=True))))


def _size(sums) -> int:
    return sum(array.nnz for array in sums if isinstance(array, csr_array))
