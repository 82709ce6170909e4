"""Sums over all positions of a corpus, and over its pairs of positions, exact in float32 too.

Sequences pass in blocks whose working set stays in cache. A corpus may be large (10^8 tokens and
more), and a text has pairs of tokens that meet millions of times; its sums keep their digits in
three ways. Counts are 32-bit integers, exact up to 2^31 positions. A weight, of those that sum to 1
at a position, is added as two words: a multiple of a unit so coarse that sums of it are exact
within a chunk of sequences however it comes, and the remainder, as the real and the imaginary part
of one number, so that one scatter-add does for both. Whether a multiple is rounded up or down is by
chance (`dither`): so remainders have mean zero, and sums of them, which do round, stay small. Sums
of chunks are added into pairs of floats (value and rounding error, Knuth's two-sum). In float64 one
word is enough.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, DTypeLike, Float, Inexact, Int, Int32, Shaped

from assocjax.checks import check_tokens, is_traced
from assocjax.errors import InputError

_BLOCK_PAIRS = 1 << 15  # (query, key) pairs a block: their indices and weights stay in cache
_CHUNK_PAIRS = 1 << 19  # the least number of pairs that a chunk should have
_CHUNK_POSITIONS = 1 << 21  # the largest number of them: the more, the coarser is the unit
_DIVIDED_PAIRS = 1 << 24  # below, sums take no longer than to divide them
_LARGEST_VOCAB = 46_340  # V^2 must fit a 32-bit index
_PARTS = 2  # of the rows of pairs
_LARGEST_SEQ_LEN = 8_192  # a block holds at least the T^2 / 2 pairs of one sequence


def check_corpus(
    tokens: ArrayLike, mask: ArrayLike | None, vocab_size: int
) -> tuple[Int32[Array, "N T+1"], Bool[Array, "N T"]]:
    """As `check_tokens`, and that V and T are not too large for these sums."""
    tokens, mask = check_tokens(tokens, mask, vocab_size)
    for name, size, largest in (
        ("vocab_size", vocab_size, _LARGEST_VOCAB),
        ("the number of positions in tokens", mask.shape[1], _LARGEST_SEQ_LEN),
    ):
        if size > largest:
            raise InputError(f"{name} must be at most {largest}; got {size}")
    return tokens, mask


def causal_pairs(T: int) -> tuple[Int32[Array, " pairs"], Int32[Array, " pairs"]]:
    """The T (T+1) / 2 pairs (query position, key position <= it), ordered by query."""
    t = jnp.arange(T, dtype=jnp.int32)
    q = jnp.repeat(t, t + 1, total_repeat_length=T * (T + 1) // 2)
    return q, jnp.arange(len(q), dtype=jnp.int32) - q * (q + 1) // 2


class Folded(NamedTuple):
    """Values at T positions, for the pairs of a query and a key at or before it.

    The pairs of a sequence fill a rectangle [T/2, T+1]: row r has the keys 0..r of query r, then
    the keys T-1-r..0 of query T-1-r. So what a pair reads of its query and of its key are two
    selections (`Rows`); lists of pairs would take a gather each.
    """

    queries: tuple[Array, Array]  # [block, T/2]: of the first query of each row, of the second
    keys: tuple[Array, Array]  # [block, T+1]: in the order of the first, of the second


class Rows(NamedTuple):
    """Some rows of the rectangle of pairs."""

    of_first: Bool[Array, "rows T+1"]  # is it a pair of the first query of its row

    def queries(self, first: Array, second: Array) -> Shaped[Array, "block rows T+1"]:
        """`Folded.queries` of these rows, [block, rows] each, for every pair."""
        return jnp.where(self.of_first[None], first[:, :, None], second[:, :, None])

    def keys(self, first: Array, second: Array) -> Shaped[Array, "block rows T+1"]:
        """`Folded.keys` for every pair."""
        return jnp.where(self.of_first[None], first[:, None], second[:, None])

    def sum_keys(self, pairs: Shaped[Array, "block rows T+1"]) -> tuple[Array, Array]:
        """The sum over the keys of each query, as `Folded.queries` of these rows."""
        of_first = self.of_first[None]
        first = jnp.sum(jnp.where(of_first, pairs, 0), axis=-1)
        return first, jnp.sum(jnp.where(of_first, 0, pairs), axis=-1)

    def dither(self, queries: tuple[Array, Array]) -> Float[Array, "block rows T+1"]:
        """`pair_dither`, from `Folded.queries` of the dither of positions."""
        T = self.of_first.shape[1] - 1
        return pair_dither(self.queries(*queries), self.keys(*fold(jnp.arange(T)[:, None]).keys))


def foldable(
    tokens: Int32[Array, "N T+1"], mask: Bool[Array, "N T"]
) -> tuple[Int32[Array, "N foldable+1"], Bool[Array, "N foldable"]]:
    """With masked positions more, so that they can be folded and `map_rows` divides them."""
    more = ((0, 0), (0, -mask.shape[1] % (2 * _PARTS)))
    return jnp.pad(tokens, more), jnp.pad(mask, more)


def fold(values: Shaped[Array, "T block"]) -> Folded:
    half, values = len(values) // 2, values.T
    reverse = values[:, ::-1]
    keys = (values, values[:, :1]), (values[:, :1], reverse)
    first, second = (jnp.concatenate(parts, axis=1) for parts in keys)
    return Folded((values[:, :half], reverse[:, :half]), (first, second))


def map_rows(function: Callable, queries: Any) -> Any:
    """`function(rows, queries)` of all pairs, given `Folded.queries`: a tree of [parts, ..., 1].

    The rows are divided in parts, and a loop goes over them. What a loop gives is in memory as it
    was computed, row by row; without one, XLA for CPUs computes the index and the value of a
    scatter-add at its place in the list of pairs, with a division for each, and nothing in vectors.
    """
    block, half = jax.tree.leaves(queries)[0].shape

    def divided(a):
        return jnp.swapaxes(a.reshape(block, _PARTS, -1), 0, 1)

    row = jnp.arange(half, dtype=jnp.int32).reshape(_PARTS, -1, 1)
    key = jnp.arange(2 * half + 1, dtype=jnp.int32)[None]
    parts = row, jax.tree.map(divided, queries)

    def of_part(part):
        row, queries = part
        return jax.tree.map(lambda a: a[..., None], function(Rows(key <= row), queries))

    return lax.map(of_part, parts)


def count_keys(valid: Bool[Array, "T block"], dtype: DTypeLike) -> Float[Array, "T block"]:
    """Valid keys at or before each position; 1 where there are none, so that it can divide."""
    return jnp.maximum(jnp.cumsum(valid, axis=0), 1).astype(dtype)


def centred_counts(
    counts: Int32[Array, "V V"], totals: Int32[Array, " V"], dtype: DTypeLike
) -> Float[Array, "V V"]:
    """Counts minus the mean of their row, which sums to totals."""
    # Centred as integers: where a text is near chance, little is left of large counts.
    quotient, remainder = jnp.divmod(totals, counts.shape[1])
    surplus = (counts - quotient[:, None]).astype(dtype)
    return surplus - (remainder.astype(dtype) / counts.shape[1])[:, None]


class Division(NamedTuple):
    """How sequences are summed: in `chunks` times `chunk` blocks of `block` sequences."""

    block: int
    chunk: int
    chunks: int
    unit: float  # of words


def divide(mask: Bool[Array, "N T"], vocab_size: int, values_per_pair: int = 1) -> Division:
    """The division of N sequences, of which `values_per_pair` values are added for each pair.

    The more values there are, the fewer sequences make a block.
    """
    N, T = mask.shape
    pairs = T * (T + 1) // 2
    # What ends a chunk costs V^2: so much work, at least, stands between two ends.
    per_chunk = max(8 * vocab_size**2, _CHUNK_PAIRS) // pairs
    per_chunk = max(1, min(per_chunk, _CHUNK_POSITIONS // T))
    block = max(1, min(N, per_chunk, _BLOCK_PAIRS // (pairs * values_per_pair)))
    blocks = -(-N // block)
    chunks = -(-blocks // max(1, per_chunk // block))
    chunk = -(-blocks // chunks)  # even, so that little of the last one is padding
    # Sums are exact up to 2^24 units, even of weights of 1 at every position of a chunk.
    return Division(block, chunk, chunks, 2.0 ** ((chunk * block * T).bit_length() - 24))


def zero_words(shape: tuple[int, ...], dtype: DTypeLike) -> Inexact[Array, "*shape"]:
    return jnp.zeros(shape, dtype if _is_double(dtype) else jnp.complex64)


def to_words(
    values: Float[Array, "*shape"], unit: float, dither: Float[Array, "*shape"]
) -> Inexact[Array, "*shape"]:
    """Values in [-1, 1] as they are in float64; in float32 as multiple of unit + i remainder."""
    if _is_double(values.dtype):
        return values
    multiple = lax.stop_gradient(jnp.floor(values / unit + dither)) * unit
    return lax.complex(multiple, values - multiple)


def _is_double(dtype: DTypeLike) -> bool:
    return jnp.finfo(dtype).bits >= 64


def pair_dither(query: Float[Array, "*shape"], key: Int[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The dither of pairs, from that of the position of the query and the place of the key.

    Keys of a query have each their own: a token that is there many times adds as many remainders
    to one sum.
    """
    multiples = key.astype(jnp.float32) * np.float32(2**0.5)
    total = query + multiples
    return total - jnp.floor(total)


