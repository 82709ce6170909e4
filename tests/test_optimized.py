"""Tests marked `optimized`, in one process whose programs are compiled as users' are."""

import os
import subprocess
import sys
from pathlib import Path


def test_digits_and_memory_of_optimized_programs():
    marked = [
        path
        for path in sorted(Path(__file__).parent.glob("test_*.py"))
        if "@pytest.mark.optimized" in path.read_text("utf-8") and path != Path(__file__)
    ]
    environment = {name: v for name, v in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0", "XLA_FLAGS": ""}
    environment["JAX_ENABLE_COMPILATION_CACHE"] = "0"  # every program is a user's, and a new one
    command = [sys.executable, "-m", "pytest", "-n", "0", "-m", "optimized", *map(str, marked)]
    found = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout[-8000:] + found.stderr[-2000:]
