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

from assocjax.checks import CorpusLike, as_array, check_tokens
from assocjax.errors import InputError, InputTypeError
from assocjax.models.params import Params, check_params
from assocjax.precision import matmul

_CPU_ACTIVATION_BYTES = 1 << 23  # of one microbatch: about the size of a CPU's caches
_ACCELERATOR_ACTIVATION_BYTES = 1 << 30  # enough to keep the device busy


def logits(
    params: Params, tokens: Int32[Array, " T"], mask: Bool[Array, " T"] | None = None
) -> Float[Array, "T V"]:
    """Next-token logits of one sequence; `vmap` it over a batch.

    Args:
      params: weights for sequences of at least T positions.
      tokens: the T inputs of one sequence, integers in [0, V). Values are not checked, as this runs
        inside training; an id outside the range gives a meaningless result.
      mask: boolean [T]; no other position attends to a masked position.

    Returns:
      [T, V], in the dtype of `params`.

    Raises:
      InputError: `tokens` is not a vector, or longer than `params.position`, or `mask` has another
        shape.
      InputTypeError: `tokens` are not integers, `mask` is not boolean, or `params` is not `Params`.

    Cost: (2 L - 1) T V^2 + (2 L - 1) T^2 V multiply-adds.
    """
    check_params("params", params)
    x = as_array("tokens", tokens)
    L, T_max = params.position.shape
    if x.ndim != 1 or not 1 <= x.shape[0] <= T_max:
        raise InputError(f"tokens must have shape [T] with 1 <= T <= {T_max}; got {x.shape}")
    if not jnp.issubdtype(x.dtype, jnp.integer):
        raise InputTypeError(f"tokens must be integers; got dtype {x.dtype}")
    x, T = jnp.asarray(x), x.shape[0]
    if mask is not None:
        mask = jnp.asarray(as_array("mask", mask))
        if mask.dtype != bool:
            raise InputTypeError(f"mask must be boolean; got dtype {mask.dtype}")
        if mask.shape != (T,):
            raise InputError(f"mask must have shape [T] = ({T},); got {mask.shape}")

    def attend(layer, scores_TxT, hV_TxV):
        return matmul(attention(scores_TxT, params.position[layer], mask), hV_TxV)

    # h_0 = X is one-hot: X W X^T and X V are gathers, and adding X is adding T ones.
    scores_TxT = params.query_key[0][x[:, None], x[None, :]]
    h_TxV = attend(0, scores_TxT, params.value[0][x]).at[jnp.arange(T), x].add(1)
    for layer in range(1, L):
        scores_TxT = matmul(matmul(h_TxV, params.query_key[layer]), h_TxV.T)
        h_TxV += attend(layer, scores_TxT, matmul(h_TxV, params.value[layer]))
    return matmul(h_TxV, params.output)


def attention(
    scores_TxT: Float[Array, "T T"],
    position: Float[Array, " T_max"],
    mask: Bool[Array, " T"] | None,
) -> Float[Array, "T T"]:
    """Causal softmax of token scores [query, key] plus the scores of their distances."""
    t = jnp.arange(len(scores_TxT))
    lag_TxT = t[:, None] - t[None, :]
    attends_TxT = lag_TxT >= 0
    if mask is not None:  # a masked query still attends to itself, so no row is empty
        attends_TxT &= mask[None, :] | (lag_TxT == 0)
    scores_TxT += position[jnp.abs(lag_TxT)]
    return jax.nn.softmax(jnp.where(attends_TxT, scores_TxT, -jnp.inf), axis=-1)


def sequence_loss(
    params: Params, tokens: Int32[Array, " T+1"], mask: Bool[Array, " T"]
) -> Float[Array, ""]:
    """Sum (not mean) of the negative log-likelihoods, in nats, of one sequence's targets."""
    return sum_nll(logits(params, tokens[:-1], mask), tokens[1:], mask)


def sum_nll(
    logits_TxV: Float[Array, "T V"], targets: Int32[Array, " T"], mask: Bool[Array, " T"]
) -> Float[Array, ""]:
    """Sum of the targets' negative log-likelihoods over valid positions."""
    return jnp.sum(position_nll(logits_TxV, targets, mask))


def position_nll(
    logits_TxV: Float[Array, "T V"], targets: Int32[Array, " T"], mask: Bool[Array, " T"]
) -> Float[Array, " T"]:
    """The target's negative log-likelihood at each valid position, 0 elsewhere."""
    target_T = jnp.take_along_axis(logits_TxV, targets[:, None], axis=-1)[:, 0]
    return jnp.where(mask, jax.nn.logsumexp(logits_TxV, axis=-1) - target_T, 0)


def loss(params: Params, data: CorpusLike, mask: ArrayLike | None = None) -> Float[Array, ""]:
    """Mean negative log-likelihood, in nats, over the valid positions of a batch.

    Args:
      params: weights.
      data: the corpus, `TokenData` or `TokenFile`, or token ids as an integer array [N, T+1].
      mask: for an array only, boolean [N, T], False where the input or the target is padding.

    Returns:
      A scalar; log V for zero weights.

    Raises:
      InputError, InputTypeError: wrong shapes, dtypes, token ids, or no valid position.

    Cost: N times that of `logits`, in memory-bounded microbatches.
    """
    check_params("params", params)
    return _loss(params, *check_tokens(data, mask, params.output.shape[-1]))


@jax.jit
def _loss(params, tokens, mask):
    size = min(len(tokens), default_microbatch_size(params, mask.shape[1]))

    @jax.checkpoint  # a derivative recomputes microbatches instead of keeping all of them
    def nll(sequence):
        return sequence_loss(params, *sequence)

    losses = lax.map(nll, (tokens, mask), batch_size=size)
    return jnp.sum(losses) / count_valid(mask, losses.dtype)


def count_valid(mask: Bool[Array, "N T"], dtype) -> Float[Array, ""]:
    """M, to divide by: at least 1, since a minibatch may be all padding."""
    return jnp.maximum(jnp.sum(mask), 1).astype(dtype)


def activation_budget() -> int:
    """Bytes that the activations of a microbatch should use on this kind of device."""
    on_cpu = jax.default_backend() == "cpu"
    return _CPU_ACTIVATION_BYTES if on_cpu else _ACCELERATOR_ACTIVATION_BYTES


def default_microbatch_size(params: Params, seq_len: int) -> int:
    """The number of sequences whose activations fit `activation_budget`, at least one."""
    L, V = params.position.shape[-2], params.output.shape[-1]
    one = params.output.dtype.itemsize * activation_size(V, seq_len, L)
    return max(1, activation_budget() // one)


def activation_size(V: int, T: int, L: int) -> int:
    """Estimated number of array entries held while one sequence is differentiated."""
    # The forward and the backward pass each keep a few [T,V] and [T,T] arrays per layer.
    return 4 * (L + 1) * T * (V + T)
