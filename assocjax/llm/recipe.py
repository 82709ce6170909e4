"""Recipes of training: the learning rate of every update, and the optimizer; and pretrain-tiny's.

A recipe is AdamW, or another of `UPDATE_RULES`, with decoupled weight decay, gradients clipped at a
norm, and a schedule:

    rate(i) = peak f(i + first_update)          of update i = 0, 1, ...
    f(p)    = p / W                                                  p < W = warmup_steps
            = 1                                             W <= p < steps - decay_steps
            = from 1 to last_rate, linearly or as a cosine, over the last decay_steps

The sum of the rates of the first s updates, the *summed learning rate*, is the clock by which runs
of different recipes are compared: a change of weights is proportional to it as long as gradients
change little.

pretrain-tiny's recipe is Pythia's at a small size (Biderman et al., 2023, arXiv 2304.01373, and its
configuration files): a GPT-NeoX, Llama or GPT-2 trained by AdamW with betas .9
and .95, weight decay .1 of matrices only, gradients clipped at norm 1, linear warmup over 1 % of
the steps and cosine decay to 10 % of the learning rate. Initialization is Gaussian with standard
deviation sqrt(2 / 5d), and 2 / (L sqrt(d)) for matrices that write to the residual stream.
Checkpoints are saved after 0, 1, 2, 4, 8, ... updates.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int32

from assocjax.arguments import LARGEST_PATH, SCHEDULES, check_choice, check_integer
from assocjax.checks import check_number
from assocjax.errors import InputError, InputTypeError
from assocjax.llm.configuration import PretrainConfig
from assocjax.models import decoder
from assocjax.models.model import Model, Sizes
from assocjax.training.coupled import coupled_adamw

_WARMUP, _LAST_RATE = 0.01, 0.1

UPDATE_RULES = ("adamw", "coupled_adamw", "sgd")
"""How gradients become updates: `coupled_adamw` shares Adam's second moment among all tokens of an
embedding."""

DECAYED = ("matrices", "matrices but the embedding", "all but the embedding", "all")
"""Weights that weight decay moves: those of two axes, or gains and biases too; the embedding is
the matrix of that name, not the unembedding."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a language model was trained. None stands for what is not published for certain.

    Attributes:
        name: Names it on the command line and in results.
        source: The paper or file that it is from.
        learning_rate: The largest.
        steps: Number of updates of the whole schedule.
        warmup_steps: Updates in which the rate rises linearly to the largest.
        first_update: Place of the first update in the schedule: 0 if its rate is 0, and so leaves
            the weights as they are (GPT-NeoX, nanotron), else 1.
        schedule: "constant", "linear" or "cosine": how the rate falls.
        decay_steps: Number of the last updates in which it falls; None is all after the warmup.
        last_rate: The last learning rate, as a share of the largest.
        update_rule: One of `UPDATE_RULES`.
        beta1, beta2, eps: Of Adam; unused by "sgd".
        weight_decay: Decoupled: an update subtracts rate times weight_decay times the weight.
        decayed: One of `DECAYED`.
        clip: Norm of all gradients together above which they are scaled down to it; 0 is never.
        batch_size: Sequences in a batch.
        seq_len: Positions of a sequence in training.
        seeds: Of the runs that are published, in words.
        note: What else is known of it, or not done here.

    Raises:
        InputError, InputTypeError: A value is out of range; the error names it.
    """

    name: str
    source: str
    learning_rate: float
    steps: int
    warmup_steps: int
    first_update: int
    schedule: str
    decay_steps: int | None = None
    last_rate: float
    update_rule: str = "adamw"
    beta1: float | None = None
    beta2: float | None = None
    eps: float | None = None
    weight_decay: float | None = None
    decayed: str | None = None
    clip: float | None = None
    batch_size: int | None = None
    seq_len: int | None = None
    seeds: str = ""
    note: str = ""

    def __post_init__(self):
        plain = functools.partial(object.__setattr__, self)
        for name in ("name", "source", "seeds", "note"):
            if not isinstance(getattr(self, name), str):
                raise InputTypeError(f"{name} must be text; got {getattr(self, name)!r}")
        for name, least, most in (
            ("steps", 1, LARGEST_PATH),
            ("warmup_steps", 0, LARGEST_PATH),
            ("first_update", 0, 1),
            ("decay_steps", 1, LARGEST_PATH),
            ("batch_size", 1, LARGEST_PATH),
            ("seq_len", 1, LARGEST_PATH),
        ):
            if getattr(self, name) is not None or name in ("steps", "warmup_steps", "first_update"):
                value = check_integer(name, getattr(self, name), minimum=least, maximum=most)
                plain(name, value)
        for name, most in (
            ("learning_rate", float("inf")),
            ("last_rate", 1.0),
            ("beta1", 1.0),
            ("beta2", 1.0),
            ("eps", float("inf")),
            ("weight_decay", float("inf")),
            ("clip", float("inf")),
        ):
            if getattr(self, name) is not None or name in ("learning_rate", "last_rate"):
                value = check_number(name, getattr(self, name), minimum=0)
                if value > most:
                    raise InputError(f"{name} must be at most {most:g}; got {value:g}")
                plain(name, value)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("update_rule", self.update_rule, UPDATE_RULES)
        if self.decayed is not None:
            check_choice("decayed", self.decayed, DECAYED)
        if self.warmup_steps + (self.decay_steps or 0) > self.steps:
            raise InputError(
                f"steps must be at least warmup_steps and decay_steps together, "
                f"{self.warmup_steps + (self.decay_steps or 0)}; got {self.steps}"
            )

    def rate(self, count: Any) -> Float[Array, "..."]:
        """The learning rate of updates, which are counted from 0; a function of optax.

        Args:
            count: Numbers of updates, integers of any shape; they may be traced.
        """
        peak, last = self.learning_rate, self.last_rate
        decay = self.decay_steps or max(self.steps - self.warmup_steps, 1)
        falls = {
            "constant": lambda: optax.constant_schedule(peak),
            "linear": lambda: optax.linear_schedule(peak, last * peak, decay),
            "cosine": lambda: optax.cosine_decay_schedule(peak, decay, last),
        }
        parts, ends = [falls[self.schedule]()], []
        if self.decay_steps:
            parts, ends = [optax.constant_schedule(peak), *parts], [self.steps - decay]
        if self.warmup_steps:
            warmup = optax.linear_schedule(0.0, peak, self.warmup_steps)
            parts, ends = [warmup, *parts], [self.warmup_steps, *ends]
        place = jnp.asarray(count + self.first_update, jnp.result_type(float))
        return jnp.broadcast_to(optax.join_schedules(parts, ends)(place), place.shape)

    def summed_rate(self, step: Any) -> np.ndarray:
        """The sum of the learning rates of the first `step` updates, float64.

        Args:
            step: Numbers of updates, at least 0; an integer or an array of them.

        Raises:
            InputError: If one is negative, or larger than 10 million.
        """
        steps = np.asarray(step)
        if steps.dtype.kind not in "iu" or (steps.size and not 0 <= steps.min() <= steps.max()):
            raise InputError(f"step must be integers of at least 0; got {step!r}")
        if steps.size and steps.max() > LARGEST_PATH:
            raise InputError(f"step must be at most {LARGEST_PATH}; got {steps.max()}")
        return self._sums(int(steps.max(initial=0)))[steps]

    def step_at(self, summed_rate: float) -> int:
        """The first number of updates after which the summed learning rate is at least this.

        Raises:
            InputError: If the whole schedule has less.
        """
        sums = self._sums(self.steps)
        wanted = check_number("summed_rate", summed_rate, minimum=0)
        if wanted > sums[-1]:
            raise InputError(
                f"summed_rate must be at most that of all {self.steps} updates of {self.name}, "
                f"{sums[-1]:.3g}; got {wanted:g}"
            )
        return int(np.searchsorted(sums, wanted))

    def _sums(self, steps: int) -> np.ndarray:
        rates = np.asarray(self.rate(np.arange(steps)), np.float64)
        return np.concatenate([[0.0], np.cumsum(rates)])

    def optimizer(self) -> optax.GradientTransformation:
        """The update rule with clipping, weight decay and the learning rates of `rate`.

        Raises:
            InputError: If a part of it is not published.
        """
        names = ("weight_decay", "decayed", "clip")
        names += ("beta1", "beta2", "eps") * (self.update_rule != "sgd")
        if unknown := [name for name in names if getattr(self, name) is None]:
            raise InputError(
                f"recipe {self.name!r} has no {', '.join(unknown)}, which are not published for "
                "certain: give them in a file with its other keys"
            )
        decay: dict[str, Any] = {"weight_decay": self.weight_decay}
        decay["mask"] = functools.partial(_decays, self.decayed)
        if self.update_rule == "sgd":
            made = optax.chain(optax.add_decayed_weights(**decay), optax.sgd(self.rate))
        else:
            adamw = coupled_adamw if self.update_rule == "coupled_adamw" else optax.adamw
            betas: dict[str, Any] = {"b1": self.beta1, "b2": self.beta2, "eps": self.eps}
            made = adamw(self.rate, **betas, **decay)
        return optax.chain(optax.clip_by_global_norm(self.clip), made) if self.clip else made


def _decays(decayed: str | None, params: Any) -> Any:
    """A tree of whether each weight is moved by weight decay."""
    every, embedding = str(decayed).startswith("all"), not str(decayed).endswith("embedding")

    def of(path, weight):
        return (every or weight.ndim > 1) and (embedding or path[-1].key != "embedding")

    return jax.tree_util.tree_map_with_path(of, params)


def pretrain_recipe(config: PretrainConfig) -> Recipe:
    """The recipe of `pretrain_tiny`."""
    warmup = max(1, round(_WARMUP * config.steps))
    return Recipe(
        name="pretrain-tiny",
        source="assocjax pretrain-tiny; Pythia's (arXiv 2304.01373) with other numbers",
        learning_rate=config.learning_rate,
        steps=max(config.steps, warmup + 1),
        warmup_steps=warmup,
        first_update=1,
        schedule="cosine",
        last_rate=_LAST_RATE,
        update_rule=config.optimizer,
        beta1=0.9,
        beta2=0.95,
        eps=1e-8,
        # At the large rates of plain descent it would undo the steps.
        weight_decay=0.0 if config.optimizer == "sgd" else 0.1,
        decayed="matrices",
        clip=1.0,
        batch_size=config.batch_size,
        seq_len=config.seq_len,
    )


def revisions(steps: int) -> list[int]:
    """Steps at which a checkpoint is saved: 0, powers of two, and the last step."""
    return sorted({0, steps, *(2**k for k in range(steps.bit_length()) if 2**k <= steps)})


def make_optimizer(learning_rate: float, steps: int) -> optax.GradientTransformation:
    """The optimizer of `pretrain_recipe`."""
    return pretrain_recipe(PretrainConfig(learning_rate=learning_rate, steps=steps)).optimizer()


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
