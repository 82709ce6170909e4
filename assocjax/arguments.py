"""Arguments of functions and options of the command line: defaults, limits and checks.

Whatever a function and a command share is stated here once. This module does not import JAX, so
that `assocjax --help` is fast.
"""

import importlib
import operator
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar

from assocjax.errors import InputError, InputTypeError

T = TypeVar("T")

VOCAB_SIZE = 2048
"""Largest default vocabulary: of a larger one, the matrices [V, V] of a sweep of three layers with
every theory do not fit in the default memory limit."""

LEAST_VOCAB_SIZE = 256
"""Least default vocabulary, if the text has as many different tokens."""

COVERAGE = 0.95
"""Share of a text that the default vocabulary covers, within these limits."""

UNKNOWN = "<unk>"
"""The token that stands for all tokens outside the vocabulary. It is part of the statistics, but
in no list of associations."""

SEPARATOR = "<|endoftext|>"
TEXT_FIELD = "text"

Oov = Literal["unk", "drop"]
"""A token outside the vocabulary: becomes the unknown token, or its whole document is dropped."""

Long = Literal["window", "cut"]
"""A document longer than a sequence: split into windows, or cut to one sequence."""

Short = Literal["drop", "pad"]
"""A document shorter than a sequence: dropped, or padded."""

MATRICES: tuple[str, ...] = (
    "bigram",
    "context",
    "interchangeability",
    "substitutability",
    "value",
    "composed",
    "query_key",
)
"""The basis functions and their compositions."""

TOP = 10
"""Number of associations or documents in a list."""

PAGE_TEXT = 1_000_000
"""Largest number of tokens of text in an explorer page."""

SCHEDULES: tuple[str, ...] = ("constant", "linear", "cosine")
"""Schedules of the learning rate, each with any number of steps of warm-up."""

EDITS = ("remove", "keep", "replace", "swap")
DRAWS = 16

EXACT = "exact"
"""The gradient of the model itself; others are named after theories."""

MEMORY_LIMIT = 4 << 30

THRESHOLD = 0.1
"""Relative error above which a theory no longer holds."""

TRACKED_INIT_SCALE = 1e-5
"""Not 0: from a zero start all associations of the theory form in the first steps, at once."""

READ_ONLY = ("embeddings",)
"""Parts of a checkpoint that can be downloaded and compared alone."""

PROTOCOL = ("beginning", "gains", "centred")
"""What the paper does to a model before it compares: a beginning-of-text token before every text,
norms' gains folded into W_Q and W_K, and what is written to the residual stream centred."""

PROBES = ("single", "occurrence")
"""A token's representation: of the token alone, as in the paper, or averaged over its occurrences
in the text."""

CLOCKS = ("step", "summed_rate")
"""What figures of a training are drawn over: the number of updates, or the summed learning rate."""

MIN_COUNT = 10
NUM_SEQUENCES = 4000
NUM_TOKENS = 2000
NUM_SHUFFLES = 100
HELD_OUT = 0.2
NUM_BINS = 10

SCALES: tuple[str, ...] = ("tiny", "small", "paper")
SCALE = "small"

FIGURE_FORMATS: tuple[str, ...] = ("png", "pdf")
DPI = 150
LARGEST_DPI = 1200

LARGEST_COUNT = 2**31 - 1
"""Upper limit of sizes and seeds: JAX uses 32-bit integers."""

LARGEST_STEPS = 2**31 - 2
"""Upper limit of the number of steps: the start is one more recorded step."""

LARGEST_BYTES = 2**63 - 1

LARGEST_PATH = 10**7
"""Upper limit of the number of steps where something is kept in memory for every step."""

LARGEST_DRAWS = 10**5
"""Upper limit of the number of random draws, shuffles and replicates: each takes memory."""

LARGEST_DEPTH = 128
"""Upper limit of the number of layers: each is compiled, and some plans need memory that grows as
4^layers."""


