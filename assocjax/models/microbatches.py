"""Sums over sequences in memory-bounded microbatches."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def sum_microbatches(function: Callable, tokens, mask, microbatch_size: int) -> Any:
    """Sums `function(tokens, mask)`, a tree of sums over sequences, over microbatches."""
    N = len(tokens)
    size = min(N, microbatch_size)
    shapes = jax.eval_shape(function, tokens[:size], mask[:size])
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def add(sums, tokens, mask):
        return jax.tree.map(jnp.add, sums, function(tokens, mask))

    return fold_microbatches(add, zeros, tokens, mask, microbatch_size)


def fold_microbatches(add: Callable, sums: Any, tokens, mask, microbatch_size: int) -> Any:
    """Applies `sums = add(sums, tokens, mask)` to every microbatch; `add` may work in place.

    The last microbatch is padded with sequences that are completely masked.
    """
    N = len(tokens)
    # Equal microbatches, as few as `microbatch_size` allows, so that there is little padding.
    num_microbatches = -(-N // microbatch_size)
    size = -(-N // num_microbatches)
    padding = num_microbatches * size - N

    def microbatches(a):
        a = jnp.pad(a, ((0, padding), (0, 0)))
        return a.reshape(num_microbatches, size, a.shape[1])

    sequences = microbatches(tokens), microbatches(mask)
    return lax.scan(lambda sums, batch: (add(sums, *batch), None), sums, sequences)[0]
