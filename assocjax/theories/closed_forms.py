"""Closed forms: the weights that the leading terms give after s steps from a zero start.

    W_O = a B             V_l = b Phi^T B^T             W_l = c Q             P_l = c Delta

the same for every layer. The three scalars depend on the optimizer:

    gradient descent   a = s eta    b = C(s,2) eta^2    c = eta^4 sum_{k<s} k C(k,2)
    gradient flow      a = tau      b = tau^2 / 2       c = tau^4 / 8
    any optimizer that is linear in the gradients: its own results on the gradients -1, -a and -a b
"""

from typing import NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from assocjax.arguments import LARGEST_DEPTH, LARGEST_PATH, check_integer, check_is
from assocjax.checks import check_number, is_traced
from assocjax.errors import InputError, InputTypeError
from assocjax.models.params import Params
from assocjax.statistics.dense import Statistics
from assocjax.training.optimizers import check_linear, follow

Scalar = float | Float[Array, ""]
Steps = int | Int[Array, ""]


class Coefficients(NamedTuple):
    """The scalars a, b, c of W_O = a B, V_l = b Phi^T B^T, W_l = c Q and P_l = c Delta."""

    output: Float[Array, "..."]
    value: Float[Array, "..."]
    attention: Float[Array, "..."]


def descent_coefficients(learning_rate: Scalar, steps: Steps) -> Coefficients:
    """Coefficients of gradient descent: s eta, C(s,2) eta^2, (3 C(s,4) + 2 C(s,3)) eta^4.

    Args:
      learning_rate: eta, a scalar; may be traced.
      steps: s >= 0, an integer scalar; may be traced.

    Raises:
      InputError, InputTypeError: `steps` or `learning_rate` negative, `steps` not an integer, or
        both so large that a coefficient overflows.

    Examples:
      >>> [round(float(scalar), 6) for scalar in descent_coefficients(0.1, 3)]
      [0.3, 0.03, 0.0002]

    Source: paper, Theorem 4.1.
    """
    learning_rate = check_number("learning_rate", learning_rate, minimum=0)
    if is_traced(steps):
        check_number("steps", steps)
        if not jnp.issubdtype(steps.dtype, jnp.integer):  # type: ignore[union-attr]
            raise InputTypeError(f"steps must be an integer; got dtype {steps.dtype}")  # type: ignore[union-attr]
    else:
        steps = check_integer("steps", steps, minimum=0)
    dtype = jnp.result_type(float)
    s, eta = jnp.asarray(steps, dtype), jnp.asarray(learning_rate, dtype)
    pairs = s * (s - 1) / 2
    triples = s * (s - 1) * (s - 2) / 3
    quadruples = triples * (s - 3) * (3 / 8)
    return _finite(
        Coefficients(s * eta, pairs * eta**2, (quadruples + triples) * eta**4),
        "learning_rate and steps",
        f"{learning_rate} and {steps}",
    )


def flow_coefficients(duration: Scalar) -> Coefficients:
    """Coefficients of gradient flow for a time tau: tau, tau^2 / 2, tau^4 / 8.

    Raises:
      InputError, InputTypeError: `duration` is negative, not a number, or too large.
    """
    duration = check_number("duration", duration, minimum=0)
    tau = jnp.asarray(duration, jnp.result_type(float))
    return _finite(Coefficients(tau, tau**2 / 2, tau**4 / 8), "duration", f"{duration}")


def _finite(coefficients: Coefficients, name: str, found: str) -> Coefficients:
    """Checks that coefficients are finite: an infinite one times a zero would be NaN."""
    if not any(map(is_traced, coefficients)) and not all(map(jnp.isfinite, coefficients)):
        dtype = coefficients.output.dtype
        raise InputError(f"{name} must give coefficients that {dtype} can hold; got {found}")
    return coefficients


def optimizer_coefficients(optimizer: optax.GradientTransformation, steps: int) -> Coefficients:
    """Coefficients of any optimizer that is linear in the gradients: arrays [steps + 1].

    The matrices of the leading terms are constant, so the optimizer acts on their coefficients
    only: it is run on the scalars a, b and c with the gradients -1, -a and -a b. This covers
    momentum (also Nesterov's), schedules, warm-up and weight decay.

    Args:
      optimizer: an optax transformation; its learning rate may be traced.
      steps: number of updates, static.

    Raises:
      InputError, InputTypeError: `steps` is negative or not an integer; the optimizer, such as Adam
        or clipping, is not linear in the gradients and alike for every entry of all weights
        (`is_linear`). If its learning rate is traced, this cannot be tested, and the result for a
        nonlinear optimizer has no meaning.
    """
    steps = check_integer("steps", steps, minimum=0, maximum=LARGEST_PATH)
    check_linear(optimizer)
    return follow_coefficients(optimizer, steps)


