"""Every notebook runs from top to bottom at a small size, and carries the outputs of a full one."""

import base64
import re
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
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


def test_opens_on_colab_and_installs_what_is_missing(notebook, monkeypatch):
    badge, install = notebook.cells[:2]
    assert badge.cell_type == "markdown"
    assert "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]" in (
        badge.source
    )
    (guide,) = re.findall(r"\]\((\.\./docs/[^)]*)\)", badge.source)
    assert (NOTEBOOKS[0].parent / guide).is_file()
    extra = "[llm]" if any("import figures, llm" in c.source for c in notebook.cells) else ""
    run = TransformerManager().transform_cell(install.source)
    for found, asked in ((object(), []), (None, [("pip", f'install --quiet "{{source}}{extra}"')])):
        monkeypatch.setattr("importlib.util.find_spec", lambda name, found=found: found)
        magics: list[tuple[str, str]] = []
        shell = SimpleNamespace(run_line_magic=lambda *magic, to=magics: to.append(magic))
        exec(run, {"get_ipython": lambda shell=shell: shell})
        assert magics == asked


def test_figures_are_sharp_and_small(notebook):
    """At two pixels for each that they are shown at; a notebook is read over the network."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    for output in outputs:
        if "image/png" in output.get("data", {}):
            assert len(output.data["image/png"]) < 600_000
            if shown := output.metadata.get("image/png"):
                png = base64.b64decode(output.data["image/png"])
                assert int.from_bytes(png[16:20], "big") >= 2 * shown["width"]
    assert len(nbformat.writes(notebook)) < 1_500_000


def test_is_shown_at_full_size(notebook):
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any(output for cell in cells for output in cell.outputs)
    assert not any(o.output_type == "error" for cell in cells for o in cell.outputs)
