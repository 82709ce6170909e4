"""Sweeps: a grid of runs, trained in parallel and compared with the theories, as a Dataset."""

import itertools
import json
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from assocjax.arguments import EXACT, LARGEST_BYTES, MEMORY_LIMIT, check_integer, check_integers
from assocjax.checks import CorpusLike, check_dataset, check_numbers, check_positive
from assocjax.corpora.tokens import as_token_data
from assocjax.errors import reading
from assocjax.experiments._grids import Grid, run_grid
from assocjax.experiments._plans import (
    GIB,
    CorpusSizes,
    Plan,
    divide_again,
    make_plan,
    planned_bytes,
)
from assocjax.experiments.config import CHANGES, Corpus, RunConfig, check_run
from assocjax.models.exact import count_distinct
from assocjax.models.model import Model
from assocjax.models.registry import MODEL, get_model
from assocjax.storage import results
from assocjax.storage.checkpoints import Checkpoints, claim_together
from assocjax.theories.registry import default_theories
from assocjax.theories.theory import Theory
from assocjax.training.optimizers import Optimizer, check_resumable

_FILE = "sweep.nc"
_PAUSE = 10.0  # seconds between checkpoints by default; to save one takes about half a second
GRID = ("learning_rate", "seed", "init_scale")

_LONG_NAMES = {
    "loss": "mean negative log-likelihood",
    "diverged_step": "first step that is not finite, or -1",
    "theory_diverged_step": "first step that is not finite, or -1",
    "relative_error": "||trained - theory|| / ||trained||",
    "cosine": "cosine of trained and theory",
    "norm_ratio": "||theory|| / ||trained||",
    "distance": "||trained - theory||",
    "sampling_error": "||theory of the batches - theory of the corpus|| / ||trained||",
    "truncation_error": "||trained - theory of the batches|| / ||trained||",
}
_NO_LAYERS = {"comment": "a weight without layers is at the last one, and NaN at the others"}


