"""Checkpoints of a sweep: saved whole or not at all, and only resumed by the same sweep."""

import contextlib
import errno
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from assocjax.errors import InputError


class Checkpoints:
    """The last complete checkpoint of a sweep, in a folder of its own.

    A new one is written beside it, and takes its place when it is complete: whenever the process
    is killed, there is one to go on from. Of several processes each writes what it holds, so that
    the folder must be one that all of them see.

    Args:
      folder: where checkpoints are; need not exist.
      configuration: all that decides the result, as JSON can hold it, nested dicts of values.
    """

    def __init__(self, folder: Path, configuration: dict[str, Any]):
        self.folder = folder.absolute()  # orbax wants it
        self._configuration = configuration
        options = ocp.CheckpointManagerOptions(
            max_to_keep=1,
            cleanup_tmp_directories=True,  # of a process that was killed
            enable_async_checkpointing=False,
        )
        self._removed = self.folder.with_name(f"{self.folder.name}.removed")
        if jax.process_index() == 0:
            shutil.rmtree(self._removed, ignore_errors=True)
        # A process that was killed may have left half of an older checkpoint, which is no matter.
        with _disk_errors(self.folder), _silenced("absl"):
            self._manager = ocp.CheckpointManager(self.folder, options=options)

    def done(self) -> int:
        """How many parts of the sweep the checkpoint holds; 0 without one.

        Raises:
          InputError: it is of another sweep; names what differs.
        """
        done = self._manager.latest_step()
        if done is None:
            return 0
        arguments = ocp.args.Composite(configuration=ocp.args.JsonRestore())
        saved = self._manager.restore(done, args=arguments)["configuration"]
        mine = dict(_flat(self._configuration))
        theirs = dict(_flat(saved))
        for key in sorted(mine.keys() | theirs.keys()):
            if mine.get(key) != theirs.get(key):
                raise InputError(
                    f"the checkpoint in {self.folder} is of another sweep: its {key} is "
                    f"{theirs.get(key)!r}, here it is {mine.get(key)!r}; choose another folder, or "
                    "delete it to begin anew"
                )
        return done

    def load(self, carry: Any) -> tuple[Any, dict[str, np.ndarray]]:
        """What `save` was given; a carry of the same kind says how to divide it among devices."""
        leaves, tree = jax.tree.flatten(carry)
        arguments = ocp.args.Composite(
            carry=ocp.args.StandardRestore([_plain(leaf) for leaf in leaves]),
            observed=ocp.args.StandardRestore(),
        )
        found = self._manager.restore(self._manager.latest_step(), args=arguments)
        restored = list(map(_like, found["carry"], leaves))
        observed = {name: np.array(values) for name, values in found["observed"].items()}
        return jax.tree.unflatten(tree, restored), observed

    def save(self, done: int, carry: Any, observed: dict[str, np.ndarray]) -> None:
        """Saves after `done` parts, and then removes the checkpoint before.

        Raises:
          InputError: the disk is full or cannot be written; the checkpoint before is intact.
        """
        arguments = ocp.args.Composite(
            carry=ocp.args.StandardSave([_plain(leaf) for leaf in jax.tree.leaves(carry)]),
            observed=ocp.args.StandardSave(observed),
            configuration=ocp.args.JsonSave(self._configuration),
        )
        with _disk_errors(self.folder):
            # Found here a full disk is one line; threads of orbax would add theirs.
            needed = sum(leaf.nbytes for leaf in (*jax.tree.leaves(carry), *observed.values()))
            if shutil.disk_usage(self.folder).free < needed + _OVERHEAD:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with _silenced("absl", "asyncio"):  # what they say is raised too
                self._manager.save(done, args=arguments)

    def close(self) -> None:
        self._manager.close()

    def remove(self) -> None:
        """Removes the folder, at once, when nothing is left to do."""
        self._manager.close()
        if jax.process_index() == 0:
            with contextlib.suppress(OSError):
                self.folder.rename(self._removed)
            shutil.rmtree(self._removed, ignore_errors=True)


def _is_key(leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf):
    """Random keys as the integers that they are made of."""
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _like(data, leaf):
    """The inverse of `_plain`."""
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf)) if _is_key(leaf) else data


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


@contextlib.contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Turns what a disk refuses into one line: an `OSError`, or what tensorstore makes of it."""
    try:
        yield
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) else None
        reason = reason or next((text for text in _REFUSALS if text in str(error)), None)
        if reason is None:
            raise
        raise InputError(
            f"cannot write a checkpoint to {folder}: {reason}; what was saved before is intact: "
            "make room, and run the same again to go on"
        ) from None


@contextlib.contextmanager
def _silenced(*names: str) -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled


_OVERHEAD = 1 << 18
"""Bytes of what orbax writes beside the arrays, amply."""

_REFUSALS = [os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)]
