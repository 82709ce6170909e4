"""What the benchmarks share: options, tokens, timing of sides in turn, and JSON with versions."""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import itertools
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from assocjax.storage.results import versions

_REST = 0.5  # seconds at most between two sides: threads of one may wait for work a while
TORCH = importlib.util.find_spec("torch") is not None


def parser(doc: str) -> argparse.ArgumentParser:
    """The options of every benchmark; `doc` is its module's docstring."""
    made = argparse.ArgumentParser(description=doc.splitlines()[0])
    made.add_argument("--small", action="store_true", help="sizes that take seconds")
    made.add_argument("--out", type=Path, help="JSON file")
    return made


def use_all_cores() -> None:
    """Lets every core be a device, as the command line does, unless JAX has started already."""
    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)


def device() -> str:
    """What runs the benchmark, for instance "2 x cpu"."""
    return f"{jax.local_device_count()} x {jax.devices()[0].device_kind}"


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    precision = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", precision)


def random_tokens(N: int, T: int, V: int) -> np.ndarray:
    """Tokens [N, T+1] whose frequencies fall as 1 / rank."""
    frequency = 1 / np.arange(1, V + 1)
    shape = (N, T + 1)
    return np.random.default_rng(0).choice(V, shape, p=frequency / frequency.sum()).astype(np.int32)


def repeated_text(path: Path, documents: list[str], megabytes: float) -> None:
    """Writes a .jsonl file of documents that are repeated, each with a running number."""
    with path.open("w", encoding="utf-8") as file:
        for number, document in enumerate(itertools.cycle(documents)):
            if file.tell() >= 1e6 * megabytes:
                break
            file.write(json.dumps({"text": f"{document} {number}"}) + "\n")


def seconds(function: Callable, *arguments: Any, repeats: int = 3) -> float:
    """The fastest of some calls, after one that compiles."""
    jax.block_until_ready(function(*arguments))
    return min(_once(function, *arguments) for _ in range(repeats))


def in_turn(
    sides: dict[str, Callable[[], Any]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, np.ndarray]:
    """Seconds [repeats] of every side by a clock, after one call each that compiles.

    The sides take turns, so that a ratio of the same repeat says little of what else the machine
    was doing.
    """
    for side in sides.values():
        jax.block_until_ready(side())
    times = np.empty((repeats, len(sides)))
    for row in times:
        for i, side in enumerate(sides.values()):
            row[i] = _once(side, clock=clock)
            time.sleep(min(row[i], _REST))
    return dict(zip(sides, times.T, strict=True))


def _once(function, *arguments, clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    jax.block_until_ready(function(*arguments))
    return clock() - start


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> float:
    """The median over repeats."""
    return statistics.median((numerator / denominator).tolist())


def slope(sizes: list[int], times: list[float]) -> float:
    """The power of size with which time grows, by least squares on logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def difference(ours: Any, theirs: Any) -> float:
    """The largest difference of any entry, relative to the largest entry of its array."""
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return max(float(np.max(np.abs(a - b)) / np.max(np.abs(b))) for a, b in pairs)


def peak_memory(function: Callable, *arguments: Any) -> float:
    """GiB that a process of its own needs at most, in which `function` is called.

    Ask before this process grows: Linux counts what a process held before it became another.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_call_and_measure, (function, arguments))


def _call_and_measure(function, arguments) -> float:
    function(*arguments)
    return resident_peak()


def resident_peak() -> float:
    """GiB that this process has held at most so far."""
    import resource  # not on Windows

    return gibibytes(resource.getrusage(resource.RUSAGE_SELF))


def gibibytes(usage: Any) -> float:
    """GiB that a process has held at most, of what the operating system reports of it."""
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 2**30


def finish(result: dict[str, Any], out: Path | None) -> dict[str, Any]:
    """Adds device and versions to a result, and writes it as JSON if there is a file for it."""
    torch = {"torch": importlib.metadata.version("torch")} if TORCH else {}
    result |= {"device": device(), "versions": versions() | torch}
    if out:
        out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    return result
