"""Where a model's files are, and the hashes of its weights.

| name | revision | model |
|---|---|---|
| `PATH` | none | a folder with `config.json` and weights |
| `PATH` | `"step16"` | the same in `PATH/step16`, one folder for each revision |
| `PATH.gguf` | none | a GGUF file |
| `owner/name` | a branch or commit (default: `main`) | a model of the Hugging Face hub |

Hashes of files need neither torch nor transformers, and show whether a file has changed.
`shared_weights` shows whether two checkpoints hold the same weights.
"""

import contextlib
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from assocjax.arguments import READ_ONLY, check_choice, check_path, check_string
from assocjax.errors import InputError, InputTypeError
from assocjax.llm.libraries import reason, require

_HUB_SECONDS = 10
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
SINGLE = ("model.safetensors", "pytorch_model.bin")
"""Names of a file with all weights, which is preferred first; an index of shards adds a suffix."""
_SHARD = re.compile(r"(pytorch_)?model-\d+-of-\d+\.(safetensors|bin)")
_SMALL_FILES = ("*.json", "*.txt", "*.model")
_EMBEDDING = re.compile(r"(.*\.)?(embed_in|embed_tokens|wte|wpe)\.weight")

_Found = TypeVar("_Found")


class HubError(InputError):
    """The hub cannot be reached, or has no such model; other revisions would fail too."""


class ModelFiles(NamedTuple):
    """A model on this machine.

    Attributes:
        name: Its name in results: its name on the hub, or that of its folder or file.
        revision: The requested revision.
        folder: The folder of its files.
        weights: Names of the weight files in the folder that are to be read.
    """

    name: str
    revision: str | None
    folder: Path
    weights: tuple[str, ...]

    @property
    def is_gguf(self) -> bool:
        return self.weights[:1] != () and self.weights[0].endswith(".gguf")


def is_embedding(tensor: str) -> bool:
    """Whether the tensor of this name is the embedding of tokens or positions."""
    return _EMBEDDING.fullmatch(tensor) is not None


@contextlib.contextmanager
def temporary_folder(wanted: bool) -> Iterator[Path | None]:
    """A new folder that is deleted at the end, or None if it is not wanted."""
    if not wanted:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="assocjax-") as folder:
        yield Path(folder)


def find_model(
    name_or_path: str | os.PathLike[str],
    revision: str | None = None,
    *,
    only: str | None = None,
    downloads: Path | None = None,
) -> ModelFiles:
    """Finds a model's files, and downloads them if they are on the hub and not in its cache.

    Args:
        name_or_path: A model, see the table above.
        revision: Its revision.
        only: "embeddings" for the weight files that hold the embeddings of tokens and positions: of
            sharded weights only these shards, by their index. "tokenizer" for no weights.
        downloads: An empty folder for files that are not in the hub's cache, which remains as it
            is; by default the cache.

    Raises:
        InputError: If there is no such model or revision, it has no weights or only some of their
            shards, the hub cannot be reached, or only a part of a GGUF file is asked for.
    """
    path = _local(name_or_path, revision)
    if path is None:
        name = os.fspath(name_or_path)
        path = _download(name, revision, only, downloads)
    elif path.is_file():
        if only == "embeddings":
            raise InputError(f"only: a GGUF file such as {str(path)!r} is always read as a whole")
        return ModelFiles(path.name, None, path.parent, (path.name,))
    else:
        name = Path(name_or_path).expanduser().resolve().name
    names = {file.name for file in path.iterdir() if file.is_file()}
    weights = _choose_weights(names, str(path), lambda file: path / file, only)
    return ModelFiles(name, revision, path, weights)


def weight_hashes(
    name_or_path: str | os.PathLike[str], revision: str | None = None, *, only: str | None = None
) -> dict[str, str]:
    """SHA-256 of each weight file of a model, without loading the model.

    For the hub, its own records are used, and only files without a recorded hash are downloaded.

    Args:
        name_or_path: A model, see the table above.
        revision: Its revision.
        only: "embeddings" for the files that hold the embeddings; by default all.

    Returns:
        Name of a file -> SHA-256, in hexadecimal.

    Raises:
        InputError: As `find_model`.

    Cost: for local files, reading them once, about 500 MB/s; for the hub one request, and one more
    for the index of sharded weights.
    """
    parts = weight_parts(name_or_path, revision, only=only)
    return {name: part.sha256 for name, part in parts.items()}


class Part(NamedTuple):
    """A part of a model's weights: a file and its bytes, or a tensor and its entries."""

    sha256: str
    size: int


def weight_parts(
    name_or_path: str | os.PathLike[str], revision: str | None = None, *, only: str | None = None
) -> dict[str, Part]:
    """Name of each weight file -> its hash and size, as in `weight_hashes`."""
    if only is not None:
        check_choice("only", only, READ_ONLY)
    if is_local(name_or_path, revision):
        files = find_model(name_or_path, revision, only=only)
        hashes = hash_files(files)
        return {n: Part(hashes[n], (files.folder / n).stat().st_size) for n in hashes}
    name = os.fspath(name_or_path)
    records, weights = _ask(name, revision, lambda hub: _hub_weights(hub, name, revision, only))
    return {
        file: _download_and_hash(name, revision, file)
        if records[file] is None
        else Part(records[file].sha256, records[file].size)
        for file in weights
    }


