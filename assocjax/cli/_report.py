"""What a command prints when it is finished: lines and tables, as JSON values."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assocjax.arguments import printable
from assocjax.cli._terminal import console, show

if TYPE_CHECKING:
    from rich.console import Console

    from assocjax.storage import Folder

WIDTH = 80
"""Width of a terminal, which tables fit."""

Key = str | tuple[str, str]
"""The name of a column, or the heading of a group of columns and the name."""


class Report:
    """Lines and tables, which are printed when the command is finished.

    They are kept as text, so that the same command prints the same again without its results.

    Attributes:
      parts: JSON values; see `read`.
    """

    def __init__(self, parts: list[dict[str, Any]] | None = None):
        self.parts = parts or []

    @staticmethod
    def read(parts: Any) -> "Report | None":
        """A report from the `parts` of another, read from a file; None if they are none."""
        known = {"line", "path", "table", "written"}
        if not isinstance(parts, list) or not all(
            isinstance(part, dict) and known & part.keys() for part in parts
        ):
            return None
        return Report(parts)

    def line(self, text: str) -> None:
        """A line, broken between words where the terminal ends."""
        self.parts.append({"line": text})

    def path(self, text: str) -> None:
        """A line that holds a path, and so is broken only where a terminal ends."""
        self.parts.append({"path": text})

    def table(
        self,
        title: str,
        rows: Sequence[dict[Any, Any]],
        verdict: str = "",
        *,
        narrow: Sequence[dict[Any, Any]] | None = None,
    ) -> None:
        """A table, and below it what it shows, in words.

        Args:
          title: what the table shows, with the meanings of its columns.
          rows: of equal or different columns, named by `Key`. All numbers of a column have the
            same format.
          verdict: one line.
          narrow: rows to show instead if a table of `rows` is wider than 80 columns.
        """
        part = _part(rows)
        if narrow is not None and width(part) > WIDTH:
            part = _part(narrow)
        self.parts.append({"table": title, "verdict": verdict} | part)

    def written(self, files: Iterable[str]) -> None:
        """A line that lists the files of the result."""
        self.parts.append({"written": list(files)})

    def show(self, folder: Path | None) -> None:
        """Prints the report of a result in a folder."""
        for before, part in zip([{}, *self.parts], self.parts, strict=False):
            if "table" in part:
                at = console()
                if "table" not in before:  # which ends with an empty line
                    at.print()
                show_table(part, at)
            elif "written" in part:
                show(f"written to {folder}: {', '.join(part['written'])}", whole=True)
            elif "path" in part:
                show(part["path"], whole=True)
            else:
                show(part["line"])


def _part(rows: Sequence[dict[Any, Any]]) -> dict[str, Any]:
    columns = {key: None for row in rows for key in row}
    values = {key: [row.get(key, "") for row in rows] for key in columns}
    return {
        "columns": [["", key] if isinstance(key, str) else list(key) for key in columns],
        "left": [isinstance(values[key][0], str) for key in columns],
        "cells": [_cells(values[key]) for key in columns],
    }


def width(part: dict[str, Any]) -> int:
    """Width of a table of which no cell is folded."""
    from rich.cells import cell_len

    columns = zip(part["columns"], part["cells"], strict=True)
    return sum(2 + max(map(cell_len, [name, *cells])) for (_, name), cells in columns) - 2


def show_table(part: dict[str, Any], at: "Console") -> None:
    """Prints a table of a `Report`: a heading for each group of columns, above their names.

    An empty line follows.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    groups: dict[str, list[int]] = {}
    for column, (group, _) in enumerate(part["columns"]):
        groups.setdefault(group, []).append(column)
    tables = []
    for columns in groups.values():
        table = Table(box=box.SIMPLE, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        for column in columns:
            left = part["left"][column]
            # Only text is folded; of a number, no digit is lost.
            side = "left" if left else "right"
            name = printable(part["columns"][column][1])
            table.add_column(Text(name), justify=side, overflow="fold", no_wrap=not left)
        for row in zip(*(part["cells"][column] for column in columns), strict=True):
            table.add_row(*(Text(printable(cell)) for cell in row))
        tables.append(table)
    table = tables[0]
    if len(groups) > 1:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for group in groups:
            table.add_column(Text(group))
        table.add_row(*tables)
    if not at.is_terminal:  # a file has room for whole lines
        widest = at.measure(table, options=at.options.update(max_width=1000)).maximum
        at.width = max(at.width, widest)
    at.print(Text(printable(part["table"])))
    at.print()
    at.print(table)
    if part["verdict"]:
        at.print()
        at.print(Text(printable(part["verdict"])))
    at.print()


def _cells(values: list[Any]) -> list[str]:
    """The values of a column as text; its numbers have one format."""
    numbers = [v for v in values if isinstance(v, float) and abs(v) < float("inf")]
    form = _format(numbers)

    def cell(value: Any) -> str:
        if value is None or value != value:
            return "-"
        return form(value + 0.0) if isinstance(value, float) else str(value)  # no -0

    return [cell(value) for value in values]


def _format(numbers: list[float]) -> Callable[[float], str]:
    """The shortest fixed number of decimals that shows all numbers, 4 at most; where some are too
    small or too large for these, the scientific form."""
    for digits in range(4):
        if all(abs(v) < 1e4 and round(v, digits) == v for v in numbers):
            return f"{{:.{digits}f}}".format
    small = any(v and not 1e-3 <= abs(v) < 1e4 for v in numbers)
    return ("{:.2e}" if small else "{:.4f}").format


Finish = Callable[["Folder", Report, Iterable[str]], None]
"""Called by a command with its claimed folder, its report and all files that belong to the result:
removes other files of earlier runs, and adds to the marker what `run` needs to show it again."""
