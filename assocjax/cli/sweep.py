"""The command `sweep`."""

import contextlib
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from assocjax import arguments
from assocjax.cli._corpus import Corpus, check_device, configure_jax
from assocjax.cli._kinds import (
    Count,
    Deviation,
    Process,
    Rate,
    Seed,
    Theories,
    several,
    unless_given,
)
from assocjax.cli._options import Drawn, Training, arguments_of, check_training, options
from assocjax.cli._report import Finish, Report
from assocjax.cli._terminal import note, progress_bar
from assocjax.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

    from assocjax.corpora import TokenData


_SMALL = 0.05
"""A theory has ended at the first step at which the cosine of a weight is less than that of another
run, or than 1, by more than this."""

_OF = {"weights": "weight", "changes": "weight's change since the start"}

_TURNED = 0.01
"""A loss has turned up if it is above its lowest value by more than this share of its decrease."""


def _gibibytes(kind: Any, tokens: Any) -> int:
    """Converts GiB to bytes."""
    text = tokens[0].value
    try:
        size = int(float(text) * 2**30)
    except (ValueError, OverflowError):
        size = 0
    if size < 1:
        raise ValueError(f"expected a positive number of GiB, got {text[:80]!r}")
    return size


@options("Processes", "Run the same command in every process, on any machines; they share --out.")
class _Processes:
    distributed: bool = False
    """join the other processes of a Slurm job, a TPU pod or another cluster that JAX detects"""
    coordinator: Annotated[str | None, Parameter(metavar="HOST:PORT")] = None
    """without --distributed: address of process 0"""
    num_processes: Count | None = None
    """without --distributed: number of processes"""
    process_id: Process | None = None
    """without --distributed: number of this process, from 0"""


@options("Grid")
class Sweep(_Processes, Drawn, Corpus, Training):
    """Train over a grid of runs and compare every one with the theories."""

    num_sequences: int | None = 128
    out: Path = Path("assocjax-sweep")
    learning_rates: Annotated[tuple[Rate, ...], several("ETA")] = (0.1, 0.5, 1.0, 2.0)
    """learning rates"""
    seeds: Annotated[tuple[Seed, ...], several("SEED")] = (0,)
    """seeds of the initial weights and of the order of batches"""
    init_scales: Annotated[
        tuple[Deviation, ...] | None, several("SD"), unless_given("that of the model, 0")
    ] = None
    """standard deviations of the initial weights; 0 is zero initialization"""
    theories: Theories = None
    """theories that every run is compared with; a wrong name lists those there are"""
    gradient: Annotated[str, Parameter(metavar="NAME")] = arguments.EXACT
    """gradient that trains the weights: exact, or that of a theory"""
    microbatch_size: Count | None = None
    """sequences differentiated at once (default: as many as fit in 8 MiB, on a GPU in 1 GiB)"""
    matmul_precision: Literal["highest", "tensorfloat32", "bfloat16"] = "highest"
    """precision of matrix products in float32, on devices that have lower ones; the error of a
    lower one is printed"""
    memory_limit: Annotated[
        int,
        Parameter(
            metavar="GIB", converter=_gibibytes, show_default=lambda given: f"{given / 2**30:g}"
        ),
    ] = arguments.MEMORY_LIMIT
    """memory for the runs that are computed together"""
    checkpoint_every: Annotated[Count | None, Parameter(metavar="STEPS")] = None
    """steps between checkpoints under --out, from which the same command resumes after an
    interruption (default: a tenth of --steps, 100 at most, and at least 10 seconds)"""
    allow_different_devices: bool = False
    """resume also from a checkpoint of another number or kind of devices; results then differ by
    rounding"""

    def run(self, finish: Finish) -> Report:
        from assocjax import figures
        from assocjax.experiments import sweeps
        from assocjax.storage import claim, hold, results

        configure_jax(self.device, self.precision, self.matmul_precision, check=False)
        first_process = _join(self)
        check_device(self.device)
        trains = () if self.gradient == arguments.EXACT else (self.gradient,)
        check_training(self, self.num_sequences, theories=self.theories or (), gradient=trains)
        data = self.load()
        if self.matmul_precision != "highest":
            _show_matmul_error(data, self)
        # One writer from the first checkpoint to the last figure; of several processes, the first.
        with hold(self.out) if first_process else contextlib.nullcontext():
            with _at_once(), progress_bar() as progress:
                dataset = sweeps.sweep(
                    data,
                    **arguments_of(self, sweeps.sweep, optimizer=self.scheduled),
                    checkpoint=self.out,
                    progress=progress,
                    announce=note,
                )
            if not first_process:
                return Report()
            rows = sweeps.summary(dataset)
            content = {**results.decode(dataset.attrs), "summary": rows}
            with claim(self.out, "sweep", None) as folder:
                results.save_json_to(folder, "summary.json", content)
                with self.drawing():
                    paths = figures.save_sweep(dataset, folder)
                files = ["sweep.nc", "summary.json", *(path.name for path in paths)]
                report = _report(self, dataset, rows)
                report.written(files)
                finish(folder, report, files)
        return report


