"""The leading terms of the gradient: a vector field of its own on the space of weights."""

import jax
import jax.numpy as jnp
from jaxtyping import ArrayLike

from assocjax.arguments import check_is
from assocjax.checks import CorpusLike
from assocjax.errors import InputError
from assocjax.models.params import Params, check_batch, check_params
from assocjax.precision import matmul
from assocjax.statistics.dense import Statistics, attention_correlation


def leading_gradient(
    params: Params, statistics: Statistics, data: CorpusLike, mask: ArrayLike | None = None
) -> Params:
    """The gradient's leading terms, each weight at the lowest order at which it moves.

        dL/dW_O = -B             dL/dV_l = -Phi^T W_O^T
        dL/dW_l = -Q[V_l W_O]    dL/dP_l = -Delta[V_l W_O]

    From zero, plain gradient descent along this field gives `leading_weights` exactly; it can
    also be followed from any start and by any optimizer, beside the exact gradient.

    Args:
      params: weights; only the values of `value` and `output` matter.
      statistics: `corpus_statistics` of the corpus.
      data, mask: the same corpus, as of `exact_gradient`; Q and Delta are read off it.

    Returns:
      dL/d(weight) as `Params`, in the dtype of `params`.

    Raises:
      InputError, InputTypeError: wrong shapes, dtypes or token ids.

    Cost: 2 L V^3 and L passes of `attention_correlation` over the data.
    Source: paper, Theorem 4.1 and Lemma D.8.
    """
    check_params("params", params)
    check_is("statistics", statistics, Statistics)
    B, Phi = statistics.bigram, statistics.context
    if B.shape != params.output.shape:
        raise InputError(
            f"statistics must be of the same vocabulary as params, {params.output.shape}; "
            f"got {B.shape}"
        )
    tokens, mask = check_batch(params, data, mask)
    return _leading_gradient(params, B, Phi, tokens, mask)


@jax.jit
def _leading_gradient(params, B, Phi, tokens, mask) -> Params:
    W_O = params.output
    dtype = W_O.dtype
    value = matmul(Phi.T.astype(dtype), W_O.T)
    Q, Delta = jax.vmap(lambda V: attention_correlation(tokens, matmul(V, W_O), mask))(params.value)
    # Lags beyond these sequences get no gradient.
    Delta = jnp.zeros_like(params.position).at[:, : Delta.shape[1]].set(Delta)
    return Params(
        query_key=-Q,
        position=-Delta,
        value=-jnp.broadcast_to(value, params.value.shape),
        output=-B.astype(dtype),
    )
