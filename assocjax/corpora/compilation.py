"""Loops in Python that Numba compiles to programs."""

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(function: Callable, **options: Any) -> Callable:
    """Compiles a function at its first call; threads run it in parallel. If no cache folder can be
    written, each process compiles it again.
    """
    options |= {"nogil": True, "error_model": "numpy"}  # no error for division by 0
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:
        return njit(**options)(function)
