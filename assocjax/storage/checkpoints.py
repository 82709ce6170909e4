"""Checkpoints: saved atomically, and resumed only by the same computation."""

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
"""Name of the checkpoint folder, within the unfinished work of a claimed folder."""


@contextlib.contextmanager
def claim_together(
    path: str | os.PathLike, kind: str, identity: Mapping[str, Any], **options: Any
) -> Iterator[Folder]:
    """As `storage.claim`, for all processes of one computation: the first process claims for all.

    The others get the folder in the state in which the first found it. They write in it through
    `Checkpoints` only.
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
    """Broadcasts a text from the first process to all processes."""
    data = np.zeros(4096, np.uint8)
    encoded = np.frombuffer(text.encode()[: data.size], np.uint8)
    data[: encoded.size] = encoded
    found = np.asarray(multihost_utils.broadcast_one_to_all(data))
    return found.tobytes().rstrip(b"\0").decode(errors="ignore")


class Checkpoints:
    """Keeps the last complete checkpoint of a computation in a claimed folder until it is finished.

    A new checkpoint is written beside the last one and replaces it when it is complete. So whenever
    the process is killed, there is a checkpoint to resume from. With several processes each writes
    its own part, so all of them must have access to the folder.

    Args:
      folder: from `storage.claim` or `claim_together`.
      configuration: all that determines the result bit for bit: nested dicts of JSON values.
      name: of the checkpoint folder within `folder`.
    """

    def __init__(self, folder: Folder, configuration: Mapping[str, Any], name: str = NAME):
        if jax.process_index() == 0:
            self.folder = folder.work(name)
        else:
            self.folder = folder.path / folder.work_name(name)
        self.folder = self.folder.absolute()  # required by orbax
        self.configuration, self._overwrite = flatten(configuration), folder.overwrite
        options = ocp.CheckpointManagerOptions(
            max_to_keep=1,
            cleanup_tmp_directories=True,  # left by a process that was killed
            enable_async_checkpointing=False,
        )
        # A process that was killed may have left part of an older checkpoint; this is harmless.
        with self._disk_errors(), _silenced("absl"):
            self._manager = ocp.CheckpointManager(self.folder, options=options)

    def done(self) -> int:
        """Number of parts of the computation that the checkpoint holds; 0 without a checkpoint.

        Raises:
          InputError: the checkpoint has another configuration (the message names the difference) or
            cannot be read.
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
                "another folder, or start again with overwrite=True (--overwrite)"
            )
        for step in self._manager.all_steps():
            self._manager.delete(step)
        return 0

    def saved_configuration(self) -> dict[str, Any] | None:
        """The configuration of the existing checkpoint, flattened; None without a checkpoint."""
        done = self._manager.latest_step()
        if done is None:
            return None
        arguments = ocp.args.Composite(configuration=ocp.args.JsonRestore())
        with self._read_errors():
            return dict(self._manager.restore(done, args=arguments)["configuration"])

    def load(self, carry: Any) -> tuple[Any, dict[str, np.ndarray]]:
        """Loads the arguments of `save`, with tree structure, shapes and sharding as in `carry`."""
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
        """Saves a checkpoint after `done` parts, and then removes the previous one.

        Raises:
          InputError: the disk is full or cannot be written; the previous checkpoint is intact.
        """
        arguments = ocp.args.Composite(
            carry=ocp.args.StandardSave([_plain(leaf) for leaf in jax.tree.leaves(carry)]),
            observed=ocp.args.StandardSave(observed),
            configuration=ocp.args.JsonSave(self.configuration),
        )
        with self._disk_errors():
            # Check for a full disk here: otherwise threads of orbax print errors of their own.
            needed = sum(leaf.nbytes for leaf in (*jax.tree.leaves(carry), *observed.values()))
            if shutil.disk_usage(self.folder).free < needed + _OVERHEAD:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with _silenced("absl", "asyncio"):  # the errors they log are raised too
                self._manager.save(done, args=arguments)

    def close(self) -> None:
        self._manager.close()

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """Turns disk errors (`OSError`, or tensorstore's form of it) into a one-line InputError."""
        try:
            yield
        except Exception as error:
            reason = error.strerror if isinstance(error, OSError) else None
            reason = reason or next((text for text in _REFUSALS if text in str(error)), None)
            if reason is None:
                raise
            raise InputError(
                f"cannot write a checkpoint to {self.folder}: {reason}; what was saved before is "
                "intact: free some disk space and run the same again to resume"
            ) from None

    @contextlib.contextmanager
    def _read_errors(self) -> Iterator[None]:
        """Turns the various errors of orbax for a damaged checkpoint into a one-line InputError."""
        try:
            yield
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise InputError(
                f"the checkpoint in {self.folder} cannot be read here ({reason[:200]}); resume "
                "where it was written, or choose another folder to start again"
            ) from None


def _is_key(leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf):
    """Converts random keys to their integer data."""
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
"""A generous bound on the bytes that orbax writes beside the arrays."""

_REFUSALS = [os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)]
