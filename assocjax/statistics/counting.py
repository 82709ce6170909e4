"""Exact sums over a corpus that is too large for dense matrices: sparse, in integers, on the host.

There are two passes. The first counts bigrams and sums uniform attention. From these the composed
matrix G is computed, and the second pass sums D (notation of `assocjax.statistics.dense`):

    bigram[i,j]    = number of valid positions with input i and target j
    context[j,i]   = sum of A_0[t,k] over pairs with target y_t = j and key x_k = i
    query_key[i,j] = sum of D[t,k] over pairs with query x_t = i and key x_k = j
    position[d]    = sum of D[t,t-d]

Real numbers are added as 64-bit integers, multiples of a fixed unit. The unit is as small as
possible without a sum that could overflow, given the number of positions (`Units`). Integer sums do
not depend on their order, so any division of the sequences into blocks, shards or resumed runs
gives the same bits.

The corpus is read in blocks of sequences, each once per pass. Blocks are summed by the compiled
loops of `assocjax.statistics.loops` on [V,V] matrices or, for large vocabularies, by those of
`assocjax.statistics._sparse_loops`.
"""

from collections.abc import Callable, Iterable
from functools import partial, reduce
from typing import Any, NamedTuple, TypeVar

import numpy as np
from scipy.sparse import csr_array

from assocjax.checks import Sequences
from assocjax.errors import InputError
from assocjax.statistics import _sparse_loops, loops
from assocjax.statistics.loops import Block, lay_out
from assocjax.storage.display import summarized

_BLOCK_PAIRS = 1 << 27  # (query, key) pairs in a block; with larger ones sums are stored less often
_DENSE_VOCAB_SIZE = 8192  # the largest for dense loops: four [V,V] matrices, of half a GiB each
_LARGEST_SUM = 62  # bits: sums of signed 64-bit integers stay below 2^62


@summarized
class Counts(NamedTuple):
    """Sums of the first pass, int64 [V,V]: rows of `context` are targets, columns are keys."""

    bigram: csr_array
    context: csr_array


@summarized
class Correlations(NamedTuple):
    """Sums of the second pass: int64 [V,V] and [T]."""

    query_key: csr_array
    position: np.ndarray


Sums = TypeVar("Sums", Counts, Correlations)
AfterBlock = Callable[[int, Callable[[], Sums]], None]


class Units(NamedTuple):
    """Binary digits of the integers, which depend on the size of the whole corpus only.

    Attributes:
      attention: an attention weight 1/n is stored as round(2^attention / n). Its relative error is
        at most n / 2^(attention + 1): 1.1e-13 n for a corpus of 10^6 positions, 1.2e-10 n for 10^9.
      matrix: entries of G are rounded to multiples of 2^-matrix times the largest one (rounded up
        to a power of two).
      correlation: entries of D are rounded likewise, to multiples of 2^-correlation.
    """

    attention: int
    matrix: int
    correlation: int


def choose_units(num_sequences: int, seq_len: int) -> Units:
    """The largest numbers of digits with which sums over all positions cannot overflow.

    Raises:
      InputError: the corpus has more than 2^40 positions, which would leave too few digits.
    """
    positions = (num_sequences * seq_len).bit_length()
    if positions > 40:
        raise InputError(
            f"a corpus may have up to 2^40 positions; got {num_sequences} sequences of {seq_len}"
        )
    # For G: 2 T times an entry is formed, and a float64 has 52 digits. For D: |D| <= 2 max |G|.
    digits = min(52, _LARGEST_SUM - 1 - seq_len.bit_length())
    return Units(
        min(52, _LARGEST_SUM - positions), digits, min(digits, _LARGEST_SUM - 1 - positions)
    )


