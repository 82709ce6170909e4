"""Scatter-adds over the positions of a corpus and over their keys, in JAX.

For arrays that are traced, such as a minibatch under `jit` and `vmap`, or not in host memory.
Counts are 32-bit integers; sums of real numbers have the rounding errors of their dtype.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, DTypeLike, Float, Int32

_BLOCK_PAIRS = 1 << 18  # pairs of positions in a block, so that its arrays stay in cache


def sum_blocks(
    add_block: Callable, zeros: Any, tokens: Int32[Array, "N T+1"], mask: Bool[Array, "N T"]
) -> Any:
    """Applies `sums = add_block(sums, x, y, mask)` to blocks of sequences, each [n, T]."""
    N, T = mask.shape
    size = max(1, min(N, _BLOCK_PAIRS // T**2))

    def blocks(a):
        return jnp.pad(a, ((0, -N % size), (0, 0))).reshape(-1, size, T)

    each = tuple(map(blocks, (tokens[:, :-1], tokens[:, 1:], mask)))
    return lax.scan(lambda sums, block: (add_block(sums, *block), None), zeros, each)[0]


def attention(mask: Bool[Array, "n T"], dtype: DTypeLike) -> Float[Array, "n T T"]:
    """A_0: 1 / (number of valid keys) at the valid keys of each valid query."""
    T = mask.shape[-1]
    num_keys = jnp.maximum(jnp.cumsum(mask, axis=-1), 1)[..., None].astype(dtype)
    pair = mask[..., :, None] & mask[..., None, :] & jnp.tri(T, dtype=bool)[None]
    return jnp.where(pair, 1 / num_keys, 0)


def at_pairs(
    matrix: Float[Array, "V V"], rows: Int32[Array, "n T"], columns: Int32[Array, "n T"]
) -> Any:
    """The entries [rows[n,t], columns[n,k]] of a matrix, [n,T,T], to be read or added to."""
    return matrix.at[rows[:, :, None], columns[:, None, :]]


def count_bigrams(
    tokens: Int32[Array, "N T+1"], mask: Bool[Array, "N T"], vocab_size: int
) -> Int32[Array, "V V"]:
    """Entry [i,j]: number of valid positions with input i and target j."""
    counts = jnp.zeros((vocab_size, vocab_size), jnp.int32)
    return counts.at[tokens[:, :-1], tokens[:, 1:]].add(mask.astype(jnp.int32))


def sum_contexts(
    tokens: Int32[Array, "N T+1"], mask: Bool[Array, "N T"], vocab_size: int
) -> Float[Array, "V V"]:
    """Entry [j,i]: the sum of A_0[t,k] over pairs with target y_t = j and key x_k = i."""
    dtype = jnp.result_type(float)

    def add_block(sums, x, y, mask):
        return at_pairs(sums, y, x).add(attention(mask, dtype))

    return sum_blocks(add_block, jnp.zeros((vocab_size, vocab_size), dtype), tokens, mask)


def sum_correlations(
    tokens: Int32[Array, "N T+1"], mask: Bool[Array, "N T"], matrix: Float[Array, "V V"]
) -> tuple[Float[Array, "V V"], Float[Array, " T"]]:
    """As `loops.sum_correlations`."""
    T = mask.shape[1]

    def add_block(sums, x, y, mask):
        query_key, pairs = sums
        A_0, m = attention(mask, matrix.dtype), at_pairs(matrix, y, x).get()
        D = A_0 * (m - jnp.sum(A_0 * m, axis=-1, keepdims=True))
        return at_pairs(query_key, x, x).add(D), pairs + jnp.sum(D, axis=0)

    zeros = jnp.zeros_like(matrix), jnp.zeros((T, T), matrix.dtype)
    query_key, pairs = sum_blocks(add_block, zeros, tokens, mask)
    lag = jnp.arange(T)[:, None] - jnp.arange(T)[None]
    # Pairs with a negative lag, keys after their query, are zero.
    return query_key, jax.ops.segment_sum(pairs.ravel(), jnp.maximum(lag, 0).ravel(), T)


def centred_counts(
    counts: Int32[Array, "V V"], totals: Int32[Array, " V"], dtype: DTypeLike
) -> Float[Array, "V V"]:
    """Counts minus the mean of their row; `totals` are the sums of rows."""
    # Centred as integers, since large counts may nearly cancel where a text is near chance.
    quotient, remainder = jnp.divmod(totals, counts.shape[1])
    surplus = (counts - quotient[:, None]).astype(dtype)
    return surplus - (remainder.astype(dtype) / counts.shape[1])[:, None]
