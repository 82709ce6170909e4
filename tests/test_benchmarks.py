"""Every benchmark runs, at a small size; what it measures is not asserted."""

import importlib.util
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SMALL = {
    "theorem_bounds": "--vocab-size 10 --seq-len 4 --num-sequences 4 --steps 4",
    "effective_theory": "--small",
    "large_vocabulary": "--vocab-size 60 --seq-len 8 --num-sequences 20 --columns 2 --tokens 2 "
    "--samples 3",
    "statistics_scaling": "--vocab-size 5 --seq-len 4 --smallest 4 --doublings 1 --repeats 1",
}


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.stem)
def test_runs(path, tmp_path, capsys):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    out = tmp_path / "result.json"
    module.main([*SMALL[path.stem].split(), "--out", str(out)])
    assert capsys.readouterr().out
    assert "versions" in json.loads(out.read_text())
