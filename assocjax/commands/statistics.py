"""Commands that count a corpus and read what it says: `statistics`, `merge`, `tokenize`, ..."""

import argparse
import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assocjax.arguments import check_integer
from assocjax.commands.setup import configure_jax, corpus_options, open_corpus, show_corpus
from assocjax.commands.terminal import progress_bar, show, show_table, show_written, status
from assocjax.errors import InputError
from assocjax.options.statistics import DENSE_VOCAB_SIZE

if TYPE_CHECKING:
    import xarray as xr

    from assocjax.corpora import TokenData, TokenFile
    from assocjax.sparse import SparseStatistics


def statistics(options: argparse.Namespace) -> None:
    """Compute the basis functions of a corpus and what they compose to."""
    from assocjax import figures, results
    from assocjax.statistics import corpus_statistics

    folder = results.output_folder(options.out)
    configure_jax(options)
    data = open_corpus(options)
    if options.shard is not None or options.counts is not None:
        path = _run_shard(options, data, folder)
        show_written(folder, [path.name])
        return
    if _is_sparse(options, data):
        _sparse_statistics(data, folder)
        return
    tokens, mask = data.read(0, data.num_sequences)
    with status("counting"):
        found = corpus_statistics(tokens, data.vocab_size, mask)
        dataset = results.statistics_dataset(data, found)
    results.save(dataset, folder / "statistics.nc")
    rows = results.statistics_summary(dataset)
    results.save_json({**results.decode(dataset.attrs), "summary": rows}, folder / "summary.json")
    with status("drawing"):
        paths = figures.save(figures.plot_statistics(dataset), folder / "statistics")
    show_table(f"Statistics of {data.name}, {int(found.num_positions)} positions", rows)
    show_written(folder, ["statistics.nc", "summary.json", *(path.name for path in paths)])


def _run_shard(options: argparse.Namespace, data: "TokenData | TokenFile", folder: Path) -> Path:
    """Writes one shard of a pass and returns its file."""
    from assocjax import shards

    numbers = (options.shard or "").split("/")
    if len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
        raise InputError(f"--shard: expected I/N such as 1/4, got {options.shard!r}")
    shard, of = map(int, numbers)
    if not 1 <= shard <= of:
        raise InputError(f"--shard: expected I/N with I from 1 to N, got {options.shard!r}")
    kind = "counts" if options.counts is None else "correlations"
    path = folder / f"{kind}-{shard}-of-{of}.nc"
    with progress_bar(kind, "sequences") as progress:
        shards.run_shard(
            data, path, shard=shard, shards=of, counts=options.counts, progress=progress
        )
    return path


def _sparse_statistics(data: "TokenData | TokenFile", folder: Path) -> None:
    """Both passes, each in one shard, so that they can be stopped and resumed, too."""
    from assocjax import results, shards
    from assocjax.sparse import sparse_summary

    parts = {kind: folder / f"{kind}-1-of-1.nc" for kind in ("counts", "correlations")}
    files = {kind: folder / f"{kind}.nc" for kind in parts}
    for kind, part in parts.items():
        counts = files["counts"] if kind == "correlations" else None
        with progress_bar(kind, "sequences") as progress:
            shards.run_shard(data, part, shard=1, shards=1, counts=counts, progress=progress)
        with status("composing"):
            results.save(shards.merge([part]), files[kind])
    for part in parts.values():
        part.unlink()
    found = shards.load_statistics(**files)
    rows = sparse_summary(found, data.vocabulary)
    attributes = results.decode(results.provenance(data, {}))
    results.save_json({**attributes, "summary": rows}, folder / "summary.json")
    show_table(f"Statistics of {data.name}, {found.num_positions} positions", rows)
    show_written(folder, ["counts.nc", "correlations.nc", "summary.json"])


def merge(options: argparse.Namespace) -> None:
    """Add up the shards of sparse statistics, of either pass."""
    from assocjax import results, shards

    folder = results.output_folder(options.out)
    with status("merging"):
        dataset = shards.merge(options.files)
        name = f"{dataset.attrs['kind']}.nc"
        results.save(dataset, folder / name)
    show_written(folder, [name])


def tokenize(options: argparse.Namespace) -> None:
    """Write a corpus as a token file, for statistics of what does not fit in memory."""
    from assocjax import results
    from assocjax.corpora import write_tokens

    folder = results.output_folder(options.out)
    with status("tokenizing"):
        file = write_tokens(options.corpus, folder, **corpus_options(options))
    show_corpus(file)
    show_written(folder, sorted(path.name for path in folder.glob("tokens.*")))


