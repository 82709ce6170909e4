"""How objects that hold arrays are shown: by shapes, dtypes and names, never by the arrays."""

import html
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

T = TypeVar("T")

_MOST = 60  # characters of a value
_FEW = 6  # strings of a tuple


def summarized(cls: type[T]) -> type[T]:
    """Class decorator: `repr`, and its form in Jupyter, are a short table of the fields.

    For dataclasses, also those of flax, and NamedTuples. A field is shown by its dtype and shape,
    a number or a short text by its value, a tree of weights by a line for each leaf. A class may
    have a method `_highlights`, which returns further lines, texts by name, at the top.
    """
    cls.__repr__ = _as_text
    cls._repr_html_ = _as_html  # type: ignore[attr-defined]
    return cls


def _as_text(self: Any) -> str:
    lines = list(_lines(self))
    width = max((len(name) for name, _ in lines), default=0)
    return "\n".join([type(self).__name__, *(f"  {name:{width}}  {text}" for name, text in lines)])


def _as_html(self: Any) -> str:
    rows = "".join(
        f'<tr><th style="text-align:left">{html.escape(name)}</th>'
        f'<td style="text-align:left">{html.escape(text)}</td></tr>'
        for name, text in _lines(self)
    )
    return f"<table><caption>{html.escape(type(self).__name__)}</caption>{rows}</table>"


def _lines(value: Any) -> Iterator[tuple[str, str]]:
    if hasattr(value, "_highlights"):
        yield from value._highlights().items()
    for name, field in _fields(value).items():
        yield from _lines_of(name, field)


def _lines_of(name: str, value: Any) -> Iterator[tuple[str, str]]:
    inner = value if isinstance(value, Mapping) else _fields(value)
    if not inner:
        yield name, _short(value)
    for key, of in inner.items():
        yield from _lines_of(f"{name}.{key}", of)


def _fields(value: Any) -> dict[str, Any]:
    """The fields of a dataclass or a NamedTuple, by name; empty for anything else."""
    names = getattr(type(value), "__dataclass_fields__", None) or getattr(value, "_fields", ())
    return {name: getattr(value, name) for name in names if isinstance(name, str)}


def _short(value: Any) -> str:
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(shape, tuple) and dtype is not None:
        if not shape and hasattr(value, "__array__"):
            try:
                return _cut(str(value.item()))
            except Exception:  # traced, or on other processes: it has no value here
                return str(dtype)
        stored = getattr(value, "nnz", None)
        kind = "" if hasattr(value, "__array__") or stored is None else f", {stored} stored entries"
        return f"{dtype} {list(shape)}{kind}"
    if isinstance(value, tuple | list):
        if value and all(isinstance(each, str) for each in value):
            shown = ", ".join(repr(each[:_MOST]) for each in value[:_FEW])
            return f"{len(value)}: {shown}{', ...' * (len(value) > _FEW)}"
        if len(value) > _FEW:
            return f"{type(value).__name__} of {len(value)}"
    return _cut(value if isinstance(value, str) else repr(value))


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MOST else f"{text[: _MOST - 3]}..."
