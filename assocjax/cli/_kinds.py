"""Types of option values: their validation, and their placeholders in help."""

import math
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from assocjax.arguments import LARGEST_COUNT, LARGEST_DEPTH, LARGEST_DPI, LARGEST_STEPS
from assocjax.theories.registry import THEORIES


def shown(default: Any) -> str:
    """A default, as a user would type it."""
    if isinstance(default, tuple):
        return " ".join(map(shown, default))
    return f"{default:g}" if isinstance(default, float) else str(default)


def _integer(kind: Any, tokens: Any) -> int:
    """An integer; cyclopts itself would accept 1.5 and round it."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f"expected an integer, got {tokens[0].value[:80]!r}") from None


def _whole(metavar: str, least: int, most: int = LARGEST_COUNT) -> Parameter:
    return Parameter(metavar=metavar, converter=_integer, validator=Number(gte=least, lte=most))


def real(metavar: str, **bounds: float) -> Parameter:
    """An option that takes a finite number."""
    return Parameter(metavar=metavar, validator=Number(**({"lt": math.inf} | bounds)))


def distinct(kind: Any, values: tuple[Any, ...] | None) -> None:
    """Checks that no value is given twice."""
    if values and len(set(values)) < len(values):
        raise ValueError(f"values must not repeat; got {shown(values)}")


def several(metavar: str, choices: tuple[str, ...] | None = None) -> Parameter:
    """An option that takes one or more values, all different."""
    return Parameter(
        metavar=f"{metavar}...", consume_multiple=(1, None), validator=distinct, choices=choices
    )


def unless_given(default: str) -> Parameter:
    """The text that help shows as the default of an option whose default is None."""
    return Parameter(show_default=lambda given: default if given is None else shown(given))


Count = Annotated[int, _whole("N", 1)]
Dpi = Annotated[int, _whole("N", 1, LARGEST_DPI)]
AtLeast2 = Annotated[int, _whole("N", 2)]
Process = Annotated[int, _whole("I", 0)]
Seed = Annotated[int, _whole("SEED", 0)]
Steps = Annotated[int, _whole("STEPS", 0, LARGEST_STEPS)]
Layers = Annotated[int, _whole("L", 1, LARGEST_DEPTH)]
VocabSize = Annotated[int, _whole("V", 2)]
Length = Annotated[int, _whole("T", 1)]
Rate = Annotated[float, real("ETA", gt=0)]
Duration = Annotated[float, real("TAU", gt=0)]
Deviation = Annotated[float, real("SD", gte=0)]
Threshold = Annotated[float, real("ERROR", gte=0)]
Precision = Literal["float32", "float64"]
Theories = Annotated[
    tuple[str, ...] | None, several("NAME"), unless_given(f"of {shown(THEORIES)}, those that apply")
]
