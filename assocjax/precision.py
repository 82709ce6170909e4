"""The precision of matrix products."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array


def matmul(a: Array, b: Array) -> Array:
    """Product in the full precision of its factors on every device, unless the user lowers it.

    By default GPUs and TPUs round float32 factors to fewer bits (tf32, bf16), and these rounding
    errors are larger than the differences that this package measures. To use the faster matrix
    units at lower precision, set JAX's own `jax.default_matmul_precision("tensorfloat32")`, as a
    context or for the process, or the option `--matmul-precision` of the command line.
    """
    return jnp.matmul(a, b, precision=_precision())


def dot(a: Array, b: Array, axes: tuple[int, int]) -> Array:
    """As `matmul`, of matrices, contracted over `axes`, one axis of each, without a transpose in
    memory."""
    contracted = ((axes[0],), (axes[1],))
    return lax.dot_general(a, b, (contracted, ((), ())), precision=_precision())


def _precision() -> lax.Precision | None:
    return lax.Precision.HIGHEST if chosen_precision() is None else None


def chosen_precision() -> str | None:
    """JAX's setting. It is in the cache key of compiled programs, but not in the type stubs."""
    return jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
