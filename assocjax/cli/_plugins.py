"""Python files of the user that register theories and models before a command runs."""

import importlib.util
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

from assocjax.errors import InputError


def load_plugins(paths: Iterable[Path]) -> None:
    """Runs each file once in a process.

    Raises:
      InputError: a file cannot be read, or raises an error; the message names its line.
    """
    for path in paths:
        here = path.resolve()
        name = f"assocjax plugin {here}"
        if name in sys.modules:
            continue
        if not path.is_file():
            raise InputError(f"--plugins must be Python files; {path} does not exist")
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise InputError(f"--plugins must be Python files, whose names end in .py; got {path}")
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            frames = traceback.extract_tb(error.__traceback__)
            lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == here]
            lines += [error.lineno] if isinstance(error, SyntaxError) else []
            at = f", line {lines[-1]}" if lines else ""
            raise InputError(f"--plugins: {path}{at}: {type(error).__name__}: {error}") from error
