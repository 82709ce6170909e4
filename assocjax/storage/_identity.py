"""The identity of a computation: all that determines its result, in JSON values."""

import functools
import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from typing import Any

DECIDING = ("assocjax", "jax", "jaxlib", "optax")
"""Packages whose versions affect the numbers of a result."""


@functools.cache  # slow: searches every folder of the import path
def version(package: str) -> str | None:
    """The version of an installed package; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Flattens nested dicts to one level of names, `outer.inner`, with values as read from JSON."""
    # NumPy numbers and arrays have `tolist`; any other type is not allowed.
    return json.loads(json.dumps(dict(_items(tree, "")), default=lambda value: value.tolist()))


def _items(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _items(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def difference(
    theirs: Mapping[str, Any],
    mine: Mapping[str, Any],
    words: str | None = None,
) -> str | None:
    """Describes the first difference between two identities; None if they are the same.

    Hashes tell a reader nothing, so they come last: a text that differs in its name or its sizes is
    described by these, and any other one as a text of the same name, unless `words` says how each
    difference is described.
    """
    theirs, mine = flatten(theirs), flatten(mine)
    for key in sorted(theirs.keys() | mine.keys(), key=lambda key: ("sha256" in key, key)):
        if theirs.get(key) == mine.get(key):
            continue
        if words is None and key in _OF_TEXT and mine.get(key) and theirs.get(key):
            name = mine.get("corpus.name", mine.get("corpus"))
            if "tokens" in key:
                return f"its tokens of the text {name!r} are not the same as here"
            return f"its text {name!r} is of the same name and size as here, but not the same text"
        words = words or "its {key} is {theirs!r}, here it is {mine!r}"
        return words.format(key=key, theirs=theirs.get(key), mine=mine.get(key))
    return None


_OF_TEXT = ("corpus.sha256", "corpus.tokens_sha256", "corpus_sha256")
