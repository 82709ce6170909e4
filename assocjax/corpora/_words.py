"""The paper's word tokens as numbers, by a loop over characters that Numba compiles.

It gives the tokens of `assocjax.corpora.tokenizers.words`, which says what they are, several times
faster. Threads run it in parallel.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from assocjax.corpora.compilation import compiled

_LETTER, _SPACE = 1, 2
_PLANE = 1 << 16  # code points, of which most texts need no others
_LAST = 1 << 20  # more code points than there are letters and spaces in Unicode


def number_words(documents: Sequence[str]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Numbers the word tokens of some documents by first occurrence.

    Returns:
        The numbers, int32 [tokens]; the number of tokens of each document, int64 [documents]; and
        the different tokens, in the order of their numbers.
    """
    lower = [document.lower() for document in documents]
    text = "".join(lower)
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    sizes = np.fromiter(map(len, lower), np.int64, len(lower))
    del lower
    kinds = _kinds(_PLANE if codes.max(initial=0) < _PLANE else _LAST)
    ids, lengths, starts, stops = _number(codes, sizes, kinds)
    bounds = zip(starts.tolist(), stops.tolist(), strict=True)
    return ids, lengths, [text[start:stop] for start, stop in bounds]


@functools.cache
def _kinds(size: int) -> np.ndarray:
    """Whether each code point is a letter, white space or neither, uint8 [size]."""
    characters = list(map(chr, range(size)))
    letters = np.fromiter(map(str.isalpha, characters), np.uint8, size) * _LETTER
    return letters + np.fromiter(map(str.isspace, characters), np.uint8, size) * _SPACE


@compiled
def _number(codes, sizes, kinds):
    """A hash table of tokens, each known by its first occurrence, codes[starts[i] : stops[i]]."""
    ids = np.empty(codes.size, np.int32)
    lengths = np.empty(sizes.size, np.int64)
    table = np.full(1 << 12, -1, np.int32)
    hashes = np.empty(1 << 11, np.uint64)
    starts = np.empty(1 << 11, np.int64)
    stops = np.empty(1 << 11, np.int64)
    tokens = types = 0
    stop = 0
    for document in range(sizes.size):
        i, stop = stop, stop + sizes[document]
        before = tokens
        while i < stop:
            code = codes[i]
            kind = kinds[code] if code < kinds.size else 0
            if kind == _SPACE:
                i += 1
                continue
            start = i
            i += 1
            value = (np.uint64(14695981039346656037) ^ code) * np.uint64(1099511628211)
            if kind == _LETTER:
                while i < stop:
                    code = codes[i]
                    if code >= kinds.size or kinds[code] != _LETTER:
                        break
                    value = (value ^ code) * np.uint64(1099511628211)
                    i += 1
            slot = np.int64(value >> np.uint64(20)) & (table.size - 1)
            while True:
                number = table[slot]
                if number < 0:
                    break
                if hashes[number] == value and stops[number] - starts[number] == i - start:
                    same = True
                    for k in range(i - start):
                        if codes[starts[number] + k] != codes[start + k]:
                            same = False
                            break
                    if same:
                        break
                slot = (slot + 1) & (table.size - 1)
            if number < 0:
                number = np.int32(types)
                table[slot] = number
                hashes[number], starts[number], stops[number] = value, start, i
                types += 1
                if types == hashes.size:  # twice as much room
                    hashes = np.concatenate((hashes, np.empty_like(hashes)))
                    starts = np.concatenate((starts, np.empty_like(starts)))
                    stops = np.concatenate((stops, np.empty_like(stops)))
                    table = np.full(2 * table.size, -1, np.int32)
                    for other in range(types):
                        slot = np.int64(hashes[other] >> np.uint64(20)) & (table.size - 1)
                        while table[slot] >= 0:
                            slot = (slot + 1) & (table.size - 1)
                        table[slot] = other
            ids[tokens] = number
            tokens += 1
        lengths[document] = tokens - before
    return ids[:tokens].copy(), lengths, starts[:types], stops[:types]
