"""Moments of the context of a token: the statistics that the effective theory needs.

With x = tokens[:, :-1], y = tokens[:, 1:], one-hots X and Y, residual R = Y - 1/V and uniform
causal attention A_0 (row t holds 1/(t+1) at positions 0..t), the context at depth k is the mean, up
to a position, of the contexts at depth k-1:

    Z_k  = A_0^k X                         k = 0..L         Z_0 = X
    Phi_k = (1/M) sum_n R^T Z_k            Phi_0 = B^T      Phi_1 = Phi
    C_jk = (1/M) sum_n Z_j^T Z_k           C_00 = diag(f)   C_0k = diag(f) E[Z_k | x]

With P_jk = (A_0^j)^T A_0^k, entry [v,w] of C_jk is the sum of P_jk[s,s'] / M over pairs of
positions with x_s = v and x_s' = w; P_0k is A_0^k. Products with A_0 and A_0^T are cumulative sums,
forward and backward, so no one-hot array or product of T x T matrices is needed.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, ArrayLike, Float, Int32

from assocjax.arguments import LARGEST_DEPTH, check_integer, check_is
from assocjax.checks import Sequences, check_corpus
from assocjax.precision import matmul
from assocjax.statistics import loops, scatter
from assocjax.storage.display import summarized


@summarized
@struct.dataclass
class EffectiveStatistics:
    """The statistics that the effective theory of L layers needs; K = L + 1.

    `context[k]` is Phi_k, k = 0..L. `frequency` is f, the share of valid positions whose input is
    token x. Row x of `conditional_mean[k-1]` is E[Z_k | x], k = 1..L: it sums to 1, or is zero for
    a token that is never an input. `conditional_covariance[j-1,k-1]` is the covariance of the rows
    of Z_j and Z_k given the input, averaged over inputs, C_jk - C_0j^T diag(1/f) C_0k; its rows and
    columns sum to 0, and [j,k] is exactly the transpose of [k,j]. `num_positions` is M.
    """

    context: Float[Array, "K V V"]
    frequency: Float[Array, " V"]
    conditional_mean: Float[Array, "L V V"]
    conditional_covariance: Float[Array, "L L V V"]
    num_positions: Int32[Array, ""]


def effective_statistics(
    data: Sequences | ArrayLike,
    *,
    depth: int,
    vocab_size: int | None = None,
    mask: ArrayLike | None = None,
) -> EffectiveStatistics:
    """Computes the moments of a corpus for the effective theory of L layers.

    A masked position is neither a query nor a key nor a target, as in `corpus_statistics`.

    Args:
      data, vocab_size, mask: as in `corpus_statistics`.
      depth: L, the number of layers, static. Statistics of a smaller depth are the first layers of
        these.

    Returns:
      `EffectiveStatistics` in JAX's default floating dtype; summed as in `corpus_statistics`.

    Raises:
      InputError: depth < 1; and as `corpus_statistics`.
      InputTypeError: `depth` is not an integer; and as `corpus_statistics`.

    Cost: time N T^2 (L+1)^2 / 2 additions + L^2 V^3, memory about 3 (L+1)^2 V^2 float64, and
      (L+1)^2 T^2 for the sequences of one length. Works under `jit` and `vmap`.
    Source: this package; the paper stops at the leading terms.
    """
    depth = check_integer("depth", depth, minimum=1, maximum=LARGEST_DEPTH)
    tokens, mask, V = check_corpus(data, vocab_size, mask)
    dtype = jnp.result_type(float)
    if loops.on_host(tokens, mask):
        sums = _loop(np.asarray(tokens), np.asarray(mask), V, depth)
        return jax.tree.map(lambda a: jnp.asarray(a, dtype), _assemble(*sums)).replace(
            num_positions=jnp.sum(mask, dtype=jnp.int32)
        )
    return _assemble(*_scatter(tokens, mask, V, depth))


def second_moments(statistics: EffectiveStatistics) -> Float[Array, "K K V V"]:
    """Computes the second moments C_jk = (1/M) sum_n Z_j^T Z_k, for j, k = 0..L.

        C_jk = conditional covariance + E[Z_j | x]^T diag(f) E[Z_k | x]

    Returns:
      [L+1,L+1,V,V]; entry [j,k] is the transpose of [k,j] up to rounding.

    Raises:
      InputTypeError: `statistics` is not `EffectiveStatistics`.

    Cost: (L+1)^2 V^3 multiply-adds. Source: this package; the paper stops at the leading terms.
    """
    check_is("statistics", statistics, EffectiveStatistics)
    return _second_moments(statistics)


@jax.jit
def _second_moments(statistics: EffectiveStatistics) -> Float[Array, "K K V V"]:
    f, mean = statistics.frequency, statistics.conditional_mean
    # Z_0 given x is the one-hot of x, which does not vary.
    mean = jnp.concatenate([jnp.diag((f > 0).astype(f.dtype))[None], mean])
    within = jnp.pad(statistics.conditional_covariance, ((1, 0), (1, 0), (0, 0), (0, 0)))
    weighted = jnp.swapaxes(mean * f[None, :, None], 1, 2)
    return within + matmul(weighted[:, None], mean[None, :])


def _loop(tokens, mask, V: int, L: int):
    """Sums over positions, in float64: centred bigrams, inputs, and sums of weights of pairs."""
    counts = loops.count_bigrams(loops.lay_out(tokens, mask, V), V)
    inputs = counts.sum(axis=1)
    context, moments = np.zeros((V, V, L)), np.zeros((V, V, (L + 1) * L))
    sizes = mask.sum(axis=1)
    for n in np.unique(sizes[sizes > 0]):
        # Weights depend only on the number of valid positions, so these sequences share them.
        block = loops.lay_out(tokens[sizes == n], mask[sizes == n], V)
        x, y = block.x.reshape(-1, n), block.y.reshape(-1, n)
        weights = _pair_weights(np.ones(n, bool), L, np.float64, np)
        loops.add_tables(y, x, np.ascontiguousarray(weights[:, :, 0]), context)
        loops.add_tables(x, x, weights.reshape(n, n, -1), moments)
    return counts - inputs[:, None] / V, inputs, context, moments.reshape(V, V, L + 1, L)


@partial(jax.jit, static_argnums=(2, 3))
def _scatter(tokens, mask, V: int, L: int):
    """As `_loop`."""
    dtype = jnp.result_type(float)

    def add_block(sums, x, y, mask):
        weights = jax.vmap(lambda valid: _pair_weights(valid, L, dtype, jnp))(mask)
        context, moments = sums
        return (
            scatter.at_pairs(context, y, x).add(weights[..., 0, :]),
            scatter.at_pairs(moments, x, x).add(weights),
        )

    zeros = jnp.zeros((V, V, L), dtype), jnp.zeros((V, V, L + 1, L), dtype)
    context, moments = scatter.sum_blocks(add_block, zeros, tokens, mask)
    counts = scatter.count_bigrams(tokens, mask, V)
    inputs = jnp.sum(counts, axis=1, dtype=counts.dtype)
    return scatter.centred_counts(counts, inputs, dtype), inputs, context, moments


def _pair_weights(valid, depth: int, dtype, xp: Any):
    """P_jk = (A_0^j)^T A_0^k of a sequence, [T,T,K,L], for j = 0..L and k = 1..L.

    Only pairs [t,s<=t] are computed. They are all that C_0k needs, but only half of the other C_jk:
    since P_jk[s,t] = P_kj[t,s], the other half is the transpose of this half of C_kj. The diagonal
    belongs to both halves, and is halved.
    """
    one = valid.astype(dtype)[:, None]
    share = one / xp.maximum(xp.cumsum(valid), 1).astype(dtype)[:, None]
    power = xp.eye(valid.size, dtype=dtype) * one
    powers = []
    for _ in range(depth):
        power = share * xp.cumsum(power, axis=0)
        powers.append(power)
    products = [xp.stack(powers, axis=-1)]
    one, share = one[..., None], share[..., None]
    halved = (
        xp.tri(valid.size, dtype=dtype)[..., None] - xp.eye(valid.size, dtype=dtype)[..., None] / 2
    )
    for _ in range(depth):
        # A_0^T: sums backward.
        products.append(one * xp.cumsum((share * products[-1])[::-1], axis=0)[::-1])
    return xp.stack([products[0], *(halved * product for product in products[1:])], axis=-2)


def _assemble(centred, inputs, context, moments) -> EffectiveStatistics:
    V, _, L = context.shape
    xp: Any = np if isinstance(context, np.ndarray) else jnp
    product = np.matmul if xp is np else matmul
    dtype = context.dtype
    num_positions = inputs.sum(dtype=inputs.dtype)
    M = num_positions.astype(dtype)
    context = xp.moveaxis(context, 2, 0) / M
    Phi = context - context.mean(axis=1)[:, None]
    counts = xp.maximum(inputs, 1).astype(dtype)  # no division by zero
    C_0 = xp.swapaxes(moments[:, :, 0], 1, 2).reshape(V, L * V)
    mean = C_0 / counts[:, None]
    C = moments[:, :, 1:].transpose(2, 0, 3, 1).reshape(L * V, L * V)
    half = C - product(C_0.T, mean) / 2
    covariance = ((half + half.T) / M).reshape(L, V, L, V)
    return EffectiveStatistics(
        context=xp.concatenate([(centred / M).T[None], Phi]),
        frequency=inputs.astype(dtype) / M,
        conditional_mean=xp.swapaxes(mean.reshape(V, L, V), 0, 1),
        conditional_covariance=covariance.swapaxes(1, 2),
        num_positions=num_positions,
    )
