"""Lists over training in few bytes: what changed since the step before, and then gzip.

A block holds one matrix, scoring and side, little-endian, its parts one after the other:

    float64  [2]         low, high: natural logarithms of the smallest and largest size
    uint16   [V]         size of each list of the theory
    uint16   [V, k]      its ids
    int8     [V, k]      its scores, in 127ths of the size; -1 where the list has ended
    uint16   [L, S, V]   size of each list of the weights
    uint8    [L, S, V, k]  ids: a place in the list before, or 255 for the next of `new`
    int8     [L, S, V, k]  scores, less that of the same token in the list before, modulo 256
    int8     [L, S, V]   cosines in 127ths; -128 is undefined
    uint16   [...]       new

The list before is that of the recorded step before, or the theory's. A size is the first and
largest score of a list: low + (high - low) (q - 1) / 65534 is its logarithm; q = 0 stands for an
empty list, q = 1 for sizes at the lower end. So a score is known to 1/254 of the largest of its
list and 0.1 % or so of its own.
"""

import gzip

import numpy as np

NEW = 255


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
      ids, scores: [L, S, V, k], k < 255, likewise.
      cosines: [L, S, V].
    """
    sizes = [np.where(of[..., 0] > 0, of[..., 0], np.nan) for of in (theory_scores, scores)]
    known = np.concatenate([size[np.isfinite(size)] for size in sizes])
    low, high = (np.log(known.min()), np.log(known.max())) if known.size else (0.0, 0.0)

    def size_code(size):
        defined = np.isfinite(size)
        place = (np.log(np.where(defined, size, 1), dtype=float) - low) / ((high - low) or 1.0)
        return np.where(defined, 1 + np.rint(65534 * place), 0).astype("<u2")

    def score_code(values, size):
        listed = values > 0
        share = np.where(listed, values, 0) / np.where(np.isfinite(size), size, 1)[..., None]
        return np.where(listed, np.rint(127 * share), -1).astype(np.int8)

    quantised = [score_code(v, s) for v, s in zip((theory_scores, scores), sizes, strict=True)]
    places = np.full(ids.shape, NEW, np.uint8)
    deltas = np.empty(ids.shape, np.int8)
    for s in range(ids.shape[1]):
        before = theory_ids[None] if s == 0 else ids[:, s - 1]
        scores_before = quantised[0][None] if s == 0 else quantised[1][:, s - 1]
        same = ids[:, s, :, :, None] == before[:, :, None, :]  # [L, V, k, k]
        kept, place = same.any(-1), same.argmax(-1)
        places[:, s] = np.where(kept, place, NEW)
        scores_before = np.broadcast_to(scores_before, place.shape)
        expected = np.take_along_axis(scores_before, place, -1)
        # Differences modulo 256, as int8 arithmetic has it.
        deltas[:, s] = quantised[1][:, s] - np.where(kept, expected, np.int8(0))
    cosine_codes = np.where(np.isfinite(cosines), np.rint(127 * np.nan_to_num(cosines)), -128)
    parts = (
        np.array([low, high], "<f8"),
        size_code(sizes[0]),
        theory_ids.astype("<u2"),
        quantised[0],
        size_code(sizes[1]),
        places,
        deltas,
        cosine_codes.astype(np.int8),
        ids[places == NEW].astype("<u2"),
    )
    # No time of day in the file: the same results give the same bytes.
    return gzip.compress(b"".join(part.tobytes() for part in parts), 6, mtime=0)
