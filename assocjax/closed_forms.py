"""Closed forms: the weights that the leading terms give after s steps from a zero start.

    W_O = s eta B             V_l = C(s,2) eta^2 Phi^T B^T
    W_l = c(s) eta^4 Q        P_l = c(s) eta^4 Delta

    c(s) = sum_{k<s} k C(k,2) = 3 C(s,4) + 2 C(s,3)

the same for every layer. For small eta at fixed tau = s eta: tau, tau^2/2, tau^4/8.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from assocjax.arguments import check_integer
from assocjax.checks import check_number, is_traced
from assocjax.errors import InputTypeError
from assocjax.params import Params
from assocjax.statistics import Statistics

Scalar = float | Float[Array, ""]
Steps = int | Int[Array, ""]


def leading_weights(
    statistics: Statistics, num_layers: int, learning_rate: Scalar, steps: Steps
) -> Params:
    """Weights after `steps` steps of gradient descent along the leading terms, from zero.

    Args:
      statistics: `corpus_statistics` of the corpus.
      num_layers: L; every layer is the same, so L = 1 broadcasts against any number.
      learning_rate: eta, a scalar; may be traced.
      steps: s >= 0, a scalar; may be traced.

    Returns:
      `Params` in the dtype of `statistics`. Coefficients are exact polynomials of s, rounded
      only to that dtype.

    Raises:
      InputError, InputTypeError: `steps` or `learning_rate` negative, `num_layers` not positive.

    Source: paper, Theorems 4.1, D.10 and D.13 (which bound the error of these terms).
    """
    s, eta = _check(statistics, num_layers, learning_rate, steps)
    pairs = s * (s - 1) / 2
    triples = s * (s - 1) * (s - 2) / 3
    quadruples = triples * (s - 3) * (3 / 8)
    return _params(
        statistics,
        num_layers,
        output=s * eta,
        value=pairs * eta**2,
        attention=(quadruples + triples) * eta**4,
    )


def leading_weights_gradient(
    statistics: Statistics, num_layers: int, learning_rate: Scalar, steps: Steps
) -> Params:
    """`leading_gradient` at `leading_weights`, in closed form; arguments as `leading_weights`.

    dL/dW_O = -B                      dL/dV_l = -s eta Phi^T B^T
    dL/dW_l = -s C(s,2) eta^3 Q       dL/dP_l = -s C(s,2) eta^3 Delta
    """
    s, eta = _check(statistics, num_layers, learning_rate, steps)
    pairs = s * (s - 1) / 2
    return _params(
        statistics,
        num_layers,
        output=-jnp.ones_like(s),
        value=-s * eta,
        attention=-s * pairs * eta**3,
    )


def _check(statistics, num_layers, learning_rate, steps):
    check_integer("num_layers", num_layers, minimum=1)
    check_number("learning_rate", learning_rate, minimum=0)
    if is_traced(steps) or isinstance(steps, jax.Array):
        if not jnp.issubdtype(steps.dtype, jnp.integer):  # type: ignore[union-attr]
            raise InputTypeError(f"steps must be an integer; got dtype {steps.dtype}")  # type: ignore[union-attr]
        check_number("steps", steps, minimum=0)
    else:
        check_integer("steps", steps, minimum=0)
    dtype = statistics.bigram.dtype
    return jnp.asarray(steps, dtype), jnp.asarray(learning_rate, dtype)


def _params(statistics, num_layers, *, output, value, attention) -> Params:
    def layers(coefficient, matrix):
        return jnp.broadcast_to(coefficient * matrix, (num_layers, *matrix.shape))

    return Params(
        query_key=layers(attention, statistics.query_key),
        position=layers(attention, statistics.position),
        value=layers(value, statistics.value),
        output=output * statistics.bigram,
    )
