"""Sums over all positions of a corpus, and over its pairs of positions, exact in float32 too.

Sequences pass in blocks whose working set stays in cache. A corpus may be large (10^8 tokens and
more); its sums stay exact in three ways. Counts are 32-bit integers, exact up to 2^31 positions. A
weight is added as two words: a multiple of a fixed unit, so coarse that sums of it are exact within
a chunk of sequences, and the small remainder. Chunks are added into pairs of floats (value and
rounding error, Knuth's two-sum). In float64 one word is enough.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, DTypeLike, Float, Int32

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


def zero_words(shape: tuple[int, ...], dtype: DTypeLike) -> Float[Array, "*shape words"]:
    return jnp.zeros((*shape, 1 if jnp.finfo(dtype).bits >= 64 else 2), dtype)


def to_words(values: Float[Array, "*shape"], unit: ArrayLike) -> Float[Array, "*shape words"]:
    """Values as words that add up to them: one in float64; in float32 (multiple of unit, rest)."""
    if jnp.finfo(values.dtype).bits >= 64:
        return values[..., None]
    coarse = lax.stop_gradient(jnp.round(values / unit) * unit)
    return jnp.stack([coarse, values - coarse], axis=-1)


def sum_blocks(
    add_block: Callable,
    zeros: Any,
    vocab_size: int,
    tokens: Int32[Array, "N T+1"],
    mask: Bool[Array, "N T"],
    *,
    values_per_pair: int = 1,
) -> Any:
    """Adds up `add_block` over all sequences: blocks in place, chunks of blocks by two-sums.

    Args:
      add_block: from sums and a block (inputs, targets, mask), each [T, block], to new sums.
      zeros: the sums to start from, a tree of counts (integers) and words (`zero_words`).
      values_per_pair: so many values are added for each pair of positions; the more there are, the
        fewer sequences make a block.

    Returns:
      The tree of sums: counts, and values of words put together, without their last axis.
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
        return lax.scan(lambda sums, b: (add_block(sums, b), None), zeros, sequences)[0]

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
    return jnp.sum(sums, axis=-1) if jnp.issubdtype(sums.dtype, jnp.floating) else sums


def _add_words(total, error, sums):
    """Adds the sums of a chunk to total + error: counts as they are, words by two-sums."""
    if not jnp.issubdtype(sums.dtype, jnp.floating):
        return total + sums, error
    for word in range(sums.shape[-1]):
        total, error = two_sum(total, error, sums[..., word])
    return total, error


def two_sum(total: Array, error: Array, x: Array) -> tuple[Array, Array]:
    """Adds x to the unevaluated sum total + error, in twice the working precision."""
    new = total + x
    shift = new - total
    error = error + ((total - (new - shift)) + (x - shift))  # what `new` has rounded off
    normal = new + error
    return normal, error - (normal - new)