def _dither(N: int, T: int) -> Float[Array, "N T"]:
    """As if drawn from [0, 1), for each position: multiples of the golden ratio, modulo 1."""
    multiples = lax.iota(jnp.uint32, N * T) * np.uint32(0x9E3779B9)
    return ((multiples >> 8).astype(jnp.float32) * 2.0**-24).reshape(N, T)


def add_at(
    sums: Shaped[Array, " size"], index: Int32[Array, "*shape 1"], values: Shaped[Array, "*shape 1"]
) -> Shaped[Array, " size"]:
    """Adds values at indices.

    In this form XLA for CPUs reads indices and values where they are; it copies what
    `sums.at[index].add` makes of them.
    """
    window = lax.ScatterDimensionNumbers((index.ndim - 1,), (), (0,))
    in_bounds = lax.GatherScatterMode.PROMISE_IN_BOUNDS  # as `check_corpus` has found
    return lax.scatter_add(sums, index, values, window, mode=in_bounds)


def sum_blocks(
    add_block: Callable,
    zeros: Any,
    division: Division,
    tokens: Int32[Array, "N T+1"],
    mask: Bool[Array, "N T"],
    *,
    prepare: Callable = lambda *block: block,
) -> Any:
    """Adds up `add_block` over all sequences: blocks in place, chunks of blocks by two-sums.

    Args:
      add_block: from sums and a block, as `prepare` returns it, to new sums.
      zeros: the sums to start from, a tree of counts (integers) and words (`zero_words`).
      division: of these sequences, by `divide`; words have its unit.
      prepare: of inputs, targets, mask and dither, each [T, block], what `add_block` needs of them.
        It is called for all blocks of a chunk at once: small arrays cost less so than in a loop.

    Returns:
      The tree of sums: counts, and values of words put together.
    """
    block, chunk, chunks, _ = division
    N, T = mask.shape
    padding = chunks * chunk * block - N

    def blocked(a):  # [N, T] -> [chunks, chunk, T, block]; padding sequences are masked
        a = jnp.pad(a, ((0, padding), (0, 0)))
        return a.reshape(chunks, chunk, block, T).swapaxes(2, 3)

    sequences = jax.tree.map(blocked, (tokens[:, :-1], tokens[:, 1:], mask, _dither(N, T)))

    def sum_chunk(sequences):
        prepared = jax.vmap(prepare)(*sequences)
        return lax.scan(lambda sums, b: (add_block(sums, b), None), zeros, prepared)[0]

    if chunks == 1:
        return jax.tree.map(_join, sum_chunk(jax.tree.map(lambda a: a[0], sequences)))

    def add_chunk(totals, sequences):
        return jax.tree.map(_add, totals, sum_chunk(sequences)), None

    totals, _ = lax.scan(add_chunk, jax.tree.map(_start, zeros), sequences)
    return jax.tree.map(_join, totals)


