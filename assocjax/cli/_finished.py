"""Runs a command; if its result is finished already, shows that instead, before anything is read.

When a command has finished, the marker of its folder gets the options that it was given, hashes of
the files that it read, and its report. The same command again finds all of these equal and prints
the report. A command is refused if an option differs that always changes the result. Everything
else (a copy of a file, two ways to ask for the same) is decided by the library, which compares
identities when it has read the corpus.
"""

import contextlib
import dataclasses
import glob
import hashlib
import json
import os
import platform
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from assocjax.cli._options import Results
from assocjax.cli._report import Report
from assocjax.cli._terminal import note
from assocjax.errors import InputError
from assocjax.storage import DECIDING, Folder, check_claimable, version

_WITHOUT_EFFECT = {"out", "overwrite", "quiet", "device", "memory_limit", "checkpoint_every"}
_WITHOUT_EFFECT |= {"delete_downloads"}
_WITHOUT_EFFECT |= {"allow_different_devices", "distributed", "coordinator", "num_processes"}
_WITHOUT_EFFECT |= {"process_id"}
"""Options that change no result, except for rounding."""

_OPEN = {"corpus", "tokenizer", "plugins", "statistics", "num_documents", "separator"}
_OPEN |= {"text_field", "corpus_seed", "oov", "long", "short", "num_sequences", "matrices"}
_OPEN |= {
    "model",
    "theories",
    "microbatch_size",
    "record_at",
    "graph",
    "revisions",
    "recipe",
    "over",
    "figure_format",
    "dpi",
}
"""Options of which two values may give the same result, or another part of the same folder."""

_FILES = (
    "corpus",
    "tokenizer",
    "plugins",
    "statistics",
    "model",
    "results",
    "other_runs",
    "twin",
    "recipe",
)
"""Options that may name files or folders to read."""

_OF_MODELS = ("compare", "ngrams")
"""Commands whose model is a folder or a name on the hub."""

_NAMED = ("fables", "python-docs", "word", "bpe")
"""Values of these that the versions of Python and of the packages determine."""

_ON_HUB = ("hf:", "tinystories")
"""How texts of the Hugging Face hub begin."""

_CONTENTS = ("tokens.json", "state.json", "statistics.nc", "counts.nc", "config.json")
"""Files, one of which is in each folder that is read."""

_OF_TOKENS = (".bin", ".npy", ".idx")
"""Suffixes of token files, which consist of several files."""

_PACKAGES = (*DECIDING, "flax", "numpy", "tokenizers", "torch", "transformers")


def run(command: Results) -> None:
    """Runs a command and prints its report, or that of its finished result."""
    folder = command.folder
    record = None if folder is None else check_claimable(folder, command.command)
    given = None if folder is None else _given(command)
    finished = record is not None and not command.overwrite and _is_whole(record, command)
    report = _report_of(record, given) if record is not None and finished else None
    if report is None:
        if record is not None and finished and not command.grows:
            _refuse(record, given, command)

        def finish(folder: Folder, report: Report, files: Iterable[str]) -> None:
            folder.keep_only(files)
            folder.describe({"given": given, "report": report.parts})

        report = command.run(finish)
        finished = finished and not command.grows  # else it may have added something
    if finished:
        note(f"already complete, in {folder}: --overwrite computes it again")
    report.show(folder)


@contextlib.contextmanager
def told_if_unchanged(path: Path) -> Iterator[None]:
    """For commands that write one file: says so if the block left an existing file as it was."""

    def stamp() -> tuple[int, int] | None:
        with contextlib.suppress(OSError):
            found = os.stat(path)
            return found.st_ino, found.st_mtime_ns
        return None

    before = stamp()
    yield
    if before is not None and stamp() == before:
        note(f"already complete: {path}; --overwrite computes it again")


def key(command: Results) -> str | None:
    """What decides the result of a command, as a hash; None if that is not known before it runs."""
    given = _given(command)
    files = given["files"]
    if None in files.values():
        return None
    # A file decides by its content, whatever it is called.
    given["options"] = {
        name: files.get(v, v) if isinstance(v, str) else v for name, v in given["options"].items()
    }
    given["files"] = None
    return hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()


