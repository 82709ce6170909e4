"""The command `ablate`: trains, edits the weights, and compares the loss with controls."""

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from assocjax import arguments
from assocjax.cli._corpus import Corpus, configure_jax
from assocjax.cli._kinds import AtLeast2, several
from assocjax.cli._options import Drawn, Run, check_training, chosen, options
from assocjax.cli._report import Finish, Report
from assocjax.cli._terminal import progress_bar, status
from assocjax.errors import InputError
from assocjax.theories.registry import THEORIES

if TYPE_CHECKING:
    import xarray as xr

    from assocjax.corpora import TokenData
    from assocjax.models.params import Params
    from assocjax.storage.results import Part

_FILE = "ablation.nc"
_CLEAR = 2


@options("Ablation")
class Ablate(Drawn, Corpus, Run):
    """Train, remove the theory's term from each weight, and compare the loss with controls."""

    num_sequences: int | None = 128
    out: Path = Path("assocjax-ablation")
    theory: Annotated[str, Parameter(metavar="NAME")] = THEORIES[0]
    """theory whose terms are removed"""
    edits: Annotated[tuple[str, ...], several("NAME", arguments.EDITS)] = ("remove",)
    """remove: subtract the projection on the theory; keep: keep only the projection; replace: use
    the theory, at the norm of the weight; swap: replace the projection by the term of another
    weight"""
    draws: AtLeast2 = arguments.DRAWS
    """number of random draws of each control"""

    def run(self, finish: Finish) -> Report:
        from assocjax import figures
        from assocjax.analysis import ablation
        from assocjax.models.paper import check_paper_model
        from assocjax.models.registry import get_model
        from assocjax.storage import claim, results

        configure_jax(self.device, self.precision)
        check_training(self, self.num_sequences, theory=(self.theory,))
        check_paper_model("ablate", get_model(self.model))
        data = self.load()
        names = (
            "model",
            "learning_rate",
            "steps",
            "num_layers",
            "init_scale",
            "theory",
            "optimizer",
            "schedule",
            "warmup_steps",
        )
        names += ("batch_size", "edits", "draws", "seed", "precision")
        config = chosen(self, *names)
        decides = results.identity(data, config)
        with claim(self.out, "ablate", decides, result=_FILE, overwrite=self.overwrite) as folder:
            if folder.complete:
                dataset = results.load(folder.path / _FILE)
            else:
                with results.stoppable(folder):
                    dataset = _ablated(self, data, results.parts_kept_in(folder))
                dataset = results.describe(dataset.assign_coords(token=list(data.vocabulary)))
                dataset = dataset.assign_attrs(results.provenance(data, config))
                results.save_to(folder, _FILE, dataset)
                folder.finish()
            rows = ablation.summary(dataset)
            content = {**results.decode(dataset.attrs), "summary": rows}
            results.save_json_to(folder, "summary.json", content)
            with self.drawing():
                paths = figures.save(figures.plot_ablation(dataset), "ablation", into=folder)
            report = _report(self, dataset, rows)
            files = [_FILE, "summary.json", *(path.name for path in paths)]
            report.written(files)
            finish(folder, report, files)
        return report


def _report(options: Ablate, dataset: "xr.Dataset", rows: list[dict[str, Any]]) -> Report:
    report = Report()
    report.line(
        f"Loss {float(dataset['trained_loss']):.4f} nats after {options.steps} steps (log V = "
        f"{math.log(dataset.sizes['token']):.4f}). Columns: cosine of the weight with the theory; "
        f"loss, and its change, when the weight is edited along its {options.theory} theory; "
        f"means of the change over {options.draws} draws of random directions (random), of the "
        "theory with shuffled tokens (shuffled), and of the theory with tokens shuffled among "
        "those of similar frequency (matched, with its sd)"
    )
    for edit in options.edits:
        of_edit = [row for row in rows if row["edit"] == edit]
        for size, what in (("norm", "of the same norm"), ("projection", "by projection")):
            if f"random_{size}" in of_edit[0]:
                shown = [_short(row, size) for row in of_edit]
                report.table(f"{edit}, controls {what}", shown, _verdict(of_edit, edit, size))
    return report