def _report(options: Sweep, dataset: "xr.Dataset", rows: list[dict[str, Any]]) -> Report:
    from assocjax.experiments.sweeps import compared
    from assocjax.storage import results
    from assocjax.theories.registry import ANOTHER_RUN

    report, vocab_size = Report(), results.decode(dataset.attrs)["corpus"]["vocab_size"]
    least = f"{1 - _SMALL:g}"
    if ANOTHER_RUN in dataset["theory"].values:
        least = f"those of {ANOTHER_RUN} less {_SMALL:g}"
    report.line(
        f"After {options.steps} steps with learning rate eta: loss in nats (log V = "
        f"{math.log(vocab_size):.4f} at zero weights); cosine of each "
        f"{_OF[compared(dataset)]} with a theory, smallest over layers and seeds; relative error "
        f"of {dataset['weight'].values[-1]}. A theory holds while all cosines are at least {least}"
    )
    weights = dataset["weight"].values.tolist()
    for scale in dataset["init_scale"].values.tolist():
        at = dataset.sel(init_scale=scale)
        of_scale = [row for row in rows if row["init_scale"] == scale]
        report.table(
            f"initialization sd {scale:g}",
            [_short(row, weights) for row in of_scale],
            " ".join([*_ends(at), _turns(at)]),
            narrow=[_short(row, weights, of_each=False) for row in of_scale],
        )
    if "diverged" in dataset.attrs:
        report.line(f"diverged: {dataset.attrs['diverged']}")
    return report


def _short(row: dict[str, Any], weights: list[str], of_each: bool = True) -> dict[Any, Any]:
    """A row with short column names; with a cosine of each weight, or their smallest."""
    short: dict[Any, Any] = {"theory": row["theory"]} if row["theory"] is not None else {}
    short |= {"eta": row["learning_rate"], "s*eta": row["s*eta"], "loss": row["loss"]}
    if row["theory"] is None:
        return short
    cosines = {name: round(row[name], 4) for name in weights}
    if not of_each:
        return short | {"error": row["error"], "cosine": min(cosines.values())}
    return short | {"error": row["error"]} | {("cosine", name): cosines[name] for name in weights}


