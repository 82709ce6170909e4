"""Commands that count a corpus and read what it says: `statistics`, `merge`, `tokenize`, ..."""

import argparse
import json
import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assocjax.arguments import check_integer
from assocjax.cli._corpus import configure_jax, corpus_options, open_corpus, show_corpus
from assocjax.cli._options.statistics import DENSE_VOCAB_SIZE
from assocjax.cli._terminal import (
    progress_bar,
    show,
    show_complete,
    show_table,
    show_written,
    status,
)
from assocjax.errors import InputError
from assocjax.storage import MARKER, check_claimable, claim, make_folder

if TYPE_CHECKING:
    import xarray as xr

    from assocjax.corpora import TokenData, TokenFile
    from assocjax.statistics.sparse import SparseStatistics

_DENSE = "statistics.nc"
_SPARSE = ("counts.nc", "correlations.nc")


def statistics(options: argparse.Namespace) -> None:
    """Compute the basis functions of a corpus and what they compose to."""
    from assocjax import figures
    from assocjax.statistics import datasets
    from assocjax.statistics.dense import corpus_statistics
    from assocjax.storage import results

    in_shards = options.shard is not None or options.counts is not None
    if not in_shards:
        check_claimable(options.out, "statistics")
    configure_jax(options)
    data = open_corpus(options)
    if in_shards:
        path = _run_shard(options, data)
        show_written(options.out, [path.name])
        return
    if _is_sparse(options, data):
        _sparse_statistics(options, data)
        return
    decides = results.identity(data, {"matrices": "dense"})
    with claim(
        options.out, "statistics", decides, result=_DENSE, overwrite=options.overwrite
    ) as folder:
        if folder.complete:
            show_complete(folder)
            dataset = results.load(folder.path / _DENSE)
        else:
            tokens, mask = data.read(0, data.num_sequences)
            with status("counting"):
                found = corpus_statistics(tokens, data.vocab_size, mask)
                dataset = datasets.statistics_dataset(data, found)
            results.save_to(folder, _DENSE, dataset)
            folder.finish()
        rows = datasets.statistics_summary(dataset)
        content = {**results.decode(dataset.attrs), "summary": rows}
        results.save_json_to(folder, "summary.json", content)
        with status("drawing"):
            paths = figures.save(figures.plot_statistics(dataset), "statistics", into=folder)
    show_table(f"Statistics of {data.name}, {int(dataset['num_positions'])} positions", rows)
    show_written(options.out, [_DENSE, "summary.json", *(path.name for path in paths)])


def _run_shard(options: argparse.Namespace, data: "TokenData | TokenFile") -> Path:
    """Writes one shard of a pass and returns its file."""
    from assocjax.statistics import shards

    numbers = (options.shard or "").split("/")
    if len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
        raise InputError(f"--shard: expected I/N such as 1/4, got {options.shard!r}")
    shard, of = map(int, numbers)
    if not 1 <= shard <= of:
        raise InputError(f"--shard: expected I/N with I from 1 to N, got {options.shard!r}")
    kind = "counts" if options.counts is None else "correlations"
    path = _folder_of_shards(options.out) / f"{kind}-{shard}-of-{of}.nc"
    with progress_bar(kind, "sequences") as progress:
        shards.run_shard(
            data,
            path,
            shard=shard,
            shards=of,
            counts=options.counts,
            overwrite=options.overwrite,
            progress=progress,
        )
    return path


def _folder_of_shards(out: Path) -> Path:
    """A folder for single files beside any others, but for results of another command."""
    if os.path.isfile(out / MARKER):
        check_claimable(out, "statistics")
    return make_folder(out)


