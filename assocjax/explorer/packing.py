"""Lists over training in few bytes: rounded to small integers, and then gzip.

A block holds one matrix, scoring and side, little-endian, its parts one after the other:

    float64  [2]            low, high: natural logarithms of the smallest and largest size
    uint16   [V]            size of each list of the theory
    uint16   [V, k]         its ids
    uint16   [L, V, S]      size of each list of the weights
    uint16   [L, V, S, k]   its ids
    int8     [V, k]         scores of the theory, in 127ths of the size; -1 where the list has ended
    int8     [L, V, S, k]   scores of the weights, likewise
    int8     [L, V, S]      cosines in 127ths; -128 is undefined

A size is the first and largest score of a list: low + (high - low) (q - 1) / 65534 is its
logarithm; q = 0 stands for an empty list, q = 1 for sizes at the lower end. So a score is known to
1/254 of the largest of its list and 0.1 % or so of its own.
"""

import gzip

import numpy as np


def pack(
    theory_ids: np.ndarray,
    theory_scores: np.ndarray,
    ids: np.ndarray,
    scores: np.ndarray,
    cosines: np.ndarray,
) -> bytes:
    """One block, compressed.

    Args:
      theory_ids, theory_scores: [V, k]; scores are positive and fall, NaN where a list has ended.
      ids, scores: [L, S, V, k], likewise.
      cosines: [L, S, V], NaN where undefined.
    """
    # The steps of a token lie side by side: their lists are much alike, which gzip makes use of.
    ids, scores, cosines = (np.moveaxis(of, 1, 2) for of in (ids, scores, cosines))
    sizes = [of[..., 0] for of in (theory_scores, scores)]
    logs = [np.log(size, dtype=float) for size in sizes]
    known = np.concatenate([of[np.isfinite(of)] for of in logs])
    low, high = (known.min(), known.max()) if known.size else (0.0, 0.0)
    places = [(of - low) / ((high - low) or 1.0) for of in logs]
    size_codes = [np.nan_to_num(1 + np.rint(65534 * of)).astype("<u2") for of in places]
    shares = [of / size[..., None] for of, size in zip((theory_scores, scores), sizes, strict=True)]
    score_codes = [np.nan_to_num(np.rint(127 * of), nan=-1).astype("i1") for of in shares]
    parts = (
        np.array([low, high], "<f8"),
        size_codes[0],
        theory_ids.astype("<u2"),
        size_codes[1],
        ids.astype("<u2"),
        *score_codes,
        np.nan_to_num(np.rint(127 * cosines), nan=-128).astype("i1"),
    )
    # No time of day in the file: the same results give the same bytes.
    return gzip.compress(b"".join(part.tobytes() for part in parts), 6, mtime=0)
