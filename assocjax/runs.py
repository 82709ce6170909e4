"""One run: trained by a gradient, and compared with the theory at every step.

`run_comparison` is a pure function of its learning rate, seed and starting scale that can be
jitted, vmapped and differentiated; `sweep` is its vmap over a grid.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int32

from assocjax.arguments import check_choice, check_integer
from assocjax.checks import check_tokens
from assocjax.closed_forms import leading_weights, leading_weights_gradient
from assocjax.compare import compare_params
from assocjax.corpora import TokenData
from assocjax.errors import InputError, InputTypeError
from assocjax.gradients import exact_loss_and_gradient, leading_gradient
from assocjax.model import activation_bytes, loss
from assocjax.params import Params, init_params
from assocjax.statistics import Statistics, corpus_statistics
from assocjax.training import Snapshot, batch_indices, train

GRADIENTS = ("exact", "leading")
Optimizer = str | Callable[[Any], optax.GradientTransformation]


@struct.dataclass
class Corpus:
    """What a run reads: the tokens [N, T+1], their mask [N, T] and their statistics."""

    tokens: Int32[Array, "N T+1"]
    mask: Bool[Array, "N T"]
    statistics: Statistics

    @classmethod
    def of(cls, data: TokenData) -> "Corpus":
        tokens, mask = check_tokens(data.tokens, data.mask, data.vocab_size)
        return cls(tokens, mask, corpus_statistics(tokens, data.vocab_size, mask))


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything about a run that is fixed when it is compiled; the rest is traced.

    steps: number of updates.
    num_layers: L.
    gradient: what trains the weights, "exact" or "leading".
    optimizer: the name of an optax optimizer, or a function of the learning rate that makes one.
    batch_size: sequences in a minibatch (a new order every epoch); None is the full batch.
    microbatch_size: sequences differentiated at once; None fits their memory.
    """

    steps: int
    num_layers: int
    gradient: str = "exact"
    optimizer: Optimizer = "sgd"
    batch_size: int | None = None
    microbatch_size: int | None = None

    def __post_init__(self):
        check_integer("steps", self.steps, minimum=0)
        check_integer("num_layers", self.num_layers, minimum=1)
        check_choice("gradient", self.gradient, GRADIENTS)
        _check_optimizer(self.optimizer)
        for name in ("batch_size", "microbatch_size"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), minimum=1)


def make_optimizer(optimizer: Optimizer, learning_rate) -> optax.GradientTransformation:
    """The optimizer for a (possibly traced) learning rate.

    Raises:
      InputError: no optimizer of that name in optax takes a learning rate.
      InputTypeError: neither a name nor a function that makes an optax transformation.
    """
    factory = optimizer
    if isinstance(optimizer, str):
        factory = getattr(optax, optimizer, None)
        parameters = list(inspect.signature(factory).parameters) if callable(factory) else []
        if optimizer.startswith("_") or parameters[:1] != ["learning_rate"]:
            raise InputError(
                f"optimizer must be the name of an optax optimizer with a learning rate, such as "
                f"sgd, adam, adamw, rmsprop or lion; got {optimizer!r}"
            )
    made = factory(learning_rate) if callable(factory) else None
    if not isinstance(made, optax.GradientTransformation):
        raise InputTypeError(
            "optimizer must be a name or a function from a learning rate to an optax "
            f"transformation; got {optimizer!r}"
        )
    return made


def _check_optimizer(optimizer: Optimizer) -> None:
    """Tries a step: some of optax's optimizers want more than a gradient and weights."""
    made = make_optimizer(optimizer, 0.1)
    weights = jax.ShapeDtypeStruct((1,), jnp.result_type(float))
    try:
        jax.eval_shape(lambda x: made.update(x, made.init(x), x), weights)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"optimizer {optimizer!r} cannot train by gradients: {reason}") from None


