"""Printing: lines, phases of the work, and progress bars in a terminal.

Bars are on stderr, and only if it is a terminal. While one is shown, every line goes through its
console, which prints the line above the bar. Results, which are printed last, go to stdout.
"""

import contextlib
import contextvars
import datetime
import textwrap
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from assocjax.arguments import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

_bar_console: contextvars.ContextVar["Console | None"] = contextvars.ContextVar("bar", default=None)
"""The console of the bar that is shown now."""

_quiet = contextvars.ContextVar("quiet", default=False)

_BESIDE = len(" " + 20 * "━" + "  0:00:00 elapsed 0:00:00 left")
"""Width of a bar without the name of the phase and the number of units."""

_FIRST_ESTIMATE = 20.0
"""Seconds after which the time left is printed once, where no bar shows it."""


@contextlib.contextmanager
def quiet(enabled: bool) -> Iterator[None]:
    """Within the block, with `enabled`, only results and errors are printed."""
    token = _quiet.set(enabled)
    try:
        yield
    finally:
        _quiet.reset(token)


def console(stderr: bool = False) -> "Console":
    from rich.console import Console

    return Console(highlight=False, stderr=stderr)


def show(text: str, *, whole: bool = False, stderr: bool = False) -> None:
    """Prints a line, broken between words where the terminal ends, and never inside a path.

    Outside of a terminal, such as in a file, a line that is to stay `whole` is not broken.
    """
    at, lines = _bar_console.get() or console(stderr), printable(text).split("\n")
    if at.is_terminal or not whole:
        fill = partial(textwrap.fill, break_long_words=False, break_on_hyphens=False)
        lines = [fill(line, at.width) for line in lines]
    at.print("\n".join(lines), markup=False, soft_wrap=True)


def note(text: str) -> None:
    """Prints a line about the work, as opposed to its results."""
    if not _quiet.get():
        show(text, whole=True)


@contextlib.contextmanager
def status(phase: str) -> Iterator[None]:
    """Shows a phase of the work of unknown length, which disappears at its end."""
    with _bar(phase, None, transient=True):
        yield


@contextlib.contextmanager
def progress_bar(
    phase: str = "training", unit: str = "steps", first: str = "compiling"
) -> Iterator[Callable[..., None]]:
    """A bar, updated with (units done, units in total) and optionally the name of another phase.

    The phase `first` lasts until the first update. The bar stays when the work is complete.
    """
    with _bar(first, unit, transient=False) as update:
        yield lambda done, total, now=phase: update(done, total, now)


@contextlib.contextmanager
def _bar(
    phase: str, unit: str | None, transient: bool
) -> Iterator[Callable[[int, int, str], None]]:
    from rich import progress

    at = console(stderr=True)
    if not at.is_terminal or _quiet.get() or _bar_console.get() is not None:
        yield _estimate(unit or "")
        return
    name = progress.TextColumn("{task.description}")
    elapsed = progress.TimeElapsedColumn(), progress.TextColumn("elapsed")
    columns = [name, progress.SpinnerColumn(), *elapsed]
    if unit is not None:
        done, left = _column(lambda task: _done(task, unit)), _column(_left)
        if unit == "bytes":
            done = progress.DownloadColumn()
        columns = [name, progress.BarColumn(20), done, *elapsed, left]
    with progress.Progress(*columns, console=at) as shown:
        task = shown.add_task(phase, total=None)
        token = _bar_console.set(shown.console)
        updated = False

        def update(done: int, total: int, now: str) -> None:
            nonlocal updated
            updated = True
            room = max(10, at.width - _BESIDE - len(f"{total}/{total} {unit}"))
            now = now if len(now) <= room else f"{now[: room - 1]}…"
            shown.update(task, description=now, completed=done, total=total)

        complete = False
        try:
            yield update
            complete = updated
        finally:
            _bar_console.reset(token)
            if transient or not complete:  # nothing stays of a phase that did not come to its end
                shown.remove_task(task)


def _column(text: Callable[["Task"], str]) -> "ProgressColumn":
    """A column of a bar, which is empty while its text is."""
    from rich.progress import ProgressColumn
    from rich.text import Text

    class Column(ProgressColumn):
        def render(self, task: "Task") -> "Text":
            return Text(text(task))

    return Column()


def _done(task: "Task", unit: str) -> str:
    return "" if task.total is None else f"{task.completed:.0f}/{task.total:.0f} {unit}".rstrip()


def _left(task: "Task") -> str:
    left = task.time_remaining
    return "" if left is None or task.finished else f"{_clock(left)} left"


def _estimate(unit: str) -> Callable[[int, int, str], None]:
    """Where there is no bar, as in a log: one line with the time left, if the work takes long."""
    began, first, told = time.monotonic(), None, False

    def update(done: int, total: int, now: str) -> None:
        nonlocal first, told
        passed = time.monotonic()
        if first is None:
            first = passed, done  # what comes before the first update is compilation
        elif not told and passed - first[0] > _FIRST_ESTIMATE and first[1] < done < total:
            told = True
            left = (passed - first[0]) / (done - first[1]) * (total - done)
            clocks = f"{_clock(passed - began)} elapsed, {_clock(left)} left"
            amount = f"{done}/{total} {unit}"
            if unit == "bytes":
                from rich.filesize import decimal

                amount = f"{decimal(done)} of {decimal(total)}"
            note(f"{now}: {amount}, {clocks}")

    return update


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
