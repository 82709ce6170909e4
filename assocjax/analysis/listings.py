"""Lists of a token's associations under every matrix, with the reason where a list is empty."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from assocjax.analysis.associations import MATRICES, Association, top_associations
from assocjax.arguments import TOP, UNKNOWN
from assocjax.statistics.occurrences import Occurrences

_OCCUR = {
    "bigram": "follows {} in this text",
    "context": "stands before {} in this text",
    "interchangeability": "follows a token that {} follows too in this text",
    "value": "is followed by a token that has {} before it in this text",
    "composed": "has {} before it in this text",
    "query_key": "stands before {}, where another token follows, in this text",
}
"""What a token does that occurs with the token of a row."""


class Listing(NamedTuple):
    """The associations in a row of a matrix, highest first; if there are none, the reason."""

    associations: list[Association]
    reason: str


def list_associations(
    matrices: Mapping[str, Any],
    occurrences: Occurrences,
    vocabulary: Sequence[str],
    token: str,
    k: int = TOP,
    *,
    counted: bool = True,
) -> dict[str, Listing]:
    """The k highest associations of a token that occur in the text, under several matrices.

    Args:
      matrices: matrices [V,V] by name, arrays or operators, of any scoring.
      occurrences: of the text, at least for the rows of `token`.
      vocabulary: token of each row.
      counted: whether all `occurrences` are counts, and not those of `observed`.

    Raises:
      InputError, InputTypeError: as `top_associations`.
    """
    own = list(vocabulary).index(token)
    found = {}
    for name in (name for name in MATRICES if name in matrices):
        counts = occurrences.rows(name, [own])[0]
        others = np.array([word not in (token, UNKNOWN) for word in vocabulary])
        number = int(np.count_nonzero(counts[others]))
        best, reason = [], f"no token {_OCCUR[name].format(repr(token))}"
        if token == UNKNOWN:
            reason = f"{UNKNOWN} stands for many different tokens"
        elif number:
            best = top_associations(matrices[name], vocabulary, token, k, occurrences=counts)
            reason = f"of {number} tokens that occur with {token!r}, none does more than by chance"
        if not counted and name not in ("bigram", "interchangeability", "value"):
            best = [each._replace(occurrences=None) for each in best]
        found[name] = Listing(best, "" if best else reason)
    return found
