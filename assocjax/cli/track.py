"""The command `track`."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from assocjax import arguments
from assocjax.cli._corpus import Corpus, configure_jax
from assocjax.cli._kinds import Count, Steps, several
from assocjax.cli._options import Results, Run, arguments_of, check_training, options
from assocjax.cli._terminal import progress_bar, show, show_table, show_written, status
from assocjax.errors import InputError


@options("Record")
class Track(Results, Corpus, Run):
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

    def run(self) -> None:
        from assocjax import figures
        from assocjax.analysis.formations import formation
        from assocjax.experiments.tracking import steps_to_record, track
        from assocjax.storage import check_claimable, claim, hold, results

        check_claimable(self.out, "track")
        configure_jax(self.precision)
        check_training(self, self.num_sequences)
        steps_to_record(self.record_at, self.steps)
        data = self.load()
        for token in self.graph:
            data.token_id(token)  # fails before the work
        with hold(self.out):  # one writer from the first checkpoint to the last figure
            with progress_bar() as progress:
                dataset = track(
                    data,
                    **arguments_of(self, track),
                    k=self.top,
                    truth=_known_truth(data),
                    checkpoint=self.out,
                    progress=progress,
                )
            rows = formation(dataset)
            content = {**results.decode(dataset.attrs), "formation": rows}
            with claim(self.out, "track", None) as folder:
                results.save_json_to(folder, "summary.json", content)
                with status("drawing"):
                    paths = figures.save_track(dataset, folder)
                    for token in self.graph:
                        name = "".join(c if c.isalnum() else "_" for c in token)
                        path = f"context_{data.token_id(token)}_{name}"
                        try:
                            graph = figures.plot_context_graph(dataset, token)
                        except InputError as error:  # a token without a context
                            show(f"no graph: {error}", soft_wrap=True)
                            continue
                        paths += figures.save(graph, path, into=folder)
        if dataset.attrs["incomplete"]:
            show(dataset.attrs["incomplete"])
        known = "precision_theory" in rows[0]
        show_table(
            f"Lists of up to {dataset.sizes['rank']} tokens that occur with each, by z-score. "
            "formed: first recorded step at which the weights have half of the theory's list "
            "(-: never); best, end: largest and last share of it"
            + ("; planted: the same for the planted associates; theory: its share" * known),
            [_short(row) for row in rows if row["scoring"] == "z-score"],
        )
        show_written(self.out, ["track.nc", "summary.json", *(path.name for path in paths)])
        show(f"To explore the result: assocjax explore {self.out / 'track.nc'}", soft_wrap=True)


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


def _short(row: dict[str, Any]) -> dict[str, Any]:
    """A row with short column names, to fit a terminal; equal names differ by a space."""
    weights = (
        row["weights"] if row["layer"] is None else row["weights"].replace("l", str(row["layer"]))
    )
    names = {"formed": "formed", "best": "best", "end": "end", "precision_formed": "planted"}
    names |= {"precision_best": "best ", "precision_end": "end ", "precision_theory": "theory"}
    values = {short: row.get(name) for name, short in names.items()}
    rounded = {n: round(v, 2) if isinstance(v, float) else v for n, v in values.items()}
    if "precision_theory" not in row:
        rounded = {name: rounded[name] for name in ("formed", "best", "end")}
    return {"matrix": row["matrix"], "weights": weights} | rounded
