"""The identity of a computation: all that decides its result, as JSON can hold it."""

import json
from collections.abc import Iterator, Mapping
from typing import Any


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """One level of names, `outer.inner`, and values as they come back from JSON."""
    # Numbers and arrays of NumPy have `tolist`; anything else is no value of JSON.
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
    """The first difference of two identities in words; None if they are the same."""
    theirs, mine = flatten(theirs), flatten(mine)
    for key in sorted(theirs.keys() | mine.keys()):
        if theirs.get(key) != mine.get(key):
            return words.format(key=key, theirs=theirs.get(key), mine=mine.get(key))
    return None