def associations(options: argparse.Namespace) -> None:
    """Print the top tokens of some tokens under each basis function and composed matrix."""
    from assocjax import associations as library
    from assocjax import results
    from assocjax.corpora.tokens import find_token

    check_integer("--top", options.top, minimum=1)
    folder = None if options.out is None else results.output_folder(options.out)
    configure_jax(options)
    config = {
        "tokens": options.tokens,
        "top": options.top,
        "frequency_corrected": options.frequency_corrected,
    }
    if options.statistics is None:
        data = open_corpus(options)
        name, vocabulary, attributes = data.name, data.vocabulary, results.provenance(data, config)
        for token in options.tokens:
            data.token_id(token)  # fails before the work
        with status("counting"):
            found = _find(options, data)
    else:
        found, vocabulary, attributes = _read_statistics(options.statistics, config)
        name = attributes["corpus_name"]
        for token in options.tokens:
            find_token(token, vocabulary, name)
    listing = {
        token: {
            matrix: library.top_associations(getattr(found, matrix), vocabulary, token, options.top)
            for matrix in library.MATRICES
        }
        for token in options.tokens
    }
    for token, matrices in listing.items():
        show(f"\n{token} in {name}")
        for matrix, best in matrices.items():
            show(f"  {matrix}: {library.MATRICES[matrix]}")
            line = "  ".join(f"{other} {score:.2g}" for other, score in best)
            line = line or "none: no entry is positive"
            show(textwrap.fill(line, 76, initial_indent="    ", subsequent_indent="    "))
    if folder is not None:
        scores = {
            token: {name: [a._asdict() for a in best] for name, best in matrices.items()}
            for token, matrices in listing.items()
        }
        content = {**results.decode(attributes), "associations": scores}
        results.save_json(content, folder / "associations.json")
        show_written(folder, ["associations.json"])


def _read_statistics(
    folder: Path, config: dict[str, Any]
) -> tuple["SparseStatistics | xr.Dataset", list[str], dict[str, Any]]:
    """What `statistics` or `merge` left in a folder, its vocabulary and its attributes."""
    from assocjax import results, shards
    from assocjax.associations import MATRICES

    if config["frequency_corrected"]:
        raise InputError("--frequency-corrected needs the corpus: it cannot go with --statistics")
    dense, counts = folder / "statistics.nc", folder / "counts.nc"
    if not dense.is_file() and not counts.is_file():
        raise InputError(
            f"--statistics: {folder} has no results of statistics or merge: neither statistics.nc "
            "nor counts.nc and correlations.nc"
        )
    if dense.is_file() and counts.is_file():
        raise InputError(
            f"--statistics: {folder} has both statistics.nc and counts.nc; keep one of them there"
        )
    if dense.is_file():
        found = results.load(dense)
        if not found.data_vars.keys() >= MATRICES.keys() or "token" not in found.coords:
            raise InputError(f"--statistics: {dense} holds no statistics")
        attrs, vocabulary = found.attrs, found["token"].values.tolist()
    else:
        found = shards.load_statistics(counts, folder / "correlations.nc")
        with results.open_dataset(counts) as dataset:
            attrs, vocabulary = dataset.attrs, dataset["token"].values.tolist()
    names = ("corpus", "corpus_name", "corpus_sha256", "versions", "device")
    attributes = {name: attrs[name] for name in names}
    return found, vocabulary, attributes | {"config": json.dumps(config, sort_keys=True)}


def _find(options: argparse.Namespace, data: "TokenData | TokenFile"):
    """The statistics of a corpus, dense or sparse."""
    from assocjax.associations import frequency_corrected
    from assocjax.sparse import sparse_statistics
    from assocjax.statistics import corpus_statistics

    if _is_sparse(options, data):
        return sparse_statistics(data, frequency_corrected=options.frequency_corrected)
    tokens, mask = data.read(0, data.num_sequences)
    found = corpus_statistics(tokens, data.vocab_size, mask)
    return frequency_corrected(found, tokens, mask) if options.frequency_corrected else found


def _is_sparse(options: argparse.Namespace, data: "TokenData | TokenFile") -> bool:
    from assocjax.corpora import TokenFile

    if options.matrices != "auto":
        return options.matrices == "sparse"
    return data.vocab_size > DENSE_VOCAB_SIZE or isinstance(data, TokenFile)
