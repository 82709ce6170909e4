"""Errors caused by user input.

The message of each is one line that names the argument or file, what was expected and what was
found. The command line prints that line and exits with code 2. Any other exception is a bug and
keeps its traceback.
"""

import contextlib
from collections.abc import Iterator


class _OneLine(Exception):
    """Joins the lines of its message: a quoted array or library error may have several."""

    def __init__(self, message: str):
        super().__init__(" ".join(filter(None, map(str.strip, message.splitlines()))))


class InputError(_OneLine, ValueError):
    """An argument or a file holds a value that cannot be used."""


class InputTypeError(_OneLine, TypeError):
    """An argument has the wrong type or dtype."""


@contextlib.contextmanager
def reading(source: str) -> Iterator[None]:
    """Turns errors that a Dataset of the wrong form causes in xarray, NumPy or matplotlib into an
    `InputError`. Common mistakes should be checked before, with messages of their own.

    Args:
      source: name of the function that returns Datasets of the right form.
    """
    try:
        yield
    except (InputError, InputTypeError):
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(f"dataset must be as from {source}; got another: {reason}") from error
