"""One run: trained by a gradient, and compared with the theories at every step.

`run_comparison` is a pure function of learning rate, seed and initialization scale that can be
jitted, vmapped and differentiated. It consists of three functions: `start_run`, `advance_run`,
which takes a segment of steps, and `finish_run`. `sweep` is their vmap over a grid, and saves the
carry between segments.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, Float, Int, Int32, PRNGKeyArray

from assocjax.arguments import LARGEST_STEPS, check_integer, check_is
from assocjax.checks import check_number, check_step, is_traced
from assocjax.errors import InputTypeError
from assocjax.experiments.config import (
    CHANGES,
    Corpus,
    RunConfig,
    batches_of,
    check_applies,
    of_batches,
    run_keys,
)
from assocjax.models.agreement import by_layer, compare_weights
from assocjax.models.model import Weights
from assocjax.theories.theory import Batch, Theory, Training
from assocjax.training.optimizers import make_optimizer, warn_of_derivatives
from assocjax.training.train import Snapshot, batch_indices, train_segment


class Carry(NamedTuple):
    """The state of a run between two steps.

    `params` and `optimizer_states` are dicts over the trajectories that are trained together:
    "run"; the name of each theory without a closed form, trained beside the run; and with
    minibatches each theory trained on the run's minibatches (`of_batches`). `solved` holds the
    closed forms of the others (`Theory.solve`). `starts` holds the start of "run", where changes
    since the start are compared (`RunConfig.quantities`). What is named after a theory that starts
    at zero depends on the learning rate only, all else also on seed and initialization scale.
    """

    params: dict[str, Any]
    optimizer_states: dict[str, Any]
    solved: dict[str, Any]
    starts: dict[str, Any]


def run_comparison(
    config: RunConfig,
    corpus: Corpus,
    learning_rate: Float[Array, ""],
    seed: Int32[Array, ""],
    init_scale: Float[Array, ""],
    progress: Callable[[int], None] | None = None,
) -> dict[str, Array]:
    """Trains one run and compares its weights and gradients with the theories at every step.

    A theory's trajectory uses the whole corpus. It starts where the run does or (`from_start` is
    False) at zero weights, and then does not depend on the seed. The run's optimizer trains it by
    the theory's own gradient, beside the run, or it is a closed form (`Theory.solve`). Each
    gradient is taken on its own trajectory: the run's gradient at the run's weights is compared
    with the theory's gradient at the theory's weights.

    With minibatches each theory is trained a second time, on the same minibatches as the run, with
    the statistics of each minibatch. This splits the disagreement into two errors, both relative to
    the run:

        sampling error      ||theory of the batches - theory of the corpus|| / ||trained||
        truncation error    ||trained - theory of the batches|| / ||trained||

    Args:
      config: the static settings.
      corpus: the training data, `Corpus.of(data, config)`.
      learning_rate, seed, init_scale: scalars; may be traced.
      progress: as in `train`.

    Returns:
      A dict of arrays:
        `loss` [steps+1], in nats.
        `relative_error`, `cosine`, `norm_ratio`, `distance`
          [theories, quantities, weights, L, steps+1], the measures of `Agreement`, over
          `config.quantities`, the names of `Model.weights`, and layers.
        `sampling_error`, `truncation_error` [theories, weights, L, steps+1] of the weights, with
          minibatches only; NaN for theories that are not computed from minibatches.
        `diverged_step` (int32 scalar), `theory_diverged_step` [theories]: the first step at which
          loss, weights or gradient are not finite, or -1.
        Without theories there are `loss` and `diverged_step` only.
      A weight without layers is stored at the last layer, and is NaN at the others. From
      `diverged_step` on everything is NaN, and from the `theory_diverged_step` of a theory on
      its comparisons are NaN.

    Raises:
      InputError, InputTypeError: `corpus` lacks the statistics of a theory, a scalar is invalid, or
        a theory does not apply to the model or the optimizer.

    At a zero start most gradients are zero. Derivatives through an optimizer that
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
    if not is_traced(seed):
        seed = check_integer("seed", seed, minimum=0)  # type: ignore[assignment]
    init_key, _ = run_keys(seed)
    run = config.model.init(init_key, corpus.sizes(config), init_scale)
    check_applies(config, corpus.sizes(config))
    zero = jax.tree.map(jnp.zeros_like, run)
    trajectories, solved = {"run": run}, {}
    for theory in config.theories:
        training = _training(config, corpus, run if theory.from_start else zero, learning_rate)
        found = theory.solve(training, corpus.prepared[theory.name], _whole(corpus))
        if found is None:
            trajectories[theory.name] = theory.start(training)
        else:
            solved[theory.name] = found
        if of_batches(config, theory):
            trajectories[batches_of(theory.name)] = theory.start(training)
    optimizer = make_optimizer(config.optimizer, learning_rate)
    starts = {"run": run} if CHANGES in config.quantities and config.theories else {}
    return Carry(trajectories, _each(optimizer).init(trajectories), solved, starts)  # type: ignore[arg-type]


