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
    default = chosen_precision() is None
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST if default else None)


def chosen_precision() -> str | None:
    """JAX's setting: a part of the key of its compiled programs, though not of its type stubs."""
    return jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