def _ablated(options: Ablate, data: "TokenData", part: "Part") -> "xr.Dataset":
    """Trains and calls `ablation.ablate`; `part` keeps the weights and the finished units."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import xarray as xr

    from assocjax.analysis import ablation
    from assocjax.models.model import Sizes
    from assocjax.models.registry import get_model

    def trained() -> xr.Dataset:
        leaves = jax.tree.leaves(_trained(options, data))
        axes = [[f"array {i} axis {j}" for j in range(leaf.ndim)] for i, leaf in enumerate(leaves)]
        arrays = zip(axes, map(np.asarray, leaves), strict=True)
        return xr.Dataset({f"array {i}": array for i, array in enumerate(arrays)})

    kept = part("trained", trained)
    leaves = [jnp.asarray(kept[f"array {i}"].values) for i in range(len(kept))]
    structure = jax.tree.structure((get_model(options.model).shapes(Sizes(2, 1, 1)),) * 2)
    params, theory = jax.tree.unflatten(structure, leaves)
    edit = partial(
        ablation.ablate,
        params,
        theory,
        data.tokens,
        data.mask,
        other=ablation.exchanged(theory) if "swap" in options.edits else None,
        **chosen(options, "edits", "draws", "seed"),
    )
    units = ablation.default_units(options.num_layers)
    found: list[xr.Dataset] = []
    with progress_bar("editing", "weights") as progress:
        for unit, selection in units.items():
            found.append(part(unit, partial(edit, units={unit: selection})))
            progress(len(found), len(units))
    return xr.concat(
        found, "unit", data_vars="minimal", coords="minimal", compat="override", join="exact"
    )


def _short(row: dict[str, Any], size: str) -> dict[Any, Any]:
    from assocjax.analysis.ablation import DIRECTIONS

    short: dict[Any, Any] = {"weight": row["unit"], "cosine": row["cosine"], "loss": row["loss"]}
    changes = {"theory": row["theory"]}
    changes |= {direction: row[f"{direction}_{size}"] for direction in DIRECTIONS}
    changes |= {"sd": row[f"matched_{size}_sd"]}
    return short | {
        ("change of the loss", name): "-" if math.isnan(value) else f"{value:+.1e}"
        for name, value in changes.items()
    }


def _verdict(rows: list[dict[str, Any]], edit: str, size: str) -> str:
    """The theory beside its matched control, which has the same token frequencies."""
    above: dict[str, list[str]] = {"raises": [], "lowers": [], "does not change": []}
    for row in rows:
        excess, sd = row["theory"] - row[f"matched_{size}"], row[f"matched_{size}_sd"]
        beyond = abs(excess) > _CLEAR * sd
        how = ("raises" if excess > 0 else "lowers") if beyond else "does not change"
        above[how].append(row["unit"])
    parts = [f"{how} the loss for {', '.join(units)}" for how, units in above.items() if units]
    return (
        f"Beyond the matched control, by over {_CLEAR} of its sd, this edit ({edit}) of the theory "
        f"{'; '.join(parts)}."
    )


def _trained(options: Ablate, data: "TokenData") -> tuple["Params", "Params"]:
    """The weights after the last update, of the run and of the theory."""
    from assocjax.experiments.config import Corpus, RunConfig, check_run
    from assocjax.experiments.record import record_run

    run = RunConfig(
        steps=options.steps,
        num_layers=options.num_layers,
        theories=(options.theory,),  # type: ignore[arg-type]
        model=options.model,  # type: ignore[arg-type]
        optimizer=options.scheduled,
        batch_size=options.batch_size,
    )
    check_run(run, data)
    with status("counting"):
        corpus = Corpus.of(data, run)
    with progress_bar() as progress:
        found = record_run(
            run,
            corpus,
            options.learning_rate,
            options.seed,
            options.init_scale,
            progress=progress,
        )
    if found.diverged_step is not None:
        raise InputError(
            f"--learning-rate {options.learning_rate:g}: training diverges at step "
            f"{found.diverged_step}; give a smaller learning rate"
        )
    return found.params["run"], found.params[options.theory]
