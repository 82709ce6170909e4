"""Folders of results: whose they are, what they hold, and who writes in them now.

A folder is ours if it has a marker, the file `.assocjax.json`:

    kind        the command whose results it holds, such as "sweep"
    identity    all that decides the result (`identity.flatten`)
    complete    whether the result is whole
    files       what we wrote, relative to the folder; what ends in / is a folder of ours
    replaced    files of an earlier result that are still to be removed

A folder without one is only used if it is empty. Files that the marker does not list are never
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
from assocjax.storage.identity import difference, flatten
from assocjax.storage.locks import LOCK, hold_lock

_UNFINISHED = "unfinished"


class Folder:
    """A folder that this process has claimed; made by `claim`.

    Attributes:
      path: where it is.
      complete: whether the very result that was asked for is here already.
      overwrite: whether what is unfinished of another configuration may be replaced.
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
        """What we wrote here for this result, relative to the folder."""
        return () if self._record is None or self._replaces else tuple(self._record["files"])

    @contextlib.contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """As `whole_file`, for a file of this folder, which replaces one that we wrote.

        An earlier result, if it is to be replaced, goes when the first new file is whole.
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
                self._list(name)  # from here on it is ours, whenever the process is killed
                part.replace(path)
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)

    @contextlib.contextmanager
    def directory(self, name: str) -> Iterator[Path]:
        """Yields a temporary folder; what is written there becomes the folder `name` at the end.

        Whole or not at all, as `file`. Files of an earlier one that we wrote are replaced; it is
        refused if there is a folder of that name with files of somebody else.
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
        """A temporary folder on the same disk, for what is being written."""
        part = self.path / part_name()
        try:
            with self.writing():
                part.mkdir()
            yield part
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def work(self, name: str) -> Path:
        """A folder for something unfinished, all of which goes when the result is finished.

        An earlier result that is to be replaced stays where it is.
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
        """What a file is called until the result is finished, when it goes: for `file`."""
        return f"{_UNFINISHED}/{name}"

    def has_work(self, name: str) -> bool:
        """Whether a file of `work_name` is there."""
        return self.work_name(name) in self.files and (self.path / self.work_name(name)).exists()

    def finish(self) -> None:
        """The result is whole: says so, then removes what was unfinished."""
        self._begin()
        assert self._record is not None
        self._record["complete"] = self.complete = True
        self._write()
        self._clean()

    def remove(self, *names: str) -> None:
        """Removes some of `files`, and the folders within this one that are then empty."""
        if names:
            self._begin()
            assert self._record is not None
            self._delete(names)
            self._record["files"] = [name for name in self.files if name not in names]
            self._write()

    @contextlib.contextmanager
    def writing(self, path: Path | None = None) -> Iterator[None]:
        """Turns errors of writing into one line: full disk, no permission."""
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
        """What is to become of the result that is here: gone on with, replaced or refused."""
        assert self._record is not None
        other = difference(self._record["identity"], self._fresh["identity"])
        if other is not None and not self.overwrite:
            state = "the finished result" if self.complete else "an unfinished result"
            raise InputError(
                f"folder {self.path} holds {state} of another configuration: {other}; choose "
                "another folder, or replace it by overwrite=True (--overwrite)"
            )
        lost = result is not None and not (self.path / result).exists()
        if other is not None or (self.complete and (self.overwrite or lost)):
            self._replaces, self.complete = True, False
        else:
            self._clean()

    def remove_parts(self) -> None:
        """What a process that was killed was writing: it has names of its own, here only."""
        with self.writing():
            for part in [entry for entry in os.scandir(self.path) if is_part(entry.name)]:
                if part.is_dir(follow_symlinks=False):
                    shutil.rmtree(part.path)
                else:
                    Path(part.path).unlink(missing_ok=True)

    def _begin(self) -> None:
        """Before the first file is put in its place: marks the folder, and removes what is to be
        replaced."""
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
        """Removes what is no longer needed: a process that was killed may not have come to it."""
        assert self._record is not None
        if old := self._record.pop("replaced", []):
            self._delete(old)
            self._write()
        if self.complete:
            self.remove(*(name for name in self.files if name.startswith(f"{_UNFINISHED}/")))

    def _delete(self, names: Iterable[str]) -> None:
        for name in reversed(list(names)):  # what was written last says what is whole
            path = self.path / name
            with contextlib.suppress(OSError):
                if name.endswith("/"):
                    shutil.rmtree(path)
                else:
                    path.unlink()
                for parent in itertools.takewhile(lambda p: p != self.path, path.parents):
                    parent.rmdir()  # OSError, which ends it, where something is left

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
    """Makes a folder ours while the block runs; it is made if need be.

    Where the same result was begun, it is gone on with; where it is finished, `Folder.complete`
    says so. Where nothing is written, nothing is left behind.

    Args:
      path: the folder.
      kind: the command whose results it is for.
      identity: all that decides the result; None adds to whatever result of this kind is there.
      result: the file without which the result is not there, whatever the marker says.
      overwrite: replace another result of this kind, or a finished one by computing it anew; one
        that was only begun is gone on with. The old files are removed when the first new one is
        written.

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
    """What the marker of a folder says; None if the folder is new or empty. Changes nothing.

    Raises:
      InputError: as `claim`, but for the configuration and other processes.
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
            f"{path / MARKER} cannot be read, so that it is not known which files of "
            "the folder are assocjax's; choose another folder"
        ) from None
    if record["kind"] != kind:
        raise InputError(
            f"folder {path} holds results of {record['kind']}, not of {kind}; choose another folder"
        )
    return record
