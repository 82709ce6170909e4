"""Defines classes of options, and the options that commands share."""

import contextlib
import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, dataclass_transform

from cyclopts import Group, Parameter

from assocjax import arguments
from assocjax.cli._kinds import Count, Deviation, Dpi, Layers, Rate, Seed, Steps, several, shown
from assocjax.cli._plugins import load_plugins
from assocjax.cli._report import Finish, Report
from assocjax.cli._terminal import status
from assocjax.errors import InputError
from assocjax.models.registry import MODEL

if TYPE_CHECKING:
    from assocjax.training.optimizers import Optimizer

T = TypeVar("T")

_FORMATS = ("png", "pdf", "svg")


@dataclass_transform(
    kw_only_default=True, frozen_default=True, field_specifiers=(dataclasses.field,)
)
def options(title: str, about: str = "") -> Callable[[type[T]], type[T]]:
    """Makes a frozen dataclass of a class whose fields are options.

    The help of an option is the docstring of its field. Help lists the options under `title`,
    followed by the text `about`. A field of a base class may be stated again, with another default,
    docstring or metadata: it stays under the title of its base.
    """
    order = {"Training": 1, "Corpus": 2, "Tokens": 3, "Device": 4, "Results": 5}.get(title, 0)
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
            shows = Parameter(show_default=shown if stated else False)
            cls.__annotations__[name] = Annotated[kind, shows, *metadata]
        return dataclasses.dataclass(frozen=True, kw_only=True)(cls)

    return decorate


def chosen(options: Any, *names: str) -> dict[str, Any]:
    """Some of the options, by name; tuples become lists, as in JSON."""
    values = {name: getattr(options, name) for name in names}
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


def arguments_of(options: Any, function: Callable, **others: Any) -> dict[str, Any]:
    """The options that have the name of a parameter of a function, and `others`."""
    known = {field.name for field in dataclasses.fields(options)}
    names = inspect.signature(function).parameters
    return chosen(options, *(name for name in names if name in known)) | others


_RENAMED = {"k": "top", "num_shuffles": "shuffles", "num_bins": "bins", "corpora": "corpus"}
_RENAMED |= {"vocab_size": "vocab_sizes", "seq_len": "seq_lens"}
"""Parameters of the library, and the options that set them."""


def as_typed(message: str, command: Any) -> str:
    """An error of the library, in which parameters become the options of a command."""
    if command is None:
        return message
    options = {of.name: of.name for of in dataclasses.fields(command) if of.kw_only}
    options |= {
        name: option
        for name, option in _RENAMED.items()
        if option in options and name not in options
    }
    for name, option in options.items():
        typed = f"--{option.replace('_', '-')}"
        # A name of one word may be an ordinary word too, except where an argument is named.
        first = rf"^(?:every entry of )?{name}(?= must|:| {{)"
        patterns = [rf"(?<=: its )(?:config\.)?{name}(?= is )", first]
        patterns += [rf"(?<![\w./'\"-]){name}(?![\w/'\"-])"] * ("_" in name)
        for pattern in patterns:
            message = re.sub(pattern, typed, message)
    message = message.replace("overwrite=True (--overwrite)", "--overwrite")
    return message.replace("its config.", "its ")


@options("Results")
class Results:
    out: Path | None = None
    """folder for the results"""
    overwrite: bool = False
    """replace existing results of another configuration, or compute the same results again"""
    quiet: bool = False
    """print results and errors only"""

    @property
    def command(self) -> str:
        """Name of the command, which is that of its module."""
        return type(self).__module__.rpartition(".")[2].replace("_", "-")

    @property
    def folder(self) -> Path | None:
        """The folder that the command claims for its results; None for a single file, or none."""
        return self.out

    @property
    def grows(self) -> bool:
        """Whether other results of the same command may be added to the folder."""
        return False

    def run(self, finish: Finish) -> Report:
        """Runs the command; calls `finish` with its folder, if it claims one."""
        raise NotImplementedError


@options("Results")
class Drawn(Results):
    """Results with figures."""

    figure_format: Annotated[tuple[str, ...], several("FORMAT", _FORMATS)] = (
        arguments.FIGURE_FORMATS
    )
    """formats of the figures"""
    dpi: Dpi = arguments.DPI
    """dots per inch of png figures"""

    @contextlib.contextmanager
    def drawing(self) -> Iterator[None]:
        """For a block that writes figures."""
        from assocjax.figures.style import figure_files

        with status("writing"), figure_files(self.figure_format, self.dpi):
            yield


@options("Device")
class Device:
    device: Literal["cpu", "gpu", "tpu"] | None = None
    """kind of device to compute on (default: that of the environment variable JAX_PLATFORMS, or the
    fastest that JAX finds)"""


@options("Training")
class Seams:
    """The model, and the user's own models and theories."""

    model: Annotated[str, Parameter(metavar="NAME")] = MODEL
    """the model that is trained; a wrong name lists those there are"""
    plugins: Annotated[tuple[Path, ...], several("FILE.py")] = ()
    """Python files that are run first: they register theories and models of yours"""


@options("Training")
class Training(Seams):
    num_layers: Layers = 3
    """number of layers"""
    steps: Steps = 40
    """number of updates"""
    optimizer: str = "sgd"
    """name of an optax optimizer"""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """learning rate over the steps: linear and cosine fall to 0 after the last"""
    warmup_steps: Steps = 0
    """updates at the start during which the learning rate rises to its full value"""
    batch_size: Count | None = None
    """sequences in a minibatch (default: the full batch)"""

    @property
    def scheduled(self) -> "Optimizer":
        """The optimizer with its schedule; a constant rate leaves its name, as theories know it."""
        from assocjax.training.optimizers import ScheduledOptimizer

        if self.schedule == "constant" and not self.warmup_steps:
            return self.optimizer
        return ScheduledOptimizer(self.optimizer, self.schedule, self.steps, self.warmup_steps)


@options("Training")
class Run(Training):
    """A single run."""

    learning_rate: Rate = 1.0
    """learning rate"""
    init_scale: Deviation = 0.0
    """standard deviation of the initial weights; 0 is zero initialization"""
    seed: Seed = 0
    """seed of the initial weights, of the order of batches and of random directions"""


def check_seams(seams: Seams, optimizer: "Optimizer" = "sgd", **theories: tuple[str, ...]) -> None:
    """Runs the plugins, and checks the model's name and those of theories of it, by option."""
    from assocjax.models.registry import get_model
    from assocjax.theories.registry import get_theory

    load_plugins(seams.plugins)
    model = get_model(seams.model)
    for option, names in theories.items():
        for name in names:
            get_theory(name, f"--{option}").check(model, optimizer)


def check_training(
    training: Training, num_sequences: int | None, **theories: tuple[str, ...]
) -> None:
    """Checks options of training before the corpus is read, so that errors come early."""
    from assocjax.training.optimizers import check_optimizer

    check_seams(training, training.scheduled, **theories)
    check_optimizer(training.scheduled)
    if num_sequences is not None and (training.batch_size or 0) > num_sequences:
        raise InputError(
            f"batch_size must be at most the number of sequences, {num_sequences}; "
            f"got {training.batch_size}"
        )
