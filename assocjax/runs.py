"""One run: trained by a gradient, and compared with the theories at every step.

`run_comparison` is a pure function of its learning rate, seed and starting scale that can be
jitted, vmapped and differentiated; `sweep` is its vmap over a grid.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int32

from assocjax.arguments import check_choice, check_integer
from assocjax.checks import check_tokens
from assocjax.closed_forms import (
    gradient_from_coefficients,
    optimizer_coefficients,
    weights_from_coefficients,
)
from assocjax.compare import compare_params
from assocjax.corpora import TokenData
from assocjax.errors import InputError, InputTypeError
from assocjax.gradients import effective_gradient, exact_loss_and_gradient, leading_gradient
from assocjax.gradients.plan import plan_exact_step
from assocjax.model import loss
from assocjax.moments import EffectiveStatistics, effective_statistics
from assocjax.optimizers import Optimizer, check_optimizer, is_linear, make_optimizer
from assocjax.params import Params, init_params
from assocjax.statistics import Statistics, corpus_statistics
from assocjax.training import Snapshot, batch_indices, train

THEORIES = ("leading", "effective")
GRADIENTS = ("exact", *THEORIES)


@struct.dataclass
class Corpus:
    """What a run reads: the tokens [N, T+1], their mask [N, T] and their statistics.

    `effective` is only needed by the effective theory and may be None.
    """

    tokens: Int32[Array, "N T+1"]
    mask: Bool[Array, "N T"]
    statistics: Statistics
    effective: EffectiveStatistics | None = None

    @classmethod
    def of(cls, data: TokenData, *, depth: int | None = None) -> "Corpus":
        """The corpus of some tokens, with `effective_statistics` of a depth if one is given."""
        tokens, mask = check_tokens(data.tokens, data.mask, data.vocab_size)
        return cls._of(tokens, mask, data.vocab_size, depth)

    @classmethod
    def _of(cls, tokens, mask, vocab_size: int, depth: int | None) -> "Corpus":
        statistics = corpus_statistics(tokens, vocab_size, mask)
        if depth is None:
            return cls(tokens, mask, statistics)
        effective = effective_statistics(tokens, vocab_size, depth, mask)
        return cls(tokens, mask, statistics, effective)


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything about a run that is fixed when it is compiled; the rest is traced.

    steps: number of updates.
    num_layers: L.
    theories: what the run is compared with, of "leading" and "effective".
    gradient: what trains the weights, "exact" or one of the theories.
    optimizer: the name of an optax optimizer, or a function of the learning rate that makes one.
    batch_size: sequences in a minibatch (a new order every epoch); None is the full batch.
    microbatch_size: sequences differentiated at once; None fits their memory.
    """

    steps: int
    num_layers: int
    theories: tuple[str, ...] = ("leading",)
    gradient: str = "exact"
    optimizer: Optimizer = "sgd"
    batch_size: int | None = None
    microbatch_size: int | None = None

    def __post_init__(self):
        check_integer("steps", self.steps, minimum=0)
        check_integer("num_layers", self.num_layers, minimum=1)
        if not isinstance(self.theories, tuple):
            raise InputTypeError(f"theories must be a tuple of names; got {self.theories!r}")
        for theory in self.theories:
            check_choice("every entry of theories", theory, THEORIES)
        if not self.theories or len(set(self.theories)) != len(self.theories):
            raise InputError(f"theories must be one or more distinct names; got {self.theories}")
        check_choice("gradient", self.gradient, GRADIENTS)
        check_optimizer(self.optimizer)
        for name in ("batch_size", "microbatch_size"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), minimum=1)

    @property
    def depth(self) -> int | None:
        """The depth of `effective_statistics` that a run needs, or None."""
        return self.num_layers if "effective" in (*self.theories, self.gradient) else None


