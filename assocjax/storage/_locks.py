"""Locks: only one process at a time writes in a folder or in a file of results."""

import contextlib
import contextvars
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import filelock

from assocjax.errors import InputError
from assocjax.storage.files import make_folder, writable_path

LOCK = ".assocjax.lock"


@contextlib.contextmanager
def hold(path: str | os.PathLike) -> Iterator[None]:
    """Holds the lock of a folder over several claims, so no other process writes in between."""
    path = writable_path(path)
    made = not path.exists()
    make_folder(path)
    try:
        with hold_lock(path / LOCK, path):
            token = _held.set(_held.get() | {(path / LOCK).absolute()})
            try:
                yield
            finally:
                _held.reset(token)
    finally:
        if made:
            with contextlib.suppress(OSError):
                path.rmdir()


_held: contextvars.ContextVar[frozenset[Path]] = contextvars.ContextVar("held", default=frozenset())
"""Locks currently held by `hold`."""


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock of a single file of results, which allows one writer at a time."""
    with hold_lock(path.with_name(f"{LOCK}-{path.name}"), path):
        yield


@contextlib.contextmanager
def hold_lock(lock_path: Path, what: Path) -> Iterator[None]:
    """Holds a lock file; the operating system releases it however the process ends."""
    if lock_path.absolute() in _held.get():
        yield
        return
    lock = filelock.FileLock(lock_path, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise InputError(
            f"{what} is being written by {_holder(lock_path)}; wait for its end, or choose another"
        ) from None
    except OSError as error:
        raise InputError(f"{what} cannot be written: {error.strerror}") from None
    try:
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        with contextlib.suppress(OSError):
            lock_path.write_text(f"process {os.getpid()} on {socket.gethostname()} since {now}")
        yield
    finally:
        with contextlib.suppress(OSError):
            lock_path.unlink()
        lock.release()


def _holder(lock_path: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        if holder := lock_path.read_text("utf-8"):
            return holder
    return "another process"
