"""Printing: lines, phases of the work, and progress bars in a terminal.

Bars are on stderr, and only if it is a terminal. While one is shown, every line goes through its
console, which prints the line above the bar. Results, which are printed last, go to stdout.
"""

import contextlib
import contextvars
import datetime
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from assocjax.arguments import printable

if TYPE_CHECKING:
    from rich.console import Console

_bar_console: contextvars.ContextVar["Console | None"] = contextvars.ContextVar("bar", default=None)
"""The console of the bar that is shown now."""

_quiet = contextvars.ContextVar("quiet", default=False)

_BESIDE = 66
"""Width of a bar without the name of the phase, with up to 5 digits of units."""

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


def show(text: Any, **options: Any) -> None:
    """Prints a result."""
    text = printable(text) if isinstance(text, str) else text
    (_bar_console.get() or console()).print(text, markup=False, **options)


def note(text: str) -> None:
    """Prints a line about the work, as opposed to its results."""
    if not _quiet.get():
        show(text, soft_wrap=True)


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
        left = progress.TimeRemainingColumn(), progress.TextColumn("left")
        done = progress.MofNCompleteColumn(), progress.TextColumn(unit)
        if unit == "bytes":
            done = (progress.DownloadColumn(),)
        columns = [name, progress.BarColumn(20), *done, *elapsed, *left]
    with progress.Progress(*columns, console=at) as shown:
        task = shown.add_task(phase, total=None)
        token = _bar_console.set(shown.console)
        updated, room = False, max(10, at.width - _BESIDE)

        def update(done: int, total: int, now: str) -> None:
            nonlocal updated
            updated = True
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
