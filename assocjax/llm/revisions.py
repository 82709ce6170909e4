"""Compares checkpoints of a model with the theory of a text, one revision after another.

First, weight files are hashed. Then the text is counted once. Then one revision at a time is
loaded, probed, compared and freed; its result is a separate file, so that nothing is lost if the
work stops. Revisions that share tensors are listed: a curve over them compares a model with itself.
"""

import hashlib
import importlib.metadata
import json
import os
import re
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import xarray as xr

from assocjax.arguments import (
    LARGEST_DRAWS,
    MIN_COUNT,
    NUM_BINS,
    NUM_SHUFFLES,
    PROBES,
    PROTOCOL,
    READ_ONLY,
    check_choice,
    check_flag,
    check_integer,
    check_names,
)
from assocjax.corpora import TokenData, TokenFile
from assocjax.errors import InputError
from assocjax.llm.compare import compare_model
from assocjax.llm.embeddings import embedding_stream
from assocjax.llm.files import (
    ModelFiles,
    Part,
    check_list,
    find_model,
    hash_revisions,
    temporary_folder,
)
from assocjax.llm.libraries import require
from assocjax.llm.models import LanguageModel, load_files, load_tokenizer
from assocjax.llm.probes import Streams, occurrence_streams, query_key_factors, single_token_streams
from assocjax.llm.tensors import SharedWeights, group_shared, tensor_hashes
from assocjax.llm.texts import TokenTheory, check_vocabulary, theory_of_tokens
from assocjax.storage import claim, results

ONLY = "main"
"""The name of the revision of a model without revisions."""

_NAMES = {
    "token_count": "number of occurrences of the token",
    "tensor": "parameter array of the model",
    "tensor_sha256": "SHA-256 of its values",
    "tensor_size": "number of its values",
}
_STEP = re.compile(r"(?<![A-Za-z0-9])step[-_]?(\d+)(?![A-Za-z0-9]|\.\d)")

Progress = Callable[[str, int, int], None]


