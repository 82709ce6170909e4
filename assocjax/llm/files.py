"""Where a model's files are, and the hashes of its weights.

| name | revision | what |
|---|---|---|
| `PATH` | none | a folder with `config.json` and weights |
| `PATH` | `"step16"` | the same in `PATH/step16`, one folder a revision |
| `PATH.gguf` | none | a GGUF file |
| `owner/name` | a branch or commit (default: `main`) | a model of the Hugging Face hub |

Hashes need neither torch nor transformers. They tell what names do not: several hosted Pythia
checkpoints are byte for byte another step's (EleutherAI/pythia, issues 195, 205 and 206), so
compare them before you believe a curve over steps.
"""

import hashlib
import os
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from assocjax.arguments import check_string
from assocjax.errors import InputError, InputTypeError
from assocjax.llm.libraries import reason, require

_HUB_SECONDS = 10
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
# What AutoModel prefers, in its order: one file or numbered shards.
_WEIGHTS = (
    ("model.safetensors", re.compile(r"model-\d+-of-(\d+)\.safetensors")),
    ("pytorch_model.bin", re.compile(r"pytorch_model-\d+-of-(\d+)\.bin")),
)
_SMALL_FILES = ("*.json", "*.txt", "*.model")


class ModelFiles(NamedTuple):
    """A model on this machine.

    Attributes:
        name: What it is called in results: its name on the hub, or of its folder or file.
        revision: As asked for.
        folder: Where its files are.
        weights: Names of the weight files there.
    """

    name: str
    revision: str | None
    folder: Path
    weights: tuple[str, ...]

    @property
    def is_gguf(self) -> bool:
        return self.weights[0].endswith(".gguf")


def find_model(name_or_path: str | os.PathLike[str], revision: str | None = None) -> ModelFiles:
    """Finds a model's files, downloaded if they are on the hub and not in its cache.

    Raises:
        InputError: If there is no such model or revision, it has no weights or only some of their
            shards, or the hub cannot be reached.
    """
    path = _local(name_or_path, revision)
    if path is None:
        name = os.fspath(name_or_path)
        path = _download(name, revision)
    elif path.suffix == ".gguf":
        return ModelFiles(path.name, None, path.parent, (path.name,))
    else:
        name = Path(name_or_path).expanduser().resolve().name
    weights = _choose_weights({file.name for file in path.iterdir()}, str(path))
    return ModelFiles(name, revision, path, tuple(weights))


def weight_hashes(
    name_or_path: str | os.PathLike[str], revision: str | None = None
) -> dict[str, str]:
    """SHA-256 of each weight file of a model, which is not loaded.

    On the hub its own records are read, and only files that it keeps no hash of are downloaded.

    Args:
        name_or_path: A model, see the table above.
        revision: Its revision.

    Returns:
        Name of a file -> SHA-256, in hexadecimal.

    Raises:
        InputError: As `find_model`.

    Cost: of local files one reading, some 500 MB/s; of the hub one request.
    """
    if _local(name_or_path, revision) is not None:
        return hash_files(find_model(name_or_path, revision))
    name = os.fspath(name_or_path)
    info = _ask(name, revision, lambda hub: _model_info(hub, name, revision))
    records = {file.rfilename: file.lfs for file in info.siblings or ()}
    return {
        file: _download_and_hash(name, revision, file) if lfs is None else lfs.sha256
        for file, lfs in records.items()
        if file in _choose_weights(records, name)
    }


def identical_revisions(
    name_or_path: str | os.PathLike[str], revisions: Sequence[str]
) -> list[list[str]]:
    """Groups of revisions whose weight files are byte for byte the same.

    Args:
        name_or_path: A model, see the table above.
        revisions: Those to compare.

    Returns:
        Each group of two or more, in the order of `revisions`; none if all of them differ. One that
        is saved in other files than another (safetensors, PyTorch) differs from it.

    Raises:
        InputError: As `find_model`, for the first revision that cannot be found.
    """
    return group_identical({r: weight_hashes(name_or_path, r) for r in dict.fromkeys(revisions)})


def group_identical(hashes: Mapping[str, Mapping[str, str]]) -> list[list[str]]:
    """As `identical_revisions`, of revision -> `weight_hashes`."""
    groups: dict[frozenset[str], list[str]] = {}
    for revision, of_files in hashes.items():
        groups.setdefault(frozenset(of_files.values()), []).append(revision)
    return [group for group in groups.values() if len(group) > 1]


def hash_files(files: ModelFiles) -> dict[str, str]:
    """SHA-256 of each weight file on this machine."""
    return {name: _hash(files.folder / name) for name in files.weights}


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download_and_hash(name: str, revision: str | None, file: str) -> str:
    path = _ask(name, revision, lambda hub: hub.hf_hub_download(name, file, revision=revision))
    return _hash(Path(path))


def _local(name_or_path: Any, revision: str | None) -> Path | None:
    """The folder with `config.json`, or the GGUF file; None for a name on the hub."""
    if not isinstance(name_or_path, str | os.PathLike):
        raise InputTypeError(
            "name_or_path must be a name or a path; got "
            f"{type(name_or_path).__name__} {name_or_path!r}"
        )
    if revision is not None:
        check_string("revision", revision)
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
    if not path.is_dir():
        if _HUB_NAME.fullmatch(str(name_or_path)) and path.suffix != ".gguf":
            return None
        raise InputError(f"model: no folder or file {str(path)!r}")
    known = sorted((file.parent.name for file in path.glob("*/config.json")), key=_by_number)
    if revision is not None:
        if not (path / revision / "config.json").is_file():
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


def _choose_weights(names: Collection[str], where: str) -> list[str]:
    for single, shard in _WEIGHTS:
        if single in names:
            return [single]
        shards = sorted(filter(shard.fullmatch, names))
        if shards:
            total = int(shard.fullmatch(shards[0])[1])  # type: ignore[index]
            if len(shards) != total:
                raise InputError(f"model: {where!r} has {len(shards)} of {total} weight files")
            return shards
    raise InputError(
        f"model: {where!r} has no weights: expected {' or '.join(single for single, _ in _WEIGHTS)}"
    )


def _model_info(hub: Any, name: str, revision: str | None) -> Any:
    return hub.HfApi().model_info(
        name, revision=revision, files_metadata=True, timeout=_HUB_SECONDS
    )


def _download(name: str, revision: str | None) -> Path:
    """The model's snapshot in the cache of the hub; without the hub, what is there already."""

    def download(hub: Any) -> str:
        names = [file.rfilename for file in _model_info(hub, name, revision).siblings or ()]
        wanted = [*_SMALL_FILES, *_choose_weights(names, name)]
        return hub.snapshot_download(name, revision=revision, allow_patterns=wanted)

    def cached(hub: Any) -> str:
        return hub.snapshot_download(name, revision=revision, local_files_only=True)

    return Path(_ask(name, revision, download, cached))


def _ask(
    name: str,
    revision: str | None,
    question: Callable[[Any], Any],
    fallback: Callable[[Any], Any] | None = None,
) -> Any:
    """An answer of the hub; of the fallback, where it cannot be reached."""
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
    # Network and hub errors have no common base.
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
    raise InputError(f"model: {text}")
