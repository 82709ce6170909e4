"""Compact storage of lists over training: rounded to small integers and compressed by gzip.

The "size" of a list is its first and largest score. A block holds one matrix, scoring and side,
little-endian, with these parts one after the other:

    float64  [2]            low, high: natural logarithms of the smallest and largest size
    uint32   [V, k]         numbers of occurrences in each list of the theory
    uint32   [L, V, S, k]   the same of the weights
    uint16   [V]            size of each list of the theory
    uint16   [V, k]         its ids
    uint16   [L, V, S]      size of each list of the weights
    uint16   [L, V, S, k]   its ids
    int8     [V, k]         scores of the theory, in 127ths of the size; -1 after the end of a list
    int8     [L, V, S, k]   scores of the weights, likewise
    int8     [L, V, S]      cosines in 127ths; -128 is undefined

A size is stored as an integer q: its logarithm is low + (high - low) (q - 1) / 65534, and q = 0
stands for an empty list. So the error of a score is at most 1/254 of the largest score of its list,
plus about 0.1 % of its own value.
"""

import gzip
from typing import NamedTuple

import numpy as np


class Lists(NamedTuple):
    """Lists of all tokens: [V, k] of the theory, [L, S, V, k] of the weights.

    Scores are positive and decreasing, NaN after the end of a list; counts are numbers of
    occurrences.
    """

    ids: np.ndarray
    scores: np.ndarray
    counts: np.ndarray


def pack(theory: Lists, weights: Lists, cosines: np.ndarray) -> bytes:
    """One block, compressed; cosines are [L, S, V], NaN where undefined."""
    # The steps of a token are adjacent: their lists are similar, so that gzip compresses them well.
    weights = Lists(*(np.moveaxis(of, 1, 2) for of in weights))
    cosines = np.moveaxis(cosines, 1, 2)
    scores = (theory.scores, weights.scores)
    sizes = [of[..., 0] for of in scores]
    logs = [np.log(size, dtype=float) for size in sizes]
    known = np.concatenate([of[np.isfinite(of)] for of in logs])
    low, high = (known.min(), known.max()) if known.size else (0.0, 0.0)
    places = [(of - low) / ((high - low) or 1.0) for of in logs]
    size_codes = [np.nan_to_num(1 + np.rint(65534 * of)).astype("<u2") for of in places]
    shares = [of / size[..., None] for of, size in zip(scores, sizes, strict=True)]
    score_codes = [np.nan_to_num(np.rint(127 * of), nan=-1).astype("i1") for of in shares]
    parts = (
        np.array([low, high], "<f8"),
        theory.counts.astype("<u4"),
        weights.counts.astype("<u4"),
        size_codes[0],
        theory.ids.astype("<u2"),
        size_codes[1],
        weights.ids.astype("<u2"),
        *score_codes,
        np.nan_to_num(np.rint(127 * cosines), nan=-128).astype("i1"),
    )
    # No time of day in the file: the same results give the same bytes.
    return gzip.compress(b"".join(part.tobytes() for part in parts), 6, mtime=0)
