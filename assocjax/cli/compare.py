"""The command `compare`: compares checkpoints of a language model with the theory."""

from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from assocjax import arguments
from assocjax.cli._checkpoint_twins import clock, compare_twins
from assocjax.cli._corpus import Reading, describe_corpus
from assocjax.cli._kinds import AtLeast2, Count, Length, Seed, distinct, several, unless_given
from assocjax.cli._options import Drawn, arguments_of, chosen, options
from assocjax.cli._report import Finish, Report
from assocjax.cli._terminal import note, progress_bar

if TYPE_CHECKING:
    import xarray as xr

    from assocjax.storage import Folder


def by_commas(kind: Any, tokens: Any) -> tuple[str, ...]:
    """Converts names separated by commas."""
    return tuple(tokens[0].value.split(","))


_CLEAR = 3
"""Differences from the shuffled tokens, in their sd, above which there is a signal."""

SEQUENCES = f"{arguments.NUM_SEQUENCES}, or all if the text has fewer"
_TOKENS = f"{arguments.NUM_TOKENS}, or all that occur --min-count times"


@options("Statistics twins")
class Twins:
    """Twins beside checkpoints, instead of scores of their streams and heads."""

    twin: Annotated[str | None, Parameter(metavar="RECIPE")] = None
    """compare the change of every weight since step 0, which --revisions must name, with that of
    statistics twins: by a published recipe (pretrain-tiny, pythia-1.4b, ...; a wrong name lists
    them), or one in a .json or .yaml file, such as the pretraining.json of pretrain-tiny"""
    other_runs: Annotated[
        tuple[str, ...],
        Parameter(metavar="MODEL,...", converter=by_commas, n_tokens=1, validator=distinct),
    ] = ()
    """models of the same start and other orders of batches, as a ceiling"""
    orders: Annotated[tuple[Literal[1, 2, 3, 4, 5], ...], several("ORDER")] = (2, 4)
    """what twins know: 1 bigrams, 2 mean contexts, 3 contexts of bigrams, 4 and 5 attention to
    these"""
    num_twins: Count = 4
    """number of twins of each order, and of each control"""
    rows: Annotated[Count | None, unless_given("as a batch of RECIPE; at most 32768")] = None
    """pairs of tokens that a twin draws for an update"""
    top_tokens: Annotated[AtLeast2 | None, unless_given("all of the model")] = None
    """only the N most frequent tokens, where the vocabulary is large"""


@options("Comparison")
class Compare(Drawn, Twins, Reading):
    """Compare layers, heads and checkpoints of a language model with the theory and controls."""

    model: str = field(kw_only=False)
    """a folder (with a subfolder for each revision), a .gguf file, or owner/name on the hub"""
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
    """compute statistics of the first N sequences"""
    num_tokens: Annotated[AtLeast2 | None, unless_given(_TOKENS)] = None
    """compare the N most frequent tokens"""
    min_count: Count = arguments.MIN_COUNT
    """smallest number of occurrences of a token"""
    shuffles: AtLeast2 = arguments.NUM_SHUFFLES
    """number of shuffles of the tokens in each control"""
    bins: Count = arguments.NUM_BINS
    """number of frequency bins, within which the second control shuffles"""
    seed: Seed = 0
    """seed of the shuffles, and of what twins draw"""
    recipe: Annotated[str | None, Parameter(metavar="RECIPE")] = None
    """the recipe of the training, as in --twin, for the summed learning rate of each step"""
    over: Literal["step", "summed_rate"] = "step"
    """what figures are drawn over"""
    probe: Annotated[str, Parameter(choices=arguments.PROBES)] = "single"
    """single: each token alone (as in the paper); occurrence: its mean over its occurrences"""
    protocol: Annotated[tuple[str, ...], several("NAME", arguments.PROTOCOL)] = ()
    """what else is done as in the paper. beginning: a beginning-of-text token before every text;
    gains: norms' gains folded into W_Q and W_K; centred: what is written to the stream"""
    only: Annotated[str | None, Parameter(choices=arguments.READ_ONLY)] = None
    """compare the embedding alone: of sharded weights only its shard is downloaded and read; no
    figures"""
    delete_downloads: bool = False
    """delete weights from the hub when they have been compared: they are downloaded into a
    temporary folder (TMPDIR), and the hub's cache remains as it is"""
    out: Path = Path("assocjax-compare")
    """folder for the results, a file for each revision; after an interruption the same command
    resumes"""

    def run(self, finish: Finish) -> Report:
        from assocjax.llm.files import check_revisions
        from assocjax.llm.libraries import require
        from assocjax.llm.revisions import compare_revisions
        from assocjax.llm.texts import tokens_of_model
        from assocjax.llm.twins import with_summed_rate
        from assocjax.storage import claim, hold, results

        if self.twin is not None:
            return compare_twins(self, finish)
        revisions = [None] if self.revisions is None else list(self.revisions)
        recipe = clock(self.recipe, self.over, revisions)
        for library in ("torch", "transformers"):  # before the corpus is read
            require(library)
        check_revisions(self.model, revisions, only=self.only)
        reading = chosen(self, "num_documents", "separator", "text_field")
        data = self.read(tokens_of_model, self.model, revisions[0], **reading)
        note(describe_corpus(data))
        with hold(self.out):  # one writer from the first revision to the last figure
            with progress_bar(unit="", first="reading") as bar:
                others = {"name_or_path": self.model, "revisions": revisions, "source": data}
                others |= {"num_shuffles": self.shuffles, "num_bins": self.bins}
                others["progress"] = lambda what, done, total: bar(done, total, what)
                dataset = compare_revisions(**arguments_of(self, compare_revisions, **others))
            if recipe is not None:
                dataset = with_summed_rate(dataset, recipe)
            decoded = results.decode(dataset.attrs)
            rows = {centering: _rows(dataset, centering) for centering in ("feature", "token")}
            with claim(self.out, "compare", None) as folder:
                results.save_to(folder, "comparison.nc", dataset)
                results.save_json_to(folder, "summary.json", {**decoded, "summary": rows})
                with self.drawing():
                    paths = _draw(dataset, folder, self.over)
                files = ["comparison.nc", "summary.json", *(path.name for path in paths)]
                report = _report(self, dataset, decoded)
                report.written(files)
                # Each revision has a file that a comparison of other revisions can use.
                revisions = [name for name in folder.files if name.startswith("revision-")]
                finish(folder, report, [*files, *revisions])
        return report