def run_comparison(
    config: RunConfig,
    corpus: Corpus,
    learning_rate: Float[Array, ""],
    seed: Int32[Array, ""],
    init_scale: Float[Array, ""],
    progress: Callable[[int], None] | None = None,
) -> dict[str, Array]:
    """Trains one run and compares its weights and gradients with the theories at every step.

    A theory starts from zero, sees the whole corpus and knows nothing of the seed: it follows its
    own gradient by the run's optimizer, beside the run. Where the optimizer is linear in the
    gradients, the leading theory is its closed form (`optimizer_coefficients`). Gradients are
    compared where each side stands: the run's gradient at its own weights with the theory's at the
    theory's weights.

    With minibatches each theory is followed a second time, on the very batches of the run, with
    the statistics of each. That splits the disagreement in two, both relative to the run:

        sampling error      ||theory of the batches - theory of the corpus|| / ||trained||
        truncation error    ||trained - theory of the batches|| / ||trained||

    Args:
      config: what is compiled in.
      corpus: what is trained on; with `effective` statistics if `config.depth` is not None.
      learning_rate, seed, init_scale: scalars; may be traced.
      progress: as in `train`.

    Returns:
      A dict of arrays. `loss` [steps+1]. For every weight w and measure m, `w_m` and
      `w_gradient_m`, and with minibatches `w_sampling_error` and `w_truncation_error`:
      [theories, steps+1, L], without L for `output`. From the step at which loss, weights or
      gradient stop being finite, all are NaN; where those of a theory do, its comparisons are.
      `diverged_step` (int32, no axes) and `theory_diverged_step` [theories] are that step, or -1.

    Raises:
      InputError: `corpus` lacks the statistics of a theory.

    Cost: steps + 1 gradients and comparisons; for every theory without a closed form as many of
    its gradients; with minibatches those of every theory twice. Memory as `train`.
    """
    if config.depth is not None and corpus.effective is None:
        raise InputError(
            f"corpus must have effective statistics: Corpus.of(data, depth={config.depth})"
        )
    V, T = corpus.statistics.bigram.shape[0], corpus.mask.shape[1]
    init_key, batch_key = jax.random.split(jax.random.key(seed))
    params = init_params(
        init_key, vocab_size=V, seq_len=T, num_layers=config.num_layers, scale=init_scale
    )
    optimizer = make_optimizer(config.optimizer, learning_rate)
    training = _sides(config, corpus, params, optimizer, batch_key)

    def observe(snapshot: Snapshot):
        run = snapshot.params["run"], snapshot.gradient["run"]
        theories = [training.theory(name, snapshot) for name in config.theories]
        records = [_compare(run, theory) for theory in theories]
        if config.batch_size is not None:
            for name, theory, record in zip(config.theories, theories, records, strict=True):
                batches = snapshot.params[_batches(name)]
                record |= _split_disagreement(run[0], batches, theory[0])
        compared = jax.tree.map(lambda *leaves: jnp.stack(leaves), *records)
        finite = _all_finite((run, snapshot.loss))
        return snapshot.loss, compared, finite, jnp.stack([_all_finite(t) for t in theories])

    _, (losses, compared, finite, theory_finite) = train(
        training.start,
        training.loss_and_gradient,
        training.optimizer,
        config.steps,
        observe=observe,
        progress=progress,
    )
    alive = lax.cummin(finite.astype(jnp.int32))
    theory_alive = lax.cummin(theory_finite.astype(jnp.int32), axis=0)
    both = (alive[:, None] * theory_alive).T.astype(bool)

    def masked(values):  # [steps+1, theories, ...] -> [theories, steps+1, ...]
        values = jnp.swapaxes(values, 0, 1)
        return jnp.where(both.reshape(both.shape + (1,) * (values.ndim - 2)), values, jnp.nan)

    def first_end(alive):
        end = jnp.sum(alive, axis=0, dtype=jnp.int32)
        return jnp.where(end == config.steps + 1, -1, end)

    return {
        "loss": jnp.where(alive.astype(bool), losses, jnp.nan),
        **{name: masked(values) for name, values in compared.items()},
        "diverged_step": first_end(alive),
        "theory_diverged_step": first_end(theory_alive),
    }


class _Training(NamedTuple):
    """A run and its theories: trees of sides, of which one is "run", to be trained together.

    `theory` maps a theory's name and a snapshot to its (weights, gradient).
    """

    start: dict[str, Params]
    loss_and_gradient: Callable
    optimizer: optax.GradientTransformation
    theory: Callable[[str, Snapshot], tuple[Params, Params]]


def _batches(theory: str) -> str:
    return f"{theory} of batches"


