"""The precision of matrix products."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array


def matmul(a: Array, b: Array) -> Array:
    """Product in the full precision of its factors on every device, unless the user says less.

    By default GPUs and TPUs would round float32 factors to fewer bits (tf32, bf16), which is more
    than the differences that this package measures. Matrix units at less precision are used where
    JAX's own setting is given: `jax.default_matmul_precision("tensorfloat32")`, as a context or
    for the process, or the option `--matmul-precision` of the command line.
    """
    return jnp.matmul(a, b, precision=_precision())


def dot(a: Array, b: Array, axes: tuple[int, int]) -> Array:
    """As `matmul`, of matrices, summed over an axis of each: neither is transposed in memory."""
    contracted = ((axes[0],), (axes[1],))
    return lax.dot_general(a, b, (contracted, ((), ())), precision=_precision())


def _precision() -> lax.Precision | None:
    return lax.Precision.HIGHEST if chosen_precision() is None else None


def chosen_precision() -> str | None:
    """JAX's setting: a part of the key of its compiled programs, though not of its type stubs."""
    return jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
