import ast
import subprocess
import sys
from pathlib import Path

import assocjax as aj


def test_every_public_name_imports_and_is_documented():
    for name in aj.__all__:
        assert getattr(aj, name).__doc__, name


def test_importing_the_package_does_not_import_jax():
    code = "import sys, assocjax, assocjax.cli; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


ROOMS = (
    "errors", "arguments", "checks", "precision",
    "storage", "corpora", "models", "statistics", "training", "theories", "analysis",
    "experiments", "llm", "figures", "reproduce", "explorer",
    "options", "commands", "cli",
)  # fmt: skip
"""In reading order: a module imports from its own room and from those before it."""


def imported(path: Path) -> set[str]:
    """Rooms that a module imports from, also within functions and for types only."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "assocjax":
            _, _, rest = (node.module or "").partition(".")
            names = [rest] if rest else [alias.name for alias in node.names]
            found |= {name.split(".")[0] for name in names}
    return found


def test_imports_run_one_way():
    package = Path(aj.__file__).parent
    for path in sorted(package.rglob("*.py")):
        room = path.relative_to(package).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for other in imported(path):
            assert ROOMS.index(other) <= ROOMS.index(room), f"{path} imports from {other}"


def test_rooms_have_a_tour():
    package = Path(aj.__file__).parent
    for room in package.iterdir():
        if (room / "__init__.py").is_file() and room.name not in ("options", "commands"):
            tour = ast.get_docstring(ast.parse((room / "__init__.py").read_text("utf-8"))) or ""
            for module in room.glob("[a-z]*.py"):
                assert f"`{module.stem}`" in tour, f"{module} is not in the tour of {room.name}"
