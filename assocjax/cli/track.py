"""The command `track`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from assocjax import arguments
from assocjax.cli._corpus import Corpus, configure_jax
from assocjax.cli._kinds import Count, Steps, several
from assocjax.cli._options import Drawn, Run, arguments_of, check_training, options
from assocjax.cli._report import Finish, Report
from assocjax.cli._terminal import note, progress_bar
from assocjax.errors import InputError

if TYPE_CHECKING:
    import xarray as xr


@options("Record")
class Track(Drawn, Corpus, Run):
    """Train one run and record when associations form, and in which weight."""

    num_sequences: int | None = 512
    out: Path = Path("assocjax-track")
    learning_rate: float = 2.0
    steps: int = 64
    init_scale: float = arguments.TRACKED_INIT_SCALE
    """standard deviation of the initial weights; with 0 the theory's lists appear at once"""
    microbatch_size: Count | None = None
    """sequences differentiated at once (default: as many as fit in 8 MiB, on a GPU in 1 GiB)"""
    record_at: Annotated[
        tuple[Steps, ...] | None, Parameter(metavar="STEP...", consume_multiple=(1, None))
    ] = None
    """steps at which to record (default: 0 and about twenty, evenly on a log scale)"""
    top: Annotated[Count, Parameter(metavar="K")] = arguments.TOP
    """largest length of the lists"""
    graph: Annotated[tuple[str, ...], several("TOKEN")] = ()
    """tokens whose context is drawn as a small graph"""

    def run(self, finish: Finish) -> Report:
        from assocjax import figures
        from assocjax.analysis.formations import formation
        from assocjax.experiments.tracking import steps_to_record, track
        from assocjax.storage import claim, hold, results

        configure_jax(self.device, self.precision)
        check_training(self, self.num_sequences)
        steps_to_record(self.record_at, self.steps)
        data = self.load()
        for token in self.graph:
            data.token_id(token)  # fails before the work
        with hold(self.out):  # one writer from the first checkpoint to the last figure
            with progress_bar() as progress:
                dataset = track(
                    data,
                    **arguments_of(self, track, optimizer=self.scheduled),
                    k=self.top,
                    truth=_known_truth(data),
                    checkpoint=self.out,
                    progress=progress,
                )
            rows = formation(dataset)
            content = {**results.decode(dataset.attrs), "formation": rows}
            with claim(self.out, "track", None) as folder:
                results.save_json_to(folder, "summary.json", content)
                with self.drawing():
                    paths = figures.save_track(dataset, folder)
                    for token in self.graph:
                        name = "".join(c if c.isalnum() else "_" for c in token)
                        path = f"context_{data.token_id(token)}_{name}"
                        try:
                            graph = figures.plot_context_graph(dataset, token)
                        except InputError as error:  # a token without a context
                            note(f"no graph: {error}")
                            continue
                        paths += figures.save(graph, path, into=folder)
                report = _report(dataset, rows)
                files = ["track.nc", "summary.json", *(path.name for path in paths)]
                report.written(files)
                report.path(f"To explore the result: assocjax explore {self.out / 'track.nc'}")
                finish(folder, report, files)
        return report


def _report(dataset: "xr.Dataset", rows: list[dict[str, Any]]) -> Report:
    report = Report()
    if "incomplete" in dataset.attrs:
        report.line(dataset.attrs["incomplete"])
    lists = [row for row in rows if row["scoring"] == "z-score"]
    known = any("precision_theory" in row for row in lists)
    report.table(
        f"Lists of up to {dataset.sizes['rank']} tokens, corrected for frequency. formed: first "
        "recorded step after 0 at which the weights have half of the theory's list (-: never); "
        "best, end: largest and last share of it"
        + ("; planted: the same for the planted associates, and the theory's share" * known),
        [_short(row) for row in lists],
        _verdict(lists),
    )
    return report


def _verdict(rows: list[dict[str, Any]]) -> str:
    """Which of the theory's lists have formed, and when."""
    lists = [row for row in rows if "formed" in row]
    steps = [row["formed"] for row in lists if row["formed"] is not None]
    when = f", between steps {min(steps)} and {max(steps)}" if steps else ""
    return f"{len(steps)} of {len(lists)} of the theory's lists have formed in the weights{when}."


def _known_truth(data) -> dict[str, Any] | None:
    """The planted associations of the fables, restricted to the vocabulary."""
    from assocjax.corpora import fables

    known = {
        kind: {query: found for query, of in truth.items() if (found := of & set(data.vocabulary))}
        for kind, truth in fables.known_truth(data.name).items()
    }
    return {
        kind: truth for kind, truth in known.items() if truth.keys() & set(data.vocabulary)
    } or None


def _short(row: dict[str, Any]) -> dict[Any, Any]:
    """A row with short column names, to fit a terminal."""
    layer = "" if row["layer"] is None else str(row["layer"])
    short: dict[Any, Any] = {
        "matrix": row["matrix"],
        "weights": row["weights"].replace("l", layer) if layer else row["weights"],
    }
    short |= {("theory's list", name): row.get(name) for name in ("formed", "best", "end")}
    if "precision_theory" in row:
        names = ("formed", "best", "end", "theory")
        short |= {("planted", name): row.get(f"precision_{name}") for name in names}
    return {key: round(v, 2) if isinstance(v, float) else v for key, v in short.items()}