def _sparse_statistics(options: argparse.Namespace, data: "TokenData | TokenFile") -> None:
    """Both passes, each in one shard, so that they can be stopped and resumed, too."""
    from assocjax.statistics import shards
    from assocjax.statistics.sparse import sparse_summary
    from assocjax.storage import results

    decides = results.identity(data, {"matrices": "sparse"})
    with claim(
        options.out, "statistics", decides, result=_SPARSE[1], overwrite=options.overwrite
    ) as folder:
        files = [folder.path / name for name in _SPARSE]
        if folder.complete:
            show_complete(folder)
        else:
            counts = None
            for name in _SPARSE:
                part = folder.work("shards") / name
                with progress_bar(name.removesuffix(".nc"), "sequences") as progress:
                    shards.run_shard(
                        data, part, shard=1, shards=1, counts=counts, progress=progress
                    )
                with status("composing"):
                    results.save_to(folder, name, shards.merge([part]))
                counts = folder.path / name
            folder.finish()
        found = shards.load_statistics(*files)
        rows = sparse_summary(found, data.vocabulary)
        attributes = results.decode(results.provenance(data, {}))
        results.save_json_to(folder, "summary.json", {**attributes, "summary": rows})
    show_table(f"Statistics of {data.name}, {found.num_positions} positions", rows)
    show_written(options.out, [*_SPARSE, "summary.json"])


def merge(options: argparse.Namespace) -> None:
    """Add up the shards of sparse statistics, of either pass."""
    from assocjax.statistics import shards
    from assocjax.storage import results

    with status("merging"):
        dataset = shards.merge(options.files)
        name = f"{dataset.attrs['kind']}.nc"
        path = _folder_of_shards(options.out) / name
        results.save(dataset, path, overwrite=options.overwrite)
    show_written(options.out, [name])


def tokenize(options: argparse.Namespace) -> None:
    """Write a corpus as a token file, for statistics of what does not fit in memory."""
    from assocjax.corpora import write_tokens

    check_claimable(options.out, "tokenize")
    with status("tokenizing"):
        file = write_tokens(
            options.corpus, options.out, overwrite=options.overwrite, **corpus_options(options)
        )
    show_corpus(file)
    show_written(options.out, sorted(path.name for path in options.out.glob("tokens.*")))


def associations(options: argparse.Namespace) -> None:
    """Print the top tokens of some tokens under each basis function and composed matrix."""
    from assocjax.analysis import associations as library
    from assocjax.corpora.tokens import find_token
    from assocjax.storage import results

    check_integer("--top", options.top, minimum=1)
    if options.out is not None:
        check_claimable(options.out, "associations")
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
    if options.out is not None:
        scores = {
            token: {name: [a._asdict() for a in best] for name, best in matrices.items()}
            for token, matrices in listing.items()
        }
        content = {**results.decode(attributes), "associations": scores}
        decides = {name: content[name] for name in ("config", "corpus")}
        decides |= {"precision": options.precision, "matrices": options.matrices}
        decides["assocjax"] = results.versions()["assocjax"]
        with claim(options.out, "associations", decides, overwrite=options.overwrite) as folder:
            results.save_json_to(folder, "associations.json", content)
            folder.finish()
        show_written(options.out, ["associations.json"])


def _read_statistics(
    folder: Path, config: dict[str, Any]
) -> tuple["SparseStatistics | xr.Dataset", list[str], dict[str, Any]]:
    """What `statistics` or `merge` left in a folder, its vocabulary and its attributes."""
    from assocjax.analysis.associations import MATRICES
    from assocjax.statistics import shards
    from assocjax.storage import results

    if config["frequency_corrected"]:
        raise InputError("--frequency-corrected needs the corpus: it cannot go with --statistics")
    dense, counts = folder / "statistics.nc", folder / "counts.nc"
    # os.path answers no to names that no file can have, at which Path raises.
    if not os.path.isfile(dense) and not os.path.isfile(counts):
        raise InputError(
            f"--statistics: {folder} has no results of statistics or merge: neither statistics.nc "
            "nor counts.nc and correlations.nc"
        )
    if os.path.isfile(dense) and os.path.isfile(counts):
        raise InputError(
            f"--statistics: {folder} has both statistics.nc and counts.nc; keep one of them there"
        )
    if os.path.isfile(dense):
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
    from assocjax.analysis.associations import frequency_corrected
    from assocjax.statistics.dense import corpus_statistics
    from assocjax.statistics.sparse import sparse_statistics

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