def sweep(
    data: CorpusLike,
    *,
    learning_rates: Sequence[float],
    seeds: Sequence[int] = (0,),
    init_scales: Sequence[float] | None = None,
    steps: int,
    num_layers: int,
    model: str | Model = MODEL,
    theories: Sequence[str | Theory] | None = None,
    gradient: str | Theory = EXACT,
    optimizer: Optimizer = "sgd",
    batch_size: int | None = None,
    microbatch_size: int | None = None,
    memory_limit: int = MEMORY_LIMIT,
    checkpoint: str | os.PathLike | None = None,
    checkpoint_every: int | None = None,
    allow_different_devices: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    announce: Callable[[str], None] = lambda line: None,
) -> xr.Dataset:
    """Trains the model over a grid of runs and compares every one with the theories.

    The runs are a `vmap` of `run_comparison` over learning rates and over starts (pairs of seed and
    initialization scale), which are traced, so that the program is compiled once. The theories'
    trajectories that all starts share are computed once, and so are runs that cannot differ (with
    the full batch and a zero start the seed has no effect).

    Args:
      data: the corpus, `TokenData` or `TokenFile`, or an integer array [N, T+1].
      learning_rates: step sizes, positive and distinct.
      seeds: non-negative integers; each draws initial weights and, with `batch_size`, the
        minibatches.
      init_scales: scales of the start, as the model defines them; for the paper's model standard
        deviations, of which 0 is the zero start. By default `Model.init_scale`, here 0.
      steps: number of updates.
      num_layers: L.
      model: the model, a `Model` or its name (`register_model`).
      theories: the theories that every run is compared with, by name (`register_theory`) or as
        `Theory`; by default those of `THEORIES` that apply to the model. () compares with none.
      gradient: the gradient that trains the weights: "exact" or a theory.
      optimizer: name of an optax optimizer, a `ScheduledOptimizer`, or another function of the
        learning rate that makes one.
      batch_size: sequences in a minibatch; None is the full batch.
      microbatch_size: sequences differentiated at once; None chooses by memory.
      memory_limit: bytes that this process may use for the runs computed together (estimated).
      checkpoint: a folder, which is new, empty, or holds this sweep. Every `checkpoint_every` steps
        a checkpoint is saved in it, and the results so far in its file `sweep.nc`, with NaN at
        steps not yet reached. The same call later resumes from the checkpoint and gives the same
        result bit for bit. At the end only the complete `sweep.nc` is left, and the same call
        returns its content. The first Ctrl-C stops after the next checkpoint; a second one stops
        at once, except while a program is compiled.
      checkpoint_every: steps between checkpoints; by default a tenth of all, 100 at most, and more
        while these take less than 10 seconds.
      allow_different_devices: also resume from a checkpoint that was saved on another number or
        kind of devices. The result then differs in rounding, about 1e-6 in float32, and records
        the first devices in the attribute `begun_on`. Otherwise such a checkpoint is refused.
      overwrite: replace another sweep in the folder, or start this one again.
      progress: called with (steps done, total steps) as the work advances.
      announce: called with one-line messages for the user: estimated memory, the resumed
        checkpoint.

    Returns:
      A Dataset over `learning_rate`, `seed`, `init_scale`, `theory`, `quantity` (weights,
      gradients and, where weights do not start at zero, their changes since the start), `weight`
      (the names of `Model.weights`), `layer` (from 1) and `step`:

          dataset.cosine.sel(theory=name, quantity="weights", weight=weight, layer=2)

      The variables `relative_error`, `cosine`, `norm_ratio` and `distance` (see `Agreement`) have
      all these dimensions. With `batch_size` there are also `sampling_error` and
      `truncation_error`, of weights only and so without `quantity` (see `run_comparison`). A
      weight without layers is stored at the last layer and is NaN at the others, so that means and
      extremes over `layer` are correct. `loss`, in nats, is
      over the grid and `step`. A run that diverged is NaN from its `diverged_step` on (-1 for other
      runs) and is named in the attribute `diverged`; `theory_diverged_step` is the same for the
      theories. Other attributes hold the configuration, the versions and the corpus with its hash
      (see `results`); `incomplete` says how much of an unfinished sweep was computed.
      `to_dataframe` makes a table of it.

    Raises:
      InputError, InputTypeError: an argument cannot be used; a run does not fit the memory; the
        folder holds another sweep or files that assocjax did not write, another process is writing
        in it, or it cannot be written.
      KeyboardInterrupt: Ctrl-C; with `checkpoint`, its text says how much was saved.

    Cost: (steps + 1) gradients for each distinct run, divided among all devices; for each learning
    rate (for theories that start where the run does: for each run) as many gradients of every
    theory without a closed form.
    """
    model = get_model(model)
    if theories is None:
        theories = default_theories(model, optimizer)
    config = RunConfig(
        steps=steps,
        num_layers=num_layers,
        model=model,
        theories=tuple(theories) if isinstance(theories, list | tuple) else theories,  # type: ignore[arg-type]
        gradient=gradient,
        optimizer=optimizer,
        batch_size=batch_size,
        microbatch_size=microbatch_size,
    )
    data = as_token_data(data)
    check_run(config, data)
    steps, batch_size = config.steps, config.batch_size
    memory_limit = check_integer("memory_limit", memory_limit, minimum=1, maximum=LARGEST_BYTES)
    if checkpoint_every is not None:
        checkpoint_every = check_integer("checkpoint_every", checkpoint_every, minimum=1)
    grid = {
        "learning_rate": check_numbers("learning_rates", learning_rates, minimum=0),
        "seed": check_numbers("seeds", seeds, minimum=0),
        "init_scale": check_numbers(
            "init_scales",
            [config.model.init_scale] if init_scales is None else init_scales,
            minimum=0,
        ),
    }
    for rate in grid["learning_rate"]:
        check_positive("learning_rates", rate)
    grid["seed"] = np.array(check_integers("seeds", seeds, minimum=0), np.int32)

    starts, cell_to_start = _distinct_starts(grid, stochastic=batch_size is not None)
    runs = Grid(grid["learning_rate"], starts)
    shape = len(runs.rates), len(starts)
    itemsize = jnp.dtype(jnp.result_type(float)).itemsize
    distinct = count_distinct(data.tokens)
    sizes = CorpusSizes(data.num_sequences, data.vocab_size, data.seq_len, itemsize, distinct)
    plan = make_plan(config, sizes, shape, memory_limit)
    configuration = {
        **{f"{name}s": values.tolist() for name, values in grid.items()},
        **config.described(),
    }
    attributes = results.provenance(data, configuration)
    weights = config.model.layers(config.sizes(data.vocab_size, data.seq_len))

    def make_dataset(records: dict[str, np.ndarray], incomplete: str) -> xr.Dataset:
        cells = {name: value[:, cell_to_start] for name, value in records.items()}
        dataset = _to_dataset(cells, grid, config, weights)
        dataset.attrs |= attributes | ({"incomplete": incomplete} if incomplete else {})
        return dataset

    def compute(
        plan: Plan,
        segment: int,
        checkpoints: Checkpoints | None = None,
        publish: Callable[[xr.Dataset], None] = lambda dataset: None,
    ) -> xr.Dataset:
        count, together = math.prod(shape), plan.chunk[0] * plan.chunk[1]
        announce(
            f"{count} distinct runs, {min(count, together)} at a time on "
            f"{plan.devices[0] * plan.devices[1]} devices, in about "
            f"{planned_bytes(config, sizes, plan) / GIB:.2g} GiB of memory"
        )
        records = run_grid(
            config,
            Corpus.of(data, config),
            runs,
            plan,
            segment=segment,
            pause=0.0 if checkpoint_every else _PAUSE,
            checkpoints=checkpoints,
            publish=lambda known, done, parts: publish(
                make_dataset(known, f"{done} of {parts} parts are done")
            ),
            progress=progress,
            announce=announce,
        )
        dataset = make_dataset(records, "")
        publish(dataset)
        return dataset

    if checkpoint is None:
        return compute(plan, steps + 1)
    check_resumable(optimizer)
    segment = min(checkpoint_every, steps + 1) if checkpoint_every else _segment(steps)
    decides = results.identity(data, configuration)
    with claim_together(checkpoint, "sweep", decides, result=_FILE, overwrite=overwrite) as folder:
        if folder.complete:
            announce(f"already complete: {folder.path / _FILE}")
            return results.load(folder.path / _FILE)
        division = _division(attributes, plan, segment)
        checkpoints = Checkpoints(folder, decides | division)
        if allow_different_devices and (saved := checkpoints.saved_configuration()):
            begun = {name: saved.get(name) for name in division}
            if begun != division:
                plan, segment = _as_begun(begun, plan)
                checkpoints.configuration |= begun
                attributes["begun_on"] = json.dumps(begun)

        def publish(dataset: xr.Dataset) -> None:
            if jax.process_index() == 0:
                results.save_to(folder, _FILE, dataset)

        dataset = compute(plan, segment, checkpoints, publish)
        checkpoints.close()
        if jax.process_index() == 0:
            folder.finish()
    return dataset


