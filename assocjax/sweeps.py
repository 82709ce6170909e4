"""Sweeps: a grid of runs, trained and compared in parallel, as one xarray Dataset."""

import contextlib
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from assocjax import results
from assocjax.arguments import check_integer
from assocjax.checks import check_numbers
from assocjax.corpora import TokenData
from assocjax.errors import InputError, InputTypeError
from assocjax.optimizers import Optimizer
from assocjax.params import WEIGHTS
from assocjax.runs import Corpus, RunConfig, run_bytes, run_comparison

GRID = ("learning_rate", "seed", "init_scale")

_LONG_NAMES = {
    "relative_error": "||trained - theory|| / ||trained||",
    "cosine": "cosine of trained and theory",
    "norm_ratio": "||theory|| / ||trained||",
    "distance": "||trained - theory||",
    "sampling_error": "||theory of the batches - theory of the corpus|| / ||trained||",
    "truncation_error": "||trained - theory of the batches|| / ||trained||",
}


def sweep(
    data: TokenData,
    *,
    learning_rates: Sequence[float],
    seeds: Sequence[int] = (0,),
    init_scales: Sequence[float] = (0.0,),
    steps: int,
    num_layers: int,
    theories: Sequence[str] = ("leading",),
    gradient: str = "exact",
    optimizer: Optimizer = "sgd",
    batch_size: int | None = None,
    microbatch_size: int | None = None,
    memory_limit: int = 4 << 30,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Trains the model over a grid of runs and compares every one with the theories.

    The runs are a `vmap` of `run_comparison` over learning rates, of one over starts, compiled
    once: learning rate, seed and starting scale are traced. What the starts have in common, such as
    the theories with full batches, and runs that cannot differ (full batch and a zero start: the
    seed has no effect), are computed once.

    Args:
      data: a corpus from `load_tokens`.
      learning_rates: step sizes, positive and distinct.
      seeds: non-negative integers; each draws a start and, with `batch_size`, an order of batches.
      init_scales: standard deviations of the Gaussian start, in units of the weights; 0 is the
        zero start.
      steps: number of updates.
      num_layers: L.
      theories: what every run is compared with: "leading", "effective" or both.
      gradient: what trains the weights: "exact" or one of the theories.
      optimizer: name of an optax optimizer, or a function of the learning rate that makes one.
      batch_size: sequences in a minibatch; None is the full batch.
      microbatch_size: sequences differentiated at once; None fits their memory.
      memory_limit: bytes that the runs computed together may take (estimated); one run is always
        tried.
      progress: called with (steps done, steps in all) as the work advances.

    Returns:
      A Dataset with dimensions `learning_rate`, `seed`, `init_scale`, `theory`, `step` and
      `layer`. For every weight w of `query_key`, `position`, `value`, `output` (no layer
      dimension) and measure m of `relative_error`, `cosine`, `norm_ratio`, `distance`: variables
      `w_m` and `w_gradient_m`, and with `batch_size` also `w_sampling_error` and
      `w_truncation_error` (see `run_comparison`). `loss`, in nats, has no theory dimension. A run
      that diverged is NaN from that step on, has it in `diverged_step` (-1 otherwise) and is named
      in the attribute `diverged`; `theory_diverged_step` says the same of the theories. Attributes
      also hold the configuration, the versions and the corpus with its hash (see `results`).

    Raises:
      InputError, InputTypeError: an argument cannot be used.

    Cost: (steps + 1) gradients for each distinct run, divided among the local devices; for each
    learning rate as many of every theory that has no closed form: an effective gradient costs
    about half of an exact one.
    """
    config = RunConfig(
        steps=steps,
        num_layers=num_layers,
        theories=tuple(theories) if isinstance(theories, list | tuple) else theories,  # type: ignore[arg-type]
        gradient=gradient,
        optimizer=optimizer,
        batch_size=batch_size,
        microbatch_size=microbatch_size,
    )
    if not isinstance(data, TokenData):
        raise InputTypeError(f"data must be a TokenData, from load_tokens; got {type(data)}")
    if batch_size is not None and batch_size > data.num_sequences:
        raise InputError(
            f"batch_size must be at most the number of sequences, {data.num_sequences}; "
            f"got {batch_size}"
        )
    check_integer("memory_limit", memory_limit, minimum=1)
    grid = {
        "learning_rate": check_numbers("learning_rates", learning_rates, minimum=0),
        "seed": check_numbers("seeds", seeds, minimum=0),
        "init_scale": check_numbers("init_scales", init_scales, minimum=0),
    }
    if not grid["learning_rate"].all():
        raise InputError("learning_rates must be positive; got 0")
    for seed in seeds:
        check_integer("every entry of seeds", seed, minimum=0)
        if seed >= 2**31:
            raise InputError(f"every entry of seeds must be below 2^31; got {seed}")
    grid["seed"] = grid["seed"].astype(np.int32)

    starts, cell_to_start = _distinct_starts(grid, stochastic=batch_size is not None)
    corpus = Corpus.of(data, depth=config.depth)
    rates = grid["learning_rate"]
    records = _run_all(config, corpus, rates, starts, memory_limit, progress)
    cells = {name: value[:, cell_to_start] for name, value in records.items()}
    dataset = _to_dataset(cells, grid, config)
    dataset.attrs |= results.provenance(
        data,
        {
            **{f"{name}s": values.tolist() for name, values in grid.items()},
            **dataclasses.asdict(config),
            "optimizer": optimizer if isinstance(optimizer, str) else repr(optimizer),
        },
    )
    return dataset


def summary(dataset: xr.Dataset) -> list[dict[str, Any]]:
    """The end of a sweep in numbers: one row for each starting scale, theory and learning rate.

    Losses are means over seeds; cosines and the relative error are those of the worst layer and
    seed. NaN where no run was left or the theory is zero.
    """
    last = dataset.isel(step=-1)
    steps = int(dataset["step"][-1])
    rows = []
    for scale, theory, rate in itertools.product(
        *(dataset[name].values.tolist() for name in ("init_scale", "theory", "learning_rate"))
    ):
        cell = last.sel(learning_rate=rate, init_scale=scale, theory=theory)
        rows.append(
            {
                "init_scale": scale,
                "theory": theory,
                "learning_rate": rate,
                "s*eta": rate * steps,
                "loss": float(cell["loss"].mean()),
                **{name: float(cell[f"{name}_cosine"].min()) for name in WEIGHTS},
                "error": float(cell["output_relative_error"].max()),
            }
        )
    return rows


def _distinct_starts(grid, stochastic: bool) -> tuple[np.ndarray, np.ndarray]:
    """The starts (seed, scale) that can differ, and for each cell [seed, init_scale] its start."""
    seeds, scales = np.meshgrid(grid["seed"], grid["init_scale"], indexing="ij")
    effective = seeds if stochastic else np.where(scales == 0, seeds[0, 0], seeds)
    flat = np.stack([effective.ravel(), scales.ravel()], axis=1)
    starts, cell_to_start = np.unique(flat, axis=0, return_inverse=True)
    return starts, cell_to_start.reshape(seeds.shape)


# Compiled programs outlive a sweep, so what they call is the same for all sweeps: `_step_reached`,
# which tells whoever listens now.
_listeners: list[Callable[[int], None]] = []


def _step_reached(step) -> None:
    for listener in _listeners:
        listener(int(step))


@contextlib.contextmanager
def _listening(progress, chunk: int, chunks: int, steps: int) -> Iterator[None]:
    def listener(step):
        progress(chunk * steps + step + 1, chunks * steps)

    if progress is not None:
        _listeners.append(listener)
    try:
        yield
    finally:
        if progress is not None:
            _listeners.remove(listener)


@functools.partial(jax.jit, static_argnames=("config", "report"))
def _run_chunk(config, corpus, rates, seeds, scales, report: bool):
    """Arrays [rates, starts, ...]. Theories do not depend on the start: once for each rate."""
    progress = _step_reached if report else None
    run = functools.partial(run_comparison, config, corpus, progress=progress)
    over_starts = jax.vmap(run, in_axes=(None, 0, 0))
    return jax.vmap(over_starts, in_axes=(0, None, None))(rates, seeds, scales)


def _run_all(config, corpus, rates, starts, memory_limit, progress) -> dict[str, np.ndarray]:
    """Computes [rates, starts] in equal chunks that fit the memory, with one compiled program.

    A chunk is divided among the local devices along both of its axes.
    """
    largest = max(1, int(memory_limit // run_bytes(config, corpus)))
    shape = len(rates), len(starts)
    (by_rate, by_start), chunk = _plan(shape, len(jax.local_devices()), largest)
    mesh = jax.make_mesh(
        (by_rate, by_start),
        ("rate", "start"),
        (AxisType.Auto,) * 2,
        devices=jax.local_devices()[: by_rate * by_start],
    )

    def put(values, *axes):
        return jax.device_put(values, NamedSharding(mesh, PartitionSpec(*axes)))

    corpus = put(corpus)
    dtype = corpus.statistics.bigram.dtype
    counts = [-(-n // size) for n, size in zip(shape, chunk, strict=True)]
    parts = []
    for done in range(counts[0] * counts[1]):
        position = divmod(done, counts[1])
        # What the last chunk lacks is filled up with copies, to keep the compiled shape.
        rows, columns = (
            np.minimum(np.arange(i * size, (i + 1) * size), n - 1)
            for i, size, n in zip(position, chunk, shape, strict=True)
        )
        arguments = (
            put(jnp.asarray(rates[rows], dtype), "rate"),
            put(jnp.asarray(starts[columns, 0], jnp.int32), "start"),
            put(jnp.asarray(starts[columns, 1], dtype), "start"),
        )
        with _listening(progress, done, counts[0] * counts[1], config.steps + 1):
            part = _run_chunk(config, corpus, *arguments, progress is not None)
            parts.append(jax.tree.map(np.asarray, part))
            jax.effects_barrier()

    def join(*values):
        lines = [values[i : i + counts[1]] for i in range(0, len(values), counts[1])]
        joined = np.concatenate([np.concatenate(line, axis=1) for line in lines])
        return joined[: shape[0], : shape[1]]

    return jax.tree.map(join, *parts)


def _plan(
    shape: tuple[int, int], devices: int, largest: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """How [rates, starts] are divided: (devices along each axis), (runs of a chunk along each).

    The division is the one with the least work for the busiest device; a chunk has at most
    `largest` runs. It holds many starts rather than many rates, as starts share their theories.
    """
    R, S = shape

    def work(division):
        return math.prod(-(-n // d) for n, d in zip(shape, division, strict=True))

    usable = max(1, min(devices, largest))
    division = min(((d, usable // d) for d in range(usable, 0, -1)), key=work)
    r, s = (min(n, d) for n, d in zip(shape, division, strict=True))
    starts = s * min(-(-S // s), max(1, largest // (r * s)))
    rates = r * min(-(-R // r), max(1, largest // (starts * r)))
    # Even chunks, so that little of the last one is filled up.
    rates, starts = (
        d * -(-n // (d * -(-n // size))) for n, d, size in ((R, r, rates), (S, s, starts))
    )
    return (r, s), (rates, starts)


def _to_dataset(cells: dict[str, np.ndarray], grid, config: RunConfig) -> xr.Dataset:
    variables = {}
    for name, value in cells.items():
        by_theory = name not in ("loss", "diverged_step")
        dims = (*GRID, *["theory"] * by_theory, "step", "layer")[: value.ndim]
        variables[name] = xr.Variable(dims, value, {"units": "1"})
    variables["loss"].attrs = {"units": "nat", "long_name": "mean negative log-likelihood"}
    variables["diverged_step"].attrs = {"long_name": "first step that is not finite, or -1"}
    variables["theory_diverged_step"].attrs = variables["diverged_step"].attrs
    for weight, measure in itertools.product(WEIGHTS, _LONG_NAMES):
        for suffix, of in (("", "weights"), ("_gradient", "gradients")):
            name = f"{weight}{suffix}_{measure}"
            if name in variables:
                variables[name].attrs["long_name"] = f"{weight} {of}: {_LONG_NAMES[measure]}"
    dataset = xr.Dataset(
        variables,
        coords={
            **{name: (name, values, {"units": "1"}) for name, values in grid.items()},
            "theory": list(config.theories),
            "step": ("step", np.arange(config.steps + 1, dtype=np.int32), {"units": "updates"}),
            "layer": ("layer", np.arange(1, config.num_layers + 1, dtype=np.int32)),
        },
    )
    diverged = dataset["diverged_step"]
    dataset.attrs["diverged"] = "; ".join(
        f"learning_rate={cell.learning_rate.item():g} seed={cell.seed.item()} "
        f"init_scale={cell.init_scale.item():g} at step {cell.item()}"
        for cell in diverged.stack(run=GRID).transpose("run", ...)
        if cell.item() >= 0
    )
    return dataset
