"""Moments of what stands before a token: all of a corpus that the effective theory reads.

With x = tokens[:, :-1], y = tokens[:, 1:], one-hots X and Y, residual R = Y - 1/V and uniform
causal attention A_0 (row t holds 1/(t+1) at positions 0..t), the context at depth k is the mean of
those of depth k-1 up to a position:

    Z_k  = A_0^k X                         k = 0..L         Z_0 = X
    Phi_k = (1/M) sum_n R^T Z_k            Phi_0 = B^T      Phi_1 = Phi
    C_jk = (1/M) sum_n Z_j^T Z_k           C_00 = diag(f)   C_0k = diag(f) E[Z_k | x]

With P_jk = (A_0^j)^T A_0^k, C_jk is a sum of P_jk[s,s'] over the pairs of positions at which tokens
x_s and x_s' stand, and P_0k is A_0^k. Products with A_0 and A_0^T are running sums, forward and
backward, so no one-hot array or product of T x T matrices is needed.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, DTypeLike, Float, Int32

from assocjax.arguments import LARGEST_DEPTH, check_integer, check_is
from assocjax.linalg import matmul
from assocjax.sums import (
    causal_pairs,
    centred_counts,
    check_corpus,
    count_keys,
    divide,
    pair_dither,
    sum_blocks,
    to_words,
    zero_words,
)


@struct.dataclass
class EffectiveStatistics:
    """All that the effective theory of L layers reads of a corpus; K = L + 1.

    `context[k]` is Phi_k, k = 0..L. `frequency` is f, the share of valid positions whose input is
    token x. Row x of `conditional_mean[k-1]` is E[Z_k | x], k = 1..L: it sums to 1, or is zero for
    a token that is no input. `conditional_covariance[j-1,k-1]` is the covariance of the rows of
    Z_j and Z_k given the input, in the mean over inputs, C_jk - C_0j^T diag(1/f) C_0k; its rows and
    columns sum to 0 and [j,k] is the transpose of [k,j], exactly. `num_positions` is M.
    """

    context: Float[Array, "K V V"]
    frequency: Float[Array, " V"]
    conditional_mean: Float[Array, "L V V"]
    conditional_covariance: Float[Array, "L L V V"]
    num_positions: Int32[Array, ""]


def effective_statistics(
    tokens: ArrayLike, vocab_size: int, depth: int, mask: ArrayLike | None = None
) -> EffectiveStatistics:
    """Computes the moments of a corpus through which the effective theory of L layers sees it.

    A masked position is neither a query nor a key nor a target, as in `corpus_statistics`.

    Args:
      tokens: integer array [N, T+1]; inputs are `tokens[:, :-1]`, targets `tokens[:, 1:]`.
      vocab_size: V, static.
      depth: L, the number of layers, static; the first layers of these statistics are those of a
        smaller depth.
      mask: boolean array [N, T], False where the input or the target is padding.

    Returns:
      `EffectiveStatistics` in JAX's default floating dtype.

    Raises:
      InputError: depth < 1, wrong shapes, token ids outside [0, V), no valid position,
        V > 46,340 or T > 8,192.
      InputTypeError: tokens or a depth that are no integers, or a mask that is not boolean.

    Cost: time N T^2 (L+1)^2 / 2 scatter-adds + L^2 V^3, memory about 7 (L+1)^2 V^2 +
      2 (L+1)^2 T^2 + 3 N T words. Works under `jit` and `vmap`.
    Source: this package; the paper stops at the leading terms.
    """
    vocab_size = check_integer("vocab_size", vocab_size, minimum=2)
    depth = check_integer("depth", depth, minimum=1, maximum=LARGEST_DEPTH)
    tokens, mask = check_corpus(tokens, mask, vocab_size)
    return _effective_statistics(tokens, vocab_size, depth, mask)


def second_moments(statistics: EffectiveStatistics) -> Float[Array, "K K V V"]:
    """Puts C_jk = (1/M) sum_n Z_j^T Z_k together again, for j, k = 0..L.

        C_jk = conditional covariance + E[Z_j | x]^T diag(f) E[Z_k | x]

    Returns:
      [L+1,L+1,V,V]; entry [j,k] is the transpose of [k,j] up to rounding.

    Raises:
      InputTypeError: they are no `EffectiveStatistics`.

    Cost: (L+1)^2 V^3 multiply-adds. Source: this package; the paper stops at the leading terms.
    """
    check_is("statistics", statistics, EffectiveStatistics)
    return _second_moments(statistics)


@jax.jit
def _second_moments(statistics: EffectiveStatistics) -> Float[Array, "K K V V"]:
    f, mean = statistics.frequency, statistics.conditional_mean
    # A token knows itself: Z_0 given x is a one-hot, which does not vary.
    mean = jnp.concatenate([jnp.diag((f > 0).astype(f.dtype))[None], mean])
    within = jnp.pad(statistics.conditional_covariance, ((1, 0), (1, 0), (0, 0), (0, 0)))
    weighted = jnp.swapaxes(mean * f[None, :, None], 1, 2)
    return within + matmul(weighted[:, None], mean[None, :])


@partial(jax.jit, static_argnames=("vocab_size", "depth"))
def _effective_statistics(tokens, vocab_size: int, depth: int, mask) -> EffectiveStatistics:
    V, L, T = vocab_size, depth, mask.shape[1]
    q, k = causal_pairs(T)
    dtype = jnp.result_type(float)
    division = divide(mask, V, values_per_pair=L * (L + 2))
    # Pairs q >= k hold all of C_0k but only half of the other C_jk: as P_jk[k,q] = P_kj[q,k], their
    # other half is the transpose of this half of C_kj. The diagonal is in both.
    diagonal = (q == k)[:, None] & (jnp.arange(L + 1) > 0)[None, :]
    once = jnp.where(diagonal, 0.5, 1).astype(dtype)[:, None, :, None]

    def add_block(sums, block):
        bigram, inputs, context, moments = sums
        x, y, valid, dither = block  # [T, block]
        one = valid.astype(jnp.int32)
        weights = _pair_weights(valid, L, dtype)[q, k] * once
        chance = pair_dither(dither[q], k[:, None])[..., None, None]
        words = to_words(weights, division.unit, chance)  # [pairs, block, L+1, L]
        return (
            bigram.at[x * V + y].add(one),
            inputs.at[x].add(one),
            context.at[y[q] * V + x[k]].add(words[:, :, 0]),
            moments.at[x[q] * V + x[k]].add(words),
        )

    zeros = (
        jnp.zeros(V * V, jnp.int32),
        jnp.zeros(V, jnp.int32),
        zero_words((V * V, L), dtype),
        zero_words((V * V, L + 1, L), dtype),
    )
    bigram, inputs, context, moments = sum_blocks(add_block, zeros, division, tokens, mask)
    num_positions = jnp.sum(inputs)
    M = num_positions.astype(dtype)

    B = centred_counts(bigram.reshape(V, V), inputs, dtype) / M
    context = jnp.moveaxis(context.reshape(V, V, L), 2, 0) / M
    Phi = context - jnp.mean(context, axis=1, keepdims=True)
    moments = moments.reshape(V, V, L + 1, L)
    counts = jnp.maximum(inputs, 1).astype(dtype)  # no token is divided by zero
    C_0 = jnp.swapaxes(moments[:, :, 0], 1, 2).reshape(V, L * V)
    mean = C_0 / counts[:, None]
    C = moments[:, :, 1:].transpose(2, 0, 3, 1).reshape(L * V, L * V)
    half = C - matmul(C_0.T, mean) / 2
    covariance = ((half + half.T) / M).reshape(L, V, L, V)
    return EffectiveStatistics(
        context=jnp.concatenate([B.T[None], Phi]),
        frequency=inputs.astype(dtype) / M,
        conditional_mean=jnp.swapaxes(mean.reshape(V, L, V), 0, 1),
        conditional_covariance=covariance.swapaxes(1, 2),
        num_positions=num_positions,
    )


def _pair_weights(
    valid: Bool[Array, "T block"], depth: int, dtype: DTypeLike
) -> Float[Array, "T T block K L"]:
    """P_jk = (A_0^j)^T A_0^k of every sequence of a block, for j = 0..L and k = 1..L.

    Each position adds products of two rows of attention weights to P_jk, which sum to 1 as one row
    does: these weights can be words too.
    """
    one = valid.astype(dtype)[:, None]
    share = one / count_keys(valid, dtype)[:, None]
    power = jnp.eye(len(valid), dtype=dtype)[:, :, None] * one
    powers = []
    for _ in range(depth):
        power = share * _running_sum(power)
        powers.append(power)
    products = [jnp.stack(powers, axis=-1)]
    one, share = one[..., None], share[..., None]
    for _ in range(depth):
        products.append(one * _running_sum(share * products[-1], reverse=True))
    return jnp.stack(products, axis=-2)


def _running_sum(rows: Float[Array, "T *shape"], reverse: bool = False) -> Float[Array, "T *shape"]:
    """As `lax.cumsum` over the first axis, several times as fast on a CPU."""

    def add(total, row):
        total += row
        return total, total

    return lax.scan(add, jnp.zeros_like(rows[0]), rows, reverse=reverse)[1]