def _is_whole(record: dict[str, Any], command: Results) -> bool:
    """Whether a result is complete and none of its files is missing."""
    assert command.out is not None
    return record["complete"] and all((command.out / name).exists() for name in record["files"])


def _given(command: Results) -> dict[str, Any]:
    """The options of a command, the hashes of the files they name, and versions; JSON values."""
    options = {
        field.name: getattr(command, field.name)
        for field in dataclasses.fields(command)
        if field.name not in _WITHOUT_EFFECT
    }
    versions = {name: version(name) for name in _PACKAGES} | {"python": platform.python_version()}
    files = {}
    for option in _FILES:
        values = options.get(option) or ()
        for value in values if isinstance(values, tuple) else (values,):
            if option in ("twin", "recipe") and not Path(value).is_file():
                continue  # a published one, which the package's version determines
            # A user's file may have the name of a corpus; the name comes first.
            if str(value) not in _NAMED and (option != "model" or command.command in _OF_MODELS):
                files[str(value)] = _commit(value) or _hash(Path(value))
    given = {"options": options, "files": files, "versions": versions}
    return json.loads(json.dumps(given, default=str))


def _commit(corpus: Any) -> dict[str, str] | None:
    """The commit that decides a corpus of the hub; None for any other."""
    if not isinstance(corpus, str) or not corpus.startswith(_ON_HUB):
        return None
    from assocjax.corpora.sources import commit_of

    commit = commit_of(corpus)
    return None if commit is None else {"commit": commit}


def _hash(path: Path) -> dict[str, str] | None:
    """SHA-256 of the files that a path stands for; None if there are none, as for a folder of
    something else."""
    found = {}
    with contextlib.suppress(OSError, ValueError):
        for file in _files(path):
            with file.open("rb") as content:
                name = Path(os.path.relpath(file, path.parent)).as_posix()
                found[name] = hashlib.file_digest(content, "sha256").hexdigest()
    return found or None


def _files(path: Path) -> list[Path]:
    """A file, with the parts of a token file; those of a pattern, or of a folder of texts; or what
    a folder of tokens, of statistics, of a model or of its revisions has."""
    if path.is_dir():
        folders = [path, *(of for of in sorted(path.iterdir()) if of.is_dir())]
        found = [
            file
            for folder in folders
            if any((folder / name).is_file() for name in _CONTENTS)
            for file in sorted(folder.iterdir())
        ]
        if not found:
            from assocjax.corpora.sources import find_files

            found = find_files(str(path))
    elif glob.has_magic(str(path)) and not path.exists():
        found = [Path(file) for file in sorted(glob.glob(str(path), recursive=True))]
    else:
        parts = (".json", ".sizes.bin", ".idx", ".bin") if path.suffix in _OF_TOKENS else ()
        found = [path, *(path.with_suffix(part) for part in parts)]
    return [file for file in found if file.is_file() and not file.name.startswith(".")]


def _report_of(record: dict[str, Any], given: dict[str, Any] | None) -> Report | None:
    """The report of a finished command; None unless it is certain to be the same command."""
    command = record.get("command")
    if not isinstance(command, dict) or command.get("given") != given or given is None:
        return None
    return None if None in given["files"].values() else Report.read(command.get("report"))


def _refuse(record: dict[str, Any], given: dict[str, Any] | None, command: Results) -> None:
    """Raises InputError if an option always changes the result, and differs."""
    before = record.get("command")
    theirs = before.get("given") if isinstance(before, dict) else None
    if not given or not theirs:
        return
    for name, mine in given["options"].items():
        other = theirs["options"].get(name)
        if name not in _OPEN and None not in (other, mine) and other != mine:
            raise InputError(
                f"folder {command.out} holds the finished result of another configuration: its "
                f"--{name.replace('_', '-')} is {_typed(other)}, here it is {_typed(mine)}; "
                "choose another folder, or replace it with --overwrite"
            )


def _typed(value: Any) -> str:
    """A value of an option, as typed."""
    return " ".join(map(_typed, value)) if isinstance(value, list) else str(value)
