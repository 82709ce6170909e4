"""Sweeps: a grid of runs, trained and compared in parallel, as one xarray Dataset."""

import contextlib
import dataclasses
import functools
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
from assocjax.compare import Agreement
from assocjax.corpora import TokenData
from assocjax.errors import InputError, InputTypeError
from assocjax.params import WEIGHTS
from assocjax.runs import Corpus, Optimizer, RunConfig, run_bytes, run_comparison

GRID = ("learning_rate", "seed", "init_scale")

_LONG_NAMES = {
    "relative_error": "||trained - theory|| / ||trained||",
    "cosine": "cosine of trained and theory",
    "norm_ratio": "||theory|| / ||trained||",
}


def sweep(
    data: TokenData,
    *,
    learning_rates: Sequence[float],
    seeds: Sequence[int] = (0,),
    init_scales: Sequence[float] = (0.0,),
    steps: int,
    num_layers: int,
    gradient: str = "exact",
    optimizer: Optimizer = "sgd",
    batch_size: int | None = None,
    microbatch_size: int | None = None,
    memory_limit: int = 4 << 30,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Trains the model over a grid of runs and compares every one with the closed forms.

    The runs are one `vmap` of `run_comparison`, compiled once: learning rate, seed and starting
    scale are traced. Runs that cannot differ (full batch and a zero start: the seed has no effect)
    are computed once.

    Args:
      data: a corpus from `load_tokens`.
      learning_rates: step sizes, positive and distinct.
      seeds: non-negative integers; each draws a start and, with `batch_size`, an order of batches.
      init_scales: standard deviations of the Gaussian start, in units of the weights; 0 is the
        zero start.
      steps: number of updates.
      num_layers: L.
      gradient: what trains the weights: "exact" or "leading".
      optimizer: name of an optax optimizer, or a function of the learning rate that makes one.
      batch_size: sequences in a minibatch; None is the full batch.
      microbatch_size: sequences differentiated at once; None fits their memory.
      memory_limit: bytes that the runs computed together may take (estimated); one run is always
        tried.
      progress: called with (steps done, steps in all) as the work advances.

    Returns:
      A Dataset with dimensions `learning_rate`, `seed`, `init_scale`, `step` and `layer`. For
      every weight w of `query_key`, `position`, `value`, `output` (no layer dimension) and measure
      m of `relative_error`, `cosine`, `norm_ratio`: variables `w_m` and `w_gradient_m`; and `loss`
      in nats. A run that diverged is NaN from that step on, has it in `diverged_step` (-1
      otherwise) and is named in the attribute `diverged`. Attributes also hold the configuration,
      the versions and the corpus with its hash (see `results`).

    Raises:
      InputError, InputTypeError: an argument cannot be used.

    Cost: (steps + 1) gradients for each distinct run, divided among the local devices; for
    optimizers other than "sgd" as many leading gradients.
    """
    config = RunConfig(
        steps=steps,
        num_layers=num_layers,
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

    runs, cell_to_run = _distinct_runs(grid, stochastic=batch_size is not None)
    corpus = Corpus.of(data)
    records = _run_all(config, corpus, runs, memory_limit, progress)
    cells = {name: value[cell_to_run] for name, value in records.items()}
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
    """The end of a sweep in numbers: one row for each starting scale and learning rate.

    Losses are means over seeds; cosines and the relative error are those of the worst layer and
    seed. NaN where no run was left or the theory is zero.
    """
    last = dataset.isel(step=-1)
    steps = int(dataset["step"][-1])
    rows = []
    for scale in dataset["init_scale"].values:
        for rate in dataset["learning_rate"].values:
            cell = last.sel(learning_rate=rate, init_scale=scale)
            rows.append(
                {
                    "init_scale": float(scale),
                    "learning_rate": float(rate),
                    "s*eta": float(rate * steps),
                    "loss": float(cell["loss"].mean()),
                    **{name: float(cell[f"{name}_cosine"].min()) for name in WEIGHTS},
                    "error": float(cell["output_relative_error"].max()),
                }
            )
    return rows


def _distinct_runs(grid, stochastic: bool) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The runs that can differ, as flat vectors, and for each cell of the grid its run."""
    rates, seeds, scales = np.meshgrid(*(grid[name] for name in GRID), indexing="ij")
    first_seed = np.full_like(seeds, seeds.flat[0])
    effective = seeds if stochastic else np.where(scales == 0, first_seed, seeds)
    flat = np.stack([rates.ravel(), effective.ravel(), scales.ravel()], axis=1)
    runs, cell_to_run = np.unique(flat, axis=0, return_inverse=True)
    columns = (runs[:, 0], runs[:, 1].astype(np.int32), runs[:, 2])
    return dict(zip(GRID, columns, strict=True)), cell_to_run.reshape(rates.shape)


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
def _run_chunk(config, corpus, runs, report: bool):
    progress = _step_reached if report else None

    def run(learning_rate, seed, init_scale):
        return run_comparison(config, corpus, learning_rate, seed, init_scale, progress)

    return jax.vmap(run)(*(runs[name] for name in GRID))


def _run_all(config, corpus, runs, memory_limit, progress) -> dict[str, np.ndarray]:
    """Computes the runs in equal chunks that fit the memory, with one compiled program.

    The runs of a chunk are divided among the local devices.
    """
    num_runs = len(runs["seed"])
    largest = max(1, int(memory_limit // run_bytes(config, corpus)))
    devices = jax.local_devices()[: min(num_runs, largest)]
    mesh = jax.make_mesh((len(devices),), ("run",), (AxisType.Auto,), devices=devices)
    by_run = NamedSharding(mesh, PartitionSpec("run"))
    everywhere = NamedSharding(mesh, PartitionSpec())
    dtype = corpus.statistics.bigram.dtype
    chunks = math.ceil(num_runs / (largest - largest % len(devices)))
    size = len(devices) * math.ceil(num_runs / (chunks * len(devices)))
    corpus = jax.device_put(corpus, everywhere)
    parts = []
    for chunk in range(chunks):
        # The last chunk is filled up with copies of the last run, to keep the compiled shape.
        rows = np.minimum(np.arange(chunk * size, (chunk + 1) * size), num_runs - 1)
        arrays = {
            name: jnp.asarray(values[rows], jnp.int32 if name == "seed" else dtype)
            for name, values in runs.items()
        }
        arrays = jax.device_put(arrays, by_run)
        with _listening(progress, chunk, chunks, config.steps + 1):
            part = _run_chunk(config, corpus, arrays, progress is not None)
            parts.append(jax.tree.map(np.asarray, part))
            jax.effects_barrier()
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return {name: value[:num_runs] for name, value in joined.items()}


def _to_dataset(cells: dict[str, np.ndarray], grid, config: RunConfig) -> xr.Dataset:
    variables = {}
    for name, value in cells.items():
        dims = (*GRID, "step", "layer")[: value.ndim]
        variables[name] = xr.Variable(dims, value, {"units": "1"})
    variables["loss"].attrs = {"units": "nat", "long_name": "mean negative log-likelihood"}
    variables["diverged_step"].attrs = {"long_name": "first step that is not finite, or -1"}
    for weight in WEIGHTS:
        for measure in Agreement._fields:
            for suffix, of in (("", "weights"), ("_gradient", "gradients")):
                text = f"{weight} {of}: {_LONG_NAMES[measure]}"
                variables[f"{weight}{suffix}_{measure}"].attrs["long_name"] = text
    dataset = xr.Dataset(
        variables,
        coords={
            **{name: (name, values, {"units": "1"}) for name, values in grid.items()},
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
