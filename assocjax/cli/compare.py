"""The command `compare`: a language model's checkpoints beside the theory, and their controls."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assocjax.cli._corpus import show_corpus
from assocjax.cli._terminal import progress_bar, show, show_table, show_written, status
from assocjax.storage import Folder, check_claimable, claim, hold

if TYPE_CHECKING:
    import xarray as xr


def compare(options: argparse.Namespace) -> None:
    """Compare a language model's layers, heads and checkpoints with the theory, and controls."""
    from assocjax.llm.files import check_revisions
    from assocjax.llm.libraries import require
    from assocjax.llm.revisions import compare_revisions
    from assocjax.llm.tensors import SharedWeights
    from assocjax.llm.texts import tokens_of_model
    from assocjax.storage import results

    for library in ("torch", "transformers"):  # before the corpus is read
        require(library)
    check_claimable(options.out, "compare")
    revisions = [None] if options.revisions is None else options.revisions.split(",")
    check_revisions(options.model, revisions)
    with status("reading"):
        data = tokens_of_model(
            options.model,
            revisions[0],
            options.corpus,
            seq_len=options.seq_len,
            num_sequences=options.num_sequences,
            seed=options.corpus_seed,
            num_documents=options.num_documents,
            separator=options.separator,
            text_field=options.text_field,
        )
    show_corpus(data)
    with hold(options.out):  # one writer from the first revision to the last figure
        with progress_bar("reading", "") as bar:
            dataset = compare_revisions(
                options.model,
                revisions,
                data,
                options.out,
                num_tokens=options.num_tokens,
                min_count=options.min_count,
                probe=options.probe,
                num_shuffles=options.shuffles,
                num_bins=options.bins,
                seed=options.seed,
                overwrite=options.overwrite,
                progress=lambda what, done, total: bar(done, total, what),
            )
        decoded = results.decode(dataset.attrs)
        rows = {centering: _rows(dataset, centering) for centering in ("feature", "token")}
        with claim(options.out, "compare", None) as folder:
            results.save_to(folder, "comparison.nc", dataset)
            results.save_json_to(folder, "summary.json", {**decoded, "summary": rows})
            with status("drawing"):
                paths = _draw(dataset, folder)
            # Of an earlier list of revisions their own files stay, and nothing made of all of it.
            written = {"comparison.nc", "summary.json", *(path.name for path in paths)}
            kept = (file for file in folder.files if not file.startswith("revision-"))
            folder.remove(*(file for file in kept if file not in written))
    for each in decoded["shared_weights"]:
        shared = SharedWeights(**each)
        of = "Identical" if shared.identical else "Shared"
        show(f"{of}: {shared}. There a curve over them compares a model with itself")
    show(
        f"{dataset.sizes['token']} tokens, each seen {int(dataset.token_count.min())} times or "
        f"more. Median over layers of the similarity; in brackets its mean over {options.shuffles} "
        "shuffles of the tokens, and how many sd apart they are. attention: the mean over heads "
        "with query_key; without MLP and embedding: the stream after attention and after the layer "
        "with value; bigram: the first layer's input with bigram, residual unigram"
    )
    show_table("The paper's form", rows["feature"])
    show_table("Token-centred", rows["token"])
    show_written(options.out, ["comparison.nc", "summary.json", *(path.name for path in paths)])


def _rows(dataset: "xr.Dataset", centering: str) -> list[dict[str, Any]]:
    """A row for each revision; a column for each of the paper's panels, and for bigrams."""
    chosen = dataset.sel(centering=centering, null="all")
    uniform, unigram = chosen.sel(residual="uniform"), chosen.sel(residual="unigram")
    value = uniform.sel(theory="value")
    embedding = unigram.sel(theory="bigram", stream="before").isel(layer=[0])
    columns = {
        "attention": (uniform.sel(head="mean"), "attention_"),
        "without MLP": (value.sel(stream="after_attention"), ""),
        "embedding": (value.sel(stream="after_layer"), ""),
        "bigram": (embedding, ""),
    }
    return [
        {"revision": str(name)}
        | {
            column: _cell(part.sel(revision=name), prefix)
            for column, (part, prefix) in columns.items()
        }
        for name in dataset["revision"].values
    ]


def _cell(part: "xr.Dataset", prefix: str) -> str:
    score, mean, z = (
        float(part[prefix + name].median()) for name in ("similarity", "null_mean", "z")
    )
    return f"{score:.4f} ({mean:.4f}, {z:+.0f})"


def _draw(dataset: "xr.Dataset", folder: Folder) -> list[Path]:
    from assocjax import figures

    last = dataset.isel(revision=-1)
    plots = {
        "layers": figures.plot_by_layer(last),
        "layers_bigram": figures.plot_by_layer(last, theory="bigram", residual="unigram"),
        "heads": figures.plot_heads(dataset),
    }
    if dataset.sizes["revision"] > 1:
        plots["steps"] = figures.plot_layers_by_step(dataset)
        plots["steps_bigram"] = figures.plot_layers_by_step(
            dataset, theory="bigram", residual="unigram"
        )
    return [path for name, plot in plots.items() for path in figures.save(plot, name, into=folder)]
