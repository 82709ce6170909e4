"""Checks of single arguments, made once where a user calls."""

import operator
import os
from collections.abc import Collection
from typing import Any

from assocjax.errors import InputError, InputTypeError


def check_integer(name: str, value: Any, *, minimum: int, maximum: int | None = None) -> int:
    """Returns `value` as an int.

    Raises:
        InputTypeError: If it is no integer (bools are not).
        InputError: If it is below `minimum` or above `maximum`.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise InputTypeError(
            f"{name} must be an integer; got {type(value).__name__} {value!r}"
        ) from None
    if number < minimum:
        raise InputError(f"{name} must be at least {minimum}; got {number}")
    if maximum is not None and number > maximum:
        raise InputError(f"{name} must be at most {maximum}; got {number}")
    return number


def check_string(name: str, value: Any) -> str:
    """Returns `value`, a string that is not empty.

    Raises:
        InputTypeError: If it is no string.
        InputError: If it is empty.
    """
    if not isinstance(value, str):
        raise InputTypeError(f"{name} must be a string; got {type(value).__name__} {value!r}")
    if not value:
        raise InputError(f"{name} must not be empty")
    return value


def check_choice(name: str, value: Any, choices: Collection[str]) -> str:
    """Returns `value`, one of `choices`.

    Raises:
        InputTypeError: If it is no string.
        InputError: If it is none of `choices`.
    """
    if not isinstance(value, str):
        raise InputTypeError(f"{name} must be a string; got {type(value).__name__} {value!r}")
    if value not in choices:
        known = ", ".join(map(repr, choices))
        raise InputError(f"{name} must be one of {known}; got {value!r}")
    return value


def check_path(name: str, value: Any, what: str = "a path") -> str:
    """Returns `value`, a path, as a string.

    Raises:
        InputTypeError: If it is no path.
        InputError: If no file can be called so.
    """
    if not isinstance(value, str | os.PathLike):
        raise InputTypeError(f"{name} must be {what}; got {type(value).__name__} {value!r}")
    path = os.fsdecode(value)
    if "\0" in path:
        raise InputError(f"{name} must be {what}, which holds no NUL character; got {path!r}")
    return path


def printable(text: str | os.PathLike[str]) -> str:
    """A path or a text as any file, figure and terminal takes it.

    The bytes of a file's name that are not UTF-8 are no characters: they become `\\udcff`.
    """
    return os.fspath(text).encode("utf-8", "backslashreplace").decode("utf-8")
