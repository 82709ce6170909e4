"""The text in the page: from it the page counts how often tokens occur together, and shows where.

The block holds n sequences, little-endian, compressed by gzip:

    uint32  [n]    index of each sequence in the corpus
    uint32  [n]    its number of tokens
    uint16  [sum]  its token ids, one sequence after the other

If the corpus has more tokens than the page may hold, the sequences with the highest scores are
kept: the sum of the theory's scores of their bigrams, those that its lists hold.
"""

import gzip

import numpy as np

from assocjax.corpora.tokens import TokenData
from assocjax.errors import InputError


def pack_text(
    data: TokenData, ids: np.ndarray, scores: np.ndarray, max_text: int
) -> tuple[bytes, dict]:
    """The block, and what the page says of it.

    Args:
      ids, scores: [V, k], the theory's lists of followers; scores are NaN after the end of a list.
      max_text: largest number of tokens of the block.
    """
    lengths = np.where(data.mask.any(axis=1), 1 + data.mask.sum(axis=1), 0)
    real = np.arange(data.seq_len + 1) < lengths[:, None]
    if (data.mask != real[:, 1:]).any():
        raise InputError("data: the page shows sequences whose padding is at their end only")
    order = np.arange(len(lengths))
    if lengths.sum() > max_text:
        order = np.argsort(-_sequence_scores(data, ids, scores), kind="stable")
    kept = np.sort(order[np.cumsum(lengths[order]) <= max_text])
    kept = kept[lengths[kept] > 0]
    parts = kept.astype("<u4"), lengths[kept].astype("<u4"), data.tokens[kept][real[kept]]
    block = b"".join([*(part.tobytes() for part in parts[:2]), parts[2].astype("<u2").tobytes()])
    about = {
        "sequences": len(kept),
        "all_sequences": int((lengths > 0).sum()),
        "tokens": int(lengths[kept].sum()),
        "word": data.tokenizer == "word",
    }
    return gzip.compress(block, 6, mtime=0), about


def _sequence_scores(data: TokenData, ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The sum of the listed scores of each sequence's bigrams, [N]."""
    V = data.vocab_size
    rows, ranks = np.nonzero(np.isfinite(scores))
    pairs = rows * V + ids[rows, ranks].astype(np.int64)
    listed = np.sort(pairs)
    values = np.append(scores[rows, ranks][np.argsort(pairs)], 0)
    bigrams = data.tokens[:, :-1].astype(np.int64) * V + data.tokens[:, 1:]
    at = np.searchsorted(listed, bigrams)
    found = np.append(listed, -1)[at] == bigrams
    return np.where(found & data.mask, values[at], 0).sum(axis=1)
