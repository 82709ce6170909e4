"""Planning a grid of runs: how it is divided among devices, and an estimate of its memory."""

import contextlib
import itertools
import math
import os
from pathlib import Path
from typing import NamedTuple

import jax

from assocjax.errors import InputError
from assocjax.experiments.config import CHANGES, RunConfig, of_batches
from assocjax.models.model import Sizes, tree_bytes
from assocjax.training.optimizers import state_bytes

GIB = 1 << 30


class Plan(NamedTuple):
    """How a grid of runs [rates, starts] is computed.

    devices: number of devices along each axis.
    chunk: number of runs computed together along each axis.
    one_by_one: a device computes the gradients of its runs one after another (`advance_run`).
    """

    devices: tuple[int, int]
    chunk: tuple[int, int]
    one_by_one: bool = False


class CorpusSizes(NamedTuple):
    """Sizes of a corpus: N, V, T, bytes of a floating-point number, and `count_distinct`."""

    num_sequences: int
    vocab_size: int
    seq_len: int
    itemsize: int
    max_distinct: int | None = None


def make_plan(
    config: RunConfig, sizes: CorpusSizes, shape: tuple[int, int], memory_limit: int
) -> Plan:
    """Divides a grid of [rates, starts] among all devices, within memory.

    Args:
      config: of the runs.
      sizes: of their corpus.
      shape: number of rates and number of starts.
      memory_limit: bytes that this process may use for the runs computed together.

    Raises:
      InputError: not even one run fits the limit or the machine; the message gives the memory that
        one run needs.
    """
    machine = machine_bytes()
    limit = memory_limit if machine is None else min(memory_limit, machine)
    if least_bytes(config, sizes) > limit:
        raise InputError(_too_large(config, sizes, limit, memory_limit))
    one_by_one = jax.default_backend() == "cpu"
    one, shared = weights_bytes(config, sizes), corpus_bytes(config, sizes)
    step = step_bytes(config, sizes)
    one, shared = (one, shared + step) if one_by_one else (one + step, shared)
    local = min(jax.local_device_count(), limit // (one + shared))
    largest = (limit - local * shared) // one
    processes = jax.process_count()
    if processes == 1:
        plan = divide(shape, local, largest)
    else:
        # Every process must take part in every program, so all devices are used. If the grid is
        # too small for them, some repeat the same work.
        plan = divide(shape, jax.device_count(), largest * processes, exactly=True)
    return plan._replace(one_by_one=one_by_one)


def divide(shape: tuple[int, int], devices: int, largest: int, *, exactly: bool = False) -> Plan:
    """The division with the least work for the busiest device; a chunk has at most `largest` runs.

    A chunk holds many starts rather than many rates, since starts share their theories. `exactly`:
    the number of devices used must divide `devices`.
    """
    R, S = shape

    def work(division):
        return math.prod(-(-n // d) for n, d in zip(shape, division, strict=True))

    usable = max(1, min(devices, largest))
    divisions = ((d, usable // d) for d in range(usable, 0, -1))
    if exactly:
        divisors = [d for d in range(devices, 0, -1) if devices % d == 0]
        divisions = (
            (d, e) for d in divisors for e in divisors if devices % (d * e) == 0 and d * e <= usable
        )
    division = min(divisions, key=work)
    # Leave out devices that would only repeat the work of others.
    r, s = division if exactly else (min(n, d) for n, d in zip(shape, division, strict=True))
    starts = s * min(-(-S // s), max(1, largest // (r * s)))
    rates = r * min(-(-R // r), max(1, largest // (starts * r)))
    # Even chunks, so that the last one needs little padding.
    rates, starts = (
        d * -(-n // (d * -(-n // size))) for n, d, size in ((R, r, rates), (S, s, starts))
    )
    return Plan((r, s), (rates, starts))


def divide_again(chunk: tuple[int, int], devices: int, *, exactly: bool = False) -> tuple[int, int]:
    """The most devices, per axis, among which chunks of a resumed sweep can be divided evenly."""
    by_axis = ([d for d in range(1, n + 1) if n % d == 0] for n in chunk)
    fitting = (
        division
        for division in itertools.product(*by_axis)
        if math.prod(division) <= devices and not (exactly and devices % math.prod(division))
    )
    return max(fitting, key=math.prod)  # type: ignore[return-value]


def planned_bytes(config: RunConfig, sizes: CorpusSizes, plan: Plan) -> int:
    """Estimated memory of all devices while a chunk is computed."""
    devices, runs = math.prod(plan.devices), math.prod(plan.chunk)
    steps = devices if plan.one_by_one else runs
    return (
        devices * corpus_bytes(config, sizes)
        + runs * weights_bytes(config, sizes)
        + steps * step_bytes(config, sizes)
    )


def weights_bytes(config: RunConfig, sizes: CorpusSizes) -> int:
    """Estimated memory of the weights of one run, of its theories, and of their copies."""
    params = config.model.shapes(_model_sizes(config, sizes), sizes.itemsize)
    # Copies of the weights that XLA keeps beside the step, according to its own memory analysis:
    # the carry and its successor, the optimizer state, and those of each theory.
    changes = 3 * (CHANGES in config.quantities)  # the start, and the changes of run and theory
    copies = (
        3
        + changes
        + sum(
            theory.weight_copies * (2 if of_batches(config, theory) else 1)
            for theory in config.theories
        )
    )
    return copies * tree_bytes(params) + state_bytes(config.optimizer, params)


def step_bytes(config: RunConfig, sizes: CorpusSizes) -> int:
    """Estimated memory of one exact step."""
    return config.model.step_bytes(
        _model_sizes(config, sizes),
        num_sequences=config.batch_size or sizes.num_sequences,
        microbatch_size=config.microbatch_size,
        max_distinct=sizes.max_distinct,
        itemsize=sizes.itemsize,
    )


def corpus_bytes(config: RunConfig, sizes: CorpusSizes) -> int:
    """Memory of a `Corpus`; every device has a copy."""
    N, T = sizes.num_sequences, sizes.seq_len
    return sum(kept for kept, _ in _prepared_bytes(config, sizes)) + 4 * N * (T + 1) + N * T


def _prepared_bytes(config: RunConfig, sizes: CorpusSizes) -> list[tuple[int, int]]:
    return [
        theory.prepared_bytes(config.model, _model_sizes(config, sizes), sizes.num_sequences)
        for theory in config.prepared.values()
    ]


def _model_sizes(config: RunConfig, sizes: CorpusSizes) -> Sizes:
    return config.sizes(sizes.vocab_size, sizes.seq_len)


def machine_bytes() -> int | None:
    """Memory of this process's devices. On a CPU, the machine's memory, or less if a job or a
    container has a limit. None if unknown.
    """
    found = [(device.memory_stats() or {}).get("bytes_limit") for device in jax.local_devices()]
    if all(found):
        return sum(found)  # type: ignore[arg-type]
    limits = group_limits()
    with contextlib.suppress(AttributeError, ValueError, OSError):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(limits, default=None)


def group_limits(
    groups: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")
) -> list[int]:
    """Memory limits of the Linux control groups of this process and of those that contain them."""
    limits: list[int] = []
    with contextlib.suppress(OSError):
        for line in groups.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":  # version 2
                root, name = mounted, "memory.max"
            elif "memory" in controllers.split(","):
                root, name = mounted / "memory", "memory.limit_in_bytes"
            else:
                continue
            group = root / path.lstrip("/")
            for folder in (group, *group.parents):
                # "max", or no such file, is no limit; a container may not see the outer groups.
                with contextlib.suppress(OSError, ValueError):
                    limits.append(int((folder / name).read_text()))
                if folder == root:
                    break
    return limits


def least_bytes(config: RunConfig, sizes: CorpusSizes) -> int:
    """The least memory needed: that of one run, or of preparing its theories."""
    counting = max((most for _, most in _prepared_bytes(config, sizes)), default=0)
    return max(counting, planned_bytes(config, sizes, Plan((1, 1), (1, 1))))


def _too_large(config: RunConfig, sizes: CorpusSizes, limit: int, memory_limit: int) -> str:
    what = "memory_limit" if memory_limit == limit else "memory of this machine"
    needed = f"{least_bytes(config, sizes) / GIB:.3g} GiB"
    larger = f"give a memory_limit above {needed}, or " if memory_limit == limit else ""
    return (
        f"{what} must hold one run, which with vocab_size {sizes.vocab_size} and "
        f"{config.num_layers} layers takes about {needed}; got {limit / GIB:.3g} GiB: {larger}"
        "choose a smaller vocab_size (memory grows with its square), num_layers or microbatch_size"
    )