def weights_at(
    config: RunConfig,
    corpus: Corpus,
    learning_rate: Float[Array, ""],
    carry: Carry,
    step: int | Int[Array, ""],
) -> dict[str, Any]:
    """The weights at a step by trajectory, as `Carry.params`, and of closed forms by theory."""
    training = _training(config, corpus, None, learning_rate)
    solved = {
        theory.name: theory.solution(
            training, carry.solved[theory.name], corpus.prepared[theory.name], step
        )[0]
        for theory in config.theories
        if theory.name in carry.solved
    }
    return carry.params | solved


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
    training = _training(config, corpus, None, learning_rate)
    weights = config.model.weights

    def of_theory(theory: Theory, snapshot: Snapshot):
        if (solved := carry.solved.get(theory.name)) is None:
            return snapshot.params[theory.name], snapshot.gradient[theory.name]
        prepared = corpus.prepared[theory.name]
        return theory.solution(training, solved, prepared, snapshot.step)

    def with_change(found, from_start: bool):
        if not carry.starts:
            return found
        change = found[0]
        if from_start:
            change = jax.tree.map(jnp.subtract, change, carry.starts["run"])
        return *found, change

    def observe(snapshot: Snapshot):
        run = with_change((snapshot.params["run"], snapshot.gradient["run"]), True)
        theories = [
            with_change(of_theory(theory, snapshot), theory.from_start)
            for theory in config.theories
        ]
        records = [_compare(weights, run, found) for found in theories]
        if config.batch_size is not None:
            for theory, found, record in zip(config.theories, theories, records, strict=True):
                unknown = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), found[0])
                batches = snapshot.params.get(batches_of(theory.name), unknown)
                record |= split_disagreement(*map(weights, (run[0], batches, found[0])))
        found = {"loss": snapshot.loss, "finite": _all_finite((run, snapshot.loss))}
        if not records:
            return found
        found |= jax.tree.map(lambda *leaves: jnp.stack(leaves), *records)
        return found | {"theory_finite": jnp.array([_all_finite(of) for of in theories], bool)}

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
    return Carry(*end, carry.solved, carry.starts), observed


def finish_run(observed: dict[str, Array]) -> dict[str, Array]:
    """Turns the observations of all steps, [steps+1, ...], into the result of `run_comparison`."""
    if not isinstance(observed, dict) or not observed.keys() >= {"finite", "loss"}:
        raise InputTypeError(f"observed must be observations from advance_run; got {observed!r}")
    observed = dict(observed)
    alive = lax.cummin(observed.pop("finite").astype(jnp.int32))
    loss = jnp.where(alive.astype(bool), observed.pop("loss"), jnp.nan)

    def masked(values):  # [steps+1, theories, ...] -> [theories, ..., steps+1]
        values = jnp.moveaxis(values, 0, -1)
        return jnp.where(jnp.expand_dims(both, tuple(range(1, values.ndim - 1))), values, jnp.nan)

    def first_end(alive):
        end = jnp.sum(alive, axis=0, dtype=jnp.int32)
        return jnp.where(end == len(alive), -1, end)

    found = {"loss": loss, "diverged_step": first_end(alive)}
    if "theory_finite" not in observed:
        return found
    theory_alive = lax.cummin(observed.pop("theory_finite").astype(jnp.int32), axis=0)
    both = (alive[:, None] * theory_alive).T.astype(bool)
    found |= {name: masked(values) for name, values in observed.items()}
    return found | {"theory_diverged_step": first_end(theory_alive)}


