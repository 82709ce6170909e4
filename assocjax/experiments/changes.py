"""Changes of weights since the start: their inner products, and cosines and ratios from these.

Every change that is compared, such as the mean of several, is a combination of the changes of K
trajectories, so that their inner products are all that is needed.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from assocjax.models.model import Model

NAMES = {
    "cosine": "cosine of the change of a weight with the mean change of real runs",
    "norm_ratio": "norm of the change, over that of the run held out",
    "partial_cosine": "cosine without what the twin of order 0 explains",
    "draw_cosine": "cosine of a single twin, of one draw",
    "visible": "share of the entries of a weight that are stored with another value than at step 0",
    "products": "inner product of two changes",
    "twin": "twin, or the real run held out",
    "held_out": "real run that the mean leaves out",
    "layers": "layer, or all layers together",
    "draw": "number of the twin, each with its own draws",
    "change": "real run or twin whose weights change",
    "other_change": "real run or twin whose weights change",
    "part": "statistic that explains the change",
    "run_name": "model of the real run",
    "token_share": "share of the text's pairs of tokens that are used",
}
"""What the variables and coordinates of Datasets of changes hold."""

_LEFT = 1e-5  # of a squared norm after a projection: what is less is rounding, in float32


def inner_products(
    model: Model, start: Any, states: Sequence[Any]
) -> dict[str, Float[Array, "layers K K"]]:
    """Inner products of the changes of all trajectories, in every layer of every weight.

    Args:
      model: names the weights.
      start: the weights that all trajectories have at step 0.
      states: weights of groups of trajectories, each with a leading axis for those of the group.
    """
    every = jax.tree.map(lambda *of: jnp.concatenate(of), *states)
    origin = model.weights(start)
    moved = jax.vmap(model.weights)(every)

    def gram(name):
        layers = len(origin[name])
        change = (moved[name] - origin[name][None]).reshape(len(moved[name]), layers, -1)
        return jnp.einsum("kln,jln->lkj", change, change, precision=lax.Precision.HIGHEST)

    return {name: gram(name) for name in origin}


def by_layer(found: Sequence[Float[Array, "layers ..."]], whole: str = "sum") -> np.ndarray:
    """Float64 [weights, 1 + L, ...]: of all layers together, then of each, or NaN.

    Args:
      found: for each weight.
      whole: "sum" or "mean" of the layers.
    """
    L = max(map(len, found))
    array = np.full((len(found), L + 1, *found[0].shape[1:]), np.nan)
    for of_weight, each in zip(array, found, strict=True):
        each = np.asarray(each, np.float64)
        of_weight[0] = each.sum(axis=0) if whole == "sum" else each.mean(axis=0)
        if len(each) == L:
            of_weight[1:] = each
    return array


def measures(
    grams: Float[np.ndarray, "weights layers K K"],
    compared: Float[np.ndarray, "C held K"],
    reference: Float[np.ndarray, "held K"],
    held: Float[np.ndarray, "held K"],
    baseline: Float[np.ndarray, " K"] | None,
) -> dict[str, Float[np.ndarray, "C held weights layers"]]:
    """Cosines with a reference, without a baseline too, and ratios of norms.

    Changes are combinations of those of K trajectories, given by their coefficients. A cosine is
    NaN where a change is zero, and a partial one where nothing is left but rounding, as of weights
    that only weight decay moves.

    Args:
      grams: from `by_layer`.
      compared: changes, for each held-out run.
      reference: what they are compared with.
      held: the held-out runs. `norm_ratio` is the root mean square of the norms of the
        trajectories that `compared` is the mean of, over the norm of the held-out run.
      baseline: the change that is projected out of both in `partial_cosine`.

    Returns:
      `cosine`, `partial_cosine` and `norm_ratio`.
    """
    reference = np.broadcast_to(reference[None], compared.shape)

    def product(a, b):
        return np.einsum("...k,wlkj,...j->...wl", a, grams, b)

    def cosine_without(a, b, c):
        ac, bc, cc = product(a, c), product(b, c), product(c, c)
        cc = np.where(cc > 0, cc, np.inf)  # nothing is projected out where c did not move
        aa, bb = rest(product(a, a), ac**2 / cc), rest(product(b, b), bc**2 / cc)
        return (product(a, b) - ac * bc / cc) / np.sqrt(aa * bb)

    def rest(squares, projected):
        return np.where(squares - projected > _LEFT * squares, squares - projected, np.nan)

    with np.errstate(invalid="ignore", divide="ignore"):
        squares = product(compared, compared) * product(reference, reference)
        cosine = product(compared, reference) / np.sqrt(squares)
        own = np.einsum("wlkk->wlk", grams)
        sizes = np.einsum("...k,wlk->...wl", compared, own), np.einsum("hk,wlk->hwl", held, own)
        partial = np.full_like(cosine, np.nan)
        if baseline is not None:
            without = np.broadcast_to(baseline, compared.shape)
            partial = cosine_without(compared, reference, without)
        return {
            "cosine": cosine,
            "norm_ratio": np.sqrt(sizes[0] / sizes[1][None]),
            "partial_cosine": partial,
        }
