"""What a command prints when it is finished: lines and tables, as JSON values."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assocjax.cli._terminal import show, show_table

if TYPE_CHECKING:
    from assocjax.storage import Folder


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
        """A line that holds a path, and so is not broken."""
        self.parts.append({"path": text})

    def table(self, title: str, rows: list[dict[str, Any]]) -> None:
        columns = {name: value for row in reversed(rows) for name, value in row.items()}
        columns = {name: columns[name] for row in rows for name in row}
        self.parts.append(
            {
                "table": title,
                "columns": list(columns),
                "left": [name for name, value in columns.items() if isinstance(value, str)],
                "rows": [[_cell(row.get(name, "")) for name in columns] for row in rows],
            }
        )

    def written(self, files: Iterable[str]) -> None:
        """A line that lists the files of the result."""
        self.parts.append({"written": list(files)})

    def show(self, folder: Path | None) -> None:
        """Prints the report of a result in a folder."""
        for part in self.parts:
            if "table" in part:
                show_table(part)
            elif "written" in part:
                show(f"written to {folder}: {', '.join(part['written'])}", soft_wrap=True)
            elif "path" in part:
                show(part["path"], soft_wrap=True)
            else:
                show(part["line"])


def _cell(value: Any) -> str:
    if value is None or value != value:
        return "-"
    if not isinstance(value, float):
        return str(value)
    if value and not 1e-3 <= abs(value) < 1e4:
        return f"{value:.2e}"
    return f"{value:.4f}".rstrip("0").rstrip(".")


Finish = Callable[["Folder", Report, Iterable[str]], None]
"""Called by a command with its claimed folder, its report and all files that belong to the result:
removes other files of earlier runs, and adds to the marker what `run` needs to show it again."""
