"""Printing: lines, tables, and progress bars in a terminal."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from assocjax.arguments import printable
from assocjax.errors import InputError, InputTypeError


def show(text: Any, **options: Any) -> None:
    from rich.console import Console

    if isinstance(text, str):
        text = printable(text)
    Console(highlight=False).print(text, markup=False, **options)


def note(text: str) -> None:
    """Prints a line about the work, as opposed to its results."""
    show(text, soft_wrap=True)


def show_table(part: dict[str, Any]) -> None:
    """Prints a table of a `Report`."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(printable(part["table"])),
        title_justify="left",
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for name in part["columns"]:
        side = "left" if name in part["left"] else "right"
        table.add_column(name, justify=side, overflow="fold")  # no digit is lost
    for row in part["rows"]:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console = Console()
    if not console.is_terminal:  # a file has room for whole lines
        options = console.options.update(max_width=1000)
        width = max(console.width, console.measure(table, options=options).maximum)
        console = Console(width=width)
    console.print(table, markup=False, highlight=False)


def status(what: str):
    from rich.console import Console

    console = Console(stderr=True)
    return console.status(what) if console.is_terminal else contextlib.nullcontext()


@contextlib.contextmanager
def progress_bar(what: str = "training", unit: str = "steps") -> Iterator[Callable[..., None]]:
    """A progress bar on stderr, updated with (units done, units in total) and optionally a new
    description. It is not shown if stderr is not a terminal."""
    from rich import progress as rich_progress
    from rich.console import Console

    columns = (
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TextColumn(unit),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TextColumn("left"),
        rich_progress.TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    disable = not console.is_terminal
    with rich_progress.Progress(*columns, console=console, disable=disable) as bar:
        task = bar.add_task("starting", total=None)
        try:
            yield lambda done, total, now=what: bar.update(
                task, description=now, completed=done, total=total
            )
        except (InputError, InputTypeError):
            bar.remove_task(task)  # so that only the error is shown
            raise


@contextlib.contextmanager
def several_bars() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar, updated with (description, units done, units in total)."""
    with progress_bar(unit="") as update:
        yield lambda what, done, total: update(done, total, what)
