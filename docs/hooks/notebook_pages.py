"""The notebooks as pages, with the outputs that they were saved with; nothing is run."""

import json
import posixpath
from pathlib import Path

from nbconvert import MarkdownExporter


def pages(root: Path) -> list[tuple[str | None, str, str | bytes]]:
    """Title, file name and content of each page, and of each image, which has no title."""
    found, rows = [], []
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        page, files = _convert(path)
        title = _title(path)
        rows.append(f"- [{title}]({path.stem}.md): `notebooks/{path.name}`")
        found += [(title, f"{path.stem}.md", page)]
        found += [(None, name, content) for name, content in files.items()]
    listed = "\n".join(rows)
    overview = (
        "# Notebooks\n\nWith the outputs of a full run. To run one, from a clone: `pip install "
        f"'.[notebooks]'`, then open it in Jupyter or an editor.\n\n{listed}\n"
    )
    return [("Overview", "index.md", overview), *found]


def _convert(path: Path) -> tuple[str, dict[str, bytes]]:
    folder = f"{path.stem}_files"
    page, resources = MarkdownExporter().from_filename(
        str(path), resources={"unique_key": path.stem, "output_files_dir": folder}
    )
    return page, {posixpath.normpath(k): v for k, v in resources.get("outputs", {}).items()}


def _title(path: Path) -> str:
    cells = json.loads(path.read_text("utf-8"))["cells"]
    first = "".join(cells[0]["source"]).splitlines()[0]
    return first.removeprefix("# ") if first.startswith("# ") else path.stem
