"""Sums over sequences in memory-bounded microbatches."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def sum_microbatches(function: Callable, tokens, mask, microbatch_size: int) -> Any:
    """Adds up `function(tokens, mask)`, a tree of sums over sequences, over microbatches.

    Padding sequences, to fill the last microbatch, are all masked.
    """
    N = len(tokens)
    # Equal microbatches, as few as the size allows, so that little of the last one is padding.
    num_microbatches = -(-N // microbatch_size)
    size = -(-N // num_microbatches)
    padding = num_microbatches * size - N

    def microbatches(a):
        a = jnp.pad(a, ((0, padding), (0, 0)))
        return a.reshape(num_microbatches, size, a.shape[1])

    def add(total, microbatch):
        return jax.tree.map(jnp.add, total, function(*microbatch)), None

    sequences = microbatches(tokens), microbatches(mask)
    shapes = jax.eval_shape(function, *jax.tree.map(lambda a: a[0], sequences))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return lax.scan(add, zeros, sequences)[0]