def is_local(name_or_path: str | os.PathLike[str], revision: str | None = None) -> bool:
    """Whether a model is a folder or file, not a name on the hub.

    Raises:
        InputError: As `find_model`.
    """
    return _local(name_or_path, revision) is not None


def check_revisions(
    name_or_path: str | os.PathLike[str],
    revisions: Sequence[str | None],
    *,
    only: str | None = None,
) -> None:
    """Checks that all revisions exist and have weights, without reading or downloading them.

    With `only`, as in `find_model`, checks these weights.

    Raises:
        InputError: As `find_model`, in one line for all revisions.
    """

    def find(revision: str | None) -> None:
        if is_local(name_or_path, revision):
            find_model(name_or_path, revision, only=only)
        else:
            name = os.fspath(name_or_path)
            _ask(name, revision, lambda hub: _hub_weights(hub, name, revision, only))

    of_every_revision(find, revisions)


def check_list(revisions: Any) -> None:
    """Checks that `revisions` is a list of names, and not a single name."""
    if isinstance(revisions, str | bytes) or not isinstance(revisions, Sequence):
        raise InputTypeError(
            f"revisions must be a list of names; got {type(revisions).__name__} {revisions!r}"
        )


def of_every_revision(
    find: Callable[[str | None], _Found], revisions: Sequence[str | None]
) -> list[_Found]:
    """The result of `find` for each revision.

    Raises:
        InputError: If `find` raises it; one error names all revisions that failed.
        InputTypeError: If `revisions` is not a list.
    """
    check_list(revisions)
    found, failed = [], {}
    for revision in revisions:
        try:
            found.append(find(revision))
        except HubError:
            raise
        except InputError as error:
            failed[revision] = error
    if failed:
        first = next(iter(failed.values()))
        if len(failed) == 1:
            raise first
        raise InputError(
            f"revisions: {len(failed)} of {len(revisions)} cannot be used: "
            f"{', '.join(map(str, failed))}; the first error: {first}"
        )
    return found


def hash_revisions(
    name_or_path: str | os.PathLike[str],
    revisions: Sequence[str | None],
    *,
    only: str | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> list[dict[str, str]]:
    """`weight_hashes` of each revision; `progress` is called before each.

    Raises:
        InputError, InputTypeError: As `of_every_revision`.
    """
    done = iter(range(len(revisions)))

    def hashes(revision: str | None) -> dict[str, str]:
        progress("hashing weights", next(done), len(revisions))
        return weight_hashes(name_or_path, revision, only=only)

    return of_every_revision(hashes, revisions)


def hash_files(files: ModelFiles) -> dict[str, str]:
    """SHA-256 of each weight file on this machine."""
    return {name: _hash(files.folder / name) for name in files.weights}


def _hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"model: {str(path)!r} cannot be read: {error.strerror}") from None


def _download_and_hash(name: str, revision: str | None, file: str) -> Part:
    path = Path(_ask(name, revision, lambda hub: _fetch(hub, name, revision, file)))
    return Part(_hash(path), path.stat().st_size)


def _local(name_or_path: Any, revision: str | None) -> Path | None:
    """The folder with `config.json`, or the GGUF file; None for a name on the hub."""
    if revision is not None:
        check_string("revision", revision)
    try:
        return _folder_or_file(
            check_path("name_or_path", name_or_path, "a name or a path"), revision
        )
    except (OSError, RuntimeError) as error:  # a name too long, a user without a home
        why = getattr(error, "strerror", None) or reason(error)
        raise InputError(f"model: {str(name_or_path)!r} cannot be read: {why}") from None


def _folder_or_file(name_or_path: str, revision: str | None) -> Path | None:
    path = Path(name_or_path).expanduser()
    if path.is_file():
        if path.suffix != ".gguf":
            raise InputError(
                f"model: {str(path)!r} is a file; expected a folder with config.json, a .gguf file "
                "or a name on the Hugging Face hub"
            )
        if revision is not None:
            raise InputError(f"revision: a GGUF file has none, got {revision!r} for {str(path)!r}")
        return path
    if not os.path.isdir(path):
        if _HUB_NAME.fullmatch(str(name_or_path)) and path.suffix != ".gguf":
            return None
        raise InputError(f"model: no folder or file {str(path)!r}")
    known = sorted((file.parent.name for file in path.glob("*/config.json")), key=_by_number)
    if revision is not None:
        if not os.path.isfile(path / revision / "config.json"):
            which = f"its revisions are {', '.join(known)}" if known else "it has no revisions"
            raise InputError(f"revision: {str(path)!r} has no revision {revision!r}; {which}")
        return path / revision
    if not (path / "config.json").is_file():
        which = (
            f"give one of its revisions: {', '.join(known)}" if known else "it has no config.json"
        )
        raise InputError(f"model: {str(path)!r} is no folder of a model: {which}")
    return path


