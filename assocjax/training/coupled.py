"""AdamW that treats all tokens of an embedding alike."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

TOKEN_AXES = {"embedding": 0, "unembedding": 1}
"""Weights with a vector for each token, and the axis of tokens."""


def coupled_adamw(
    learning_rate: Any,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    weight_decay: float = 1e-4,
    mask: Any | Callable[[Any], Any] | None = None,
) -> optax.GradientTransformation:
    """AdamW whose second moment is shared by all tokens of an embedding (Coupled Adam).

        update = -rate (m / (sqrt(v) + eps) + weight_decay weight)

    m and v are Adam's first and second moments, corrected for their start. In weights named
    "embedding" [V,d] and "unembedding" [d,V], v is replaced by its mean over the V tokens. Adam's
    own v is smaller for a rare token, whose steps are therefore larger in relation to its gradient;
    gradients of an unembedding sum to 0 over tokens, but Adam's steps do not, so that all tokens
    move in one direction. With a shared v the steps of a weight that starts at m = 0 sum to 0 too.

    Arguments are those of `optax.adamw`.

    Source: Stollenwerk and Stollenwerk, arXiv 2502.08441, who share the moment in the embedding of
    models with tied weights.
    """
    adam = optax.scale_by_adam(b1, b2, eps)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        moments: Any = adam.update(updates, state)[1]
        m = optax.tree.bias_correction(moments.mu, b1, moments.count)
        v = optax.tree.bias_correction(moments.nu, b2, moments.count)
        v = jax.tree_util.tree_map_with_path(_share, v)
        step = lambda m, v: m / (jnp.sqrt(v + eps_root) + eps)  # noqa: E731
        return jax.tree.map(step, m, v), moments

    return optax.chain(
        optax.GradientTransformation(adam.init, update),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )


def _share(path: tuple[Any, ...], v: jax.Array) -> jax.Array:
    """The mean over tokens, in weights that have them."""
    axis = TOKEN_AXES.get(jax.tree_util.keystr(path[-1:], simple=True)) if path else None
    return v if axis is None else jnp.mean(v, axis=axis, keepdims=True)
