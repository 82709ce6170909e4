"""Sparse statistics in shards of a corpus, which can be resumed and are merged to the same bits.

    count        every shard, on any machine   `run_shard(source, path, shard=i, shards=n)`
    merge        once                          `merge(paths)`, which adds G for the second pass
    correlate    every shard                   `run_shard(..., counts="counts.nc")`
    merge        once                          `merge(paths)`
    load         `load_statistics("counts.nc", "correlations.nc")`

A file is NetCDF with the integer sums of `statistics.counting` and their origin: corpus hash,
sizes, versions, and the range of sequences. The file of a shard is also its checkpoint: it is
replaced atomically every few blocks, and a shard that is started again resumes from it.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from scipy.sparse import csr_array

from assocjax.arguments import check_integer
from assocjax.corpora import TokenData, TokenFile
from assocjax.errors import InputError
from assocjax.statistics.counting import Correlations, Counts, add, choose_units, correlate, count
from assocjax.statistics.sparse import (
    SparseStatistics,
    assemble,
    basis,
    composed_on_pattern,
    correlation_unit,
)
from assocjax.storage import difference, locked, results
from assocjax.storage.files import writable_path

_KINDS = {Counts: "counts", Correlations: "correlations"}
_NAMES = {
    "bigram": "number of occurrences",
    "context": "sum of uniform attention, in integer units",
    "query_key": "sum of the terms of Q, in integer units",
    "position": "sum of the terms of Delta, in integer units",
    "composed": "entry of Phi^T Sigma, Sigma = B^T B",
}
_NAMES |= {
    f"{name}_{part}": text
    for name in ("bigram", "context", "query_key")
    for part, text in (
        ("column", "column of the entry"),
        ("start", "index of the first entry of each row, and their number"),
    )
}
_SAME = ("kind", "corpus", "config", "assocjax", "counts_sha256")
"""Attributes that determine the integers of a shard, which do not depend on other packages."""


def run_shard(
    source: TokenData | TokenFile,
    path: str | os.PathLike,
    *,
    shard: int,
    shards: int,
    counts: str | os.PathLike | None = None,
    checkpoint_blocks: int = 64,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Computes one shard of a pass over the corpus, or resumes it.

    Args:
      source: the whole corpus of N sequences; shard i of n reads those from N (i-1) / n to N i / n.
      path: file of the shard. If it exists, the shard is resumed from it.
      shard: i, from 1 to `shards`.
      shards: n, the number of shards.
      counts: file of the merged counts, for the second pass; None for the first pass.
      checkpoint_blocks: number of blocks between checkpoints.
      overwrite: replace another shard at `path`, or start this one again.
      progress: called with (sequences read, sequences of the shard) after each block.

    Returns:
      The content of the file.

    Raises:
      InputError: fewer sequences than shards; the file at `path` or `counts` has another corpus,
        configuration, shard or version; or another process is writing `path`.
    """
    shard = check_integer("shard", shard, minimum=1)
    shards = check_integer("shards", shards, minimum=shard)
    checkpoint_blocks = check_integer("checkpoint_blocks", checkpoint_blocks, minimum=1)
    N = source.num_sequences
    if shards > N:
        raise InputError(f"shards must be at most the number of sequences, {N}; got {shards}")
    start, stop = N * (shard - 1) // shards, N * shard // shards
    config = {"num_sequences": N, "seq_len": source.seq_len, "vocab_size": source.vocab_size}
    attributes = results.provenance(source, config)
    kind = Counts if counts is None else Correlations
    attributes |= {"kind": _KINDS[kind], "start": start, "stop": stop}
    attributes["assocjax"] = results.versions()["assocjax"]
    composed = None
    if counts is not None:
        first = results.load(counts)
        _check_merged(first, counts, "counts")
        attributes["counts_sha256"] = first.attrs["counts_sha256"]
        same = ("corpus", "config")
        _refuse_difference(f"counts: {counts} and the corpus", first.attrs, attributes, same)
        composed = _composed(first)
        del first  # the counts themselves are no longer needed, and large
    path = writable_path(path)
    with locked(path):
        done, so_far = start, None
        if path.exists() and not overwrite:
            dataset = results.load(path)
            same = (*_SAME, "start", "stop")
            _refuse_difference(f"{path} and this shard", dataset.attrs, attributes, same)
            done = int(dataset.attrs["next"])
            if done == stop:
                return dataset
            so_far = _decode(dataset, kind)
        vocabulary = source.vocabulary
        blocks = 0

        def save(sums: Counts | Correlations, following: int) -> xr.Dataset:
            dataset = _encode(sums, vocabulary, attributes | {"next": following})
            results.save(dataset, path, overwrite=True)  # of this shard, with fewer blocks
            return dataset

        def after_block(following: int, total: Callable) -> None:
            nonlocal blocks
            blocks += 1
            if blocks % checkpoint_blocks == 0 and following < stop:
                save(total(), following)
            if progress is not None:
                progress(following - start, stop - start)

        part = range(done, stop)
        if composed is None:
            sums = count(source, part, start=so_far, after_block=after_block)
        else:
            sums = correlate(source, part, composed, start=so_far, after_block=after_block)
        return save(sums, stop)