def _check(config, corpus, learning_rate, seed):
    """Checks the arguments of a run; returns the learning rate and the seed."""
    check_is("config", config, RunConfig)
    check_is("corpus", corpus, Corpus)
    return check_number("learning_rate", learning_rate, minimum=0), check_step("seed", seed)


def _training(config: RunConfig, corpus: Corpus, start: Any, learning_rate) -> Training:
    sizes = corpus.sizes(config)
    return Training(config.model, sizes, start, config.optimizer, learning_rate, config.steps)


def _whole(corpus: Corpus, key: PRNGKeyArray | None = None, size: int | None = None) -> Batch:
    return Batch(corpus.tokens, corpus.mask, corpus.vocab_size, key, size)


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
    model, batch = config.model, _whole(corpus)
    if config.batch_size is not None:
        rows = batch_indices(batch_key, step, len(batch.tokens), config.batch_size)
        batch = batch.replace(tokens=batch.tokens[rows], mask=batch.mask[rows])  # type: ignore[attr-defined]
    # The key of minibatches is folded with the epoch, so this one is folded with another number.
    draws = jax.random.fold_in(jax.random.fold_in(batch_key, LARGEST_STEPS), step)

    def of_theory(theory: Theory, params: Any) -> Any:
        seen = _whole(corpus, draws if theory.from_start else None, config.batch_size)
        return theory.gradient(model, params, corpus.prepared[theory.name], seen)

    if isinstance(config.gradient, str):
        of_run = partial(_loss_and_gradient_of_run, config)
        of_run = sequential_vmap(of_run) if one_by_one else of_run
        value, gradient = of_run(trajectories["run"], batch.tokens, batch.mask, corpus)
    else:
        value = model.evaluate(trajectories["run"], batch.tokens, batch.mask)
        gradient = of_theory(config.gradient, trajectories["run"])
    gradients = {"run": gradient}
    for theory in config.theories:
        if theory.name in trajectories:
            gradients[theory.name] = of_theory(theory, trajectories[theory.name])
        if (own := batches_of(theory.name)) in trajectories:
            prepared = theory.prepare(model, corpus.sizes(config), batch)
            gradients[own] = theory.gradient(model, trajectories[own], prepared, batch)
    return value, warn_of_derivatives(config.optimizer, gradients)


def _loss_and_gradient_of_run(config: RunConfig, params: Any, tokens, mask, corpus: Corpus):
    return config.model.loss_and_gradient(
        params,
        tokens,
        mask,
        microbatch_size=config.microbatch_size,
        max_distinct=corpus.max_distinct,
    )


def _compare(weights: Callable, run, theory) -> dict[str, Array]:
    """Agreement [quantities, weights, L] of a run and a theory, each with all quantities."""
    found = [
        by_layer(compare_weights(*map(weights, both))) for both in zip(run, theory, strict=True)
    ]
    return jax.tree.map(lambda *of: jnp.stack(of), *found)._asdict()


def split_disagreement(run: Weights, batches: Weights, corpus: Weights) -> dict[str, Array]:
    """Sampling and truncation error of the weights, [weights, L]; see `run_comparison`."""
    trained, sampled = (
        by_layer(compare_weights(run, batches)),
        by_layer(compare_weights(batches, corpus)),
    )
    return {
        "sampling_error": sampled.relative_error * trained.norm_ratio,
        "truncation_error": trained.relative_error,
    }


def _all_finite(tree):
    return jax.tree.reduce(lambda ok, leaf: ok & jnp.all(jnp.isfinite(leaf)), tree, True)