def _by_number(name: str) -> list[str | int]:
    """Sorts step16 after step2."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _choose_weights(
    names: Collection[str], where: str, path_of: Callable[[str], Path], only: str | None
) -> tuple[str, ...]:
    """The weight files among a model's files; may read the index of sharded weights.

    The index decides: a single file beside it is not of this model.
    """
    if only == "tokenizer":
        return ()
    for single in SINGLE:
        index = f"{single}.index.json"
        if index not in names:
            if single in names:
                return (single,)
            continue
        shards = _read_index(path_of(index), f"{where}/{index}", only)
        absent = [shard for shard in shards if shard not in names]
        if absent:
            raise InputError(
                f"model: {where!r} lacks {len(absent)} of the {len(shards)} weight files that its "
                f"{index} lists: {', '.join(absent)}"
            )
        return tuple(shards)
    shards = sorted(filter(_SHARD.fullmatch, names))
    but = (
        f"; {', '.join(shards)} cannot be read without the index that lists them" if shards else ""
    )
    raise InputError(
        f"model: {where!r} has no weights: expected {' or '.join(SINGLE)}, or an index such as "
        f"{SINGLE[0]}.index.json with the files that it lists{but}"
    )


def _read_index(path: Path, name: str, only: str | None) -> list[str]:
    """The files that an index lists, or those of them that hold embeddings."""
    try:
        shards = json.loads(path.read_text("utf-8"))["weight_map"]
        if not shards or not all(isinstance(shard, str) for shard in shards.values()):
            raise TypeError("it lists no files")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"model: {name!r} is no index of weight files ({error!r})") from None
    found = {shard for tensor, shard in shards.items() if only is None or is_embedding(tensor)}
    if not found:
        raise InputError(f"only: {name!r} lists no embedding, as of {min(shards)!r}")
    return sorted(found)


def _fetch(hub: Any, name: str, revision: str | None, file: str) -> Path:
    return Path(hub.hf_hub_download(name, file, revision=revision))


def _hub_weights(
    hub: Any, name: str, revision: str | None, only: str | None
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Name of each file -> the hub's record if the file is large; and names of weight files."""
    info = hub.HfApi().model_info(
        name, revision=revision, files_metadata=True, timeout=_HUB_SECONDS
    )
    records = {file.rfilename: file.lfs for file in info.siblings or ()}
    weights = _choose_weights(records, name, lambda file: _fetch(hub, name, revision, file), only)
    return records, weights


def _download(name: str, revision: str | None, only: str | None, downloads: Path | None) -> Path:
    """The model's snapshot in the cache of the hub, or in `downloads` if the cache lacks weights of
    it; if the hub cannot be reached, a cached one."""

    def download(hub: Any) -> str:
        _, weights = _hub_weights(hub, name, revision, only)
        options: dict[str, Any] = {"allow_patterns": [*_SMALL_FILES, *weights]}
        cached = (hub.try_to_load_from_cache(name, file, revision=revision) for file in weights)
        if downloads is not None and not all(isinstance(path, str) for path in cached):
            options["local_dir"] = downloads
        return hub.snapshot_download(name, revision=revision, **options)

    def cached(hub: Any) -> str:
        return hub.snapshot_download(name, revision=revision, local_files_only=True)

    return Path(_ask(name, revision, download, cached))


def _ask(
    name: str,
    revision: str | None,
    question: Callable[[Any], Any],
    fallback: Callable[[Any], Any] | None = None,
) -> Any:
    """The hub's answer to `question`; that of `fallback` if the hub cannot be reached."""
    hub = require("huggingface_hub")
    errors, utils = hub.errors, hub.utils

    hide = not sys.stderr.isatty() and not utils.are_progress_bars_disabled()
    try:
        if hide:
            utils.disable_progress_bars()
        return question(hub)
    except InputError:
        raise
    except errors.GatedRepoError:
        text = f"access to {name!r} is restricted; accept its terms on the hub and log in"
    except errors.RevisionNotFoundError:
        raise InputError(f"revision: {name!r} has no revision {revision!r} on the hub") from None
    except errors.HFValidationError:
        text = f"no folder {name!r}, and no such name can be on the hub"
    except errors.RepositoryNotFoundError:
        text = f"no folder {name!r}, and no such model on the hub, or it is private"
    # Network and hub errors have no common base class.
    except Exception as error:
        text = f"no folder {name!r}, and the Hugging Face hub cannot be reached ({reason(error)})"
        if fallback is not None:
            try:
                return fallback(hub)
            except errors.LocalEntryNotFoundError:
                pass
    finally:
        if hide:
            utils.enable_progress_bars()
    raise HubError(f"model: {text}")
