"""What the documentation shows runs: Python in Markdown, and examples in docstrings."""

import contextlib
import doctest
import importlib
import io
import re
from pathlib import Path

import pytest

from assocjax.cli import COMMANDS

ROOT = Path(__file__).parents[1]
# The tour before the README, which shares its programs.
DOCUMENTS = [*sorted(ROOT.glob("docs/**/*.md")), *ROOT.glob("*.md")]
# A block after such a line is not run: <!-- not run: a reason -->
# One of text that follows is what it prints.
BLOCK = re.compile(
    r"(<!-- not run: .+ -->\n+)?^```python\n(.*?)^```$(?:\n\n```text\n(.*?)^```)?",
    re.DOTALL | re.MULTILINE,
)
SMALLER = {
    # What a user would do. Of it at the tour's sizes little is compiled anew.
    "README.md": {
        "num_sequences=128": "num_sequences=48",
        "num_layers=3": "num_layers=1",
        "steps=20": "steps=10",
        'theories=["leading", "effective"]': 'theories=["leading"]',
    },
    "your_own.md": {"num_layers=2": "num_layers=1", "range(2)": "range(1)"},
}

MODULES = [
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
    for path in sorted((ROOT / "assocjax").rglob("*.py"))
    if ">>> " in path.read_text("utf-8")
]


def test_python_in_documents_runs(tmp_path, monkeypatch, promote):
    """In one process, one after another, each document with names of its own."""
    monkeypatch.chdir(tmp_path)
    assert {"README.md", "tour.md"} <= {path.name for path in DOCUMENTS}
    compared = 0
    for path in DOCUMENTS:
        text = path.read_text("utf-8")
        names: dict = {}
        for block in BLOCK.finditer(text):
            skipped, code, shown_output = block.groups()
            if skipped:
                continue
            for shown, run in SMALLER.get(path.name, {}).items():
                code = code.replace(shown, run)
            # Errors name the document and the line.
            lines_before = text.count("\n", 0, block.start(2))
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile("\n" * lines_before + code, str(path), "exec"), names)
            if shown_output is not None:
                assert_same_output(printed.getvalue(), shown_output)
                compared += 1
    assert compared >= 10


def assert_same_output(printed: str, shown: str) -> None:
    """Equal words, and numbers that differ by rounding at most."""
    words, expected = printed.split(), shown.split()
    assert len(words) == len(expected), printed
    for word, other in zip(words, expected, strict=True):
        try:
            same = float(word.rstrip(",")) == pytest.approx(
                float(other.rstrip(",")), rel=0.02, abs=1e-4, nan_ok=True
            )
        except ValueError:
            same = word == other
        assert same, printed


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings(module, promote):
    found = doctest.testmod(
        importlib.import_module(module),
        optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS,
    )
    assert found.attempted
    assert not found.failed


def test_the_readme_names_every_command_and_room():
    text = (ROOT / "README.md").read_text("utf-8")
    table = text.partition("## Questions, and the command for each")[2].partition("\n## ")[0]
    assert {name for name in COMMANDS if f"(docs/commands/{name}.md)" not in table} == set()
    rooms = text.partition("## Where things are")[2]
    parts = [*(ROOT / "assocjax").glob("*/__init__.py"), *(ROOT / "assocjax").glob("[a-z]*.py")]
    names = {path.parent.name if path.name == "__init__.py" else path.name for path in parts}
    assert len(names) > 10
    assert {name for name in names if f"(assocjax/{name})" not in rooms} == set()
