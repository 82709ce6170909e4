"""One run: trained by a gradient, and compared with the theories at every step.

`run_comparison` is a pure function of learning rate, seed and initialization scale that can be
jitted, vmapped and differentiated. It consists of three functions: `start_run`, `advance_run`,
which takes a segment of steps, and `finish_run`. `sweep` is their vmap over a grid, and saves the
carry between segments.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import lax
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Int32, PRNGKeyArray

from assocjax.arguments import (
    GRADIENTS,
    LARGEST_DEPTH,
    LARGEST_STEPS,
    THEORIES,
    check_choice,
    check_integer,
    check_is,
)
from assocjax.checks import CorpusLike, check_corpus, check_number, check_step, is_traced
from assocjax.corpora.tokens import TokenData
from assocjax.errors import InputError, InputTypeError
from assocjax.models.agreement import by_layer, compare_params
from assocjax.models.attention_only import loss
from assocjax.models.params import Params, init_params
from assocjax.statistics.dense import Statistics, corpus_statistics
from assocjax.statistics.moments import EffectiveStatistics, effective_statistics
from assocjax.theories.closed_forms import (
    follow_coefficients,
    gradient_from_coefficients,
    weights_from_coefficients,
)
from assocjax.theories.effective import effective_gradient
from assocjax.theories.leading import leading_gradient
from assocjax.training.exact import count_distinct, exact_loss_and_gradient
from assocjax.training.optimizers import (
    Optimizer,
    check_optimizer,
    is_linear,
    make_optimizer,
    warn_of_derivatives,
)
from assocjax.training.train import Snapshot, batch_indices, train_segment

QUANTITIES = ("weights", "gradients")
"""The quantities of a run and a theory that are compared, in the order of the result arrays."""


@struct.dataclass
class Corpus:
    """A corpus for training: the tokens [N, T+1], their mask [N, T] and their statistics.

    `effective` is needed by the effective theory only and may be None. `max_distinct` is the
    argument of `exact_gradient`; it is static, so a program is compiled for each value.
    """

    tokens: Int32[Array, "N T+1"]
    mask: Bool[Array, "N T"]
    statistics: Statistics
    effective: EffectiveStatistics | None = None
    max_distinct: int | None = struct.field(pytree_node=False, default=None)

    @classmethod
    def of(
        cls,
        data: CorpusLike,
        *,
        depth: int | None = None,
        vocab_size: int | None = None,
        mask: ArrayLike | None = None,
    ) -> "Corpus":
        """A corpus with its statistics, and with `effective_statistics` if `depth` is given.

        Args:
          data, vocab_size, mask: as in `corpus_statistics`.
        """
        tokens, mask, vocab_size = check_corpus(data, vocab_size, mask)
        corpus = cls._of(tokens, mask, vocab_size, depth)
        return corpus.replace(max_distinct=count_distinct(data))  # type: ignore[attr-defined]

    @classmethod
    def _of(cls, tokens, mask, vocab_size: int, depth: int | None) -> "Corpus":
        statistics = corpus_statistics(tokens, vocab_size, mask)
        if depth is None:
            return cls(tokens, mask, statistics)
        effective = effective_statistics(tokens, depth=depth, vocab_size=vocab_size, mask=mask)
        return cls(tokens, mask, statistics, effective)


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything about a run that is static, that is, fixed at compilation; the rest is traced.

    steps: number of updates.
    num_layers: L.
    theories: names of the theories that the run is compared with, "leading", "effective" or both;
      () trains without a comparison.
    gradient: the gradient that trains the weights, "exact" or the name of a theory.
    optimizer: the name of an optax optimizer, or a function of the learning rate that makes one.
    batch_size: sequences in a minibatch (a new order every epoch); None is the full batch.
    microbatch_size: sequences differentiated at once; None chooses by memory.
    """

    steps: int
    num_layers: int
    theories: tuple[str, ...]
    gradient: str = "exact"
    optimizer: Optimizer = "sgd"
    batch_size: int | None = None
    microbatch_size: int | None = None

    def __post_init__(self):
        # Python numbers, which can be hashed and written as JSON.
        plain = partial(object.__setattr__, self)
        steps = check_integer("steps", self.steps, minimum=0, maximum=LARGEST_STEPS)
        plain("steps", steps)
        layers = check_integer("num_layers", self.num_layers, minimum=1, maximum=LARGEST_DEPTH)
        plain("num_layers", layers)
        if not isinstance(self.theories, tuple):
            raise InputTypeError(f"theories must be a tuple of names; got {self.theories!r}")
        for theory in self.theories:
            check_choice("every entry of theories", theory, THEORIES)
        if len(set(self.theories)) != len(self.theories):
            raise InputError(f"theories must be distinct names; got {self.theories}")
        check_choice("gradient", self.gradient, GRADIENTS)
        check_optimizer(self.optimizer)
        for name in ("batch_size", "microbatch_size"):
            if getattr(self, name) is not None:
                plain(name, check_integer(name, getattr(self, name), minimum=1))

    @property
    def depth(self) -> int | None:
        """The depth of `effective_statistics` that the run needs, or None."""
        return self.num_layers if "effective" in (*self.theories, self.gradient) else None