def compare_revisions(
    name_or_path: str | os.PathLike[str],
    revisions: Sequence[str | None],
    source: TokenData | TokenFile,
    out: str | os.PathLike[str],
    *,
    num_tokens: int | None = None,
    min_count: int = MIN_COUNT,
    probe: str = "single",
    centerings: Sequence[str] = ("feature", "token"),
    num_shuffles: int = NUM_SHUFFLES,
    num_bins: int = NUM_BINS,
    seed: int = 0,
    protocol: Sequence[str] = (),
    only: str | None = None,
    delete_downloads: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Compares checkpoints of a model with the theory of a text, each score with its nulls.

    Args:
        name_or_path, revisions: As in `load_model`; `[None]` for a model without revisions.
        source: The text, in the model's tokens (`tokens_of_model`).
        out: A folder for a file `revision-NAME.nc` for each revision. An existing file is reused if
            configuration, corpus, weights and package version are the same.
        num_tokens, min_count: As in `theory_of_tokens`.
        probe: "single" or "occurrence": `single_token_streams` or `occurrence_streams`.
        centerings, num_shuffles, num_bins, seed: As in `compare_model`.
        protocol: What else is done as in the paper, of `arguments.PROTOCOL`. "beginning": the
            tokeniser's beginning-of-text token is fed before every text. "gains": attention is
            compared with the gain of the norm before it folded into W_Q and W_K. "centred": the
            mean over features is subtracted from all streams; in a model with layer norms it is the
            same to subtract it from all that is written to the stream.
        only: "embeddings" to compare the embedding alone: of sharded weights, only the shard with
            the embedding is downloaded and read, and `weights` and `shared_weights` are of it.
        delete_downloads: Whether weights from the hub are deleted when they have been compared:
            they are downloaded into a temporary folder (TMPDIR). What the hub's cache holds is used
            and never deleted.
        overwrite: Replace another comparison in the folder, or compute this one again.
        progress: Called with (current work, steps done, steps in total).

    Returns:
        The Dataset of `compare_model`, with the leading dimension `revision`. It has a coordinate
        `step` if each name contains a different step: stepN or, as in `stage1-step1-tokens1B`,
        stepN between other parts. With `only`, there is one layer, its `stream` is "before", and
        attention is left out. `token_count` over `token` is the number of occurrences of each
        token. Attributes besides provenance, as JSON: `weights`, the hash of every file of each
        revision; `shared_weights`, the revisions that share tensors (`SharedWeights`).

    Raises:
        InputError: If revisions are missing or have no weights (checked first; the error names all
            of them), one is repeated, too few tokens occur, the text is in other tokens than those
            of a revision, `out` holds another comparison (the error names the difference) or files
            that assocjax did not write; and as `load_model`.
        InputTypeError: If `revisions` is not a list, or an argument has another type.

    Cost: one `theory_of_tokens`; for each revision a probe and a `compare_model`, and its weights
    are read four times: to load them, and for hashes of files and of tensors. Memory: one
    checkpoint, its streams and the theory's matrices.
    """
    for library in ("torch", "transformers"):
        require(library)
    check_choice("probe", probe, PROBES)
    if only is not None:
        check_choice("only", only, READ_ONLY)
        if probe != "single":
            raise InputError(f"only: embeddings are of single tokens; got probe {probe!r}")
    if not isinstance(protocol, list | tuple) or protocol:
        protocol = check_names("protocol", protocol, PROTOCOL)
    if only is not None and set(protocol) - {"centred"}:
        raise InputError(f"only: of the protocol, embeddings can be centred; got {[*protocol]}")
    check_flag("delete_downloads", delete_downloads)
    names = names_of(revisions)
    num_shuffles = check_integer("num_shuffles", num_shuffles, minimum=2, maximum=LARGEST_DRAWS)
    num_bins = check_integer("num_bins", num_bins, minimum=1)
    seed = check_integer("seed", seed, minimum=0)
    min_count = check_integer("min_count", min_count, minimum=1)
    if num_tokens is not None:
        num_tokens = check_integer("num_tokens", num_tokens, minimum=2)
    report = progress or (lambda what, done, total: None)

    of_each = hash_revisions(name_or_path, revisions, only=only, progress=report)
    hashes = dict(zip(names, of_each, strict=True))
    settings = {
        "model": name_of(name_or_path),
        "num_tokens": num_tokens,
        "min_count": min_count,
        "probe": probe,
        "centerings": list(centerings),
        "num_shuffles": num_shuffles,
        "num_bins": num_bins,
        "seed": seed,
        "only": only,
        "protocol": [name for name in PROTOCOL if name in protocol],
    }
    libraries = {name: _versions()[name] for name in ("torch", "transformers")}
    of_all = results.identity(source, settings | place_of(name_or_path)) | libraries
    with claim(out, "compare", of_all, overwrite=overwrite) as folder:
        found: dict[str, xr.Dataset] = {}
        missing = {}
        for name, revision in zip(names, revisions, strict=True):
            file = f"revision-{urllib.parse.quote(name, safe='')}.nc"
            decides = of_all | hashes[name] | configuration_hash(name_or_path, revision, only)
            kept = None
            if file in folder.files:
                kept = results.reuse(folder.path / file, decides, overwrite=overwrite)
            if kept is None:
                missing[name] = revision, file, decides
            else:
                found[name] = kept
        if missing:
            theory = theory_of_tokens(
                source,
                num_tokens,
                min_count=min_count,
                progress=lambda done, total: report("counting", done, total),
            )
            tokens = [source.vocabulary[i] for i in theory.ids]
            for name, (revision, file, decides) in missing.items():

                def tell(what: str, done: int, total: int, name: str = name) -> None:
                    report(f"{name}: {what}", done, total)

                tell("loading", 0, 1)
                with temporary_folder(delete_downloads) as downloads:
                    files = find_model(name_or_path, revision, only=only, downloads=downloads)
                    how = only or probe
                    streams, attention = _probe(files, source, theory, how, protocol, tell)
                    tensors = tensor_hashes(files, only=only)
                dataset = compare_model(
                    streams,
                    theory.matrices,
                    theory.counts,
                    attention=attention,
                    centerings=centerings,
                    num_shuffles=num_shuffles,
                    num_bins=num_bins,
                    seed=seed,
                    progress=lambda done, total, tell=tell: tell("comparing", done, total),
                )
                dataset = dataset.assign_coords(token=tokens)
                dataset["token_count"] = ("token", theory.counts)
                dataset = _with_tensors(dataset, tensors)
                results.keep(folder, file, results.describe(dataset, _NAMES), decides)
                found[name] = dataset
        folder.finish()
    found = {name: found[name] for name in names}
    return _join(found).assign_attrs(
        results.provenance(source, settings | {"revisions": names}),
        versions=json.dumps(_versions(), sort_keys=True),
        model=settings["model"],
        weights=json.dumps(hashes, sort_keys=True),
        shared_weights=json.dumps([each._asdict() for each in _shared(found)]),  # type: ignore[arg-type]
    )


def names_of(revisions: Sequence[str | None]) -> list[str]:
    """The names of revisions in results.

    Raises:
        InputError, InputTypeError: As `compare_revisions`.
    """
    check_list(revisions)
    if not revisions:
        raise InputError("revisions must name at least one")
    names = [revision or ONLY for revision in revisions]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InputError(f"revisions must differ; got {repeated[0]!r} more than once")
    return names


def place_of(name_or_path: str | os.PathLike[str]) -> dict[str, str]:
    """The path of a local model: two of them may have the same name."""
    if not _is_path(name_or_path):
        return {"place": ""}
    return {"place": os.fspath(Path(name_or_path).expanduser().absolute())}


def _is_path(name_or_path: str | os.PathLike[str]) -> bool:
    return Path(name_or_path).expanduser().exists()


def configuration_hash(
    name_or_path: str | os.PathLike[str], revision: str | None, only: str | None = None
) -> dict[str, str]:
    """The hash of a local model's configuration, on which the effect of its weights depends."""
    if not _is_path(name_or_path):
        return {}
    path = find_model(name_or_path, revision, only=only).folder / "config.json"
    return {"config.json": hashlib.sha256(path.read_bytes()).hexdigest()} if path.is_file() else {}


def name_of(name_or_path: str | os.PathLike[str]) -> str:
    path = Path(name_or_path).expanduser()
    return path.resolve().name if os.path.exists(path) else os.fspath(name_or_path)


def _versions() -> dict[str, str]:
    libraries = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    return results.versions() | libraries


def _probe(
    files: ModelFiles,
    source: TokenData | TokenFile,
    theory: TokenTheory,
    probe: str,
    protocol: Sequence[str],
    tell: Progress,
) -> tuple[Any, list[tuple[np.ndarray, np.ndarray]] | None]:
    """Streams and attention of a checkpoint, which is loaded and then freed; or the embedding."""
    model = None if probe in READ_ONLY else load_files(files)
    tokenizer = load_tokenizer(files) if model is None else model.tokenizer
    if tokenizer is not None:
        check_vocabulary(source, tokenizer, f"{files.name} {files.revision or ''}".strip())
    if model is None:
        E = _centred(embedding_stream(files, theory.ids)[None], protocol)
        return SimpleNamespace(before=E, after_attention=None, after_layer=None), None
    prefix = None
    if "beginning" in protocol:
        prefix = getattr(tokenizer, "bos_token_id", None)
        if prefix is None:
            raise InputError(f"protocol: model {files.name!r} has no beginning-of-text token")

    def progress(done: int, total: int) -> None:
        tell("probing", done, total)

    if probe == "single":
        streams = single_token_streams(model, theory.ids, prefix=prefix, progress=progress)
    else:
        tokens, mask = source.read(0, source.num_sequences)
        tokens = tokens[:, :-1]
        if prefix is not None:
            tokens = np.insert(tokens, 0, prefix, axis=1)
            mask = np.insert(mask, 0, False, axis=1)
        streams, _ = occurrence_streams(model, tokens, mask, theory.ids, progress=progress)
    streams = Streams(*(_centred(stream, protocol) for stream in streams))
    norm = "gain" if "gains" in protocol else False
    heads = [_heads(model, layer, E, norm) for layer, E in enumerate(streams.before, start=1)]
    return streams, heads


def _centred(stream: np.ndarray, protocol: Sequence[str]) -> np.ndarray:
    return stream - stream.mean(-1, keepdims=True) if "centred" in protocol else stream


def _heads(
    model: LanguageModel, layer: int, E: np.ndarray, norm: bool | str
) -> tuple[np.ndarray, np.ndarray]:
    """Queries and keys of all heads of a layer, [H, n, r] each."""
    pairs = [
        query_key_factors(model, layer, E, head=head, norm=norm) for head in range(model.num_heads)
    ]
    queries, keys = zip(*pairs, strict=True)
    return np.stack(queries), np.stack(keys)


def _with_tensors(dataset: xr.Dataset, tensors: Mapping[str, Part]) -> xr.Dataset:
    """Stores the hashes of tensors with a result, so that `_shared` does not need the weights."""
    if not tensors:
        return dataset
    hashes, sizes = zip(*tensors.values(), strict=True)
    kept = {"tensor_sha256": ("tensor", list(hashes)), "tensor_size": ("tensor", list(sizes))}
    return dataset.assign(kept).assign_coords(tensor=list(tensors))


def _shared(found: Mapping[str, xr.Dataset]) -> list[SharedWeights]:
    parts = {}
    for name, each in found.items():
        if "tensor" in each.dims:
            columns = (
                each[of].values.tolist() for of in ("tensor", "tensor_sha256", "tensor_size")
            )
            parts[name] = {tensor: Part(*part) for tensor, *part in zip(*columns, strict=True)}
    return group_shared(parts, "tensors")


def _join(found: Mapping[str, xr.Dataset]) -> xr.Dataset:
    counts = next(iter(found.values()))["token_count"]  # the same for all
    dataset = xr.concat(
        [
            each.drop_vars("token_count").drop_dims("tensor", errors="ignore")
            for each in found.values()
        ],
        dim="revision",
        combine_attrs="override",
        join="exact",
    ).assign_coords(revision=list(found))
    return results.describe(with_steps(dataset).assign(token_count=counts), _NAMES)


def with_steps(dataset: xr.Dataset) -> xr.Dataset:
    """The Dataset with a coordinate `step` if each revision's name contains a different step."""
    steps = steps_of(dataset["revision"].values.tolist())
    return dataset if steps is None else dataset.assign_coords(step=("revision", steps))


def steps_of(revisions: Iterable[str]) -> list[int] | None:
    """The numbers of updates in names of revisions, if each has one and all are different."""
    steps = [_STEP.findall(name) for name in revisions]
    if any(len(of_name) != 1 for of_name in steps):
        return None
    numbers = [int(of_name[0]) for of_name in steps]
    return numbers if len(set(numbers)) == len(numbers) else None
