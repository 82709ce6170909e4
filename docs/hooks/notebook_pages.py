"""The notebooks as pages, with the outputs that they were saved with; nothing is run."""

import posixpath
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter


def pages(root: Path) -> list[tuple[str | None, str, str | bytes]]:
    """Title, file name and content of each page, and of each image, which has no title."""
    found, rows = [], []
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        # Its badge, which is an image of another host, and the cell that installs the package.
        notebook.cells = [c for c in notebook.cells if "colab" not in c.metadata.get("tags", [])]
        page, files = _convert(notebook, path.stem)
        title = _title(notebook, path.stem)
        rows.append(f"- [{title}]({path.stem}.md): `notebooks/{path.name}`")
        found += [(title, f"{path.stem}.md", page)]
        found += [(None, name, content) for name, content in files.items()]
    listed = "\n".join(rows)
    overview = (
        "# Notebooks\n\nWith the outputs of a full run. To run one, from a clone: `pip install "
        "'.[notebooks]'`, then open it in Jupyter or an editor. On Colab: [how]"
        f"(../guides/colab.md).\n\n{listed}\n"
    )
    return [("Overview", "index.md", overview), *found]


def _convert(notebook: nbformat.NotebookNode, name: str) -> tuple[str, dict[str, bytes]]:
    page, resources = MarkdownExporter().from_notebook_node(
        notebook, resources={"unique_key": name, "output_files_dir": f"{name}_files"}
    )
    return page, {posixpath.normpath(k): v for k, v in resources.get("outputs", {}).items()}


def _title(notebook: nbformat.NotebookNode, name: str) -> str:
    first = notebook.cells[0].source.splitlines()[0]
    return first.removeprefix("# ") if first.startswith("# ") else name
