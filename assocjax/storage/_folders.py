"""Folders of results: which computation they belong to, their files, and their one writer.

A folder belongs to assocjax ("is ours") if it has a marker, the file `.assocjax.json`:

    kind        the command whose results it holds, such as "sweep"
    identity    all that determines the result (`identity.flatten`)
    complete    whether the result is complete
    files       paths that we wrote, relative to the folder; those ending in / are folders
    replaced    files of an earlier result that are still to be removed
    command     of a finished command, what it needs to show its result again (`Folder.describe`)

A folder without a marker is only used if it is empty. Files that the marker does not list are never
replaced or removed.
"""

import contextlib
import itertools
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from assocjax.arguments import check_flag
from assocjax.errors import InputError
from assocjax.storage._identity import difference, flatten
from assocjax.storage._locks import LOCK, hold_lock
from assocjax.storage.files import (
    MARKER,
    SIGNATURE,
    is_part,
    make_folder,
    part_name,
    refuse_foreign,
    why_not,
    writable_path,
)

_UNFINISHED = "unfinished"


class Folder:
    """A folder that this process has claimed; made by `claim`.

    Attributes:
      path: of the folder.
      complete: whether the folder already holds the requested result, complete.
      overwrite: whether unfinished work with another configuration may be replaced.
    """

    def __init__(
        self,
        path: Path,
        kind: str,
        identity: dict[str, Any],
        record: dict[str, Any] | None,
        overwrite: bool = False,
    ):
        self.path = path
        self.complete = bool(record and record["complete"])
        self.overwrite = overwrite
        self._fresh: dict[str, Any] = {"kind": kind, "identity": identity, "complete": False}
        self._record: dict[str, Any] | None = record
        self._replaces = False
        self._work: list[str] = []

    @property
    def files(self) -> tuple[str, ...]:
        """Paths that we wrote for this result, relative to the folder."""
        return () if self._record is None or self._replaces else tuple(self._record["files"])

    @contextlib.contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """As `whole_file`, for a file of this folder; replaces an existing one that we wrote.

        An earlier result that is to be replaced is removed when the first new file is complete.
        """
        path = self.path / name
        if path.parent.is_dir() and not self._is_listed(name):
            refuse_foreign(path)
        part = self.path / part_name(path.suffix)
        try:
            with self.writing(path):
                yield part
                with part.open("rb") as file:
                    os.fsync(file.fileno())
                self._begin()
                path.parent.mkdir(parents=True, exist_ok=True)
                self._list(name)  # listed first: it is ours even if the process is killed
                part.replace(path)
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)

    @contextlib.contextmanager
    def directory(self, name: str) -> Iterator[Path]:
        """Yields a temporary folder that is renamed to `name` at the end: atomic, like `file`.

        Replaces an existing folder of that name that we wrote. Raises InputError if that folder
        holds files that we did not write.
        """
        path = self.path / name
        files = (file for file in path.rglob("*") if not file.is_dir())
        if path.exists() and not all(self._is_listed(self._name(file)) for file in files):
            raise InputError(
                f"{path} was not written by assocjax, so it is not replaced; choose another folder"
            )
        with self.scratch() as part, self.writing(path):
            yield part
            self._begin()
            self.remove(*(file for file in self.files if file.startswith(f"{name}/")))
            found = (file for file in part.rglob("*") if file.is_file())
            self._list(*(f"{name}/{file.relative_to(part).as_posix()}" for file in found))
            part.rename(path)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """Yields a temporary folder on the same disk, which is removed at the end."""
        part = self.path / part_name()
        try:
            with self.writing():
                part.mkdir()
            yield part
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def work(self, name: str) -> Path:
        """Makes a folder for unfinished work; `finish` removes it.

        An earlier result that is to be replaced is kept meanwhile.
        """
        name = f"{self.work_name(name)}/"
        path = self.path / name
        if not self._is_listed(name) and path.exists():
            raise InputError(f"{path} was not written by assocjax; choose another folder")
        if self._record is None:
            self._begin()
        with self.writing(path):
            path.mkdir(parents=True, exist_ok=True)
        self._work.append(name)
        self._list(name)
        return path

    @staticmethod
    def work_name(name: str) -> str:
        """Path, for `file`, of a file of unfinished work; `finish` removes it."""
        return f"{_UNFINISHED}/{name}"

    def has_work(self, name: str) -> bool:
        """Whether the file `work_name(name)` exists."""
        return self.work_name(name) in self.files and (self.path / self.work_name(name)).exists()

    def finish(self) -> None:
        """Marks the result as complete, then removes the unfinished work."""
        self._begin()
        assert self._record is not None
        self._record["complete"] = self.complete = True
        self._write()
        self._clean()

    def remove(self, *names: str) -> None:
        """Removes some of `files`, and subfolders that become empty."""
        if names:
            self._begin()
            assert self._record is not None
            self._delete(names)
            self._record["files"] = [name for name in self.files if name not in names]
            self._write()

    def keep_only(self, names: Iterable[str]) -> None:
        """Removes those of `files` that are not among `names`: files of an earlier run."""
        kept = set(names)
        self.remove(*(name for name in self.files if name not in kept))

    def describe(self, command: Mapping[str, Any]) -> None:
        """Adds JSON values to the marker: what a finished command needs to show its result again.

        They are lost with the result that they describe.
        """
        self._begin()
        assert self._record is not None
        self._record["command"] = dict(command)
        self._write()

    @contextlib.contextmanager
    def writing(self, path: Path | None = None) -> Iterator[None]:
        """Turns errors of writing (full disk, no permission) into a one-line InputError."""
        try:
            yield
        except (OSError, RuntimeError) as error:
            reason = why_not(error, self.path)
            raise InputError(f"cannot write {path or self.path}: {reason}") from None

    @property
    def is_untouched(self) -> bool:
        """Whether nothing was ever written here."""
        return self._record is None

    def settle(self, result: str | None) -> None:
        """Decides whether the existing result is resumed, replaced or refused."""
        assert self._record is not None
        other = difference(self._record["identity"], self._fresh["identity"])
        if other is not None and not self.overwrite:
            state = "the finished result" if self.complete else "an unfinished result"
            raise InputError(
                f"folder {self.path} holds {state} of another configuration: {other}; choose "
                "another folder, or replace it with overwrite=True (--overwrite)"
            )
        lost = result is not None and not (self.path / result).exists()
        if other is not None or (self.complete and (self.overwrite or lost)):
            self._replaces, self.complete = True, False
        else:
            self._clean()

    def remove_parts(self) -> None:
        """Removes temporary files of a process that was killed; their names are unmistakable."""
        with self.writing():
            for part in [entry for entry in os.scandir(self.path) if is_part(entry.name)]:
                if part.is_dir(follow_symlinks=False):
                    shutil.rmtree(part.path)
                else:
                    Path(part.path).unlink(missing_ok=True)

    def _begin(self) -> None:
        """Writes the marker before the first new file, and removes the result to be replaced."""
        if self._record is None or self._replaces:
            before: dict[str, Any] = self._record or {"files": []}
            old = [*before.get("replaced", ()), *before["files"]]
            old = [name for name in old if name not in self._work]
            self._record = self._fresh | {"files": list(self._work), "replaced": old}
            self._replaces = False
            self._write()
            self._clean()

    def _name(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix()

    def _is_listed(self, name: str) -> bool:
        record = self._record or {"files": []}
        return name in (*record["files"], *record.get("replaced", ()))

    def _clean(self) -> None:
        """Removes files no longer needed, also those that a killed process did not remove."""
        assert self._record is not None
        if old := self._record.pop("replaced", []):
            self._delete(old)
            self._write()
        if self.complete:
            self.remove(*(name for name in self.files if name.startswith(f"{_UNFINISHED}/")))

    def _delete(self, names: Iterable[str]) -> None:
        for name in reversed(list(names)):  # in reverse: the last file marks the rest as complete
            path = self.path / name
            with contextlib.suppress(OSError):
                if name.endswith("/"):
                    shutil.rmtree(path)
                else:
                    path.unlink()
                for parent in itertools.takewhile(lambda p: p != self.path, path.parents):
                    parent.rmdir()  # OSError, which ends the loop, if not empty

    def _list(self, *names: str) -> None:
        assert self._record is not None
        if missing := [name for name in names if name not in self._record["files"]]:
            self._record["files"] += missing
            self._write()

    def _write(self) -> None:
        with self.writing():
            part = self.path / part_name(".json")
            content = {"made_by": SIGNATURE} | (self._record or {})
            part.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
            part.replace(self.path / MARKER)


@contextlib.contextmanager
def claim(
    path: str | os.PathLike,
    kind: str,
    identity: Mapping[str, Any] | None,
    *,
    result: str | None = None,
    overwrite: bool = False,
) -> Iterator[Folder]:
    """Reserves a folder for this process while the block runs; makes it if it does not exist.

    If the folder holds an unfinished result of the same identity, that result is resumed. If it is
    finished, `Folder.complete` is true. If nothing is written, nothing is left behind.

    Args:
      path: the folder.
      kind: the command whose results the folder is for.
      identity: all that determines the result; None adds to any existing result of this kind.
      result: name of the main file; without it the result counts as missing, whatever the marker
        says.
      overwrite: replace a result of another identity, or compute a finished one again; an
        unfinished result of the same identity is still resumed. Old files are removed when the
        first new one is written.

    Raises:
      InputError: the folder holds files that assocjax did not write, or results of another kind or
        configuration; another process is writing in it; or it cannot be written.
    """
    path, overwrite = writable_path(path), check_flag("overwrite", overwrite)
    flat = None if identity is None else flatten(identity)
    check_claimable(path, kind)
    made = not path.exists()
    make_folder(path)
    folder = None
    try:
        with hold_lock(path / LOCK, path):
            record = check_claimable(path, kind)
            folder = Folder(path, kind, flat or {}, record, overwrite)
            folder.remove_parts()
            if record is not None and flat is not None:
                folder.settle(result)
            yield folder
    finally:
        if made and (folder is None or folder.is_untouched):
            with contextlib.suppress(OSError):
                path.rmdir()


def check_claimable(path: str | os.PathLike, kind: str) -> dict | None:
    """Returns the content of a folder's marker; None if the folder is new or empty.

    Changes nothing.

    Raises:
      InputError: as `claim`, except for another configuration and other processes.
    """
    path = writable_path(path)
    if os.path.lexists(path) and not path.is_dir():
        raise InputError(f"folder {path} cannot be made: it is a file")
    try:
        names = {entry.name for entry in os.scandir(path)} if path.is_dir() else set()
    except OSError as error:
        raise InputError(f"folder {path} cannot be read: {error.strerror}") from None
    if MARKER not in names:
        if {name for name in names if name != LOCK and not is_part(name)}:
            raise InputError(
                f"folder {path} is not empty, and no {MARKER} in it says that assocjax may write "
                "there; choose another folder, or an empty one"
            )
        return None
    try:
        record = json.loads((path / MARKER).read_text("utf-8"))
        known = {"kind": str, "identity": dict, "complete": bool, "files": list}
        if not all(isinstance(record[name], of) for name, of in known.items()):
            raise TypeError
        for name in (*record["files"], *record.get("replaced", ())):
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise ValueError
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{path / MARKER} cannot be read, so it is not known which files of "
            "the folder assocjax wrote; choose another folder"
        ) from None
    if record["kind"] != kind:
        raise InputError(
            f"folder {path} holds results of {record['kind']}, not of {kind}; choose another folder"
        )
    return record
