"""Contexts of tokens and of pairs of tokens: what stands at or before x, and before y after x.

With x = tokens[:, :-1], y = tokens[:, 1:], one-hots X and uniform causal attention A_0 (row t holds
1/(t+1) at positions 0..t):

    bigram[x,y]   = number of valid positions with input x and target y
    token[x]      = sum of (A_0 X)_t over positions t with input x
    pair[i]       = the same over positions with input x and target y, where (x, y) is the i-th
                    stored entry of `bigram`, row by row
    before[i,j]   = number of positions with the i-th such pair whose two tokens before x are the
                    j-th, one directly after the other: counts of four tokens in a row

so that `token[x]` over the number of its positions is E[A_0 X | x], which is
`EffectiveStatistics.conditional_mean[0]`, and `pair[i]` is likewise E[A_0 X | x, y], a statistic of
third order.

Attention weights are added as 64-bit integers, multiples of a unit that depends on the size of the
whole corpus only (`assocjax.statistics.counting.Units`). Integer sums do not depend on their order,
so that any division of the sequences into blocks and parts gives the same bits.
"""

import itertools
from collections.abc import Iterable, Iterator
from functools import partial, reduce
from typing import NamedTuple

import numpy as np
from jaxtyping import ArrayLike, Int
from scipy.sparse import csr_array

from assocjax.arguments import check_integer, check_is
from assocjax.checks import CorpusLike, Sequences, check_corpus, is_hidden
from assocjax.errors import InputError, InputTypeError
from assocjax.statistics._compiled import compiled
from assocjax.statistics.counting import choose_units
from assocjax.statistics.loops import Block, lay_out, num_threads, run
from assocjax.storage.display import summarized

MAX_ENTRIES = 1 << 27  # of the contexts of pairs: 1.5 GiB
_BLOCK_PAIRS = 1 << 25  # (query, key) pairs in a block, whose sums take at most 384 MiB
_PARTS = 16  # parts of the rows per thread, since some take longer than others


@summarized
class ContextStatistics(NamedTuple):
    """Sums over positions, defined in the module's docstring.

    Attributes:
      bigram: int64 [V,V], of the whole corpus.
      token: int64 [V,V], in units of 2^-digits.
      pair: int64 [P,V], in units of 2^-digits; a row for each of the P stored entries of `bigram`,
        which is empty if the pair is rarer than those that were kept.
      before: int64 [P,P], likewise.
      positions: int64 [T], the number of valid positions that have n + 1 keys, themselves included.
      digits: binary digits of an attention weight.
    """

    bigram: csr_array
    token: csr_array
    pair: csr_array
    before: csr_array
    positions: Int[np.ndarray, " T"]
    digits: int


class _Arrays(NamedTuple):
    """Tokens and mask in memory, as `Sequences`."""

    tokens: np.ndarray
    mask: np.ndarray
    vocab_size: int

    @property
    def num_sequences(self) -> int:
        return len(self.tokens)

    @property
    def seq_len(self) -> int:
        return self.mask.shape[1]

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        return self.tokens[start:stop], self.mask[start:stop]


