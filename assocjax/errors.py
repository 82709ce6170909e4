"""Errors that a user can mend.

Both carry one line that names the argument or file, what was expected and what came.
The command line prints that line and exits with code 2; anything else is a bug and keeps
its traceback.
"""


class InputError(ValueError):
    """An argument or a file holds a value that cannot be used."""


class InputTypeError(TypeError):
    """An argument has the wrong type or dtype."""
