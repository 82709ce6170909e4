"""The leading terms: the gradient for any weights, and the theory of a run."""

import jax
import jax.numpy as jnp
from jaxtyping import ArrayLike

from assocjax.arguments import check_is
from assocjax.checks import CorpusLike
from assocjax.errors import InputError
from assocjax.models.paper import check_paper_model
from assocjax.models.params import WEIGHTS, Params, check_batch, check_params
from assocjax.precision import matmul
from assocjax.statistics.dense import Statistics, attention_correlation, corpus_statistics
from assocjax.theories.closed_forms import (
    follow_coefficients,
    gradient_from_coefficients,
    weights_from_coefficients,
)
from assocjax.theories.registry import register_theory
from assocjax.theories.theory import Theory
from assocjax.training.optimizers import is_linear


def leading_gradient(
    params: Params, statistics: Statistics, data: CorpusLike, mask: ArrayLike | None = None
) -> Params:
    """The leading terms of the gradient: for each weight the lowest order that is not zero.

        dL/dW_O = -B             dL/dV_l = -Phi^T W_O^T
        dL/dW_l = -Q[V_l W_O]    dL/dP_l = -Delta[V_l W_O]

    From zero, plain gradient descent by it gives `leading_weights` exactly. Like the exact gradient
    it can also be used from any start and with any optimizer.

    Args:
      params: weights; only the values of `value` and `output` matter.
      statistics: `corpus_statistics` of the corpus.
      data, mask: the same corpus, as in `exact_gradient`; Q and Delta are computed from it.

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


class Leading(Theory):
    """The leading terms of the paper's model, from zero.

    In closed form if the optimizer is linear in the gradients and treats all entries of all weights
    alike (`is_linear`): the optimizer then trains three coefficients only (`closed_forms`).
    """

    name = "leading"

    def check(self, model, optimizer):
        check_paper_model(f"theory {self.name!r}", model)

    def prepare(self, model, sizes, batch):
        return corpus_statistics(batch.tokens, batch.vocab_size, batch.mask)

    def start(self, training):
        if not is_linear(training.optimizer, training.start):
            return training.start
        # All layers stay equal.
        return training.start.replace(**{n: getattr(training.start, n)[:1] for n in WEIGHTS[:-1]})

    def gradient(self, model, params, prepared, batch):
        return leading_gradient(params, prepared, batch.tokens, batch.mask)

    def solve(self, training, prepared, batch):
        if not is_linear(training.optimizer, training.start):
            return None
        return follow_coefficients(training.transformation(), training.steps)

    def solution(self, training, solved, prepared, step):
        now = jax.tree.map(lambda path: path[step], solved)
        return (
            weights_from_coefficients(prepared, 1, now),
            gradient_from_coefficients(prepared, 1, now),
        )


register_theory(Leading())
