"""The precision of matrix products."""

from functools import partial

import jax.numpy as jnp
from jax import lax

matmul = partial(jnp.matmul, precision=lax.Precision.HIGHEST)
"""Product in the full precision of its factors on every device.

By default GPUs and TPUs round float32 factors to fewer bits, which is more than the differences
that this package measures.
"""
