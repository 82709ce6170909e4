"""The command `predict`: when associations will form, from statistics of a text alone."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from assocjax import arguments
from assocjax.cli._corpus import Corpus, configure_jax
from assocjax.cli._kinds import Count, Layers, Process, Rate, Seed, real, several
from assocjax.cli._options import Drawn, chosen, options
from assocjax.cli._report import Finish, Report
from assocjax.cli._terminal import progress_bar, status
from assocjax.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

    from assocjax.corpora import TokenData
    from assocjax.models.decoder import DecoderModel

_FILE, _REMOVED = "predictions.nc", "removals.nc"
_SOURCES = {
    "other_runs": "other runs (ceiling)",
    "predicted": "twins",
    "frequencies": "fit on frequencies",
    "shuffled": "twins, rows shuffled",
}


@options("Prediction")
class Predict(Drawn, Corpus):
    """Predict when associations form in a language model, from statistics of a text alone."""

    out: Path = Path("assocjax-predictions")
    model: Literal["neox", "llama", "gpt2"] = "neox"
    """architecture of the language model"""
    num_layers: Layers = 2
    """number of layers"""
    width: Annotated[Count, Parameter(metavar="D")] = 64
    """dimension of the residual stream"""
    num_heads: Annotated[Count, Parameter(metavar="H")] = 4
    """number of attention heads"""
    learning_rate: Rate = 1e-3
    """largest learning rate of AdamW, reached after a warmup of 1 % of --schedule"""
    schedule: Count = 512
    """steps of the whole schedule of learning rates, of which --steps are the first"""
    steps: Count = 192
    """number of updates"""
    batch_size: Count = 32
    """sequences in a minibatch"""
    order: Literal[0, 1, 2, 3, 4, 5, 6, 7] = 2
    """what twins know: 1 bigrams, 2 mean contexts, 3 contexts of bigrams, 4 attention to these,
    6 and 7 the order of tokens"""
    num_twins: Count = 8
    """number of twins, each with its own start"""
    num_runs: Process = 0
    """train so many real runs too, to measure what is predicted, and as many others as a ceiling"""
    fraction: Annotated[float, real("F", gt=0)] = 0.5
    """an association has formed when its strength is this fraction of its strength in the text"""
    most: Count = 200
    """largest number of associations of each kind"""
    without: Annotated[tuple[str, ...], several("A:B")] = ()
    """predict instead what training without the token B after the token A would change"""
    seed: Seed = 0
    """seed of the starts, the orders of batches, and of what twins draw"""

    def run(self, finish: Finish) -> Report:
        from assocjax import figures
        from assocjax.experiments import prediction
        from assocjax.storage import claim, results
        from assocjax.theories.twin_losses import MEAN_ORDERS

        configure_jax(self.device, self.precision)
        model = self._model()
        for given in self.without:
            if ":" not in given[1:-1]:
                raise InputError(f"--without: expected A:B, got {given!r}")
        if self.without and self.order > MEAN_ORDERS[-1]:
            raise InputError(f"--order: at most {MEAN_ORDERS[-1]} with --without; got {self.order}")
        data = self.load()
        pairs = [self._pair(data, given) for given in self.without]
        formed = None
        names = ("model", "num_layers", "width", "num_heads", "learning_rate", "schedule", "steps")
        names += (
            "batch_size",
            "order",
            "num_twins",
            "num_runs",
            "fraction",
            "most",
            "without",
            "seed",
        )
        config = chosen(self, *names, "precision")
        decides = results.identity(data, config)
        file = _REMOVED if pairs else _FILE
        with claim(self.out, "predict", decides, result=file, overwrite=self.overwrite) as folder:
            if folder.complete:
                dataset = results.load(folder.path / file)
            else:
                dataset = self._compute(model, data, pairs)
                dataset = dataset.assign_attrs(results.provenance(data, config))
                results.save_to(folder, file, dataset)
                folder.finish()
            files = [file, "summary.json"]
            if pairs:
                rows = _removals(dataset)
                report = _report_of_removals(self, dataset, rows)
            else:
                formed = prediction.formation_steps(dataset, self.fraction)
                rows = _associations(formed)
                report = _report_of_steps(self, formed, rows)
            content = {**results.decode(dataset.attrs), "summary": rows}
            results.save_json_to(folder, "summary.json", content)
            if self.num_runs and formed is not None:
                with self.drawing():
                    figure = figures.plot_predictions(formed)
                    files += [p.name for p in figures.save(figure, "steps", into=folder)]
            report.written(files)
            finish(folder, report, files)
        return report

    def _model(self) -> "DecoderModel":
        from assocjax.models import decoder

        make = getattr(decoder, self.model)
        sizes = self.num_layers, self.width, self.num_heads
        return decoder.DecoderModel(self.model, make(1, 1, *sizes))  # V and T are the data's

    def _pair(self, data: "TokenData", given: str) -> tuple[int, int]:
        """Ids of the tokens of A:B; the colon may itself be a token."""
        places = [i for i, character in enumerate(given) if character == ":"]
        found = [
            (given[:i], given[i + 1 :])
            for i in places
            if {given[:i], given[i + 1 :]} <= set(data.vocabulary)
        ]
        if not found:
            raise InputError(f"--without: expected A:B with two tokens of the text, got {given!r}")
        return data.token_id(found[0][0]), data.token_id(found[0][1])

    def _compute(
        self, model: "DecoderModel", data: "TokenData", pairs: list[tuple[int, int]]
    ) -> "xr.Dataset":
        from assocjax.analysis.strengths import strong_associations
        from assocjax.experiments.counterfactuals import remove_bigrams
        from assocjax.experiments.prediction import predict_formation
        from assocjax.llm.recipe import make_optimizer
        from assocjax.statistics.contexts import context_statistics

        with status("counting"):
            statistics = context_statistics(data)
        common = {
            **chosen(self, "steps", "batch_size", "order", "seed"),
            "optimizer": make_optimizer(self.learning_rate, self.schedule),
            "statistics": statistics,
        }
        with progress_bar() as progress:

            def update(name: str, step: int) -> None:
                progress(step, self.steps, f"training: {name}")

            if pairs:
                real, starts = self.num_runs > 0, max(1, self.num_runs)
                return remove_bigrams(
                    model, data, pairs, num_starts=starts, real=real, progress=update, **common
                )
            leave_out = [i for i, token in enumerate(data.vocabulary) if token == arguments.UNKNOWN]
            return predict_formation(
                model,
                data,
                num_twins=self.num_twins,
                num_runs=self.num_runs,
                associations=strong_associations(
                    statistics, most=self.most, leave_out=tuple(leave_out)
                ),
                progress=update,
                **common,
            )


def _associations(steps: "xr.Dataset") -> list[dict[str, Any]]:
    """A row for each association, in the order in which they are predicted to form."""
    names = [str(name) for name in (*steps.coords, *steps.data_vars)]
    columns = {name: steps[name].values.tolist() for name in names}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    rows = [{k: None if v != v else v for k, v in row.items()} for row in rows]
    late = float("inf")
    return sorted(rows, key=lambda row: late if row["predicted"] is None else row["predicted"])


def _report_of_steps(options: Predict, steps: "xr.Dataset", rows: list[dict[str, Any]]) -> Report:
    from assocjax.experiments.prediction import prediction_scores

    report = Report()
    for kind in dict.fromkeys(steps["kind"].values.tolist()):
        of_kind = [row for row in rows if row["kind"] == kind]
        forms = sum(row["predicted"] is not None for row in of_kind)
        report.table(
            f"{kind}: the associations that form first. Step at which the strength of b after a "
            f"reaches {options.fraction:g} of that in the text, by the mean of {options.num_twins} "
            f"twins, and of the earliest and the latest twin (-: not within {options.steps} steps)"
            + ("; measured in real runs" * bool(options.num_runs)),
            [_short(row, bool(options.num_runs)) for row in of_kind[: arguments.TOP]],
            f"{forms} of {len(of_kind)} are predicted to form within {options.steps} steps.",
        )
    if options.num_runs:
        scores = prediction_scores(steps)
        report.table(
            "How well the steps in real runs are predicted, of those associations that form there: "
            "rank correlation, median of predicted over measured, share within 20 %",
            [
                {
                    "kind": row["kind"],
                    "predicted by": _SOURCES[row["source"]],
                    "form": f"{row['formed']} of {row['associations']}",
                    "rank": round(row["rank_correlation"], 3),
                    "ratio": round(row["median_ratio"], 3),
                    "within": round(row["within_20_percent"], 3),
                }
                for row in scores
            ],
            " ".join(filter(None, (_verdict(scores, kind) for kind in ("bigram", "context")))),
        )
    return report


def _short(row: dict[str, Any], measured: bool) -> dict[str, Any]:
    names = ("predicted", "earliest", "latest", *["measured"] * measured)
    steps = {name: row[name] if row[name] is None else round(row[name], 1) for name in names}
    short = {
        "a": row["first"][:16],
        "b": row["second"][:16],
        "occurrences": round(row["occurrences"], 1),
    }
    return short | {"strength": round(row["strength"], 2)} | steps


def _verdict(scores: list[dict[str, Any]], kind: str) -> str:
    of = {row["source"]: row["rank_correlation"] for row in scores if row["kind"] == kind}
    twins, ceiling = of["predicted"], of["other_runs"]
    if twins != twins or ceiling != ceiling:
        return f"{kind}: too few form in the real runs to tell."
    control = max(value for value in (of["frequencies"], of["shuffled"], -1.0) if value == value)
    beside = "better" if twins > control else "no better"
    return (
        f"{kind}: twins predict the order {beside} than the best control ({twins:.2f} against "
        f"{control:.2f}); other real runs have {ceiling:.2f}."
    )


def _removals(dataset: "xr.Dataset") -> list[dict[str, Any]]:
    """A row for each bigram removed, as means over starts, in nats."""
    rows = []
    for i, name in enumerate(dataset["removed"].values.tolist()):
        row = {"removed": name, "occurrences": float(dataset["occurrences"][i])}
        for source in ("predicted", "measured"):
            if source in dataset:
                cells = dataset[source].isel(removed=i).mean("start").values
                row[source] = float(cells[i])
                others = [abs(cell) for k, cell in enumerate(cells) if k != i]
                row[f"{source} elsewhere"] = max(others) if others else None
        rows.append(row)
    return rows


def _report_of_removals(
    options: Predict, dataset: "xr.Dataset", rows: list[dict[str, Any]]
) -> Report:
    from assocjax.experiments.counterfactuals import removal_scores

    report, verdict = Report(), ""
    if options.num_runs and len(rows) > 2:
        scores = removal_scores(dataset)
        verdict = (
            f"Predicted and measured changes have correlation {scores['correlation']:.2f}; with "
            f"what is predicted when the bigram of most similar frequency is removed instead, "
            f"{scores['control']:.2f}."
        )
    report.table(
        f"Change of the strength log(P(b | a) / P(b)), in nats, after {options.steps} steps "
        "without the bigram: predicted by twins"
        + ("; measured in real runs" * bool(options.num_runs))
        + "; others: the largest change of another of these bigrams",
        [
            {
                "bigram": row["removed"][:24],
                "occurrences": row["occurrences"],
                **{
                    (source, name): row.get(f"{source}{key}")
                    for source in ("predicted", "measured")
                    if source in row
                    for name, key in (("itself", ""), ("others", " elsewhere"))
                },
            }
            for row in rows
        ],
        verdict,
    )
    return report
