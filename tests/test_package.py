"""The package as a whole: its names, its rooms, what importing it costs, what it refuses."""

import ast
import math
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import assocjax as aj


def test_every_public_name_imports_and_is_documented():
    for name in aj.__all__:
        assert getattr(aj, name).__doc__, name


def test_importing_the_package_does_not_import_jax():
    code = "import sys, assocjax, assocjax.cli; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


ROOMS = (
    "errors", "arguments", "checks", "precision",
    "storage", "corpora", "statistics", "models", "training", "theories", "analysis",
    "experiments", "llm", "figures", "reproduce", "explorer",
    "cli",
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
        if (room / "__init__.py").is_file():
            tour = ast.get_docstring(ast.parse((room / "__init__.py").read_text("utf-8"))) or ""
            for module in room.glob("*.py"):
                if module.stem.startswith("__" if room.name != "cli" else "_"):
                    continue
                assert f"`{module.stem}`" in tour, f"{module} is not in the tour of {room.name}"


def test_private_modules_are_imported_by_their_own_room_only():
    package = Path(aj.__file__).parent
    found = 0
    for path in sorted(package.rglob("*.py")):
        room = path.relative_to(package).parts[0]
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom):
                names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
                if names[0] == "assocjax" and any(name.startswith("_") for name in names[2:]):
                    assert names[1] == room, f"{path} imports {'.'.join(names)}"
                    found += 1
    assert found > 10


def test_messages_are_one_line_whatever_they_quote():
    with pytest.raises(aj.InputTypeError) as caught:
        aj.descent_coefficients(0.5, np.zeros((2, 2)))
    assert str(caught.value) == "steps must be an integer; got ndarray array([[0., 0.], [0., 0.]])"


TOKENS = np.zeros((2, 3), int)


@pytest.mark.parametrize(
    "call",
    [
        lambda: aj.loss(None, TOKENS),  # type: ignore[arg-type]
        lambda: aj.corpus_statistics([[1, 2], [3]], 5),
        lambda: aj.corpus_statistics(None, 5),  # type: ignore[arg-type]
        lambda: aj.count_distinct(None),  # type: ignore[arg-type]
        lambda: aj.attribute(None, TOKENS, matrix="value", row=0, column=1),  # type: ignore[arg-type]
        lambda: aj.leading_weights(None, 1, 0.1, 2),  # type: ignore[arg-type]
        lambda: aj.second_moments(None),  # type: ignore[arg-type]
        lambda: aj.compare_params(None, None),  # type: ignore[arg-type]
        lambda: aj.sparse_statistics(None),  # type: ignore[arg-type]
        lambda: aj.start_run(None, None, 0.1, 0, 0.0),  # type: ignore[arg-type]
        lambda: aj.summary(None),  # type: ignore[arg-type]
        lambda: aj.formation(None),  # type: ignore[arg-type]
        lambda: aj.save(None, "x.nc"),  # type: ignore[arg-type]
        lambda: aj.train(jnp.ones(2), None, optax.sgd(1.0), 2),  # type: ignore[arg-type]
        lambda: aj.batch_indices(None, 0, 4, 2),  # type: ignore[arg-type]
        lambda: aj.make_optimizer("sgd", {}),
        lambda: aj.init_params(jax.random.key(0), vocab_size=3, seq_len=2, num_layers=1, dtype=int),
        lambda: aj.plan_exact_step(
            vocab_size=3, seq_len=2, num_layers=1, num_sequences=1, itemsize=math.nan
        ),
        lambda: aj.top_associations(np.eye(2), None, "a"),  # type: ignore[arg-type]
        lambda: aj.precision_at_k(np.eye(2), ["a", "b"], None, 1),  # type: ignore[arg-type]
    ],
)
def test_what_is_of_another_class_is_refused(call):
    with pytest.raises(aj.InputTypeError):
        call()


def test_a_precision_that_is_off_is_refused():
    with pytest.raises(aj.InputError, match="float64 needs jax_enable_x64"):
        aj.init_params(jax.random.key(0), vocab_size=3, seq_len=2, num_layers=1, dtype="float64")
