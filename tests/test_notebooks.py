"""Every notebook runs from top to bottom at a small size, and carries the outputs of a full one."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Notebooks share compiled programs, which are nearly all of their time."""
    folder = tmp_path_factory.mktemp("compiled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")
        yield


@pytest.mark.usefixtures("compiled")
@pytest.mark.filterwarnings("default")  # of Jupyter's own parts
def test_runs(notebook):
    if any("import figures, llm" in cell.source for cell in notebook.cells):
        for library in ("torch", "transformers"):
            pytest.importorskip(
                library, reason="this notebook needs the extra llm: pip install 'assocjax[llm]'"
            )
    switch = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    assert len(switch) == 1
    assert switch[0].source.startswith("SMALL = False")
    switch[0].source = "SMALL = True"
    NotebookClient(notebook, timeout=300).execute()


def test_is_shown_at_full_size(notebook):
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any(output for cell in cells for output in cell.outputs)
    assert not any(o.output_type == "error" for cell in cells for o in cell.outputs)
