"""The command `ngrams`: what a language model predicts after a token, beside n-grams of a text."""

from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from assocjax import arguments
from assocjax.cli._checkpoint_twins import clock
from assocjax.cli._corpus import Reading, configure_jax, describe_corpus
from assocjax.cli._kinds import AtLeast2, Count, Length, Seed, distinct, real, unless_given
from assocjax.cli._options import Device, Drawn, arguments_of, chosen, options
from assocjax.cli._report import Finish, Report
from assocjax.cli._terminal import note, progress_bar
from assocjax.cli.compare import SEQUENCES, by_commas

if TYPE_CHECKING:
    import xarray as xr

_TOKENS = f"{arguments.NUM_TOKENS}, or all that occur --min-count times"
_WITTEN_BELL = "the number of distinct tokens that follow"


@options("Comparison")
class Ngrams(Drawn, Device, Reading):
    """Compare what a language model predicts after single tokens with n-grams of a text."""

    model: str = field(kw_only=False)
    """a folder (with a subfolder for each revision), or owner/name on the hub; in safetensors"""
    revisions: Annotated[
        tuple[str, ...] | None,
        Parameter(metavar="NAME,...", converter=by_commas, n_tokens=1, validator=distinct),
    ] = None
    """checkpoints to compare, such as step0,step1,step512 (default: the model itself)"""
    corpus: str = "fables"
    """fables, python-docs, tinystories, hf:owner/name[:split], or a .txt, .jsonl or .parquet
    file; or a token file in the model's tokens"""
    seq_len: Length = 128
    """number of positions of a sequence"""
    num_sequences: Annotated[Count | None, unless_given(SEQUENCES)] = None
    """use the first N sequences"""
    held_out: Annotated[float, real("SHARE", gt=0, lt=1)] = arguments.HELD_OUT
    """share of the sequences, the last ones, that the model reads; n-grams are those of the rest"""
    num_tokens: Annotated[AtLeast2 | None, unless_given(_TOKENS)] = None
    """read predictions after the N most frequent tokens"""
    min_count: Count = arguments.MIN_COUNT
    """smallest number of occurrences of a token in both parts of the text"""
    smoothing: Annotated[float | None, real("K", gt=0), unless_given(_WITTEN_BELL)] = None
    """weight of the lower order in the probabilities of n-grams, in occurrences"""
    shuffles: AtLeast2 = arguments.NUM_SHUFFLES
    """number of shuffles of the tokens in each control"""
    bins: Count = arguments.NUM_BINS
    """number of frequency bins, within which the second control shuffles"""
    seed: Seed = 0
    """seed of the shuffles"""
    recipe: Annotated[str | None, Parameter(metavar="RECIPE")] = None
    """the recipe of the training, for the summed learning rate of each step: a published one
    (pythia-1.4b, ...; a wrong name lists them), or a .json or .yaml file, such as the
    pretraining.json of pretrain-tiny"""
    over: Literal["step", "summed_rate"] = "step"
    """what the figure is drawn over"""
    out: Path = Path("assocjax-ngrams")
    """folder for the results, a file for each revision; after an interruption the same command
    resumes"""

    def run(self, finish: Finish) -> Report:
        from assocjax import figures
        from assocjax.llm.files import check_revisions
        from assocjax.llm.ngram_revisions import compare_ngrams
        from assocjax.llm.texts import tokens_of_model
        from assocjax.llm.twins import with_summed_rate
        from assocjax.storage import claim, hold, results

        revisions = [None] if self.revisions is None else list(self.revisions)
        recipe = clock(self.recipe, self.over, revisions)
        configure_jax(self.device)
        check_revisions(self.model, revisions)
        reading = chosen(self, "num_documents", "separator", "text_field")
        data = self.read(tokens_of_model, self.model, revisions[0], **reading)
        note(describe_corpus(data))
        with hold(self.out):
            with progress_bar(unit="", first="reading") as bar:
                others = {"name_or_path": self.model, "revisions": revisions, "source": data}
                others |= {"num_shuffles": self.shuffles, "num_bins": self.bins}
                others["progress"] = lambda what, done, total: bar(done, total, what)
                dataset = compare_ngrams(**arguments_of(self, compare_ngrams, **others))
            if recipe is not None:
                dataset = with_summed_rate(dataset, recipe)
            rows = _rows(dataset)
            with claim(self.out, "ngrams", None) as folder:
                results.save_to(folder, "ngrams.nc", dataset)
                content = {**results.decode(dataset.attrs), "summary": rows}
                results.save_json_to(folder, "summary.json", content)
                files = ["ngrams.nc", "summary.json"]
                if "step" in dataset.coords and len(revisions) > 1:
                    with self.drawing():
                        figure = figures.plot_ngrams(dataset, over=self.over)
                        files += [p.name for p in figures.save(figure, "steps", into=folder)]
                report = _report(dataset, rows)
                report.written(files)
                # Each revision has a file that a comparison of other revisions can use.
                kept = [name for name in folder.files if name.startswith("revision-")]
                finish(folder, report, [*files, *kept])
        return report


