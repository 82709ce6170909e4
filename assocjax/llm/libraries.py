"""The libraries of the extra `llm`: asked for when they are needed, and kept quiet."""

import contextlib
import importlib
import io
from collections.abc import Iterator
from typing import Any

from assocjax.errors import InputError


def require(name: str) -> Any:
    """Imports a library, when it is used and not before.

    Raises:
        InputError: If it is not installed; says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(
            f"language models need the library {name}: pip install 'assocjax[llm]'"
        ) from None


@contextlib.contextmanager
def quiet(*, stderr: bool = False) -> Iterator[None]:
    """Keeps the progress bars and log lines of transformers to itself, as long as it lasts.

    Args:
        stderr: All that is written to `sys.stderr` too: some progress bars know no other way.
    """
    logging = require("transformers").utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with contextlib.redirect_stderr(io.StringIO()) if stderr else contextlib.nullcontext():
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def reason(error: BaseException) -> str:
    """The first line of what an error says, and the next where it announces that; or its kind."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if "weights_only" in lines[0]:  # torch would advise to run what the file holds
        return "torch did not save it, or it holds more than tensors"
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])
