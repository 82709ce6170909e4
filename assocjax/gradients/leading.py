"""The leading terms of the gradient: a vector field of its own on the space of weights."""

import jax
import jax.numpy as jnp
from jaxtyping import ArrayLike

from assocjax.errors import InputError
from assocjax.params import Params
from assocjax.statistics import Statistics, attention_correlation, matmul


def leading_gradient(
    params: Params, statistics: Statistics, tokens: ArrayLike, mask: ArrayLike | None = None
) -> Params:
    """The gradient's leading terms, each weight at the lowest order at which it moves.

        dL/dW_O = -B             dL/dV_l = -Phi^T W_O^T
        dL/dW_l = -Q[V_l W_O]    dL/dP_l = -Delta[V_l W_O]

    From zero, plain gradient descent along this field gives `leading_weights` exactly; it can
    also be followed from any start and by any optimizer, beside the exact gradient.

    Args:
      params: weights; only `value` and `output` are read, for the shapes of the other two see
        `Params`.
      statistics: `corpus_statistics` of the corpus.
      tokens: the same corpus, integer array [N, T+1]; Q and Delta are read off it.
      mask: boolean array [N, T] or None.

    Returns:
      dL/d(weight) as `Params`, in the dtype of `params`.

    Raises:
      InputError, InputTypeError: wrong shapes, dtypes or token ids.

    Cost: 2 L V^3 and L passes of `attention_correlation` over the data.
    Source: paper, Theorem 4.1 and Lemma D.8.
    """
    B, Phi = statistics.bigram, statistics.context
    if B.shape != params.output.shape:
        raise InputError(
            f"statistics must be of the same vocabulary as params, {params.output.shape}; "
            f"got {B.shape}"
        )
    W_O = params.output
    dtype = W_O.dtype
    value = -matmul(Phi.T.astype(dtype), W_O.T)
    query_key, position = jax.vmap(lambda V: attention_correlation(tokens, matmul(V, W_O), mask))(
        params.value
    )
    # Lags beyond these sequences get no gradient.
    position = jnp.zeros_like(params.position).at[:, : position.shape[1]].set(position)
    return Params(
        query_key=-query_key,
        position=-position,
        value=jnp.broadcast_to(value, params.value.shape),
        output=-B.astype(dtype),
    )
