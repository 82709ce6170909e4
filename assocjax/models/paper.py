"""The paper's model as a `Model`: the attention-only transformer, with its fast exact gradient."""

from typing import Any

import jax
import jax.numpy as jnp

from assocjax.errors import InputError
from assocjax.models.attention_only import count_valid, loss, sequence_loss
from assocjax.models.exact import exact_loss_and_gradient
from assocjax.models.model import Model, Sizes, Weights
from assocjax.models.params import Params, check_batch, init_params
from assocjax.models.plan import plan_exact_step
from assocjax.models.registry import register_model


class AttentionOnly(Model):
    """The attention-only transformer on one-hot tokens (paper, Def. 3.1), with weights `Params`.

    The scale of its start is the standard deviation of every entry: 0 is the paper's zero start.
    """

    name = "attention-only"
    init_scale = 0.0
    zero_start = True

    def init(self, key, sizes: Sizes, scale, dtype=None) -> Params:
        V, T, L = sizes
        return init_params(key, vocab_size=V, seq_len=T, num_layers=L, scale=scale, dtype=dtype)

    def loss(self, params: Params, tokens, mask):
        losses = jax.vmap(sequence_loss, (None, 0, 0))(params, tokens, mask)
        return jnp.sum(losses) / count_valid(mask, losses.dtype)

    def check_batch(self, params, data, mask):
        return check_batch(params, data, mask)

    def evaluate(self, params: Params, tokens, mask):
        return loss(params, tokens, mask)

    def weights(self, params: Params) -> Weights:
        return params.by_name()

    def loss_and_gradient(
        self, params: Params, tokens, mask, *, microbatch_size=None, max_distinct=None
    ):
        return exact_loss_and_gradient(
            params, tokens, mask, microbatch_size=microbatch_size, max_distinct=max_distinct
        )

    def step_bytes(self, sizes: Sizes, **of_step: Any) -> int:
        return plan_exact_step(**sizes._asdict(), **of_step).memory

    def in_tokens(self, params: Params) -> Params:
        return params


def check_paper_model(what: str, model: Model) -> None:
    """Checks that something that needs weights between tokens is asked of the paper's model."""
    if not isinstance(model, AttentionOnly):
        raise InputError(
            f"{what} is of weights between tokens, those of model {AttentionOnly.name!r}; got "
            f"model {model.name!r}"
        )


register_model(AttentionOnly())