class Carry(NamedTuple):
    """The state of a run between two steps.

    Both fields are dicts over the trajectories that are trained together: "run"; the name of each
    theory without a closed form, trained beside the run; and with minibatches each theory trained
    on the run's minibatches (`of_batches`). A trajectory named after a theory depends on the
    learning rate only, the others also on seed and initialization scale.
    """

    params: dict[str, Params]
    optimizer_states: dict[str, Any]


def run_comparison(
    config: RunConfig,
    corpus: Corpus,
    learning_rate: Float[Array, ""],
    seed: Int32[Array, ""],
    init_scale: Float[Array, ""],
    progress: Callable[[int], None] | None = None,
) -> dict[str, Array]:
    """Trains one run and compares its weights and gradients with the theories at every step.

    A theory's trajectory starts from zero weights, uses the whole corpus and does not depend on the
    seed: the run's optimizer trains it by the theory's own gradient, beside the run. If the
    optimizer is linear in the gradients and treats all entries of all weights alike (`is_linear`),
    the leading theory is computed by its closed form instead (`optimizer_coefficients`). Each
    gradient is taken on its own trajectory: the run's gradient at the run's weights is compared
    with the theory's gradient at the theory's weights.

    With minibatches each theory is trained a second time, on the same minibatches as the run, with
    the statistics of each minibatch. This splits the disagreement into two errors, both relative to
    the run:

        sampling error      ||theory of the batches - theory of the corpus|| / ||trained||
        truncation error    ||trained - theory of the batches|| / ||trained||

    Args:
      config: the static settings.
      corpus: the training data; with `effective` statistics if `config.depth` is not None.
      learning_rate, seed, init_scale: scalars; may be traced.
      progress: as in `train`.

    Returns:
      A dict of arrays:
        `loss` [steps+1], in nats.
        `relative_error`, `cosine`, `norm_ratio`, `distance` [theories, 2, 4, L, steps+1], the
          measures of `Agreement`, over `QUANTITIES`, `WEIGHTS` and layers.
        `sampling_error`, `truncation_error` [theories, 4, L, steps+1] of the weights, with
          minibatches only.
        `diverged_step` (int32 scalar), `theory_diverged_step` [theories]: the first step at which
          loss, weights or gradient are not finite, or -1.
      The weight `output` has no layers: it is stored at the last layer, and is NaN at the others.
      From `diverged_step` on everything is NaN, and from the `theory_diverged_step` of a theory on
      its comparisons are NaN.

    Raises:
      InputError, InputTypeError: `corpus` lacks the statistics of a theory, or a scalar is invalid.

    At the start all gradients but that of `output` are zero. Derivatives through an optimizer that
    is not differentiable at a zero gradient are therefore NaN, with a warning. Adam and similar
    optimizers are differentiable there if given by name, or with an `eps_root`.

    Cost: steps + 1 gradients and comparisons; for every theory without a closed form as many of
    its gradients; with minibatches those of every theory twice. Memory as `train`.
    """
    learning_rate = check_number("learning_rate", learning_rate, minimum=0)
    carry = start_run(config, corpus, learning_rate, seed, init_scale)
    _, observed = advance_run(
        config,
        corpus,
        learning_rate,
        seed,
        carry,
        first=0,
        length=config.steps + 1,
        progress=progress,
    )
    return finish_run(observed)


def start_run(
    config: RunConfig,
    corpus: Corpus,
    learning_rate: Float[Array, ""],
    seed: Int32[Array, ""],
    init_scale: Float[Array, ""],
) -> Carry:
    """The carry of a run and its theories at step 0; arguments as in `run_comparison`."""
    learning_rate, seed = _check(config, corpus, learning_rate, seed)
    if config.depth is not None and corpus.effective is None:
        raise InputError(
            f"corpus must have effective statistics: Corpus.of(data, depth={config.depth})"
        )
    if not is_traced(seed):
        seed = check_integer("seed", seed, minimum=0)  # type: ignore[assignment]
    V, T = corpus.statistics.bigram.shape[0], corpus.mask.shape[1]
    init = partial(init_params, vocab_size=V, seq_len=T)
    init_key, _ = run_keys(seed)
    run = init(init_key, num_layers=config.num_layers, scale=init_scale)
    trajectories = {"run": run}
    check_optimizer(config.optimizer, _shapes(config, corpus))
    for name in config.theories:
        closed = name == "leading" and _has_closed_form(config, corpus)
        # All layers of the leading theory are then equal, so one layer is enough.
        layers = 1 if closed else config.num_layers
        zero = partial(init, jax.random.key(0), num_layers=layers, dtype=run.output.dtype)
        if not closed:
            trajectories[name] = zero()
        if config.batch_size is not None:
            trajectories[of_batches(name)] = zero()
    optimizer = make_optimizer(config.optimizer, learning_rate)
    return Carry(trajectories, _each(optimizer).init(trajectories))  # type: ignore[arg-type]