def _ends(dataset: "xr.Dataset") -> Iterator[str]:
    """For each theory, the steps at which it ends: a cosine is small, or a run has diverged.

    After a random start no theory holds at first, when cosines are small too.
    """
    import numpy as np

    from assocjax.experiments.sweeps import compared
    from assocjax.theories.registry import ANOTHER_RUN

    steps, theories = dataset["step"].values, dataset["theory"].values.tolist()
    dataset, highest = dataset.sel(quantity=compared(dataset)), 1
    if ANOTHER_RUN in theories:
        theories.remove(ANOTHER_RUN)
        highest = dataset["cosine"].sel(theory=ANOTHER_RUN, drop=True)
    for theory in theories:
        at = dataset.sel(theory=theory)
        cosine = at["cosine"]
        fails = (cosine < highest - _SMALL).any(["weight", "layer"])
        fails = fails | ((at["diverged_step"] >= 0) & (at["step"] >= at["diverged_step"]))
        fails = fails.any("seed").transpose("learning_rate", "step").values
        known = cosine.notnull()  # a weight that has not moved yet has no direction
        known = (known | ~known.any("step")).all(["weight", "layer", "seed"])
        held = (known.transpose("learning_rate", "step").values & ~fails).cumsum(axis=1) > 0
        ends, stays, never = [], [], []
        for rate, failed, since in zip(dataset["learning_rate"].values, fails, held, strict=True):
            if not since.any():
                never.append(f"{rate:g}")
            elif (failed & since).any():
                ends.append(f"step {steps[np.argmax(failed & since)]} (eta {rate:g})")
            else:
                stays.append(f"{rate:g}")
        said = [f"ends at {', '.join(ends)}"] * bool(ends)
        said += [f"stays to the last step at eta {' '.join(stays)}"] * bool(stays)
        said += [f"does not hold at any step at eta {' '.join(never)}"] * bool(never)
        yield f"{theory} {'; '.join(said)}."


def _turns(dataset: "xr.Dataset") -> str:
    """Whether the loss of a run is above its lowest value again at its last finite step."""
    import numpy as np

    turned = []
    for rate in dataset["learning_rate"].values:
        for loss in dataset["loss"].sel(learning_rate=rate).transpose("seed", "step").values:
            finite = loss[np.isfinite(loss)]
            if finite.size and finite[-1] > finite.min() + _TURNED * (finite[0] - finite.min()):
                turned.append(f"{rate:g}")
    where = " ".join(dict.fromkeys(turned))
    return f"The loss has turned up at eta {where}." if turned else "No loss has turned up."


def _show_matmul_error(data: "TokenData", options: Sweep) -> None:
    """Prints the error of exact gradients with less precise products, at random weights."""
    import jax

    from assocjax.models.agreement import compare_weights
    from assocjax.models.model import Sizes
    from assocjax.models.registry import get_model

    model = get_model(options.model)
    sizes = Sizes(data.vocab_size, data.seq_len, options.num_layers)
    scale = model.init_scale or 1 / data.vocab_size
    params = model.init(jax.random.key(0), sizes, scale)
    arguments = params, *model.check_batch(params, data, None)
    _, rounded = model.loss_and_gradient(*arguments)
    with jax.default_matmul_precision("highest"):
        _, full = model.loss_and_gradient(*arguments)
    errors = compare_weights(model.weights(full), model.weights(rounded))
    worst = ", ".join(f"{name} {errors[name].relative_error.max():.1e}" for name in errors)
    note(
        f"relative error of exact gradients with products in {options.matmul_precision}, at random "
        f"weights of scale {scale:.2g}: {worst}"
    )


def _join(options: Sweep) -> bool:
    """Joins the other processes of a sweep, if any; True if this process prints and draws."""
    by_hand = (options.coordinator, options.num_processes, options.process_id)
    if any(value is not None for value in by_hand) and None in by_hand:
        raise InputError("--coordinator, --num-processes and --process-id must be given together")
    if not options.distributed and options.coordinator is None:
        return True
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(*by_hand)
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"--distributed: the other processes cannot be joined: {error}; outside of a cluster "
            "that JAX detects, give --coordinator, --num-processes and --process-id"
        ) from None
    if jax.process_index() == 0:
        return True
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    return False


@contextlib.contextmanager
def _at_once() -> Iterator[None]:
    """Ends the process at once after Ctrl-C; JAX would wait for the steps in progress."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if str(interrupt):  # the sweep has saved its state
            raise
        print("assocjax: interrupted", file=sys.stderr, flush=True)
        os._exit(130)
