"""Checkpoints: saved whole or not at all, and only gone on from by the same computation."""

import contextlib
import errno
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from assocjax.errors import InputError
from assocjax.storage import Folder, claim, difference, flatten

NAME = "checkpoint"
"""Checkpoints are in a folder of this name among what is unfinished in a claimed folder."""


@contextlib.contextmanager
def claim_together(
    path: str | os.PathLike, kind: str, identity: Mapping[str, Any], **options: Any
) -> Iterator[Folder]:
    """As `storage.claim`, for all processes of a computation: the first one claims for all.

    The others get the folder as the first one found it, and do not write in it but through
    `Checkpoints`.
    """
    if jax.process_count() == 1:
        with claim(path, kind, identity, **options) as folder:
            yield folder
        return
    with contextlib.ExitStack() as stack:
        folder, refused = None, ""
        if jax.process_index() == 0:
            try:
                folder = stack.enter_context(claim(path, kind, identity, **options))
            except InputError as error:
                refused = str(error)
        refused = _from_first(refused)
        if refused:
            raise InputError(refused)
        complete = bool(_from_first("complete" if folder and folder.complete else ""))
        record = {"complete": complete, "files": []}
        overwrite = bool(options.get("overwrite"))
        yield folder or Folder(Path(path), kind, {}, record, overwrite)


def _from_first(text: str) -> str:
    """A text of the first process, in all processes."""
    data = np.zeros(4096, np.uint8)
    encoded = np.frombuffer(text.encode()[: data.size], np.uint8)
    data[: encoded.size] = encoded
    found = np.asarray(multihost_utils.broadcast_one_to_all(data))
    return found.tobytes().rstrip(b"\0").decode(errors="ignore")


class Checkpoints:
    """The last complete checkpoint of a computation, in a claimed folder, until it is finished.

    A new one is written beside it, and takes its place when it is complete: whenever the process
    is killed, there is one to go on from. Of several processes each writes what it holds, so that
    the folder must be one that all of them see.

    Args:
      folder: of `storage.claim`, or of `claim_together`.
      configuration: all that decides every bit, as JSON can hold it, nested dicts of values.
      name: of the folder within.
    """

    def __init__(self, folder: Folder, configuration: Mapping[str, Any], name: str = NAME):
        if jax.process_index() == 0:
            self.folder = folder.work(name)
        else:
            self.folder = folder.path / folder.work_name(name)
        self.folder = self.folder.absolute()  # orbax wants it
        self.configuration, self._overwrite = flatten(configuration), folder.overwrite
        options = ocp.CheckpointManagerOptions(
            max_to_keep=1,
            cleanup_tmp_directories=True,  # of a process that was killed
            enable_async_checkpointing=False,
        )
        # A process that was killed may have left half of an older checkpoint, which is no matter.
        with self._disk_errors(), _silenced("absl"):
            self._manager = ocp.CheckpointManager(self.folder, options=options)

    def done(self) -> int:
        """How many parts of the computation the checkpoint holds; 0 without one.

        Raises:
          InputError: it is of another configuration (names what differs), or cannot be read.
        """
        done = self._manager.latest_step()
        if done is None:
            return 0
        other = difference(self.saved_configuration() or {}, self.configuration)
        if other is None:
            return done
        if not self._overwrite:
            raise InputError(
                f"the checkpoint in {self.folder} is of another configuration: {other}; choose "
                "another folder, or begin anew by overwrite=True (--overwrite)"
            )
        for step in self._manager.all_steps():
            self._manager.delete(step)
        return 0

    def saved_configuration(self) -> dict[str, Any] | None:
        """That of the checkpoint that is there, flat; None without one."""
        done = self._manager.latest_step()
        if done is None:
            return None
        arguments = ocp.args.Composite(configuration=ocp.args.JsonRestore())
        with self._read_errors():
            return dict(self._manager.restore(done, args=arguments)["configuration"])

    def load(self, carry: Any) -> tuple[Any, dict[str, np.ndarray]]:
        """What `save` was given; a carry of the same kind says how to divide it among devices."""
        leaves, tree = jax.tree.flatten(carry)
        arguments = ocp.args.Composite(
            carry=ocp.args.StandardRestore([_plain(leaf) for leaf in leaves]),
            observed=ocp.args.StandardRestore(),
        )
        with self._read_errors(), _silenced("absl"):
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
            configuration=ocp.args.JsonSave(self.configuration),
        )
        with self._disk_errors():
            # Found here a full disk is one line; threads of orbax would add theirs.
            needed = sum(leaf.nbytes for leaf in (*jax.tree.leaves(carry), *observed.values()))
            if shutil.disk_usage(self.folder).free < needed + _OVERHEAD:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with _silenced("absl", "asyncio"):  # what they say is raised too
                self._manager.save(done, args=arguments)

    def close(self) -> None:
        self._manager.close()

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """Makes one line of what a disk refuses: an `OSError`, or what tensorstore makes of it."""
        try:
            yield
        except Exception as error:
            reason = error.strerror if isinstance(error, OSError) else None
            reason = reason or next((text for text in _REFUSALS if text in str(error)), None)
            if reason is None:
                raise
            raise InputError(
                f"cannot write a checkpoint to {self.folder}: {reason}; what was saved before is "
                "intact: make room, and run the same again to go on"
            ) from None

    @contextlib.contextmanager
    def _read_errors(self) -> Iterator[None]:
        """Makes one line of what orbax raises, of many kinds, where a checkpoint is not whole."""
        try:
            yield
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise InputError(
                f"the checkpoint in {self.folder} cannot be read here ({reason[:200]}); go on "
                "where it was written, or choose another folder to begin anew"
            ) from None


def _is_key(leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf):
    """Random keys as the integers that they are made of."""
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _like(data, leaf):
    """The inverse of `_plain`."""
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf)) if _is_key(leaf) else data


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
