"""Files: written atomically, and never replacing a file that assocjax did not write."""

import contextlib
import errno
import filecmp
import json
import mmap
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from assocjax.arguments import check_flag, check_path, printable
from assocjax.errors import InputError

SIGNATURE = "written by assocjax, which may replace it when asked to"
"""Part of every NetCDF file, figure and page: marks it as one that may be replaced on request."""

MARKER = ".assocjax.json"
_PART = re.compile(r"\.assocjax-[0-9a-f]{16}(\.\w+)?")


def part_name(suffix: str = "") -> str:
    """A unique temporary name for a file or folder that is being written."""
    return f".assocjax-{secrets.token_hex(8)}{suffix}"


def is_part(name: str) -> bool:
    """Whether a name was made by `part_name`."""
    return _PART.fullmatch(name) is not None


@contextlib.contextmanager
def whole_file(path: str | os.PathLike, *, overwrite: bool = False) -> Iterator[Path]:
    """Yields a temporary path in the same folder; the file written there is renamed to `path`.

    A reader sees either the old file or the new one, never a part. If the block raises, `path` is
    unchanged and the temporary file is removed. An existing file is replaced only if assocjax wrote
    it and `overwrite` is true. If it has the same content already, nothing is done.

    Raises:
      InputError: `path` is a folder or was written by something else; it exists with other content
        and `overwrite` is false; or it cannot be written (full disk, no permission).
    """
    path, overwrite = writable_path(path), check_flag("overwrite", overwrite)
    refuse_foreign(path)
    part = path.with_name(part_name(path.suffix))
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        if _is_signed(path) and _head(path) != _head(part):
            raise InputError(f"{path} holds another kind of results; choose another name")
        if not overwrite and path.exists():
            if filecmp.cmp(part, path, shallow=False):
                return
            raise InputError(
                f"{path} exists already, with other content; choose another name, or replace it "
                "with overwrite=True (--overwrite)"
            )
        part.replace(path)
    except (OSError, RuntimeError) as error:  # HDF5 and torch report a full disk as RuntimeError
        raise InputError(f"cannot write {path}: {why_not(error, path.parent)}") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def writable_path(path: str | os.PathLike) -> Path:
    """A path that all libraries can write to. Raises InputError if it is not valid UTF-8."""
    text = check_path("path", path)
    if printable(text) != text:
        raise InputError(
            f"{text!r}: its name must be UTF-8, as NetCDF requires; choose another name"
        )
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # a user without a home folder
        raise InputError(f"{text!r}: {error}") from None


def make_folder(path: str | os.PathLike) -> Path:
    """Makes a folder if it does not exist. Raises InputError if it cannot be made."""
    path = writable_path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"folder {path} cannot be made: {error.strerror}") from None
    return path


def why_not(error: BaseException, folder: Path) -> str:
    """The reason why a file could not be written, in a few words."""
    with contextlib.suppress(OSError):
        if shutil.disk_usage(folder).free < 1 << 20:  # libraries report it in many ways
            return os.strerror(errno.ENOSPC)
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0]


def is_ours(path: Path) -> bool:
    """Whether assocjax wrote a file: its folder's marker lists it, or it holds `SIGNATURE`."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        for folder in path.absolute().parents:
            marker = folder / MARKER
            if marker.is_file():
                record = json.loads(marker.read_text("utf-8"))
                name = path.absolute().relative_to(folder).as_posix()
                if name in (*record["files"], *record.get("replaced", ())):
                    return True
                break
    return _is_signed(path)


def _is_signed(path: Path) -> bool:
    with (
        contextlib.suppress(OSError, ValueError),  # an empty file cannot be mapped: ValueError
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        return content.find(SIGNATURE.encode()) >= 0
    return False


def _head(path: Path) -> bytes:
    """The first bytes, which distinguish the formats: NetCDF, HTML, PNG, PDF."""
    with path.open("rb") as file:
        return file.read(4)


def refuse_foreign(path: Path) -> None:
    if os.path.isdir(path):  # `Path.is_dir` raises if the name is too long
        raise InputError(f"cannot write {path}: it is a folder")
    if not os.path.isdir(path.parent):
        raise InputError(f"cannot write {path}: there is no folder {path.parent}")
    if os.path.lexists(path) and not is_ours(path):
        raise InputError(
            f"{path} was not written by assocjax, so it is not replaced; choose another name"
        )