def merge(paths: Sequence[str | os.PathLike]) -> xr.Dataset:
    """Adds up all shards of one pass. To merged counts it adds G, which the second pass needs.

    Returns:
      Merged counts or merged correlations, to be saved by `assocjax.storage.results.save`.

    Raises:
      InputError: the files are of different passes, corpora, configurations or versions, one is
        not finished, or they overlap or leave sequences out; the message names the file.

    Cost: memory of the sum and of one file; for counts also time 2 V nnz(B), see
    `statistics.sparse`.
    """
    if not paths:
        raise InputError("merge needs at least one file")
    headers = []
    for path in paths:
        with results.open_dataset(path) as dataset:
            headers.append((dict(dataset.attrs), Path(path)))
    for attrs, path in headers:
        if "next" not in attrs:
            raise InputError(f"{path} is not a shard of sparse statistics")
        _refuse_difference(f"{headers[0][1]} and {path}", headers[0][0], attrs, _SAME)
        if attrs["next"] != attrs["stop"]:
            raise InputError(
                f"{path} is not finished: it holds sequences {attrs['start']} to {attrs['next']} "
                f"of {attrs['start']} to {attrs['stop']}; run its shard again"
            )
    headers.sort(key=lambda header: (header[0]["start"], header[0]["stop"]))
    expected = 0
    for attrs, path in headers:
        if attrs["start"] != expected:
            what = "overlap" if attrs["start"] < expected else "leave out sequences"
            raise InputError(
                f"the shards {what}: expected one from sequence {expected}, got {path} from "
                f"{attrs['start']}"
            )
        expected = int(attrs["stop"])
    attrs = headers[0][0]
    N = json.loads(attrs["config"])["num_sequences"]
    if expected != N:
        raise InputError(f"the shards end at sequence {expected} of {N}; some are missing")
    kind = next(kind for kind, name in _KINDS.items() if name == attrs["kind"])
    sums = add(_decode(results.load(path), kind) for _, path in headers)
    with results.open_dataset(headers[0][1]) as dataset:
        vocabulary = dataset["token"].values
    attrs |= {"start": 0, "stop": N, "next": N, "merged": 1}
    if not isinstance(sums, Counts):
        return _encode(sums, vocabulary, attrs)
    attrs["counts_sha256"] = _hash(sums)
    composed = composed_on_pattern(basis(sums, _units(attrs)))
    dataset = _encode(sums, vocabulary, attrs)
    return results.describe(dataset.assign(composed=("context_entry", composed.data)), _NAMES)


def load_statistics(counts: str | os.PathLike, correlations: str | os.PathLike) -> SparseStatistics:
    """The statistics from both merged passes; the coordinate `token` of each is the vocabulary.

    Raises:
      InputError: a file is missing or not merged, or the correlations belong to other counts.
    """
    first, second = results.load(counts), results.load(correlations)
    _check_merged(first, counts, "counts")
    _check_merged(second, correlations, "correlations")
    _refuse_difference(
        f"{counts} and {correlations}", first.attrs, second.attrs, ("counts_sha256",)
    )
    units = _units(first.attrs)
    found = basis(_decode(first, Counts), units)
    unit = correlation_unit(_composed(first), units)
    return assemble(found, _decode(second, Correlations), unit)


def _units(attrs: dict[Any, Any]):
    config = json.loads(attrs["config"])
    return choose_units(config["num_sequences"], config["seq_len"])


def _check_merged(dataset: xr.Dataset, path: str | os.PathLike, kind: str) -> None:
    found = dataset.attrs.get("kind")
    if found != kind or "merged" not in dataset.attrs:
        merged = "merged " if "merged" in dataset.attrs else "a shard of " if found else ""
        raise InputError(f"{path}: expected merged {kind}; it holds {merged}{found or 'neither'}")


def _refuse_difference(what: str, one: dict, other: dict, names: Sequence[str]) -> None:
    one, other = results.decode(one), results.decode(other)
    for name in names:
        words = difference(
            {name: one.get(name)},
            {name: other.get(name)},
            "are of different {key}: {theirs} and {mine}",
        )
        if words is not None:
            raise InputError(f"{what} {words}; choose another file (or --out, --overwrite)")


def _encode(sums: Counts | Correlations, vocabulary, attributes: dict[str, Any]) -> xr.Dataset:
    variables = {}
    for name, array in sums._asdict().items():
        if isinstance(array, np.ndarray):
            variables[name] = ("lag", array)
        else:
            variables[name] = (f"{name}_entry", array.data)
            variables[f"{name}_column"] = (f"{name}_entry", array.indices)
            variables[f"{name}_start"] = ("row", array.indptr)
    dataset = xr.Dataset(variables, {"token": np.array(vocabulary, dtype=object)}, attributes)
    return results.describe(dataset, _NAMES)


def _decode(dataset: xr.Dataset, kind: type):
    return kind(
        *(
            _sparse(dataset, name, name) if f"{name}_start" in dataset else dataset[name].values
            for name in kind._fields
        )
    )


def _sparse(dataset: xr.Dataset, name: str, pattern: str) -> csr_array:
    V = dataset.sizes["token"]
    indices, indptr = dataset[f"{pattern}_column"].values, dataset[f"{pattern}_start"].values
    return csr_array((dataset[name].values, indices, indptr), shape=(V, V))


def _composed(counts: xr.Dataset) -> csr_array:
    return _sparse(counts, "composed", "context")


def _hash(counts: Counts) -> str:
    digest = hashlib.sha256()
    for matrix in counts:
        for array in (matrix.data, matrix.indices, matrix.indptr):
            digest.update(array.astype("<i8").tobytes())
    return digest.hexdigest()