def run_comparison(
    config: RunConfig,
    corpus: Corpus,
    learning_rate: Float[Array, ""],
    seed: Int32[Array, ""],
    init_scale: Float[Array, ""],
    progress: Callable[[int], None] | None = None,
) -> dict[str, Array]:
    """Trains one run and compares its weights and gradients with the theory at every step.

    The theory starts from zero, sees the whole corpus and knows nothing of the seed. For "sgd" it
    is the closed form (`leading_weights`); for any other optimizer, whose updates need not be
    linear in the gradients, that optimizer follows the leading gradient from zero, beside the run.
    Gradients are compared where each side stands: the run's gradient at its own weights with the
    theory's at the theory's weights.

    Args:
      config: what is compiled in.
      corpus: what is trained on.
      learning_rate, seed, init_scale: scalars; may be traced.
      progress: as in `train`.

    Returns:
      A dict of arrays with a leading axis of steps + 1: `loss`, and for every weight w and
      measure m `w_m` and `w_gradient_m`, with a second axis of layers except for `output`.
      From the step at which loss, weights or gradient stop being finite, all are NaN.
      `diverged_step` (int32, no axes) is that step, or -1.

    Cost: steps + 1 gradients and comparisons, and for optimizers other than "sgd" as many leading
    gradients; memory as `train`.
    """
    V, T = corpus.statistics.bigram.shape[0], corpus.mask.shape[1]
    init_key, batch_key = jax.random.split(jax.random.key(seed))
    params = init_params(
        init_key, vocab_size=V, seq_len=T, num_layers=config.num_layers, scale=init_scale
    )
    optimizer = make_optimizer(config.optimizer, learning_rate)
    run_gradient = _run_gradient(config, corpus, batch_key)
    if config.optimizer == "sgd":
        training = _beside_closed_form(corpus, params, run_gradient, optimizer, learning_rate)
    else:
        training = _beside_leading_run(corpus, params, run_gradient, optimizer)

    def observe(snapshot: Snapshot):
        run, theory = training.sides(snapshot)
        finite = jax.tree.reduce(
            lambda ok, leaf: ok & jnp.all(jnp.isfinite(leaf)), (run, snapshot.loss), True
        )
        record = {"loss": snapshot.loss}
        for suffix, exact, leading in zip(("", "_gradient"), run, theory, strict=True):
            for name, measures in compare_params(exact, leading).items():
                for measure, value in measures._asdict().items():
                    record[f"{name}{suffix}_{measure}"] = value
        return record, finite

    _, (record, finite) = train(
        training.start,
        training.loss_and_gradient,
        training.optimizer,
        config.steps,
        observe=observe,
        progress=progress,
    )
    alive = lax.cummin(finite.astype(jnp.int32)).astype(bool)
    record = {
        name: jnp.where(alive.reshape(-1, *[1] * (value.ndim - 1)), value, jnp.nan)
        for name, value in record.items()
    }
    diverged_step = jnp.where(jnp.all(alive), -1, jnp.sum(alive, dtype=jnp.int32))
    return record | {"diverged_step": diverged_step}


class _Training(NamedTuple):
    """A run and the theory beside it: what to train, and how to tell the two apart.

    `sides` maps a snapshot to (run, theory), each a pair (weights, gradient).
    """

    start: Any
    loss_and_gradient: Callable
    optimizer: optax.GradientTransformation
    sides: Callable


def _beside_closed_form(corpus, params, run_gradient, optimizer, learning_rate) -> _Training:
    def sides(snapshot):
        arguments = corpus.statistics, 1, learning_rate, snapshot.step
        theory = leading_weights(*arguments), leading_weights_gradient(*arguments)
        return (snapshot.params, snapshot.gradient), theory

    return _Training(params, run_gradient, optimizer, sides)


def _beside_leading_run(corpus, params, run_gradient, optimizer) -> _Training:
    # From zero all layers of the theory are alike: one stands for all.
    V, T = params.output.shape[0], params.position.shape[1]
    one_layer = init_params(
        jax.random.key(0), vocab_size=V, seq_len=T, num_layers=1, dtype=params.output.dtype
    )

    def loss_and_gradient(pair, step):
        value, gradient = run_gradient(pair["run"], step)
        theory = leading_gradient(pair["theory"], corpus.statistics, corpus.tokens, corpus.mask)
        return value, {"run": gradient, "theory": theory}

    def sides(snapshot):
        weights, gradient = snapshot.params, snapshot.gradient
        return tuple((weights[side], gradient[side]) for side in ("run", "theory"))

    # Each side has an optimizer of its own: some, such as clipping, look at the whole tree.
    optimizer = optax.multi_transform(
        {"run": optimizer, "theory": optimizer}, {"run": "run", "theory": "theory"}
    )
    return _Training({"run": params, "theory": one_layer}, loss_and_gradient, optimizer, sides)


def _run_gradient(config: RunConfig, corpus: Corpus, key) -> Callable:
    """(params, step) -> (loss, gradient) of the batch at that step."""

    def loss_and_gradient(params: Params, step):
        tokens, mask = corpus.tokens, corpus.mask
        if config.batch_size is not None:
            rows = batch_indices(key, step, len(tokens), config.batch_size)
            tokens, mask = tokens[rows], mask[rows]
        if config.gradient == "exact":
            return exact_loss_and_gradient(
                params, tokens, mask, microbatch_size=config.microbatch_size
            )
        # The leading gradient is that of the whole corpus: its B and Phi are.
        gradient = leading_gradient(params, corpus.statistics, corpus.tokens, corpus.mask)
        return loss(params, tokens, mask), gradient

    return loss_and_gradient


def run_bytes(config: RunConfig, corpus: Corpus) -> int:
    """Estimated peak memory of one run: copies of the weights, and one microbatch."""
    itemsize = corpus.statistics.bigram.dtype.itemsize
    V, T, L = corpus.statistics.bigram.shape[0], corpus.mask.shape[1], config.num_layers
    weights = itemsize * ((2 * L + 1) * V * V + L * T)
    # Copies of the weights that XLA keeps, as its own analysis reports them: weights, gradients and
    # their sums; for other optimizers also moments, and the theory with its own.
    copies = 6 if config.optimizer == "sgd" else 11
    return copies * weights + 2 * activation_bytes(config.microbatch_size, V, T, L, itemsize)
