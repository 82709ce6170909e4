"""Layout: from a token stream to a vocabulary and to sequences, by array arithmetic only."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from assocjax.arguments import COVERAGE, LEAST_VOCAB_SIZE, UNKNOWN
from assocjax.errors import InputError


class Layout(NamedTuple):
    """Where each sequence stands in the flat stream.

    Attributes:
        starts: int64 [N], index of its first token.
        sizes: int64 [N], number of its real tokens, from 2 to T + 1.
        per_document: int64 [documents], number of sequences of each document.
    """

    starts: np.ndarray
    sizes: np.ndarray
    per_document: np.ndarray


def select_vocabulary(
    counts: np.ndarray,
    types: tuple[str, ...],
    vocab_size: int | None,
    default_vocab_size: int,
    oov: str,
    *,
    subwords: bool,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Keeps the most frequent tokens, most frequent first, ties in alphabetical order.

    Args:
        counts: int64 [types], how often each occurs.
        types: The tokens of the corpus, or of its tokeniser.
        vocab_size: Number of tokens to keep. With `oov="unk"` the last of them is `<unk>`, if the
            text has any other token.
        default_vocab_size: Largest default of `vocab_size`, see `default_size`.
        oov: `"unk"` or `"drop"`.
        subwords: Whether types are those of a subword tokeniser, which are kept unchanged if
            `vocab_size` is None or equal to their number.

    Returns:
        The new id of each type, int32, with `oov="drop"` -1 outside the vocabulary; and the
        vocabulary.

    Raises:
        InputError: If `vocab_size` is more than the number of different tokens in the text.
    """
    if subwords and vocab_size in (None, len(types)):
        return np.arange(len(types), dtype=np.int32), types
    present = np.flatnonzero(counts)
    if vocab_size is None:
        vocab_size = default_size(counts, default_vocab_size, oov)
    if vocab_size > len(present):
        raise InputError(
            f"vocab_size: the text has {len(present)} different tokens, got {vocab_size}; give at "
            "most that number, or none for a default that fits"
        )
    some_left = vocab_size < len(present)
    if some_left:  # those that are too rare need no rank
        least = np.partition(counts[present], -vocab_size)[-vocab_size]
        present = present[counts[present] >= least]
    ranked = sorted(present.tolist(), key=lambda i: (-counts[i], types[i]))
    if some_left and oov == "unk":
        # A loaded tokeniser may have its own <unk>, which is then the same entry.
        kept = [i for i in ranked if types[i] != UNKNOWN][: vocab_size - 1]
        vocabulary = (*(types[i] for i in kept), UNKNOWN)
        other = len(kept)
    else:
        kept = ranked[:vocab_size]
        vocabulary = tuple(types[i] for i in kept)
        other = -1
    new_ids = np.full(len(types), other, np.int32)
    new_ids[kept] = np.arange(len(kept), dtype=np.int32)
    return new_ids, vocabulary


def default_size(counts: np.ndarray, largest: int, oov: str) -> int:
    """The default size of a vocabulary: `covering_size`, at least 256 and at most `largest`.

    With `oov="drop"`, by which any other token costs a whole document, it is `largest`. If the text
    has fewer different tokens, all of them.
    """
    size = max(LEAST_VOCAB_SIZE, covering_size(counts)) if oov == "unk" else largest
    return int(min(size, largest, np.count_nonzero(counts)))


def covering_size(counts: np.ndarray) -> int:
    """The least vocabulary whose known tokens are 95 % of a text, with `<unk>` for the others.

    Args:
        counts: int64 [types], how often each occurs.
    """
    ranked = np.cumsum(np.sort(counts)[::-1])
    size = 2 + int(np.searchsorted(ranked, COVERAGE * ranked[-1]))
    return int(min(size, np.count_nonzero(counts)))


def count_in_documents(flags: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Number of flags [tokens] that are set within each document: int64 [documents]."""
    # Differences of a cumulative sum, since np.add.reduceat does not support empty segments.
    running = np.concatenate([[0], np.cumsum(flags)])
    ends = np.cumsum(lengths)
    return running[ends] - running[ends - lengths]


def lay_out(
    lengths: np.ndarray, usable: np.ndarray, seq_len: int, *, long: str, short: str
) -> Layout:
    """Divides documents into sequences of `seq_len` + 1 tokens.

    Args:
        lengths: int64 [documents], tokens in each.
        usable: bool [documents]; the others give no sequence.
        seq_len: T.
        long: `"window"` or `"cut"`, see `assocjax.corpora.load_tokens`.
        short: `"drop"` or `"pad"`.
    """
    per_document = np.where(usable, count_windows(lengths, seq_len, long=long, short=short), 0)
    document = np.repeat(np.arange(lengths.size), per_document)
    first_of_document = np.cumsum(per_document) - per_document
    nth = np.arange(document.size) - first_of_document[document]
    document_ends = np.cumsum(lengths)
    starts = (document_ends - lengths)[document] + nth * seq_len
    sizes = np.minimum(document_ends[document] - starts, seq_len + 1)
    return Layout(starts, sizes, per_document)


def count_windows(lengths: np.ndarray, seq_len: int, *, long: str, short: str) -> np.ndarray:
    """Number of sequences of each document, int64 [documents]; arguments as in `lay_out`."""
    bigrams = np.maximum(lengths - 1, 0)
    # Consecutive windows share one token, so that each has seq_len bigrams.
    windows = -(-bigrams // seq_len) if short == "pad" else bigrams // seq_len
    return np.minimum(windows, 1) if long == "cut" else windows


def gather(ids: np.ndarray, layout: Layout, seq_len: int) -> tuple[np.ndarray, np.ndarray]:
    """The sequences int32 [N, T+1], padded with 0, and which tokens are real: bool [N, T+1]."""
    real = np.arange(seq_len + 1) < layout.sizes[:, None]
    # A view of the sequence that begins at each token, of which only the chosen ones are copied.
    padded = np.concatenate([ids, np.zeros(seq_len, ids.dtype)])
    tokens = np.lib.stride_tricks.sliding_window_view(padded, seq_len + 1)[layout.starts]
    tokens[~real] = 0
    return tokens.astype(np.int32, copy=False), real
