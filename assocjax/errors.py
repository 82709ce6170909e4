"""Errors that a user can mend.

Both carry one line that names the argument or file, what was expected and what came.
The command line prints that line and exits with code 2; anything else is a bug and keeps
its traceback.
"""

import contextlib
from collections.abc import Iterator


class _OneLine(Exception):
    """Its message is one line, whatever it quotes: an array or a library's words may have more."""

    def __init__(self, message: str):
        super().__init__(" ".join(filter(None, map(str.strip, message.splitlines()))))


class InputError(_OneLine, ValueError):
    """An argument or a file holds a value that cannot be used."""


class InputTypeError(_OneLine, TypeError):
    """An argument has the wrong type or dtype."""


@contextlib.contextmanager
def reading(source: str) -> Iterator[None]:
    """Of a function that reads a Dataset: what xarray, NumPy or matplotlib raise of one that is of
    another form becomes an `InputError`. What is commonly wrong is to be checked before.

    Args:
      source: the function that makes such a Dataset.
    """
    try:
        yield
    except (InputError, InputTypeError):
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(f"dataset must be as from {source}; got another: {reason}") from error