def bigram_counts(
    data: CorpusLike,
    vocab_size: int | None = None,
    mask: ArrayLike | None = None,
    *,
    sequences: range | None = None,
) -> csr_array:
    """Counts how often each token follows each other one.

    Args:
      data, vocab_size, mask: as in `corpus_statistics`; a `TokenFile` is read in blocks.
      sequences: the sequences to count, a range with step 1; all by default. Counts of parts add up
        to those of the whole.

    Returns:
      int64 [V,V], sorted: entry [x,y] is the number of valid positions with input x and target y.

    Raises:
      InputError, InputTypeError: as `corpus_statistics`; `sequences` is not within the corpus.

    Cost: N T log(N T) comparisons of integers; no factor T^2.
    """
    source = as_source(data, vocab_size, mask)
    V = source.vocab_size
    total = csr_array((V, V), dtype=np.int64)
    for block in read_blocks(source, sequences):
        pairs, counts = np.unique(_pairs(block, V), return_counts=True)
        start = np.searchsorted(pairs // V, np.arange(V + 1))
        total += csr_array((counts.astype(np.int64), pairs % V, start), shape=(V, V))
    return total


def context_statistics(
    data: CorpusLike,
    vocab_size: int | None = None,
    mask: ArrayLike | None = None,
    *,
    sequences: range | None = None,
    bigram: csr_array | None = None,
    max_entries: int = MAX_ENTRIES,
) -> ContextStatistics:
    """Sums the contexts of every token and of every pair of an input and its target.

    A masked position is neither a query nor a key nor a target, as in `corpus_statistics`.

    Args:
      data, vocab_size, mask: as in `corpus_statistics`; a `TokenFile` is read in blocks.
      sequences: the sequences to sum over, a range with step 1; all by default. Sums of parts with
        the same `bigram` add up, by `merge_contexts`, to the bits of the whole.
      bigram: `bigram_counts` of all sequences, which are counted if it is left out.
      max_entries: upper limit of the stored entries of `pair`, and of `before`. A pair with n
        positions has up to min(V, n T) in the one and n in the other; where the limit is less than
        their sum, rows of the rarest pairs are left empty, all pairs that occur equally often
        alike. 0 leaves all empty.

    Returns:
      `ContextStatistics`, the same bits for any number of threads and size of blocks.

    Raises:
      InputError, InputTypeError: as `corpus_statistics`; `sequences` is not within the corpus;
        `bigram` is not of this corpus; `max_entries` is negative.

    Cost: time N T^2; memory 12 bytes for each entry of `pair`, `before` and `token`, twice while
    blocks are added, and 1 GiB.
    """
    source = as_source(data, vocab_size, mask)
    max_entries = check_integer("max_entries", max_entries, minimum=0, maximum=2**40)
    V, T = source.vocab_size, source.seq_len
    if bigram is None:
        bigram = bigram_counts(source)
    check_is("bigram", bigram, csr_array)
    if bigram.shape != (V, V):
        raise InputError(f"bigram must have shape [V, V] = ({V}, {V}); got {bigram.shape}")
    inputs = np.repeat(np.arange(V), np.diff(bigram.indptr))
    known = inputs * V + bigram.indices
    kept = bigram.data >= _smallest_kept(bigram.data, V, T, max_entries)
    kept_before = bigram.data >= _smallest_kept(bigram.data, V, 1, max_entries)
    digits = choose_units(source.num_sequences, T).attention
    by_num_keys = np.rint(2.0**digits / np.arange(1, T + 1)).astype(np.int64)

    token = csr_array((V, V), dtype=np.int64)
    pair = csr_array((known.size, V), dtype=np.int64)
    before = csr_array((known.size, known.size), dtype=np.int64)
    positions = np.zeros(T, np.int64)
    for block in read_blocks(source, sequences):
        weights = by_num_keys[block.num_keys - 1]
        positions += np.bincount(block.num_keys - 1, minlength=T)
        every = np.arange(block.x.size)
        token += _sum_rows(block, weights, every, block.x, (V, V))
        wanted = _pairs(block, V)
        rows = np.minimum(np.searchsorted(known, wanted), max(known.size - 1, 0))
        if not np.array_equal(known[rows], wanted):
            raise InputError("bigram must be bigram_counts of all of data; it lacks some pairs")
        some = np.flatnonzero(kept[rows])
        pair += _sum_rows(block, weights, some, rows[some], (known.size, V))
        third = _third_in_a_row(block)
        third = third[kept_before[rows[third]]]
        follows = rows[third], rows[third - 2]
        before += csr_array((np.ones(third.size, np.int64), follows), shape=before.shape)
    return ContextStatistics(bigram, token, pair, before, positions, digits)


def merge_contexts(parts: Iterable[ContextStatistics]) -> ContextStatistics:
    """The sums over the sequences of all parts, which were made with the same `bigram`.

    Raises:
      InputError: there are no parts, or their `bigram` or the size of their corpus differ.
    """

    def plus(a: ContextStatistics, b: ContextStatistics) -> ContextStatistics:
        same = a.digits == b.digits and a.positions.size == b.positions.size
        same = same and a.bigram.shape == b.bigram.shape
        if not same or abs(a.bigram - b.bigram).sum():
            raise InputError("parts must be of the same corpus, with the same bigram; some differ")
        sums = a.token + b.token, a.pair + b.pair, a.before + b.before, a.positions + b.positions
        return ContextStatistics(a.bigram, *sums, a.digits)

    if not isinstance(parts, Iterable) or not getattr(parts, "ndim", 1):  # an array of no axis
        raise InputTypeError(f"parts must be a list of ContextStatistics; got {parts!r}")
    parts = list(parts)
    for part in parts:
        check_is("every entry of parts", part, ContextStatistics)
    if not parts:
        raise InputError("parts must hold at least one; got none")
    return reduce(plus, parts)


def mean_contexts(statistics: ContextStatistics) -> csr_array:
    """E[A_0 X | x], float64 [V,V]: row x sums to 1, or is empty if x is never an input.

    Raises:
      InputTypeError: `statistics` is not `ContextStatistics`.
    """
    check_is("statistics", statistics, ContextStatistics)
    return normalized(statistics.token)


def normalized(matrix: csr_array) -> csr_array:
    """The matrix in float64 with rows that sum to 1; an empty row stays empty."""
    sums = np.maximum(matrix.sum(axis=1), 1)
    data = matrix.data / np.repeat(sums, np.diff(matrix.indptr))
    return csr_array((data, matrix.indices, matrix.indptr), shape=matrix.shape)


def as_source(data: CorpusLike, vocab_size: int | None, mask: ArrayLike | None) -> Sequences:
    """The corpus as `Sequences`, which are not read yet."""
    if isinstance(data, Sequences):
        if mask is not None:
            raise InputError(f"mask must be left out: a {type(data).__name__} has its own")
        if vocab_size not in (None, data.vocab_size):
            raise InputError(
                f"vocab_size must be left out, or that of the data, {data.vocab_size}; "
                f"got {vocab_size!r}"
            )
        return data
    tokens, valid, V = check_corpus(data, vocab_size, mask)
    if is_hidden(tokens) or is_hidden(valid):
        raise InputError("data must be in memory: contexts are summed outside of transformations")
    return _Arrays(np.asarray(tokens), np.asarray(valid), V)


def read_blocks(source: Sequences, sequences: range | None) -> Iterator[Block]:
    """The valid positions of the sequences, a block at a time; empty blocks are left out."""
    N, T = source.num_sequences, source.seq_len
    if sequences is None:
        sequences = range(N)
    check_is("sequences", sequences, range)
    if sequences.step != 1 or sequences.start < 0 or sequences.stop > N:
        raise InputError(
            f"sequences must be a range with step 1 within the {N} sequences; got {sequences}"
        )
    size = max(1, _BLOCK_PAIRS // (T * (T + 1) // 2))
    for first in range(sequences.start, sequences.stop, size):
        block = lay_out(*source.read(first, min(first + size, sequences.stop)), source.vocab_size)
        if block.x.size:
            yield block


def _pairs(block: Block, vocab_size: int) -> Int[np.ndarray, " M"]:
    """x V + y of every position."""
    return block.x.astype(np.int64) * vocab_size + block.y


def _third_in_a_row(block: Block) -> Int[np.ndarray, " m"]:
    """Positions whose two tokens before them stand directly before them, in the same sequence."""
    at = np.arange(2, block.x.size)
    near = block.place[at].astype(np.int64) - block.place[at - 2] == 2
    return at[near & (block.first[at] == block.first[at - 2])]


def _smallest_kept(counts: np.ndarray, V: int, T: int, max_entries: int) -> int:
    """The smallest count of a pair such that all pairs with at least this count fit the limit."""
    sizes, number = np.unique(counts, return_counts=True)
    entries = np.cumsum((number * np.minimum(V, sizes * T))[::-1])[::-1]
    fits = sizes[entries <= max_entries]
    return int(fits[0]) if fits.size else int(np.max(counts, initial=0)) + 1


def _sum_rows(
    block: Block,
    weights: Int[np.ndarray, " M"],
    positions: Int[np.ndarray, " m"],
    rows: Int[np.ndarray, " m"],
    shape: tuple[int, int],
) -> csr_array:
    """Row r: the sum of the contexts of those positions whose entry of `rows` is r."""
    order = np.argsort(rows, kind="stable")
    used, start = np.unique(rows[order], return_index=True)
    start = np.append(start, rows.size)
    parts = _PARTS * num_threads()
    cuts = np.searchsorted(start, np.linspace(0, rows.size, parts + 1)[1:-1])
    cuts = np.minimum([0, *cuts, used.size], used.size).tolist()
    add = partial(_add, start, positions[order], block.x, block.first, weights, shape[1])
    found = run(add, [(a, b) for a, b in itertools.pairwise(cuts) if a < b])
    if not found:
        return csr_array(shape, dtype=np.int64)
    sizes, columns, values = (np.concatenate(each) for each in zip(*found, strict=True))
    lengths = np.zeros(shape[0] + 1, np.int64)
    lengths[used + 1] = sizes
    return csr_array((values, columns, np.cumsum(lengths)), shape=shape)


@compiled
def _add(start, positions, x, first, weights, vocab_size, low, high):
    """Sums the rows from `low` to `high`, each in a dense vector, which stays in cache."""
    row, touched = np.zeros(vocab_size, np.int64), np.empty(vocab_size, np.int32)
    sizes = np.empty(high - low, np.int64)
    columns, values = np.empty(vocab_size, np.int32), np.empty(vocab_size, np.int64)
    used = 0
    for r in range(low, high):
        number = 0
        for t in positions[start[r] : start[r + 1]]:
            keys, weight = x[first[t] : t + 1], weights[t]
            for i in range(keys.size):
                if row[keys[i]] == 0:
                    touched[number] = keys[i]
                    number += 1
                row[keys[i]] += weight
        if used + number > columns.size:  # room for as many again and this row
            columns = np.append(columns, np.empty(columns.size + number, np.int32))
            values = np.append(values, np.empty(values.size + number, np.int64))
        for c in np.sort(touched[:number]):
            columns[used], values[used] = c, row[c]
            used += 1
            row[c] = 0
        sizes[r - low] = number
    return sizes, columns[:used], values[:used]


def without_bigrams(
    statistics: ContextStatistics, pairs: Iterable[tuple[int, int]]
) -> ContextStatistics:
    """The statistics of a text without the positions that have input x and target y.

    The tokens still stand in contexts, and before other pairs: only the positions' losses are left
    out, as if a mask hid them. The entries of `bigram` stay, with count 0, so that arrays have the
    same shapes. The numbers of positions by their keys, `positions`, stay too.

    Args:
      statistics: of the text, with the contexts of these pairs.
      pairs: of input and target.

    Raises:
      InputError: a pair does not occur.
      InputTypeError: `statistics` is not `ContextStatistics`.

    Cost: a copy of the counts, and of the contexts of tokens.
    """
    check_is("statistics", statistics, ContextStatistics)
    bigram, token, pair = statistics.bigram.copy(), statistics.token.copy(), statistics.pair
    columns, counts = bigram.indices, bigram.data
    V = bigram.indptr.size - 1
    for x, y in pairs:
        x, y = (check_integer("pairs", of, minimum=0, maximum=V - 1) for of in (x, y))
        of_input = slice(*bigram.indptr[x : x + 2])
        entry = of_input.start + int(np.searchsorted(columns[of_input], y))
        if entry == of_input.stop or columns[entry] != y or not counts[entry]:
            raise InputError(f"pairs must occur in the text; token {y} never follows token {x}")
        counts[entry] = 0
        of_pair, of_token = slice(*pair.indptr[entry : entry + 2]), slice(*token.indptr[x : x + 2])
        context = np.zeros(V, np.int64)
        context[pair.indices[of_pair]] = pair.data[of_pair]
        token.data[of_token] -= context[token.indices[of_token]]
    return statistics._replace(bigram=bigram, token=token)
