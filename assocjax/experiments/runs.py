"""One run: trained by a gradient, and compared with the theories at every step.

`run_comparison` is a pure function of its learning rate, seed and starting scale that can be
jitted, vmapped and differentiated. It is made of three: `start_run`, `advance_run` by a segment of
steps, and `finish_run`. `sweep` is their vmap over a grid, and saves what is between segments.
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
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Int32

from assocjax.arguments import LARGEST_DEPTH, LARGEST_STEPS, check_choice, check_integer, check_is
from assocjax.checks import CorpusLike, check_corpus, check_number, check_step, is_traced
from assocjax.errors import InputError, InputTypeError
from assocjax.models.agreement import compare_params
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

THEORIES = ("leading", "effective")
GRADIENTS = ("exact", *THEORIES)


@struct.dataclass
class Corpus:
    """What a run reads: the tokens [N, T+1], their mask [N, T] and their statistics.

    `effective` is only needed by the effective theory and may be None. `max_distinct` is that of
    `exact_gradient`: static, as programs are compiled for it.
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
        """A corpus and its statistics, with `effective_statistics` of a depth if one is given.

        Args:
          data, vocab_size, mask: as of `corpus_statistics`.
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
        # Plain numbers of Python: they are hashed, and written as JSON.
        plain = partial(object.__setattr__, self)
        steps = check_integer("steps", self.steps, minimum=0, maximum=LARGEST_STEPS)
        plain("steps", steps)
        layers = check_integer("num_layers", self.num_layers, minimum=1, maximum=LARGEST_DEPTH)
        plain("num_layers", layers)
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
                plain(name, check_integer(name, getattr(self, name), minimum=1))

    @property
    def depth(self) -> int | None:
        """The depth of `effective_statistics` that a run needs, or None."""
        return self.num_layers if "effective" in (*self.theories, self.gradient) else None


class Carry(NamedTuple):
    """What a run hands on from one step to the next.

    Both are dicts of sides: "run"; a theory's name, where it is followed beside the run; and with
    minibatches a theory followed on the run's own batches. A side named as a theory depends on the
    learning rate alone, the others also on seed and start.
    """

    sides: dict[str, Params]
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

    A theory starts from zero, sees the whole corpus and knows nothing of the seed: it follows its
    own gradient by the run's optimizer, beside the run. Where the optimizer is linear in the
    gradients, the same for every entry of all weights (`is_linear`), the leading theory is its
    closed form (`optimizer_coefficients`). Gradients are
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
      InputError, InputTypeError: `corpus` lacks the statistics of a theory, or a scalar is bad.

    A derivative through an optimizer that has none where a gradient is zero, as everything but the
    output's is at the start, is NaN, and a warning says so; adam and its like have one if they are
    named, or if they are given an `eps_root`.

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
    """All that a run and its theories have at step 0; arguments as in `run_comparison`."""
    learning_rate, seed = _check(config, corpus, learning_rate, seed)
    if config.depth is not None and corpus.effective is None:
        raise InputError(
            f"corpus must have effective statistics: Corpus.of(data, depth={config.depth})"
        )
    if not is_traced(seed):
        seed = check_integer("seed", seed, minimum=0)  # type: ignore[assignment]
    V, T = corpus.statistics.bigram.shape[0], corpus.mask.shape[1]
    init = partial(init_params, vocab_size=V, seq_len=T)
    init_key, _ = _keys(seed)
    run = init(init_key, num_layers=config.num_layers, scale=init_scale)
    sides = {"run": run}
    check_optimizer(config.optimizer, _shapes(config, corpus))
    for name in config.theories:
        closed = name == "leading" and _has_closed_form(config, corpus)
        # All layers of the leading theory are then alike: one stands for all.
        layers = 1 if closed else config.num_layers
        zero = partial(init, jax.random.key(0), num_layers=layers, dtype=run.output.dtype)
        if not closed:
            sides[name] = zero()
        if config.batch_size is not None:
            sides[of_batches(name)] = zero()
    optimizer = make_optimizer(config.optimizer, learning_rate)
    return Carry(sides, {side: optimizer.init(params) for side, params in sides.items()})  # type: ignore[arg-type]


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
    """Trains and compares from step `first` on, for `length` steps, as `train_segment` does.

    Args:
      carry: of `start_run`, or of the segment before; all else as in `run_comparison`.
      first: the step that is observed first; may be traced.
      length: number of steps observed, static.
      one_by_one: runs that are vmapped together have their own gradients one after another, all
        else together: for a CPU, whose caches hold a microbatch of one run only. Without
        derivatives in reverse mode.

    Returns:
      The carry for the next segment, and for `finish_run` what was observed, [length, ...].
    """
    learning_rate, seed = _check(config, corpus, learning_rate, seed)
    check_is("carry", carry, Carry)
    optimizer = make_optimizer(config.optimizer, learning_rate)
    _, batch_key = _keys(seed)
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
        return {
            "loss": snapshot.loss,
            **jax.tree.map(lambda *leaves: jnp.stack(leaves), *records),
            "finite": _all_finite((run, snapshot.loss)),
            "theory_finite": jnp.stack([_all_finite(t) for t in theories]),
        }

    end, observed = train_segment(
        (carry.sides, carry.optimizer_states),
        partial(_losses_and_gradients, config, corpus, batch_key, one_by_one),
        _each_side(optimizer),
        config.steps,
        first=first,
        length=length,
        observe=observe,
        progress=progress,
    )
    return Carry(*end), observed


def finish_run(observed: dict[str, Array]) -> dict[str, Array]:
    """What `run_comparison` returns, of the observations of all steps, [steps+1, ...]."""
    if not isinstance(observed, dict) or not observed.keys() >= {"finite", "theory_finite", "loss"}:
        raise InputTypeError(f"observed must be what `advance_run` returns; got {observed!r}")
    observed = dict(observed)
    alive = lax.cummin(observed.pop("finite").astype(jnp.int32))
    theory_alive = lax.cummin(observed.pop("theory_finite").astype(jnp.int32), axis=0)
    both = (alive[:, None] * theory_alive).T.astype(bool)
    loss = jnp.where(alive.astype(bool), observed.pop("loss"), jnp.nan)

    def masked(values):  # [steps+1, theories, ...] -> [theories, steps+1, ...]
        values = jnp.swapaxes(values, 0, 1)
        return jnp.where(both.reshape(both.shape + (1,) * (values.ndim - 2)), values, jnp.nan)

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
    """The rate and the seed, once all are known to be what a run can be made of."""
    check_is("config", config, RunConfig)
    check_is("corpus", corpus, Corpus)
    return check_number("learning_rate", learning_rate, minimum=0), check_step("seed", seed)


def _keys(seed):
    """Keys of the start and of the order of batches."""
    return jax.random.split(jax.random.key(seed))


def of_batches(theory: str) -> str:
    return f"{theory} of batches"


def _shapes(config: RunConfig, corpus: Corpus) -> tuple[int, int, int]:
    """L, V and T of the run's weights."""
    return config.num_layers, corpus.statistics.bigram.shape[0], corpus.mask.shape[1]


