"""How a class of options is made, the kinds of values that options have, and shared options."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform

from cyclopts import Group, Parameter
from cyclopts.validators import Number

from assocjax.arguments import LARGEST_COUNT, LARGEST_DEPTH, LARGEST_STEPS
from assocjax.errors import InputError

T = TypeVar("T")


@dataclass_transform(
    kw_only_default=True, frozen_default=True, field_specifiers=(dataclasses.field,)
)
def options(title: str, about: str = "") -> Callable[[type[T]], type[T]]:
    """Makes a frozen dataclass of a class whose fields are options.

    The help of an option is the docstring of its field. Options are listed under `title`, and what
    is said `about` them. A field of a base class may be stated again, with another default,
    docstring or metadata: it stays under the title of its base.
    """
    order = {"Training": 1, "Corpus": 2, "Tokens": 3, "Results": 4}.get(title, 0)
    group = Group(title, help=about, sort_key=order)

    shared = Parameter(group=group, negative=(), allow_repeating=True)

    def decorate(cls: type[T]) -> type[T]:
        bases = [base for base in reversed(cls.__mro__[1:]) if dataclasses.is_dataclass(base)]
        inherited = {of.name: of.type for base in bases for of in dataclasses.fields(base)}
        for name, kind in cls.__annotations__.items():
            default = cls.__dict__.get(name)
            stated = default is not None and default is not False and default != ()
            metadata = getattr(kind, "__metadata__", ())
            kind = inherited.get(name, Annotated[kind, shared])
            shows = Parameter(show_default=_shown if stated else False)
            cls.__annotations__[name] = Annotated[kind, shows, *metadata]
        return dataclasses.dataclass(frozen=True, kw_only=True)(cls)

    return decorate


def _shown(default: Any) -> str:
    """A default as it is typed."""
    if isinstance(default, tuple):
        return " ".join(map(_shown, default))
    return f"{default:g}" if isinstance(default, float) else str(default)


def _integer(kind: Any, tokens: Any) -> int:
    """An integer, where cyclopts would round 1.5."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f"expected an integer, got {tokens[0].value[:80]!r}") from None


def _whole(least: int, most: int = LARGEST_COUNT) -> Parameter:
    return Parameter(converter=_integer, validator=Number(gte=least, lte=most))


Whole = Annotated[int, _whole(0)]
Count = Annotated[int, _whole(1)]
AtLeast2 = Annotated[int, _whole(2)]
Steps = Annotated[int, _whole(0, LARGEST_STEPS)]
Layers = Annotated[int, _whole(1, LARGEST_DEPTH)]
Positive = Annotated[float, Parameter(validator=Number(gt=0, lt=math.inf))]
NotNegative = Annotated[float, Parameter(validator=Number(gte=0, lt=math.inf))]
Precision = Literal["float32", "float64"]


def distinct(kind: Any, values: tuple[Any, ...] | None) -> None:
    """Checks that no value is there twice."""
    if values and len(set(values)) < len(values):
        raise ValueError(f"values must not repeat; got {_shown(values)}")


def several(metavar: str, choices: tuple[str, ...] | None = None) -> Parameter:
    """An option has one or more values, all different."""
    return Parameter(
        metavar=f"{metavar}...", consume_multiple=(1, None), validator=distinct, choices=choices
    )


def chosen(options: Any, *names: str) -> dict[str, Any]:
    """Some of the options, by name; several values as a list, as JSON has them."""
    values = {name: getattr(options, name) for name in names}
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


@options("Results")
class Results:
    out: Path | None = None
    """folder for the results"""
    overwrite: bool = False
    """replace results of another configuration that are there, or compute the same anew"""


@options("Training")
class Training:
    num_layers: Annotated[Layers, Parameter(metavar="L")] = 3
    """layers"""
    steps: Steps = 40
    """updates"""
    optimizer: str = "sgd"
    """any optax optimizer, by name"""
    batch_size: Annotated[Count | None, Parameter(metavar="N")] = None
    """sequences in a minibatch (default: the full batch)"""


@options("Training")
class Run(Training):
    """A single run."""

    learning_rate: Annotated[Positive, Parameter(metavar="ETA")] = 1.0
    """step size"""
    init_scale: Annotated[NotNegative, Parameter(metavar="SD")] = 0.0
    """standard deviation of the start; 0 is the zero start"""
    seed: Whole = 0
    """seed of the start, of the order of batches and of random directions"""


def check_training(training: Training, num_sequences: int | None) -> None:
    """Checks before a corpus is read what else would be refused after it."""
    from assocjax.training.optimizers import check_optimizer

    check_optimizer(training.optimizer)
    if num_sequences is not None and (training.batch_size or 0) > num_sequences:
        raise InputError(
            f"batch_size must be at most the number of sequences, {num_sequences}; "
            f"got {training.batch_size}"
        )
