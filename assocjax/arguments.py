"""Arguments of functions and options of the command line: defaults, limits and checks.

What both offer is stated here once. Needs no JAX, for which `assocjax --help` does not wait.
"""

import operator
import os
from collections.abc import Collection, Sequence
from typing import Any, Literal

from assocjax.errors import InputError, InputTypeError

VOCAB_SIZE = 256
SEPARATOR = "<|endoftext|>"
TEXT_FIELD = "text"

Oov = Literal["unk", "drop"]
"""What becomes of a token outside the vocabulary: itself, or its whole document."""

Long = Literal["window", "cut"]
"""What becomes of documents that are longer than a sequence."""

Short = Literal["drop", "pad"]
"""What becomes of shorter ones."""

MATRICES: tuple[str, ...] = (
    "bigram",
    "context",
    "interchangeability",
    "value",
    "composed",
    "query_key",
)
"""The basis functions, and what they compose to."""

TOP = 10
"""Associations or documents in a list."""

EDITS = ("remove", "keep", "replace", "swap")
DRAWS = 16

THEORIES = ("leading", "effective")
GRADIENTS = ("exact", *THEORIES)
MEMORY_LIMIT = 4 << 30

THRESHOLD = 0.1
"""Relative error at which a theory has ended."""

TRACKED_INIT_SCALE = 1e-5
"""From a zero start the theory's associations are there at once, in no order."""

PROBES = ("single", "occurrence")
"""A token alone, as in the paper, or its mean over its occurrences in the text."""

MIN_COUNT = 10
NUM_SEQUENCES = 4000
NUM_TOKENS = 2000
NUM_SHUFFLES = 100
NUM_BINS = 10

SCALES: tuple[str, ...] = ("tiny", "small", "paper")
SCALE = "small"

LARGEST_COUNT = 2**31 - 1
"""Of sizes and seeds: JAX counts with 32 bits."""

LARGEST_STEPS = 2**31 - 2
"""Of steps, which have a start beside them."""

LARGEST_BYTES = 2**63 - 1

LARGEST_PATH = 10**7
"""Steps of what is kept in memory for every step."""

LARGEST_DRAWS = 10**5
"""Random draws, shuffles and replicates: there is memory for each."""

LARGEST_DEPTH = 128
"""Layers: each is compiled, and the memory of some plans grows as 4^layers."""


def check_integer(name: str, value: Any, *, minimum: int, maximum: int = LARGEST_COUNT) -> int:
    """Returns `value`, of Python, NumPy or JAX, as an int of Python.

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
    if minimum <= number <= maximum:
        return number
    bound = f"at least {minimum}" if number < minimum else f"at most {maximum}"
    # Python refuses to print integers of thousands of digits.
    found = number if number.bit_length() < 128 else f"one of {number.bit_length()} bits"
    raise InputError(f"{name} must be {bound}; got {found}")


def check_integers(
    name: str, values: Any, *, minimum: int, maximum: int = LARGEST_COUNT
) -> list[int]:
    """Returns a non-empty list, tuple or vector of integers as a list of ints of Python.

    Raises:
        InputTypeError: If it is no such sequence, or an entry is no integer.
        InputError: If it is empty, or an entry is out of range.
    """
    each = f"every entry of {name}"
    return [
        check_integer(each, value, minimum=minimum, maximum=maximum)
        for value in check_sequence(name, values, "integers")
    ]


def check_sequence(name: str, values: Any, of: str) -> list[Any]:
    """Returns a non-empty list, tuple, vector or other sequence as a list.

    Raises:
        InputTypeError: If it is none, as a string is none.
        InputError: If it is empty.
    """
    is_array = hasattr(values, "__array__") and getattr(values, "ndim", 0) > 0
    if isinstance(values, str | bytes) or not (is_array or isinstance(values, Sequence)):
        raise InputTypeError(f"{name} must be a sequence of {of}; got {values!r}")
    if not len(values):
        raise InputError(f"{name} must not be empty")
    return list(values)


def check_is(name: str, value: Any, *kinds: type) -> None:
    """Checks that `value` is of one of some classes.

    Raises:
        InputTypeError: If it is not.
    """
    if not isinstance(value, kinds):
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise InputTypeError(f"{name} must be of class {expected}; got {type(value).__name__}")


def check_callable(name: str, value: Any) -> None:
    """Checks that `value` is a function.

    Raises:
        InputTypeError: If it is not.
    """
    if not callable(value):
        raise InputTypeError(f"{name} must be a function; got {type(value).__name__} {value!r}")


def check_flag(name: str, value: Any) -> bool:
    """Returns `value`, True or False, as a bool of Python.

    Raises:
        InputTypeError: If it is neither, as "no" and 0 are not.
    """
    if type(value).__name__ not in ("bool", "bool_"):  # NumPy's, which is not imported here
        raise InputTypeError(f"{name} must be True or False; got {value!r}")
    return bool(value)


def check_names(name: str, values: Any, choices: Collection[str] | None = None) -> tuple[str, ...]:
    """Returns one or more distinct strings, of `choices` if they are given, as a tuple.

    Raises:
        InputTypeError: If it is no list, tuple or other sequence of strings.
        InputError: If it is empty or has a name twice, or one that is none of `choices`.
    """
    values = check_sequence(name, values, "names")
    each = f"every entry of {name}"
    for value in values:
        if choices is None:
            check_string(each, value)
        else:
            check_choice(each, value, choices)
    if len(set(values)) != len(values):
        raise InputError(f"{name} must be one or more distinct names; got {values}")
    return tuple(values)


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