def follow_coefficients(optimizer: optax.GradientTransformation, steps: int) -> Coefficients:
    """`optimizer_coefficients` for an optimizer that is known to be linear."""

    def gradient(at: Params, step):
        of_attention = -at.output * at.value
        return Params(of_attention, of_attention, -at.output, -jnp.ones_like(at.output))

    zero = Params(*[jnp.zeros((), jnp.result_type(float))] * 4)
    path = follow(optimizer, gradient, zero, steps)
    return Coefficients(path.output, path.value, path.query_key)


def weights_from_coefficients(
    statistics: Statistics, num_layers: int, coefficients: Coefficients
) -> Params:
    """a B, b Phi^T B^T, c Q and c Delta as `Params`, in the dtype of `statistics`.

    Args:
      statistics: `corpus_statistics` of the corpus.
      num_layers: L; every layer is the same, so L = 1 broadcasts against any number.
      coefficients: scalars; may be traced.

    Raises:
      InputError, InputTypeError: `num_layers` is not positive, or a coefficient is not a finite
        scalar.
    """
    num_layers = check_integer("num_layers", num_layers, minimum=1, maximum=LARGEST_DEPTH)
    check_is("statistics", statistics, Statistics)
    check_is("coefficients", coefficients, Coefficients)
    dtype = statistics.bigram.dtype
    checked = (
        check_number(f"coefficients.{name}", value)
        for name, value in zip(Coefficients._fields, coefficients, strict=True)
    )
    a, b, c = (jnp.asarray(x, dtype) for x in checked)

    def layers(coefficient, matrix):
        return jnp.broadcast_to(coefficient * matrix, (num_layers, *matrix.shape))

    return Params(
        query_key=layers(c, statistics.query_key),
        position=layers(c, statistics.position),
        value=layers(b, statistics.value),
        output=a * statistics.bigram,
    )


def gradient_from_coefficients(
    statistics: Statistics, num_layers: int, coefficients: Coefficients
) -> Params:
    """`leading_gradient` at `weights_from_coefficients`: -B, -a Phi^T B^T, -a b Q, -a b Delta."""
    check_is("coefficients", coefficients, Coefficients)
    a, b, _ = map(check_number, Coefficients._fields, coefficients)
    return weights_from_coefficients(statistics, num_layers, Coefficients(-1.0, -a, -a * b))  # type: ignore[arg-type]


def leading_weights(
    statistics: Statistics, num_layers: int, learning_rate: Scalar, steps: Steps
) -> Params:
    """Weights after `steps` steps of gradient descent by the leading terms, from zero.

    Args:
      statistics: `corpus_statistics` of the corpus.
      num_layers: L; every layer is the same, so L = 1 broadcasts against any number.
      learning_rate: eta, a scalar; may be traced.
      steps: s >= 0, a scalar; may be traced.

    Returns:
      `Params` in the dtype of `statistics`. Coefficients are exact polynomials of s, rounded
      only to that dtype.

    Raises:
      InputError, InputTypeError: `steps` or `learning_rate` negative or so large that a coefficient
        overflows, `num_layers` not positive.

    Source: paper, Theorems 4.1, D.10 and D.13 (which bound the error of these terms).
    """
    return weights_from_coefficients(
        statistics, num_layers, descent_coefficients(learning_rate, steps)
    )


def leading_weights_gradient(
    statistics: Statistics, num_layers: int, learning_rate: Scalar, steps: Steps
) -> Params:
    """`leading_gradient` at `leading_weights`, in closed form; arguments as `leading_weights`.

    dL/dW_O = -B                      dL/dV_l = -s eta Phi^T B^T
    dL/dW_l = -s C(s,2) eta^3 Q       dL/dP_l = -s C(s,2) eta^3 Delta
    """
    return gradient_from_coefficients(
        statistics, num_layers, descent_coefficients(learning_rate, steps)
    )