def _has_closed_form(config: RunConfig, corpus: Corpus) -> bool:
    """Whether the leading theory is known without following it."""
    return "leading" in config.theories and is_linear(config.optimizer, _shapes(config, corpus))


def _each_side(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """An optimizer for each side: some, such as clipping, look at the whole tree."""

    def init(sides):
        return {side: optimizer.init(params) for side, params in sides.items()}

    def update(gradients, states, sides):
        updated = {
            side: optimizer.update(gradients[side], states[side], params)
            for side, params in sides.items()
        }
        return {s: u for s, (u, _) in updated.items()}, {s: v for s, (_, v) in updated.items()}

    return optax.GradientTransformation(init, update)  # type: ignore[arg-type]


def _losses_and_gradients(config: RunConfig, corpus: Corpus, batch_key, one_by_one, sides, step):
    """The run's loss, and the gradient of every side."""
    tokens, mask = corpus.tokens, corpus.mask
    batch = corpus
    if config.batch_size is not None:
        rows = batch_indices(batch_key, step, len(tokens), config.batch_size)
        tokens, mask = tokens[rows], mask[rows]
        depth = config.num_layers if "effective" in config.theories else None
        batch = Corpus._of(tokens, mask, corpus.statistics.bigram.shape[0], depth)
    of_run = partial(_loss_and_gradient_of_run, config)
    of_run = sequential_vmap(of_run) if one_by_one else of_run
    value, gradient = of_run(sides["run"], tokens, mask, corpus)
    gradients = {"run": gradient}
    for name in config.theories:
        for side, read in ((name, corpus), (of_batches(name), batch)):
            if side in sides:
                gradients[side] = _theory_gradient(name, sides[side], read)
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
    return {
        f"{name}{suffix}_{measure}": value
        for suffix, exact, leading in zip(("", "_gradient"), run, theory, strict=True)
        for name, measures in compare_params(exact, leading).items()
        for measure, value in measures._asdict().items()
    }


def split_disagreement(run: Params, batches: Params, corpus: Params) -> dict[str, Array]:
    trained, sampled = compare_params(run, batches), compare_params(batches, corpus)
    record = {}
    for name, measures in trained.items():
        sampling = sampled[name].relative_error * measures.norm_ratio
        record[f"{name}_sampling_error"] = sampling
        record[f"{name}_truncation_error"] = measures.relative_error
    return record


def _all_finite(tree):
    return jax.tree.reduce(lambda ok, leaf: ok & jnp.all(jnp.isfinite(leaf)), tree, True)
