"""One run, step by step: recorded at chosen steps, with checkpoints from which it can resume."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from assocjax.experiments.config import Corpus, RunConfig
from assocjax.experiments.runs import Carry, advance_run, start_run, weights_at
from assocjax.storage import deferred_interrupts
from assocjax.storage.checkpoints import Checkpoints

Read = Callable[[int, dict[str, Any]], dict[str, np.ndarray]]


class Recorded(NamedTuple):
    """The result of `record_run`.

    params: the weights after the last update, as `runs.weights_at`.
    loss: of the run at each step before it diverged or ended, in nats.
    records: the arrays that `read` returned, stacked: [recorded steps, ...].
    diverged_step: the first step at which loss, weights or gradient are not finite, or None.
    """

    params: dict[str, Any]
    loss: np.ndarray
    records: dict[str, np.ndarray]
    diverged_step: int | None


def record_run(
    config: RunConfig,
    corpus: Corpus,
    learning_rate: float,
    seed: int,
    init_scale: float,
    *,
    record_at: Sequence[int] = (),
    read: Read | None = None,
    checkpoints: Checkpoints | None = None,
    save_every: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Recorded:
    """Trains one run of `runs.run_comparison`, one step at a time.

    Args:
      config, corpus, learning_rate, seed, init_scale: as in `run_comparison`.
      record_at: increasing steps at which `read` is called, before the update.
      read: called with the step and the weights, `runs.weights_at`; returns arrays, which have the
        same shapes at every step.
      checkpoints: where the state and all records are saved, or None. With checkpoints, the first
        Ctrl-C stops after the current step, which is saved; a second one stops at once.
      save_every: number of recorded steps between checkpoints.
      progress: called with (steps done, total steps).

    Returns:
      `Recorded`; losses and records end before the step at which the run diverged.

    Raises:
      InputError, InputTypeError: an argument cannot be used, or the checkpoint is of another run.
      KeyboardInterrupt: Ctrl-C; with checkpoints, its text says how much was saved.

    Cost: steps + 1 gradients, and the cost of `read`.
    """
    dtype = jnp.result_type(float)
    arguments = jnp.asarray(learning_rate, dtype), jnp.asarray(seed, jnp.int32)
    carry = start_run(config, corpus, *arguments, jnp.asarray(init_scale, dtype))
    # Closed forms may hold the run's start itself, and no array can be donated twice.
    carry = jax.tree.map(jnp.copy, carry)
    found: dict[str, np.ndarray] = {}
    done = 0 if checkpoints is None else checkpoints.done()
    if checkpoints is not None and done:
        carry, found = checkpoints.load(carry)
    loss = list(found.pop(_LOSS, ()))
    records = [
        {name: values[i] for name, values in found.items()}
        for i in range(sum(step < done for step in record_at))
    ]
    saved, diverged_step = done, None

    def save() -> int:
        assert checkpoints is not None
        checkpoints.save(done, carry, _stack(records) | {_LOSS: np.array(loss)})
        return done

    try:
        with deferred_interrupts(checkpoints is not None) as interrupts:
            for step in range(done, config.steps + 1):
                record = None
                if read is not None and step in record_at:
                    record = read(step, weights_at(config, corpus, arguments[0], carry, step))
                carry, observed = _advance(config, corpus, *arguments, carry, jnp.int32(step))
                if not observed["finite"][0]:  # waits for the step
                    diverged_step = step
                    break
                loss.append(np.asarray(observed["loss"][0]))
                done = step + 1
                if record is not None:
                    records.append(record)
                if checkpoints is not None and step < config.steps:
                    if interrupts.count:
                        saved = save()
                        raise KeyboardInterrupt
                    if record is not None and len(records) % save_every == 0:
                        saved = save()
                if progress is not None:
                    progress(done, config.steps + 1)
    except KeyboardInterrupt:
        if not saved:
            raise
        raise KeyboardInterrupt(
            f"interrupted; {saved} of {config.steps + 1} steps are saved: run the same again to "
            "resume"
        ) from None
    end = weights_at(config, corpus, arguments[0], carry, config.steps)
    return Recorded(end, np.array(loss), _stack(records), diverged_step)


_LOSS = "loss of steps"
"""The name of the losses in a checkpoint, beside the names of records."""


@partial(jax.jit, static_argnames="config", donate_argnames="carry")
def _advance(config: RunConfig, corpus: Corpus, rate, seed, carry: Carry, step):
    return advance_run(config, corpus, rate, seed, carry, first=step, length=1)


def _stack(records: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    names = records[0] if records else ()
    return {name: np.stack([record[name] for record in records]) for name in names}
