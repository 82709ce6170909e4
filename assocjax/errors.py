"""Errors that a user can mend.

Both carry one line that names the argument or file, what was expected and what came.
The command line prints that line and exits with code 2; anything else is a bug and keeps
its traceback.
"""


class _OneLine(Exception):
    """Its message is one line, whatever it quotes: an array or a library's words may have more."""

    def __init__(self, message: str):
        super().__init__(" ".join(filter(None, map(str.strip, message.splitlines()))))


class InputError(_OneLine, ValueError):
    """An argument or a file holds a value that cannot be used."""


class InputTypeError(_OneLine, TypeError):
    """An argument has the wrong type or dtype."""