def _join(sums):
    return sums.real + sums.imag if jnp.iscomplexobj(sums) else sums


def _start(zeros):
    """Counts as they are; total + i error of words: of one array, one pass does the two-sums."""
    return lax.complex(zeros, zeros) if jnp.issubdtype(zeros.dtype, jnp.floating) else zeros


def _add(totals, sums):
    """Adds the sums of a chunk: counts as they are, words by two-sums."""
    if not jnp.issubdtype(sums.dtype, jnp.inexact):
        return totals + sums
    total, error = totals.real, totals.imag
    for word in (sums.real, sums.imag) if jnp.iscomplexobj(sums) else (sums,):
        total, error = two_sum(total, error, word)
    return lax.complex(total, error)


def over_devices(function: Callable, tokens: Array, mask: Array, *shared: Array) -> Any:
    """`function(tokens, mask, *shared)`, a tree of sums over sequences, by all local devices.

    Each device sums a share of the sequences, if there are enough for that to pay; on a CPU, whose
    scatter-adds use one core, devices are cores. In a transformation the caller's device does all.
    """
    devices = jax.local_devices()
    N, T = mask.shape
    if is_traced(tokens) or any(map(is_traced, (mask, *shared))) or N * T * T < _DIVIDED_PAIRS:
        devices = devices[:1]
    if len(devices) == 1:
        return function(tokens, mask, *shared)
    share = -(-N // len(devices))
    padding = ((0, share * len(devices) - N), (0, 0))  # masked sequences: one program for all
    padded = [np.pad(np.asarray(a), padding) for a in (tokens, mask)]
    parts = [
        function(*jax.device_put((*(a[i : i + share] for a in padded), *shared), device))
        for i, device in zip(range(0, share * len(devices), share), devices, strict=True)
    ]
    # Through the host, so that the result is bound to no device.
    return jax.tree.map(lambda *sums: jnp.asarray(sum(map(np.asarray, sums))), *parts)


def two_sum(total: Array, error: Array, x: Array) -> tuple[Array, Array]:
    """Adds x to the unevaluated sum total + error, in twice the working precision."""
    new = total + x
    shift = new - total
    error = error + ((total - (new - shift)) + (x - shift))  # what `new` has rounded off
    normal = new + error
    return normal, error - (normal - new)
