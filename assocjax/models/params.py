"""The parameters of the attention-only transformer, and the letters used for their sizes.

Sizes, in every docstring and shape annotation of the package:

    N  sequences          T  positions (inputs per sequence)    V  tokens in the vocabulary
    L  layers             M  valid positions (N T without padding)
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, ArrayLike, Bool, DTypeLike, Float, Int32, PRNGKeyArray

from assocjax.arguments import LARGEST_DEPTH, check_integer, check_is
from assocjax.checks import CorpusLike, check_key, check_number, check_precision, check_tokens
from assocjax.errors import InputError, InputTypeError
from assocjax.models.model import Weights
from assocjax.storage.display import summarized

WEIGHTS = ("query_key", "position", "value", "output")
"""Names of the weights, in the order in which the model applies them."""


@summarized
@struct.dataclass
class Params:
    """Weights of an L-layer attention-only transformer on one-hot tokens (paper, Def. 3.1).

    Rows of `query_key` are query tokens and columns are key tokens; `position[l, d]` is added to
    every score between a query and the key d positions before it. Gradients, theories and
    optimizer states are trees of this same shape.

    Source: Im, Oh, Fang, Li, ICLR 2026, arXiv 2601.19208, Def. 3.1.
    """

    query_key: Float[Array, "L V V"]
    position: Float[Array, "L T"]
    value: Float[Array, "L V V"]
    output: Float[Array, "V V"]

    def by_name(self) -> Weights:
        """The weights by name, each with a leading axis of layers: L, or 1 for `output`."""
        return {name: getattr(self, name) for name in WEIGHTS} | {"output": self.output[None]}


def init_params(
    key: PRNGKeyArray,
    *,
    vocab_size: int,
    seq_len: int,
    num_layers: int,
    scale: float | Float[Array, ""] = 0.0,
    dtype: DTypeLike | None = None,
) -> Params:
    """Draws every entry of every weight from a normal distribution of mean 0 and sd `scale`.

    `scale=0` is the zero start of the paper's Theorem 4.1. Its Theorem D.13 allows a Gaussian
    start of variance v^2 / V^(2 + 2 xi) with v <= eta^2 / T^2, that is `scale <= eta^2 / (T^2 V)`.

    Args:
      key: a JAX random key.
      vocab_size: V.
      seq_len: T.
      num_layers: L.
      scale: standard deviation; may be traced, so that a sweep over it compiles once. The same key
        draws different numbers in float64 than in float32.
      dtype: floating dtype; by default JAX's current default (float32, or float64 under x64).

    Returns:
      `Params` with leaves [L,V,V], [L,T], [L,V,V], [V,V].

    Raises:
      InputError, InputTypeError: a size is not positive, `scale` is negative or not finite, `key`
        is not a key, or `dtype` is not floating, or is float64 without `jax_enable_x64`.
    """
    vocab_size = check_integer("vocab_size", vocab_size, minimum=2)
    seq_len = check_integer("seq_len", seq_len, minimum=1)
    num_layers = check_integer("num_layers", num_layers, minimum=1, maximum=LARGEST_DEPTH)
    scale = check_number("scale", scale, minimum=0.0)
    check_key("key", key)
    dtype = _floating(jnp.result_type(float) if dtype is None else dtype)
    shapes = {
        "query_key": (num_layers, vocab_size, vocab_size),
        "position": (num_layers, seq_len),
        "value": (num_layers, vocab_size, vocab_size),
        "output": (vocab_size, vocab_size),
    }
    scale = jnp.asarray(scale, dtype)
    keys = dict(zip(WEIGHTS, jax.random.split(key, len(WEIGHTS)), strict=True))
    return Params(
        **{name: scale * jax.random.normal(keys[name], shapes[name], dtype) for name in WEIGHTS}
    )


def _floating(dtype: Any) -> np.dtype:
    try:
        if isinstance(dtype, jax.Array | np.ndarray):
            raise TypeError
        found = jnp.dtype(dtype)
    except (TypeError, ValueError):  # ValueError: a name that is not text
        raise InputTypeError(f"dtype must be a floating dtype; got {dtype!r}") from None
    if not jnp.issubdtype(found, jnp.floating):
        raise InputTypeError(f"dtype must be a floating dtype; got {found}")
    if jax.dtypes.canonicalize_dtype(found) != found:
        raise InputError(f"dtype {found} needs jax_enable_x64, which is off")
    return found


def check_params(name: str, params: Any) -> None:
    """Checks that `params` is `Params` in float32 or float64."""
    check_is(name, params, Params)
    check_precision(params)


def check_batch(
    params: Any, data: CorpusLike, mask: ArrayLike | None
) -> tuple[Int32[Array, "N T+1"], Bool[Array, "N T"]]:
    """As `check_tokens`; also checks `params`, and that sequences fit its positions."""
    check_params("params", params)
    tokens, mask = check_tokens(data, mask, params.output.shape[-1])
    if mask.shape[1] > params.position.shape[1]:
        raise InputError(
            f"data must have at most {params.position.shape[1]} positions, as params.position; "
            f"got {mask.shape[1]}"
        )
    return tokens, mask
