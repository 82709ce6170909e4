"""A grid of runs, computed in chunks on all devices; each chunk in segments that can be saved."""

import contextlib
import functools
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from assocjax.experiments._plans import Plan
from assocjax.experiments.config import Corpus, RunConfig
from assocjax.experiments.runs import Carry, advance_run, finish_run, start_run
from assocjax.storage import Interrupts, deferred_interrupts
from assocjax.storage.checkpoints import Checkpoints

Records = dict[str, np.ndarray]


class Stopped(KeyboardInterrupt):
    """Ctrl-C, raised after all finished work was saved."""


class Grid(NamedTuple):
    """The runs: learning rates [rates] and starts [starts, 2], pairs (seed, init_scale)."""

    rates: np.ndarray
    starts: np.ndarray


def run_grid(
    config: RunConfig,
    corpus: Corpus,
    grid: Grid,
    plan: Plan,
    *,
    segment: int,
    pause: float = 0.0,
    checkpoints: Checkpoints | None = None,
    publish: Callable[[Records, int, int], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    announce: Callable[[str], None] = lambda line: None,
) -> Records:
    """Computes `run_comparison` on a grid with one compiled program.

    The grid is computed chunk by chunk, and each chunk in segments of steps. With checkpoints, the
    carry and all observations are saved after a segment. If a checkpoint exists, the work is
    resumed from it.

    Args:
      config, corpus: of the runs.
      grid: the rates and starts.
      plan: how the grid is divided into chunks and among devices.
      segment: number of steps observed in a segment.
      pause: seconds between checkpoints, at least; a checkpoint is then not saved after each
        segment. Not with several processes, whose clocks differ.
      checkpoints: where segments are saved, or None. With checkpoints, the first Ctrl-C stops after
        the current segment is saved; a second one stops at once.
      publish: called after each checkpoint with (records so far, parts done, total parts); the
        records are those returned below, NaN at steps not yet reached.
      progress: called with (steps done, total steps).
      announce: called with one-line messages for the user.

    Returns:
      The records of `run_comparison`, arrays [rates, starts, ...].

    Raises:
      Stopped: after Ctrl-C, when the last segment has been saved.
      InputError: a checkpoint cannot be written or is of another sweep.
    """
    mesh = _mesh(plan)
    corpus = _put(corpus, mesh)
    total = config.steps + 1
    segments = -(-total // segment)
    chunks = list(_chunks(grid, plan))
    parts = len(chunks) * segments
    done = 0 if checkpoints is None else checkpoints.done()
    observed: Records = {}
    carry, saved_at = None, time.monotonic()
    static = config, mesh, plan.one_by_one, segment, progress is not None
    with deferred_interrupts(checkpoints is not None) as interrupts:
        for part in range(done, parts):
            chunk, within = divmod(part, segments)
            rows, columns = chunks[chunk]
            rates, seeds, scales = _chunk_arguments(grid, rows, columns, corpus, mesh)
            if carry is None or within == 0:
                carry = _start_chunk(config, mesh, corpus, rates, seeds, scales)
            if part == done > 0:
                assert checkpoints is not None
                saved, observed = checkpoints.load(carry)
                carry = saved if within else carry
                announce(f"resuming from {checkpoints.folder}: {done} of {parts} parts are done")
            first = _put(np.asarray(within * segment, np.int32), mesh)
            arguments = corpus, rates, seeds, carry, first
            with _listening(progress, chunk * total, len(chunks) * total, total):
                carry, found = _advance_chunk(*static, *arguments)
                _wait(found, interrupts, announce)
                found = _fetch(found)
                jax.effects_barrier()
            if not observed:
                observed = _nothing_observed(found, grid, plan, total)
            _record(observed, found, rows, columns, within * segment)
            if checkpoints is None or part + 1 == parts:
                continue
            stop = _any_process(interrupts)
            waited = jax.process_count() > 1 or time.monotonic() - saved_at >= pause
            if stop or waited:
                checkpoints.save(part + 1, carry, observed)
                if publish is not None:
                    publish(_finish(observed, grid, plan), part + 1, parts)
                saved_at = time.monotonic()
                if stop:
                    raise Stopped(
                        f"interrupted; {part + 1} of {parts} parts are saved in "
                        f"{checkpoints.folder}: run the same again to resume"
                    )
    return _finish(observed, grid, plan)


def _mesh(plan: Plan) -> Mesh:
    """Devices along rates and starts. With several processes, spare devices repeat work."""
    r, s = plan.devices
    processes = jax.process_count()
    spare = 1 if processes == 1 else jax.device_count() // (r * s)
    devices = np.array(jax.devices()[: r * s * spare]).reshape(r, s, spare)
    return Mesh(devices, ("rate", "start", "spare"), axis_types=(AxisType.Auto,) * 3)


def _put(tree: Any, mesh: Mesh, *axes: str) -> Any:
    """Shards arrays, which every process holds, along their first axes."""
    sharding = NamedSharding(mesh, PartitionSpec(*axes))
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def put(values):
        values = np.asarray(values)
        return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])

    return jax.tree.map(put, tree)


