"""Printing: lines, tables, and progress bars in a terminal."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assocjax.arguments import printable
from assocjax.errors import InputError, InputTypeError

if TYPE_CHECKING:
    from assocjax.storage import Folder


def show(text: Any, **options: Any) -> None:
    from rich.console import Console

    if isinstance(text, str):
        text = printable(text)
    Console(highlight=False).print(text, markup=False, **options)


def show_written(folder: Path, names: list[str]) -> None:
    show(f"written to {folder}: {', '.join(names)}", soft_wrap=True)


def show_complete(folder: "Folder") -> None:
    show(f"already complete, in {folder.path}: --overwrite computes it again", soft_wrap=True)


def show_table(title: str, rows: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(title),
        title_justify="left",
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    columns = {name: value for row in reversed(rows) for name, value in row.items()}
    columns = {name: columns[name] for row in rows for name in row}
    for name, value in columns.items():
        side = "left" if isinstance(value, str) else "right"
        table.add_column(name, justify=side, overflow="fold")  # no digit is lost
    for row in rows:
        table.add_row(*(Text(_cell(row.get(name, ""))) for name in columns))
    console = Console()
    if not console.is_terminal:  # a file has room for whole lines
        options = console.options.update(max_width=1000)
        width = max(console.width, console.measure(table, options=options).maximum)
        console = Console(width=width)
    console.print(table, markup=False, highlight=False)


def _cell(value: Any) -> str:
    if value is None or value != value:
        return "-"
    if not isinstance(value, float):
        return str(value)
    if value and not 1e-3 <= abs(value) < 1e4:
        return f"{value:.2e}"
    return f"{value:.4f}".rstrip("0").rstrip(".")


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