def _report(options: Compare, dataset: "xr.Dataset", decoded: dict[str, Any]) -> Report:
    from assocjax.llm.tensors import SharedWeights

    report = Report()
    for each in decoded["shared_weights"]:
        shared = SharedWeights(**each)
        of = "Identical" if shared.identical else "Shared"
        report.line(f"{of}: {shared}. Between them, a curve compares a model with itself")
    panels = (
        "embedding and bigram: the first layer's input, with value, and with bigram and the "
        "unigram residual. Only embeddings were read: other weights of the revisions may differ"
        if options.only
        else "attention: mean over heads, with query_key; without MLP and embedding: the stream "
        "after attention and after the layer, with value; bigram: the first layer's input, with "
        "bigram and the unigram residual"
    )
    report.line(
        f"{dataset.sizes['token']} tokens, each with at least "
        f"{int(dataset.token_count.min())} occurrences. Medians over layers of the similarity, and "
        f"of its difference from the mean over {options.shuffles} shuffles of the tokens, in their "
        f"sd. {panels}"
    )
    for title, centering in (("The paper's form", "feature"), ("Token-centred", "token")):
        scores = _scores(dataset, centering)
        shown = [
            {"revision": name}
            | {(panel, "score"): round(score, 4) for panel, (score, _, _) in of.items()}
            | {(panel, "sd"): round(z, 0) for panel, (_, _, z) in of.items()}
            for name, of in scores.items()
        ]
        report.table(title, shown, _verdict(scores))
    return report


def _verdict(scores: dict[str, dict[str, tuple[float, float, float]]]) -> str:
    """Signal or no signal in the last revision."""
    name, of = list(scores.items())[-1]
    signal = [panel for panel, (_, _, z) in of.items() if z > _CLEAR]
    none = [panel for panel in of if panel not in signal]
    said = [f"signal in {', '.join(signal)}"] * bool(signal)
    said += [f"no signal in {', '.join(none)}"] * bool(none)
    return f"{name}, over {_CLEAR} sd above the shuffled tokens: {'; '.join(said)}."


def _rows(dataset: "xr.Dataset", centering: str) -> list[dict[str, Any]]:
    """A row for each revision; a column for each of the paper's panels, and for bigrams."""
    return [
        {"revision": name}
        | {panel: f"{score:.4f} ({mean:.4f}, {z:+.0f})" for panel, (score, mean, z) in of.items()}
        for name, of in _scores(dataset, centering).items()
    ]


def _scores(
    dataset: "xr.Dataset", centering: str
) -> dict[str, dict[str, tuple[float, float, float]]]:
    """By revision and panel: similarity, its mean over shuffles, and the difference in sd."""
    chosen = dataset.sel(centering=centering, null="all")
    uniform, unigram = chosen.sel(residual="uniform"), chosen.sel(residual="unigram")
    value = uniform.sel(theory="value")
    bigram = (unigram.sel(theory="bigram", stream="before").isel(layer=[0]), "")
    if _only_embeddings(dataset):
        panels = {"embedding": (value.sel(stream="before"), ""), "bigram": bigram}
    else:
        panels = {
            "attention": (uniform.sel(head="mean"), "attention_"),
            "without MLP": (value.sel(stream="after_attention"), ""),
            "embedding": (value.sel(stream="after_layer"), ""),
            "bigram": bigram,
        }

    def score(part: "xr.Dataset", prefix: str) -> tuple[float, float, float]:
        similarity, mean, z = (
            float(part[prefix + name].median()) for name in ("similarity", "null_mean", "z")
        )
        return similarity, mean, z

    return {
        str(name): {
            panel: score(part.sel(revision=name), prefix)
            for panel, (part, prefix) in panels.items()
        }
        for name in dataset["revision"].values
    }


def _only_embeddings(dataset: "xr.Dataset") -> bool:
    return "head" not in dataset.dims


def _draw(dataset: "xr.Dataset", folder: "Folder", over: str) -> list[Path]:
    from assocjax import figures

    if _only_embeddings(dataset):  # figures are of layers and heads
        return []
    last = dataset.isel(revision=-1)
    plots = {
        "layers": figures.plot_by_layer(last),
        "layers_bigram": figures.plot_by_layer(last, theory="bigram", residual="unigram"),
        "heads": figures.plot_heads(dataset, over=over),
    }
    if dataset.sizes["revision"] > 1:
        plots["steps"] = figures.plot_layers_by_step(dataset, over=over)
        plots["steps_bigram"] = figures.plot_layers_by_step(
            dataset, theory="bigram", residual="unigram", over=over
        )
    return [path for name, plot in plots.items() for path in figures.save(plot, name, into=folder)]