def count(
    source: Sequences,
    sequences: range,
    *,
    start: Counts | None = None,
    after_block: AfterBlock[Counts] | None = None,
) -> Counts:
    """Counts bigrams and sums attention over a range of sequences.

    Args:
      source: the corpus.
      sequences: the sequences to read, a range with step 1.
      start: sums so far, of a computation to be resumed.
      after_block: called after each block with the index of the next sequence, and a function
        without arguments that returns the sums so far (calling it often is slow).
    """
    T = source.seq_len
    units = choose_units(source.num_sequences, T)
    weights = np.rint(2.0**units.attention / np.arange(1, T + 1)).astype(np.int64)

    form = _loops(source)

    def add_block(sums: Counts, block: Block) -> Counts:
        """Adds to sums whose rows are targets."""
        itself, ones = np.arange(block.x.size), np.ones(block.x.size, np.int64)
        form.sum_contexts(block, itself, ones, sums.bigram)
        form.sum_contexts(block, block.first, weights[block.num_keys - 1], sums.context)
        return sums

    def finish(sums: Counts) -> Counts:
        context = form.to_csr(sums.context)
        context.sort_indices()
        return Counts(form.to_csr(sums.bigram).T.tocsr(), context)

    if start is None:
        start = Counts(_zeros(source), _zeros(source))
    start = Counts(form.hold(start.bigram.T.tocsr()), form.hold(start.context))
    return finish(_add_up(source, sequences, add_block, start, finish, after_block))


def correlate(
    source: Sequences,
    sequences: range,
    composed: csr_array,
    *,
    start: Correlations | None = None,
    after_block: AfterBlock[Correlations] | None = None,
) -> Correlations:
    """Sums D over a range of sequences: the query-key matrix and the position vector.

        m[t,k] = composed[y_t, x_k]      D[t,k] = (m[t,k] - mean_{k'<=t} m[t,k']) / (t+1)

    Args:
      composed: float64 [V,V], sorted, with an entry for every pair (target, key) of the corpus;
        D is summed in units of 2^-correlation times `scale(composed)`.
      source, sequences, start, after_block: as in `count`.
    """
    T = source.seq_len
    _, digits, kept = choose_units(source.num_sequences, T)
    values = np.rint(composed.data * (2.0**digits / scale(composed))).astype(np.int64)
    integers = csr_array((values, composed.indices, composed.indptr), shape=composed.shape)
    factor = 2.0 ** (kept - digits) / np.maximum(np.arange(T + 1), 1) ** 2

    form = _loops(source)
    matrix = form.hold(integers.T) if form is loops else (integers.T.tocsr(), integers)

    def add_block(sums: Correlations, block: Block) -> Correlations:
        """Adds to sums whose rows are keys."""
        lags = form.sum_correlations(block, matrix, factor, sums.query_key)
        return sums._replace(position=sums.position + lags)

    def finish(sums: Correlations) -> Correlations:
        return sums._replace(query_key=form.to_csr(sums.query_key).T.tocsr())

    if start is None:
        start = Correlations(_zeros(source), np.zeros(T, np.int64))
    start = start._replace(query_key=form.hold(start.query_key.T.tocsr()))
    sums = _add_up(source, sequences, add_block, start, finish, after_block)
    del matrix, integers, values  # large, and no longer needed
    return finish(sums)


def scale(composed: csr_array) -> float:
    """The unit of G: the smallest power of two that no entry exceeds (1 if G is 0)."""
    largest = float(np.max(np.abs(composed.data), initial=0))
    return 2.0 ** np.ceil(np.log2(largest)) if largest else 1.0


def add(sums: Iterable[Sums]) -> Sums:
    """The total of several sums, in any order; its sparse matrices are sorted, without zeros."""

    def plus(one, other):
        return type(one)(*(a + b for a, b in zip(one, other, strict=True)))

    total = reduce(plus, sums)
    for matrix in total:
        if isinstance(matrix, csr_array):
            matrix.eliminate_zeros()
    return total


def _loops(source: Sequences) -> Any:
    return loops if source.vocab_size <= _DENSE_VOCAB_SIZE else _sparse_loops


def _zeros(source: Sequences) -> csr_array:
    return csr_array((source.vocab_size, source.vocab_size), dtype=np.int64)


def _add_up(
    source: Sequences,
    sequences: range,
    add_block: Callable[[Sums, Block], Sums],
    sums: Sums,
    finish: Callable[[Sums], Sums],
    after_block: AfterBlock[Sums] | None,
) -> Sums:
    T = source.seq_len
    size = max(1, _BLOCK_PAIRS // (T * (T + 1) // 2))
    for first in range(sequences.start, sequences.stop, size):
        stop = min(first + size, sequences.stop)
        sums = add_block(sums, lay_out(*source.read(first, stop), source.vocab_size))
        if after_block is not None:
            after_block(stop, partial(finish, sums))
    return sums
