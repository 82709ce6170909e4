"""The attention-only transformer and its loss (paper, Def. 3.1).

    h_0 = X;  S_l = h_{l-1} W_l h_{l-1}^T + D(P_l);  A_l = softmax over k <= t of S_l
    h_l = h_{l-1} + A_l h_{l-1} V_l;   logits = h_L W_O;   loss = mean of -log softmax(logits)[y]

There is no 1/sqrt(d), no layer norm and no MLP. The input of the first layer is one-hot, so its
products with a matrix are gathers of that matrix.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float, Int32

from assocjax.checks import check_tokens
from assocjax.errors import InputError
from assocjax.params import Params
from assocjax.statistics import matmul

_ACTIVATION_BYTES = 1 << 24  # of one microbatch: about what the caches of a CPU hold


def logits(
    params: Params, tokens: Int32[Array, " T"], mask: Bool[Array, " T"] | None = None
) -> Float[Array, "T V"]:
    """Next-token logits of one sequence; `vmap` it over a batch.

    Args:
      params: weights for sequences of at least T positions.
      tokens: the T inputs of one sequence, integers in [0, V) (clipped, not checked, as this
        runs inside training).
      mask: boolean [T]; a masked position is no key for any other position.

    Returns:
      [T, V], in the dtype of `params`.

    Raises:
      InputError: `tokens` is not a vector, or longer than `params.position` allows.

    Cost: (2 L - 1) T V^2 + (2 L - 1) T^2 V multiply-adds.
    """
    x, T = tokens, tokens.shape[0]
    L, T_max = params.position.shape
    if x.ndim != 1 or T_max < T:
        raise InputError(f"tokens must have shape [T] with T <= {T_max}; got {x.shape}")
    t = jnp.arange(T)
    lag_TxT = t[:, None] - t[None, :]
    attends_TxT = lag_TxT >= 0
    if mask is not None:  # a masked query attends to itself at least: no row is empty
        attends_TxT &= mask[None, :] | (lag_TxT == 0)

    def attend(layer, scores_TxT, hV_TxV):
        scores_TxT += params.position[layer][jnp.abs(lag_TxT)]
        A_TxT = jax.nn.softmax(jnp.where(attends_TxT, scores_TxT, -jnp.inf), axis=-1)
        return matmul(A_TxT, hV_TxV)

    # h_0 = X is one-hot: X W X^T and X V are gathers, and adding X is adding T ones.
    scores_TxT = params.query_key[0][x[:, None], x[None, :]]
    h_TxV = attend(0, scores_TxT, params.value[0][x]).at[t, x].add(1)
    for layer in range(1, L):
        scores_TxT = matmul(matmul(h_TxV, params.query_key[layer]), h_TxV.T)
        h_TxV += attend(layer, scores_TxT, matmul(h_TxV, params.value[layer]))
    return matmul(h_TxV, params.output)


def sequence_loss(
    params: Params, tokens: Int32[Array, " T+1"], mask: Bool[Array, " T"]
) -> Float[Array, ""]:
    """Sum (not mean) of the negative log-likelihoods, in nats, of one sequence's targets."""
    logits_TxV = logits(params, tokens[:-1], mask)
    target_T = jnp.take_along_axis(logits_TxV, tokens[1:, None], axis=-1)[:, 0]
    nll_T = jax.nn.logsumexp(logits_TxV, axis=-1) - target_T
    return jnp.sum(jnp.where(mask, nll_T, 0))


def loss(params: Params, tokens: ArrayLike, mask: ArrayLike | None = None) -> Float[Array, ""]:
    """Mean negative log-likelihood, in nats, over the valid positions of a batch.

    Args:
      params: weights.
      tokens: integer array [N, T+1]; inputs are `tokens[:, :-1]`, targets `tokens[:, 1:]`.
      mask: boolean array [N, T], False where the input or the target is padding.

    Returns:
      A scalar; log V for zero weights.

    Raises:
      InputError, InputTypeError: wrong shapes, dtypes, token ids, or no valid position.

    Cost: N times that of `logits`, in memory-bounded microbatches.
    """
    return _loss(params, *check_tokens(tokens, mask, params.output.shape[-1]))


@jax.jit
def _loss(params, tokens, mask):
    size = min(len(tokens), default_microbatch_size(params, mask.shape[1]))
    losses = lax.map(lambda pair: sequence_loss(params, *pair), (tokens, mask), batch_size=size)
    return jnp.sum(losses) / jnp.sum(mask).astype(losses.dtype)


def default_microbatch_size(params: Params, seq_len: int) -> int:
    """So many sequences that their activations take about 16 MiB, and at least one."""
    L, V = params.position.shape[-2], params.output.shape[-1]
    # Forward and backward each keep a few [T,V] and [T,T] arrays a layer.
    sequence_bytes = params.output.dtype.itemsize * 4 * (L + 1) * seq_len * (V + seq_len)
    return max(1, _ACTIVATION_BYTES // sequence_bytes)