def check_integer(name: str, value: Any, *, minimum: int, maximum: int = LARGEST_COUNT) -> int:
    """Returns `value`, an integer of Python, NumPy or JAX, as a Python int.

    Raises:
        InputTypeError: If it is not an integer (bools are refused).
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
    """Returns a non-empty list, tuple or vector of integers as a list of Python ints.

    Raises:
        InputTypeError: If it is not such a sequence, or an entry is not an integer.
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
        InputTypeError: If it is not a sequence; strings are refused.
        InputError: If it is empty.
    """
    is_array = hasattr(values, "__array__") and getattr(values, "ndim", 0) > 0
    if isinstance(values, str | bytes) or not (is_array or isinstance(values, Sequence)):
        raise InputTypeError(f"{name} must be a sequence of {of}; got {values!r}")
    if not len(values):
        raise InputError(f"{name} must not be empty")
    return list(values)


def check_is(name: str, value: Any, *kinds: type) -> None:
    """Checks that `value` is an instance of one of the classes `kinds`.

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
    """Returns `value`, True or False of Python, NumPy or JAX, as a Python bool.

    Raises:
        InputTypeError: If it is anything else, such as "no" or 0.
    """
    scalar = getattr(value, "shape", None) == () and hasattr(value, "item")
    if not isinstance(value, bool) and not (scalar and str(value.dtype) == "bool"):
        raise InputTypeError(f"{name} must be True or False; got {value!r}")
    return bool(value)


def check_names(name: str, values: Any, choices: Collection[str] | None = None) -> tuple[str, ...]:
    """Returns one or more distinct strings as a tuple; with `choices`, each must be one of them.

    Raises:
        InputTypeError: If it is not a list, tuple or other sequence of strings.
        InputError: If it is empty, repeats a name, or holds a name that is not in `choices`.
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
        InputTypeError: If it is not a string.
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
        InputTypeError: If it is not a string.
        InputError: If it is not in `choices`.
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
        InputTypeError: If it is not a path.
        InputError: If it holds a NUL character, which no file name can.
    """
    if not isinstance(value, str | os.PathLike):
        raise InputTypeError(f"{name} must be {what}; got {type(value).__name__} {value!r}")
    path = os.fsdecode(value)
    if "\0" in path:
        raise InputError(f"{name} must be {what}, which holds no NUL character; got {path!r}")
    return path


def printable(text: str | os.PathLike[str]) -> str:
    """A path or a text in a form that every file, figure and terminal accepts.

    Bytes of a file name that are not UTF-8 are escaped, such as `\\udcff`.
    """
    return os.fspath(text).encode("utf-8", "backslashreplace").decode("utf-8")


class Registry(Generic[T]):
    """Objects of one class by name: those of the package, and those that users register.

    Args:
        kind: What the objects are, such as "model".
        base: Their class, as "module:class"; it has an attribute `name`.
        built_in: The names of those of the package, and the module that registers each, which is
            imported when it is asked for.
    """

    def __init__(self, kind: str, base: str, built_in: Mapping[str, str]):
        self._kind, self._base, self._built_in = kind, base, built_in
        self._known: dict[str, T] = {}

    def register(self, value: T) -> T:
        """Makes `value` known by its name, and returns it.

        Raises:
            InputTypeError: If it is of another class, or its name is not a string.
            InputError: If something else has this name.
        """
        self._check(value)
        name = check_string(f"{self._kind}.name", getattr(value, "name", None))
        owner = self._built_in.get(name, type(value).__module__)
        if owner != type(value).__module__ or self._known.setdefault(name, value) != value:
            raise InputError(f"{self._kind} must have a name of its own; {name!r} is taken")
        return value

    def get(self, value: str | T, argument: str | None = None) -> T:
        """What is registered under a name; an object of the class as it is.

        Args:
            value: A name or an object.
            argument: What errors call it; by default the kind.

        Raises:
            InputError: If nothing has this name.
            InputTypeError: If `value` is neither a name nor such an object, or `argument` is no
                string.
        """
        argument = None if argument is None else check_string("argument", argument)
        if not isinstance(value, str):
            self._check(value, argument)
            return value
        check_choice(argument or self._kind, value, self.names())
        if value not in self._known:
            importlib.import_module(self._built_in[value])
        return self._known[value]

    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self._built_in, *self._known)))

    def _check(self, value: Any, argument: str | None = None) -> None:
        module, _, name = self._base.partition(":")
        if not isinstance(value, getattr(importlib.import_module(module), name)):
            raise InputTypeError(
                f"{argument or self._kind} must be a name or of class {name}; got {value!r}"
            )