def advance_run(
    config: RunConfig,
    corpus: Corpus,
    learning_rate: Float[Array, ""],
    seed: Int32[Array, ""],
    carry: Carry,
    *,
    first: int | Int[Array, ""],
    length: int,
    progress: Callable[[int], None] | None = None,
    one_by_one: bool = False,
) -> tuple[Carry, dict[str, Array]]:
    """Trains and compares for `length` steps from step `first` on, as `train_segment` does.

    Args:
      carry: from `start_run` or the previous segment; all other arguments as in `run_comparison`.
      first: the first observed step; may be traced.
      length: number of steps observed, static.
      one_by_one: under `vmap`, compute the runs' exact gradients one after another, and everything
        else together. For CPUs, whose caches hold a microbatch of one run only. Not differentiable
        in reverse mode.

    Returns:
      The carry for the next segment, and the observations [length, ...] for `finish_run`.
    """
    learning_rate, seed = _check(config, corpus, learning_rate, seed)
    check_is("carry", carry, Carry)
    optimizer = make_optimizer(config.optimizer, learning_rate)
    _, batch_key = run_keys(seed)
    closed = _has_closed_form(config, corpus)
    coefficients = follow_coefficients(optimizer, config.steps) if closed else None

    def theory(name: str, snapshot: Snapshot):
        if name in snapshot.params:
            return snapshot.params[name], snapshot.gradient[name]
        now = jax.tree.map(lambda path: path[snapshot.step], coefficients)
        terms = partial(weights_from_coefficients, corpus.statistics, 1)
        return terms(now), gradient_from_coefficients(corpus.statistics, 1, now)

    def observe(snapshot: Snapshot):
        run = snapshot.params["run"], snapshot.gradient["run"]
        theories = [theory(name, snapshot) for name in config.theories]
        records = [_compare(run, theory) for theory in theories]
        if config.batch_size is not None:
            for name, theory_, record in zip(config.theories, theories, records, strict=True):
                batches = snapshot.params[of_batches(name)]
                record |= split_disagreement(run[0], batches, theory_[0])
        compared = jax.tree.map(lambda *leaves: jnp.stack(leaves), *records) if records else {}
        return {
            "loss": snapshot.loss,
            **compared,
            "finite": _all_finite((run, snapshot.loss)),
            "theory_finite": jnp.array([_all_finite(t) for t in theories], bool),
        }

    end, observed = train_segment(
        (carry.params, carry.optimizer_states),
        partial(_losses_and_gradients, config, corpus, batch_key, one_by_one),
        _each(optimizer),
        config.steps,
        first=first,
        length=length,
        observe=observe,
        progress=progress,
    )
    return Carry(*end), observed


def finish_run(observed: dict[str, Array]) -> dict[str, Array]:
    """Turns the observations of all steps, [steps+1, ...], into the result of `run_comparison`."""
    if not isinstance(observed, dict) or not observed.keys() >= {"finite", "theory_finite", "loss"}:
        raise InputTypeError(f"observed must be observations from advance_run; got {observed!r}")
    observed = dict(observed)
    alive = lax.cummin(observed.pop("finite").astype(jnp.int32))
    theory_alive = lax.cummin(observed.pop("theory_finite").astype(jnp.int32), axis=0)
    both = (alive[:, None] * theory_alive).T.astype(bool)
    loss = jnp.where(alive.astype(bool), observed.pop("loss"), jnp.nan)

    def masked(values):  # [steps+1, theories, ...] -> [theories, ..., steps+1]
        values = jnp.moveaxis(values, 0, -1)
        return jnp.where(jnp.expand_dims(both, tuple(range(1, values.ndim - 1))), values, jnp.nan)

    def first_end(alive):
        end = jnp.sum(alive, axis=0, dtype=jnp.int32)
        return jnp.where(end == len(alive), -1, end)

    return {
        "loss": loss,
        **{name: masked(values) for name, values in observed.items()},
        "diverged_step": first_end(alive),
        "theory_diverged_step": first_end(theory_alive),
    }


