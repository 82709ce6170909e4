"""Checks of single arguments, made once where a user calls."""

import operator
from collections.abc import Collection
from typing import Any

from assocjax.errors import InputError, InputTypeError


def check_integer(name: str, value: Any, *, minimum: int) -> int:
    """Returns `value` as an int.

    Raises:
        InputTypeError: If it is no integer (bools are not).
        InputError: If it is below `minimum`.
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
