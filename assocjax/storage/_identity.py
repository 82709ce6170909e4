"""The identity of a computation: all that determines its result, in JSON values."""

import json
from collections.abc import Iterator, Mapping
from typing import Any


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
    words: str = "its {key} is {theirs!r}, here it is {mine!r}",
) -> str | None:
    """Describes the first difference between two identities; None if they are the same."""
    theirs, mine = flatten(theirs), flatten(mine)
    for key in sorted(theirs.keys() | mine.keys()):
        if theirs.get(key) != mine.get(key):
            return words.format(key=key, theirs=theirs.get(key), mine=mine.get(key))
    return None
