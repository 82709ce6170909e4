"""How well a theory agrees with an exact quantity."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from assocjax.arguments import check_is
from assocjax.checks import as_array
from assocjax.errors import InputError
from assocjax.models.model import Weights
from assocjax.models.params import Params


class Agreement(NamedTuple):
    """Measures of agreement; all but `distance` are dimensionless.

    relative_error  ||exact - theory|| / ||exact||                     0 is perfect
    cosine          <exact, theory> / (||exact|| ||theory||)           1 is perfect
    norm_ratio      ||theory|| / ||exact||                             1 is perfect
    distance        ||exact - theory||, in units of the arrays         0 is perfect

    in the Frobenius norm. A ratio whose denominator is zero is undefined and NaN.
    """

    relative_error: Float[Array, "..."]
    cosine: Float[Array, "..."]
    norm_ratio: Float[Array, "..."]
    distance: Float[Array, "..."]


def agreement(exact: Float[Array, "..."], theory: Float[Array, "..."]) -> Agreement:
    """Compares two arrays of the same shape as vectors.

    Early in training `query_key` and `position` have entries near 1e-12, whose squares underflow in
    float32. Therefore each array is divided by its largest entry before squares are summed.

    Raises:
      InputError: the shapes differ.

    Examples:
      >>> found = agreement(jnp.array([3.0, 4.0]), jnp.array([6.0, 8.0]))
      >>> [round(float(measure), 4) for measure in (found.cosine, found.relative_error)]
      [1.0, 1.0]
    """
    exact, theory = (jnp.asarray(as_array(n, x)) for n, x in (("exact", exact), ("theory", theory)))
    if exact.shape != theory.shape:
        raise InputError(f"theory must have the shape of exact, {exact.shape}; got {theory.shape}")
    exact_unit, exact_norm, exact_scale = normalise(exact)
    theory_unit, theory_norm, theory_scale = normalise(theory)
    _, error_norm, error_scale = normalise(exact - theory)

    def ratio(norm, scale):
        defined = exact_scale > 0
        safe = jnp.where(defined, exact_scale, 1)
        return jnp.where(defined, (scale / safe) * (norm / exact_norm), jnp.nan)

    cosine = jnp.sum(exact_unit * theory_unit) / (exact_norm * theory_norm)
    both = (exact_scale > 0) & (theory_scale > 0)
    return Agreement(
        relative_error=ratio(error_norm, error_scale),
        cosine=jnp.where(both, cosine, jnp.nan),
        norm_ratio=ratio(theory_norm, theory_scale),
        distance=jnp.where(error_scale > 0, error_scale * error_norm, 0),
    )


def compare_params(exact: Params, theory: Params) -> dict[str, Agreement]:
    """Agreement of every weight: entries [L] for the layered weights, scalars for `output`.

    Args:
      exact: weights, or a gradient.
      theory: the same tree; a single layer is broadcast to all layers.

    Raises:
      InputError, InputTypeError: the sizes differ, or one of them is not `Params`.
    """
    check_is("exact", exact, Params)
    check_is("theory", theory, Params)
    compared = compare_weights(exact.by_name(), theory.by_name())
    return compared | {"output": jax.tree.map(lambda x: x[0], compared["output"])}


def compare_weights(exact: Weights, theory: Weights) -> dict[str, Agreement]:
    """Agreement of every weight of any model: entries [layers].

    Args:
      exact: `Model.weights` of weights or of a gradient.
      theory: the same; a single layer is broadcast to all layers.

    Raises:
      InputError: names or shapes differ.
    """
    if exact.keys() != theory.keys():
        raise InputError(f"theory must have the weights of exact, {[*exact]}; got {[*theory]}")
    for name in exact:
        x, y = exact[name].shape, theory[name].shape
        if y not in (x, (1, *x[1:])):
            raise InputError(f"theory.{name} must have the shape of exact.{name}, {x}; got {y}")
    compared = _compare_weights(exact, theory)
    return {name: compared[name] for name in exact}  # in this order


@jax.jit
def _compare_weights(exact: Weights, theory: Weights) -> dict[str, Agreement]:
    return {
        name: jax.vmap(agreement)(x, jnp.broadcast_to(theory[name], x.shape))
        for name, x in exact.items()
    }


def by_layer(compared: dict[str, Agreement]) -> Agreement:
    """Stacks the result of `compare_weights` to arrays [weights, L], in the order of the weights.

    A weight without layers is stored at the last layer, and is NaN at the others.
    """
    L = max(len(of.cosine) for of in compared.values())

    def at_layers(x):
        return x if len(x) == L else jnp.full(L, jnp.nan, x.dtype).at[-1].set(x[0])

    found = [jax.tree.map(at_layers, of) for of in compared.values()]
    return jax.tree.map(lambda *of_weights: jnp.stack(of_weights), *found)


def normalise(a):
    """Returns a / max|a|, its norm (1 if a is zero, so that one can divide by it), and max|a|."""
    scale = lax.stop_gradient(jnp.max(jnp.abs(a)))
    unit = a / jnp.where(scale > 0, scale, 1)
    squares = jnp.sum(unit * unit)
    return unit, jnp.sqrt(jnp.where(scale > 0, squares, 1)), scale
