"""Pythia's training recipe, at a small size.

A GPT-NeoX (rotary, parallel MLP, layer norm), Llama or GPT-2, trained like Pythia (Biderman et al.,
2023, arXiv 2304.01373, and its configuration files): AdamW with betas .9 and .95, weight decay .1
of matrices only, gradients clipped at norm 1, linear warmup over 1 % of the steps and cosine decay
to 10 % of the learning rate. Initialization is Gaussian with standard deviation sqrt(2 / 5d), and
2 / (L sqrt(d)) for matrices that write to the residual stream. Checkpoints are saved after 0, 1, 2,
4, 8, ... updates.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int32

from assocjax.llm.configuration import PretrainConfig
from assocjax.models import decoder
from assocjax.models.model import Model, Sizes

_WARMUP, _LAST_RATE = 0.01, 0.1


def revisions(steps: int) -> list[int]:
    """Steps at which a checkpoint is saved: 0, powers of two, and the last step."""
    return sorted({0, steps, *(2**k for k in range(steps.bit_length()) if 2**k <= steps)})


def rate_schedule(learning_rate: float, steps: int) -> optax.Schedule:
    """The learning rate of each update, counted from 0: linear to the largest, then a cosine."""
    warmup = max(1, round(_WARMUP * steps))
    rate = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, warmup, max(steps, warmup + 1), _LAST_RATE * learning_rate
    )
    return lambda count: rate(jnp.asarray(count + 1, jnp.result_type(float)))


def make_optimizer(learning_rate: float, steps: int) -> optax.GradientTransformation:
    """AdamW with clipping and the learning rates of `rate_schedule`."""
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(
            rate_schedule(learning_rate, steps),
            b1=0.9,
            b2=0.95,
            eps=1e-8,
            weight_decay=0.1,
            mask=lambda params: jax.tree.map(lambda weight: weight.ndim > 1, params),
        ),
    )


def initial_model(
    config: PretrainConfig, vocab_size: int
) -> tuple[decoder.DecoderModel, dict[str, Any]]:
    """A model and its weights at initialization, a function of `config.seed`."""
    # A head has at least 8 dimensions, so that the quarter that is rotated has at least one pair.
    sizes = Sizes(vocab_size, max(2048, config.seq_len), config.num_layers)
    architecture = getattr(decoder, config.model)(*sizes, config.width, config.num_heads)
    model = decoder.DecoderModel(config.model, architecture)
    start = jax.jit(lambda key: model.init(key, sizes, dtype=jnp.float32))
    return model, start(jax.random.key(config.seed))


def make_update(
    model: Model, optimizer: optax.GradientTransformation
) -> Callable[[Any, Any, Int32[Array, "N T+1"]], tuple[Any, Any, Float[Array, ""]]]:
    """A compiled update: weights, state of the optimizer and a batch -> weights and state after it,
    and the loss before it. The arguments' memory is used again."""

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(params, state, batch):
        mask = jnp.ones(batch[:, 1:].shape, bool)
        loss, gradient = model.loss_and_gradient(params, batch, mask)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, loss

    return update
