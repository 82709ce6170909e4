"""Sums over all positions of a corpus, and over its pairs of positions, exact in float32 too.

Sequences pass in blocks whose working set stays in cache. A corpus may be large (10^8 tokens and
more); its sums stay exact in three ways. Counts are 32-bit integers, exact up to 2^31 positions. A
weight is added as two words: a multiple of a fixed unit, so coarse that sums of it are exact within
a chunk of sequences, and the small remainder, as the real and the imaginary part of one number, so
that one scatter-add does for both. Chunks are added into pairs of floats (value and rounding error,
Knuth's two-sum). In float64 one word is enough.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, DTypeLike, Float, Inexact, Int32, Shaped

from assocjax.checks import check_tokens, is_traced
from assocjax.errors import InputError

ATTENTION_UNIT = 2.0**-10  # of attention weights, which sum to at most 1 at a position
_BLOCK_PAIRS = 1 << 15  # (query, key) pairs a block: their indices and weights stay in cache
_CHUNK_POSITIONS = 1 << 14  # a chunk's sums of ATTENTION_UNIT are exact up to 2^24 units
_CHUNK_PAIRS = 1 << 19  # a chunk's sums of remainders are not, and must not be of too many
_DIVIDED_PAIRS = 1 << 24  # below, sums take no longer than to divide them
_LARGEST_VOCAB = 46_340  # V^2 must fit a 32-bit index
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
    """Values at T positions (T even), for the pairs of a query and a key at or before it.

    The pairs fill a rectangle [T/2, T+1]: row r has the keys 0..r of query r, then the keys
    T-1-r..0 of query T-1-r. So what a pair reads of its query and of its key are two selections
    (`of_queries`, `of_keys`); lists of pairs would take a gather each.
    """

    queries: tuple[Array, Array]  # [T/2, ...]: of the first query of each row, and of the second
    keys: tuple[Array, Array]  # [T+1, ...]: in the order of the first, and of the second


def even_positions(
    tokens: Int32[Array, "N T+1"], mask: Bool[Array, "N T"]
) -> tuple[Int32[Array, "N even+1"], Bool[Array, "N even"]]:
    """With a masked position more where T is odd, so that they can be folded."""
    odd = ((0, 0), (0, mask.shape[1] % 2))
    return jnp.pad(tokens, odd), jnp.pad(mask, odd)


def fold(values: Shaped[Array, "T *shape"]) -> Folded:
    half, reverse = len(values) // 2, values[::-1]
    keys = jnp.concatenate([values, values[:1]]), jnp.concatenate([values[:1], reverse])
    return Folded((values[:half], reverse[:half]), keys)


def of_queries(first: Array, second: Array) -> Shaped[Array, "half T+1 *shape"]:
    """`Folded.queries`, for every pair."""
    return _select(first[:, None], second[:, None], len(first))


def of_keys(first: Array, second: Array) -> Shaped[Array, "half T+1 *shape"]:
    """`Folded.keys`, for every pair."""
    return _select(first[None], second[None], len(first) // 2)


def sum_keys(pairs: Shaped[Array, "half T+1 *shape"]) -> tuple[Array, Array]:
    """The sum over the keys of each query, as `Folded.queries`."""
    zero, half = jnp.zeros((), pairs.dtype), len(pairs)
    return (
        jnp.sum(_select(pairs, zero, half), axis=1),
        jnp.sum(_select(zero, pairs, half), axis=1),
    )


def _select(first, second, half: int):
    of_first = np.arange(2 * half + 1) <= np.arange(half)[:, None]
    ndim = max(jnp.ndim(first), jnp.ndim(second))
    return jnp.where(of_first.reshape(*of_first.shape, *[1] * (ndim - 2)), first, second)


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


def zero_words(shape: tuple[int, ...], dtype: DTypeLike) -> Inexact[Array, "*shape"]:
    return jnp.zeros(shape, dtype if jnp.finfo(dtype).bits >= 64 else jnp.complex64)


def to_words(values: Float[Array, "*shape"], unit: ArrayLike) -> Inexact[Array, "*shape"]:
    """Values as they are in float64; in float32 as multiple of unit + i rest."""
    if jnp.finfo(values.dtype).bits >= 64:
        return values
    coarse = lax.stop_gradient(jnp.round(values / unit) * unit)
    return lax.complex(coarse, values - coarse)


def sum_blocks(
    add_block: Callable,
    zeros: Any,
    vocab_size: int,
    tokens: Int32[Array, "N T+1"],
    mask: Bool[Array, "N T"],
    *,
    prepare: Callable = lambda *block: block,
    values_per_pair: int = 1,
) -> Any:
    """Adds up `add_block` over all sequences: blocks in place, chunks of blocks by two-sums.

    Args:
      add_block: from sums and a block, as `prepare` returns it, to new sums.
      zeros: the sums to start from, a tree of counts (integers) and words (`zero_words`).
      prepare: of inputs, targets and mask, each [T, block], what `add_block` needs of them. It is
        called for all blocks of a chunk at once: small arrays cost less so than in a loop.
      values_per_pair: so many values are added for each pair of positions; the more there are, the
        fewer sequences make a block.

    Returns:
      The tree of sums: counts, and values of words put together.
    """
    N, T = mask.shape
    pairs = T * (T + 1) // 2
    # A two-sum costs V^2: so much work, at least, stands between two of them.
    exact = min(_CHUNK_POSITIONS // T, _CHUNK_PAIRS // pairs)
    per_chunk = max(1, 2 * vocab_size**2 // pairs, exact)
    block = max(1, min(N, per_chunk, _BLOCK_PAIRS // (pairs * values_per_pair)))
    blocks = -(-N // block)
    chunks = -(-blocks // max(1, per_chunk // block))
    chunk = -(-blocks // chunks)  # even, so that little of the last one is padding
    padding = chunks * chunk * block - N

    def blocked(a):  # [N, T] -> [chunks, chunk, T, block]; padding sequences are masked
        a = jnp.pad(a, ((0, padding), (0, 0)))
        return a.reshape(chunks, chunk, block, T).swapaxes(2, 3)

    sequences = jax.tree.map(blocked, (tokens[:, :-1], tokens[:, 1:], mask))

    def sum_chunk(sequences):
        prepared = jax.vmap(prepare)(*sequences)
        return lax.scan(lambda sums, b: (add_block(sums, b), None), zeros, prepared)[0]

    if chunks == 1:
        return jax.tree.map(_join_words, sum_chunk(jax.tree.map(lambda a: a[0], sequences)))

    def add_chunk(carry, sequences):
        sums = jax.tree.map(_add_words, *carry, sum_chunk(sequences))
        return jax.tree.transpose(jax.tree.structure(zeros), jax.tree.structure((0, 0)), sums), None

    start = jax.tree.map(_join_words, zeros)
    (total, error), _ = lax.scan(add_chunk, (start, start), sequences)
    return jax.tree.map(jnp.add, total, error)


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


def _join_words(sums):
    return jnp.real(sums) + jnp.imag(sums) if jnp.iscomplexobj(sums) else sums


def _add_words(total, error, sums):
    """Adds the sums of a chunk to total + error: counts as they are, words by two-sums."""
    if not jnp.issubdtype(sums.dtype, jnp.inexact):
        return total + sums, error
    for word in (jnp.real(sums), jnp.imag(sums)) if jnp.iscomplexobj(sums) else (sums,):
        total, error = two_sum(total, error, word)
    return total, error


def two_sum(total: Array, error: Array, x: Array) -> tuple[Array, Array]:
    """Adds x to the unevaluated sum total + error, in twice the working precision."""
    new = total + x
    shift = new - total
    error = error + ((total - (new - shift)) + (x - shift))  # what `new` has rounded off
    normal = new + error
    return normal, error - (normal - new)