def _check(config, corpus, learning_rate, seed):
    """Checks the arguments of a run; returns the learning rate and the seed."""
    check_is("config", config, RunConfig)
    check_is("corpus", corpus, Corpus)
    return check_number("learning_rate", learning_rate, minimum=0), check_step("seed", seed)


def check_run(config: RunConfig, data: TokenData) -> None:
    """Checks that a run can be trained on a corpus: its optimizer and the size of its batches."""
    check_optimizer(config.optimizer, (config.num_layers, data.vocab_size, data.seq_len))
    if config.batch_size is not None and config.batch_size > data.num_sequences:
        raise InputError(
            f"batch_size must be at most the number of sequences, {data.num_sequences}; "
            f"got {config.batch_size}"
        )


def run_keys(seed: int | Int32[Array, ""]) -> tuple[PRNGKeyArray, PRNGKeyArray]:
    """Two random keys from a run's seed: for its initial weights, and for its minibatches."""
    init_key, batch_key = jax.random.split(jax.random.key(seed))
    return init_key, batch_key


def of_batches(theory: str) -> str:
    return f"{theory} of batches"


def _shapes(config: RunConfig, corpus: Corpus) -> tuple[int, int, int]:
    """L, V and T of the run's weights."""
    return config.num_layers, corpus.statistics.bigram.shape[0], corpus.mask.shape[1]


def _has_closed_form(config: RunConfig, corpus: Corpus) -> bool:
    """Whether the leading theory is compared and has a closed form for this optimizer."""
    return "leading" in config.theories and is_linear(config.optimizer, _shapes(config, corpus))


def _each(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimizer applied to each trajectory alone: some, as clipping, use the whole tree."""

    def init(trajectories):
        return {name: optimizer.init(params) for name, params in trajectories.items()}

    def update(gradients, states, trajectories):
        updated = {
            name: optimizer.update(gradients[name], states[name], params)
            for name, params in trajectories.items()
        }
        return tuple({name: pair[i] for name, pair in updated.items()} for i in range(2))

    return optax.GradientTransformation(init, update)  # type: ignore[arg-type]


def _losses_and_gradients(
    config: RunConfig, corpus: Corpus, batch_key, one_by_one, trajectories, step
):
    """The run's loss, and the gradient of every trajectory."""
    tokens, mask = corpus.tokens, corpus.mask
    batch = corpus
    if config.batch_size is not None:
        rows = batch_indices(batch_key, step, len(tokens), config.batch_size)
        tokens, mask = tokens[rows], mask[rows]
        depth = config.num_layers if "effective" in config.theories else None
        batch = Corpus._of(tokens, mask, corpus.statistics.bigram.shape[0], depth)
    of_run = partial(_loss_and_gradient_of_run, config)
    of_run = sequential_vmap(of_run) if one_by_one else of_run
    value, gradient = of_run(trajectories["run"], tokens, mask, corpus)
    gradients = {"run": gradient}
    for name in config.theories:
        for trajectory, read in ((name, corpus), (of_batches(name), batch)):
            if trajectory in trajectories:
                gradients[trajectory] = _theory_gradient(name, trajectories[trajectory], read)
    return value, warn_of_derivatives(config.optimizer, gradients)


def _loss_and_gradient_of_run(config: RunConfig, params: Params, tokens, mask, corpus: Corpus):
    if config.gradient == "exact":
        return exact_loss_and_gradient(
            params,
            tokens,
            mask,
            microbatch_size=config.microbatch_size,
            max_distinct=corpus.max_distinct,
        )
    return loss(params, tokens, mask), _theory_gradient(config.gradient, params, corpus)


def _theory_gradient(theory: str, params: Params, corpus: Corpus) -> Params:
    if theory == "leading":
        return leading_gradient(params, corpus.statistics, corpus.tokens, corpus.mask)
    assert corpus.effective is not None
    return effective_gradient(params, corpus.effective, corpus.tokens, corpus.mask)


def _compare(run, theory) -> dict[str, Array]:
    """Agreement [quantities, weights, L] of a run and a theory, each a (weights, gradient)."""
    found = [by_layer(compare_params(*sides)) for sides in zip(run, theory, strict=True)]
    return jax.tree.map(lambda *of: jnp.stack(of), *found)._asdict()


def split_disagreement(run: Params, batches: Params, corpus: Params) -> dict[str, Array]:
    """Sampling and truncation error of the weights, [weights, L]; see `run_comparison`."""
    trained, sampled = (
        by_layer(compare_params(run, batches)),
        by_layer(compare_params(batches, corpus)),
    )
    return {
        "sampling_error": sampled.relative_error * trained.norm_ratio,
        "truncation_error": trained.relative_error,
    }


def _all_finite(tree):
    return jax.tree.reduce(lambda ok, leaf: ok & jnp.all(jnp.isfinite(leaf)), tree, True)