def _fetch(records: dict[str, jax.Array]) -> Records:
    """Gathers the complete arrays on every process."""
    if jax.process_count() == 1:
        return jax.device_get(records)  # copies all arrays concurrently
    return {name: _gather(values) for name, values in records.items()}


def _gather(array: jax.Array) -> np.ndarray:
    if array.is_fully_addressable:
        return np.asarray(array)
    return multihost_utils.process_allgather(array, tiled=True)


def _chunks(grid: Grid, plan: Plan) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of every chunk; those of the last chunks may extend beyond the grid."""
    of_axis = [
        [slice(i, i + size) for i in range(0, n, size)]
        for n, size in zip((len(grid.rates), len(grid.starts)), plan.chunk, strict=True)
    ]
    return itertools.product(*of_axis)  # type: ignore[return-value]


def _chunk_arguments(grid: Grid, rows: slice, columns: slice, corpus: Corpus, mesh: Mesh):
    """Rates, seeds and scales of a chunk; beyond the grid, copies of its last ones."""
    r, s = (
        np.minimum(np.arange(of.start, of.stop), n - 1)
        for of, n in ((rows, len(grid.rates)), (columns, len(grid.starts)))
    )
    dtype = jnp.result_type(float)
    return (
        _put(grid.rates[r].astype(dtype), mesh, "rate"),
        _put(grid.starts[s, 0].astype(np.int32), mesh, "start"),
        _put(grid.starts[s, 1].astype(dtype), mesh, "start"),
    )


def _by_trajectory(config: RunConfig, carry: Carry, shared: Any, own: Any) -> Carry:
    """A tree like a carry: `shared` for what all starts share, `own` for the rest."""
    common = {theory.name for theory in config.theories if not theory.from_start}
    return Carry(*({name: shared if name in common else own for name in of} for of in carry))


@functools.partial(jax.jit, static_argnames=("config", "mesh"))
def _start_chunk(config, mesh, corpus, rates, seeds, scales) -> Carry:
    """The carry of a chunk: [rates, starts, ...], or [rates, ...] where all starts share it."""
    start = functools.partial(start_run, config, corpus)
    carry = jax.eval_shape(start, rates[0], seeds[0], scales[0])
    over_starts = jax.vmap(start, (None, 0, 0), _by_trajectory(config, carry, None, 0))
    carry = jax.vmap(over_starts, (0, None, None))(rates, seeds, scales)
    shared, own = (
        NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("rate",), ("rate", "start"))
    )
    return jax.tree.map(
        lambda sharding, tree: lax.with_sharding_constraint(tree, sharding),
        _by_trajectory(config, carry, shared, own),
        carry,
        is_leaf=lambda x: isinstance(x, NamedSharding),
    )


@functools.partial(
    jax.jit,
    static_argnames=("config", "mesh", "one_by_one", "length", "report"),
    donate_argnames="carry",
)
def _advance_chunk(config, mesh, one_by_one, length, report, corpus, rates, seeds, carry, first):
    """The carry after a segment, and its observations, [rates, starts, length, ...]."""
    progress = _step_reached if report else None

    def advance(corpus, first, rate, seed, carry):
        return advance_run(
            config,
            corpus,
            rate,
            seed,
            carry,
            first=first,
            length=length,
            progress=progress,
            one_by_one=one_by_one,
        )

    def advance_of_device(corpus, rates, seeds, carry, first):
        axes = _by_trajectory(config, carry, None, 0)
        run = functools.partial(advance, corpus, first)
        over_starts = jax.vmap(run, (None, 0, axes), (axes, 0))
        return jax.vmap(over_starts, (0, None, 0))(rates, seeds, carry)

    everywhere, by_rate, by_start, by_run = (
        PartitionSpec(*axes) for axes in ((), ("rate",), ("start",), ("rate", "start"))
    )
    carries = _by_trajectory(config, carry, by_rate, by_run)
    # Runs are independent: `shard_map` states that no collectives are needed.
    return jax.shard_map(
        advance_of_device,
        mesh=mesh,
        in_specs=(everywhere, by_rate, by_start, carries, everywhere),
        out_specs=(carries, by_run),
        check_vma=False,
    )(corpus, rates, seeds, carry, first)


_finish_chunk = jax.jit(jax.vmap(jax.vmap(finish_run)))


def _nothing_observed(found: Records, grid: Grid, plan: Plan, total: int) -> Records:
    """Arrays for all observations, filled with NaN; flags of finiteness are True."""
    sizes = [
        -(-n // size) * size
        for n, size in zip((len(grid.rates), len(grid.starts)), plan.chunk, strict=True)
    ]
    return {
        name: np.full(
            (*sizes, total, *values.shape[3:]),
            True if values.dtype == bool else np.nan,
            values.dtype,
        )
        for name, values in found.items()
    }


def _record(observed: Records, found: Records, rows: slice, columns: slice, first: int) -> None:
    for name, values in found.items():
        room = observed[name][rows, columns, first:]
        room[:, :, : values.shape[2]] = values[:, :, : room.shape[2]]


def _finish(observed: Records, grid: Grid, plan: Plan) -> Records:
    """Records of all runs, also of a partly computed grid: NaN at steps that were not taken."""
    finished: Records = {}
    for rows, columns in _chunks(grid, plan):
        block = {name: values[rows, columns] for name, values in observed.items()}
        for name, values in jax.device_get(_finish_chunk(block)).items():
            if name not in finished:
                sizes = next(iter(observed.values())).shape[:2]
                finished[name] = np.empty((*sizes, *values.shape[2:]), values.dtype)
            finished[name][rows, columns] = values
    shape = len(grid.rates), len(grid.starts)
    return {name: values[: shape[0], : shape[1]] for name, values in finished.items()}


# Compiled programs are reused by later sweeps, so they all call the same function, `_step_reached`,
# which passes the step to the current listeners.
_listeners: list[Callable[[int], None]] = []


def _step_reached(step) -> None:
    for listener in _listeners:
        listener(int(step))


@contextlib.contextmanager
def _listening(progress, before: int, total: int, steps: int) -> Iterator[None]:
    """Reports each step of a chunk when the first device reaches it.

    Steps that only pad the last segment are not reported.
    """
    reached = -1

    def listener(step):
        nonlocal reached
        if reached < step < steps:
            reached = step
            progress(before + step + 1, total)

    if progress is not None:
        _listeners.append(listener)
    try:
        yield
    finally:
        if progress is not None:
            _listeners.remove(listener)


def _wait(tree: Any, interrupts: Interrupts, announce: Callable[[str], None]) -> None:
    """Waits until arrays are computed, in Python, so that signals are handled meanwhile."""
    pause, leaves, announced = 1e-4, jax.tree.leaves(tree), False
    while not all(leaf.is_ready() for leaf in leaves):
        if interrupts.count and not announced:
            announced = True
            announce("stopping after the current steps are saved; Ctrl-C again stops at once")
        time.sleep(pause)
        pause = min(1.02 * pause, 0.02)  # at most about 1/50 of the time waited


def _any_process(interrupts: Interrupts) -> bool:
    """Whether any process has received an interrupt."""
    if jax.process_count() == 1:
        return interrupts.count > 0
    return bool(np.any(multihost_utils.process_allgather(np.array(interrupts.count > 0))))