def _segment(steps: int) -> int:
    """Steps between checkpoints by default: a tenth of all, and at most 100."""
    return min(100, -(-(steps + 1) // 10))


def _division(attributes: dict[str, Any], plan: Plan, segment: int) -> dict[str, Any]:
    """How the runs are divided: beside the identity, all that determines the result bit for bit."""
    return {
        "device": attributes["device"],
        "checkpoint_every": segment,
        "devices": list(plan.devices),
        "runs at a time": list(plan.chunk),
        "processes": jax.process_count(),
    }


def _as_begun(begun: dict[str, Any], plan: Plan) -> tuple[Plan, int]:
    """The chunks and segments of a checkpoint, divided among the devices available now."""
    chunk = tuple(begun["runs at a time"])
    alone = jax.process_count() == 1
    devices = divide_again(chunk, jax.device_count(), exactly=not alone)
    return plan._replace(devices=devices, chunk=chunk), begun["checkpoint_every"]


def compared(dataset: xr.Dataset) -> str:
    """The quantity in which a sweep's theories are judged: changes since a start that is not zero,
    since otherwise the start is most of what is compared; weights for a start at zero."""
    return CHANGES if CHANGES in dataset["quantity"].values else "weights"


@reading("sweep")
def summary(dataset: xr.Dataset) -> list[dict[str, Any]]:
    """The last step of a sweep as a table: a row for each init_scale, theory and learning rate.

    Losses are means over seeds; cosines and the relative error are those of the worst layer and
    seed, and the error is that of the last weight, the one that gives the logits. They are of the
    changes since the start, if the sweep has them, and else of the weights (`compared`). NaN where
    all runs diverged or the theory is zero. Without theories there are only losses, and `theory` is
    None.

    Raises:
      InputError, InputTypeError: `dataset` is not from `sweep`.
    """
    check_dataset(dataset, "sweep", ["loss"], "learning_rate init_scale seed step")
    if "theory" in dataset.dims:
        dims = "learning_rate init_scale theory quantity weight step"
        check_dataset(dataset, "sweep", ["relative_error", "cosine"], dims)
    last = dataset.isel(step=-1).sel(quantity=compared(dataset))
    steps = int(dataset["step"][-1])
    weights = dataset["weight"].values.tolist()
    rows = []
    for scale, theory, rate in itertools.product(
        dataset["init_scale"].values.tolist(),
        dataset["theory"].values.tolist() or [None],
        dataset["learning_rate"].values.tolist(),
    ):
        cell = last.sel(learning_rate=rate, init_scale=scale)
        row = {
            "init_scale": scale,
            "theory": theory,
            "learning_rate": rate,
            "s*eta": rate * steps,
            "loss": float(cell["loss"].mean()),
        }
        if theory is not None:
            cell = cell.sel(theory=theory)
            row |= {
                **{name: float(cell["cosine"].sel(weight=name).min()) for name in weights},
                "error": float(cell["relative_error"].sel(weight=weights[-1]).max()),
            }
        rows.append(row)
    return rows


def _distinct_starts(grid, stochastic: bool) -> tuple[np.ndarray, np.ndarray]:
    """The distinct starts (seed, scale), and the index of its start for each [seed, init_scale]."""
    seeds, scales = np.meshgrid(grid["seed"], grid["init_scale"], indexing="ij")
    effective = seeds if stochastic else np.where(scales == 0, seeds[0, 0], seeds)
    flat = np.stack([effective.ravel(), scales.ravel()], axis=1)
    starts, cell_to_start = np.unique(flat, axis=0, return_inverse=True)
    return starts, cell_to_start.reshape(seeds.shape)


def _to_dataset(
    cells: dict[str, np.ndarray], grid, config: RunConfig, weights: dict[str, int]
) -> xr.Dataset:
    by_theory = (*GRID, "theory")
    by_layer = (*by_theory, "weight", "layer", "step")
    dims = {"loss": (*GRID, "step"), "diverged_step": GRID, "theory_diverged_step": by_theory}
    dims |= {"sampling_error": by_layer, "truncation_error": by_layer}
    variables = {}
    for name, values in cells.items():
        of = dims.get(name, (*by_theory, "quantity", "weight", "layer", "step"))
        attrs = {"units": "nat" if name == "loss" else "1", "long_name": _LONG_NAMES[name]}
        variables[name] = (of, values, attrs | (_NO_LAYERS if "layer" in of else {}))
    dataset = xr.Dataset(
        variables,
        coords={
            **{name: (name, values, {"units": "1"}) for name, values in grid.items()},
            "theory": list(config.names),
            "quantity": list(config.quantities),
            "weight": list(weights),
            "has_layers": ("weight", [number > 1 for number in weights.values()]),
            "layer": np.arange(1, max(weights.values()) + 1, dtype=np.int32),
            "step": ("step", np.arange(config.steps + 1, dtype=np.int32), {"units": "updates"}),
        },
    )
    dataset = results.describe(dataset)
    steps = dataset["diverged_step"].transpose(*GRID).values
    rates, seeds, scales = (grid[name] for name in GRID)
    diverged = [
        f"learning_rate={rates[i]:g} seed={seeds[j]} init_scale={scales[k]:g} "
        f"at step {steps[i, j, k]}"
        for i, j, k in np.argwhere(steps >= 0)
    ]
    if diverged:
        dataset.attrs["diverged"] = "; ".join(diverged)
    return dataset
