"""The libraries of the extra `llm`: imported when needed, with their output suppressed."""

import contextlib
import importlib
import io
from collections.abc import Iterator
from typing import Any

from assocjax.errors import InputError


def require(name: str) -> Any:
    """Imports a library when it is first used.

    Raises:
        InputError: If it is not installed; the error says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(
            f"language models need the library {name}: pip install 'assocjax[llm]'"
        ) from None


@contextlib.contextmanager
def quiet(*, stderr: bool = False) -> Iterator[None]:
    """Suppresses progress bars and log lines of transformers within the context.

    Args:
        stderr: Also suppress everything that is written to `sys.stderr`: some progress bars cannot
            be switched off otherwise.
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
    """The first line of an error's text, with the next if it ends in a colon; or its type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if "weights_only" in lines[0]:  # torch would recommend to execute code from the file
        return "torch did not save it, or it holds more than tensors"
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])