def _rows(dataset: "xr.Dataset") -> list[dict[str, Any]]:
    """The numbers of each revision, by name."""
    from assocjax.llm.next_tokens import BIGRAM, UNIGRAM

    rows = []
    for name in dataset["revision"].values.tolist():
        of = dataset.sel(revision=name)
        row: dict[str, Any] = {"revision": name, "loss": float(of["loss"])}
        for reading in of["reading"].values.tolist():
            for reference in (UNIGRAM, BIGRAM):
                kl = of["kl_mean"].sel(reading=reading, reference=reference)
                row[f"{reading}, {reference}"] = float(kl)
        for residual in of["residual"].values.tolist():
            row[f"head, {residual}"] = float(of["head_correlation"].sel(residual=residual))
        rows.append(row)
    return rows


def _report(dataset: "xr.Dataset", rows: list[dict[str, Any]]) -> Report:
    from assocjax.llm.next_tokens import READINGS

    report = Report()
    lows, highs = dataset["entropy"].values, dataset["cross_entropy"].values
    of_text = float(dataset["kl_of_text"])
    between = [
        f"{n}: {low:.3f} to {high:.3f}"
        for n, low, high in zip(dataset["order"].values, lows, highs, strict=True)
    ]
    report.line(
        f"{dataset.sizes['token']} tokens, each with at least "
        f"{int(dataset['token_count'].min())} occurrences in the part that the model reads. "
        f"Entropy of n-grams of the text, in nats, for n = {'; '.join(between)}. KL from the "
        f"bigrams of one part of the text to those of the other: {of_text:.3f}"
    )
    shown = [
        {"revision": row["revision"], "loss": round(row["loss"], 3)}
        | {
            (reading, name): round(row[f"{reading}, {name}"], 3)
            for reading in READINGS
            for name in ("unigram", "bigram")
        }
        for row in rows
    ]
    report.table(
        "KL in nats from unigram and bigram of the text to what the model predicts after a token: "
        "alone; in the mean over its occurrences; at each occurrence. Means over occurrences",
        shown,
        _verdict(rows),
    )
    return report


def _verdict(rows: list[dict[str, Any]]) -> str:
    """In which order the model comes nearest to each n-gram."""
    lowest = {
        name: min(range(len(rows)), key=lambda i, name=name: rows[i][f"each, {name}"])
        for name in ("unigram", "bigram")
    }
    if len(rows) == 1:
        nearer = min(lowest, key=lambda name: rows[0][f"each, {name}"])
        return f"At each occurrence the prediction is nearer to the {nearer}."
    said = []
    for name, i in lowest.items():
        at = f"nearest to the {name} at {rows[i]['revision']}"
        said.append(at + (", then farther" if i < len(rows) - 1 else ", the last"))
    return f"At each occurrence: {'; '.join(said)}."