def _sides(config: RunConfig, corpus: Corpus, params, optimizer, batch_key) -> _Training:
    closed = "leading" in config.theories and is_linear(config.optimizer)
    coefficients = optimizer_coefficients(optimizer, config.steps) if closed else None
    start = {"run": params}
    V, T = params.output.shape[0], params.position.shape[1]
    for name in config.theories:
        # From zero all layers of the leading theory are alike: one stands for all.
        layers = 1 if name == "leading" else config.num_layers
        zero = init_params(
            jax.random.key(0), vocab_size=V, seq_len=T, num_layers=layers, dtype=params.output.dtype
        )
        if not (closed and name == "leading"):
            start[name] = zero
        if config.batch_size is not None:
            start[_batches(name)] = zero

    def loss_and_gradient(sides, step):
        tokens, mask = corpus.tokens, corpus.mask
        batch = corpus
        if config.batch_size is not None:
            rows = batch_indices(batch_key, step, len(tokens), config.batch_size)
            tokens, mask = tokens[rows], mask[rows]
            depth = config.num_layers if "effective" in config.theories else None
            batch = Corpus._of(tokens, mask, V, depth)
        if config.gradient == "exact":
            size = config.microbatch_size
            value, gradient = exact_loss_and_gradient(
                sides["run"], tokens, mask, microbatch_size=size
            )
        else:
            value = loss(sides["run"], tokens, mask)
            gradient = _theory_gradient(config.gradient, sides["run"], corpus)
        gradients = {"run": gradient}
        for name in config.theories:
            for side, read in ((name, corpus), (_batches(name), batch)):
                if side in sides:
                    gradients[side] = _theory_gradient(name, sides[side], read)
        return value, gradients

    def theory(name: str, snapshot: Snapshot):
        if name in snapshot.params:
            return snapshot.params[name], snapshot.gradient[name]
        now = jax.tree.map(lambda path: path[snapshot.step], coefficients)
        terms = partial(weights_from_coefficients, corpus.statistics, 1)
        return terms(now), gradient_from_coefficients(corpus.statistics, 1, now)

    # Each side has an optimizer of its own: some, such as clipping, look at the whole tree.
    by_side = optax.multi_transform({side: optimizer for side in start}, {s: s for s in start})
    return _Training(start, loss_and_gradient, by_side, theory)


def _theory_gradient(theory: str, params: Params, corpus: Corpus) -> Params:
    if theory == "leading":
        return leading_gradient(params, corpus.statistics, corpus.tokens, corpus.mask)
    assert corpus.effective is not None
    return effective_gradient(params, corpus.effective, corpus.tokens, corpus.mask)


def _compare(run, theory) -> dict[str, Array]:
    return {
        f"{name}{suffix}_{measure}": value
        for suffix, exact, leading in zip(("", "_gradient"), run, theory, strict=True)
        for name, measures in compare_params(exact, leading).items()
        for measure, value in measures._asdict().items()
    }


def _split_disagreement(run: Params, batches: Params, corpus: Params) -> dict[str, Array]:
    trained, sampled = compare_params(run, batches), compare_params(batches, corpus)
    record = {}
    for name, measures in trained.items():
        sampling = sampled[name].relative_error * measures.norm_ratio
        record[f"{name}_sampling_error"] = sampling
        record[f"{name}_truncation_error"] = measures.relative_error
    return record


def _all_finite(tree):
    return jax.tree.reduce(lambda ok, leaf: ok & jnp.all(jnp.isfinite(leaf)), tree, True)


def run_bytes(config: RunConfig, corpus: Corpus) -> int:
    """Estimated peak memory of one run: its exact step, and copies of the weights."""
    itemsize = corpus.statistics.bigram.dtype.itemsize
    V, T, L = corpus.statistics.bigram.shape[0], corpus.mask.shape[1], config.num_layers
    weights = itemsize * ((2 * L + 1) * V * V + L * T)
    plan = plan_exact_step(
        vocab_size=V,
        seq_len=T,
        num_layers=L,
        num_sequences=config.batch_size or len(corpus.tokens),
        microbatch_size=config.microbatch_size,
        itemsize=itemsize,
    )
    # Copies of the weights that XLA keeps, as its own analysis reports them: beside the step, the
    # weights and their comparison; with other optimizers also moments; and four for every theory.
    copies = 3 if is_linear(config.optimizer) else 5
    sides = len(config.theories) * (1 if config.batch_size is None else 2)
    return (copies + 4 * sides) * weights + plan.memory
