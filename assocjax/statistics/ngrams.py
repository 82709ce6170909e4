"""N-grams of a text: smoothed probabilities of the next token, and entropies.

The probability of y after the last n-1 tokens h is that of order n-1 where h is rare, and the
relative frequency where it is frequent:

    p_0(y) = 1/V        p_n(y | h) = (c(h,y) + k p_{n-1}(y | h')) / (c(h) + k)

Here c(h,y) is the number of positions at which y follows h, c(h) their sum over y, and h' is h
without its first token. k is a number, the prior of a Dirichlet distribution (MacKay and Peto,
1995), or the number of distinct tokens that follow h (Witten and Bell, 1991).
"""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array

from assocjax.arguments import check_integer, check_is
from assocjax.checks import Sequences, check_positive
from assocjax.errors import InputError
from assocjax.storage.display import summarized

_BLOCK_POSITIONS = 1 << 22
_DIGITS = 62  # bits of a code, a signed 64-bit integer


@summarized
@dataclasses.dataclass(frozen=True, eq=False)
class NGrams:
    """Counted n-grams of a text, for n from 1 to an order; made by `count_ngrams`.

    Attributes:
      vocab_size: V.
      smoothing: k, or None for the number of distinct tokens that follow h.
      codes: for each n, the distinct n-grams as integers of n digits in base V, sorted, int64.
      counts: for each n, the number of positions with each of these n-grams, int64.
    """

    vocab_size: int
    smoothing: float | None
    codes: tuple[Int[np.ndarray, " _"], ...]
    counts: tuple[Int[np.ndarray, " _"], ...]

    def unigram(self) -> Float[np.ndarray, " V"]:
        """p_1, the smoothed probability of every target, float64."""
        y = np.arange(self.vocab_size)
        return self._probability(1, np.zeros_like(y), y)

    def bigram(self, ids: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n V"]:
        """p_2, the smoothed probability of every target after each of some tokens, float64."""
        total, types = (of[:, None] for of in self._contexts(2, np.asarray(ids)))
        k = types if self.smoothing is None else self.smoothing
        lower = self.unigram()[None]
        found = self.bigram_counts(ids).toarray() + k * lower
        return np.where(total + k > 0, found / np.maximum(total + k, 1e-300), lower)

    def bigram_counts(self, ids: Int[np.ndarray, " n"]) -> csr_array:
        """c(x,y) for some tokens x, as a sparse matrix [n,V]."""
        V = self.vocab_size
        pair, shape = (self.codes[1] // V, self.codes[1] % V), (V, V)
        return csr_array((self.counts[1], pair), shape=shape)[np.asarray(ids)]

    def entropies(self) -> Float[np.ndarray, " order"]:
        """Entropy, in nats, of the target given the last n-1 tokens, for each n, by relative
        frequencies.

        It is too small, since a target that was seen once looks certain: by about (D - C) / 2N,
        for D distinct n-grams with C distinct h at N positions, where counts are large (Miller,
        1955), and by more where most n-grams are rare. `cross_entropies` is too large.
        """
        found = []
        for n, (codes, counts) in enumerate(zip(self.codes, self.counts, strict=True), start=1):
            total, _ = self._contexts(n, codes // self.vocab_size)
            found.append(-np.sum(counts * np.log(counts / total)) / np.sum(counts))
        return np.array(found)

    def cross_entropies(
        self, source: Sequences, sequences: range | None = None
    ) -> Float[np.ndarray, " order"]:
        """Mean of -log p_n, in nats, over the positions of other sequences, for each n.

        It is the loss of a model that knows n-grams only, and on a held-out text above their
        entropy, by what smoothing and finite counts cost. Where fewer than n-1 tokens stand before
        the target, the largest order that can be applied takes the place of n.

        Args:
          source: a text in the same tokens.
          sequences: those of its sequences that are read; by default all.

        Raises:
          InputError: another vocabulary, or no position.
          InputTypeError: `source` is not a corpus.
        """
        every = check_range(source, sequences)
        if source.vocab_size != self.vocab_size:
            raise InputError(
                f"source must be in {self.vocab_size} tokens, as the n-grams; got "
                f"{source.vocab_size}"
            )
        sums, positions, order = np.zeros(len(self.codes)), 0, len(self.codes)
        for tokens, mask in _blocks(source, every):
            log_p = np.zeros(mask.shape)
            for n in range(1, order + 1):  # where an order cannot be applied, the last one stays
                h, y, valid = _ngrams_of(tokens, mask, n, self.vocab_size)
                log_p[valid] = np.log(self._probability(n, h, y))
                sums[n - 1] -= np.sum(log_p[mask])
            positions += int(mask.sum())
        if not positions:
            raise InputError("source must have at least one valid position in the sequences")
        return sums / positions

    def _probability(self, n: int, h: np.ndarray, y: np.ndarray) -> np.ndarray:
        """p_n(y | h), of contexts h as integers of n-1 digits."""
        V = self.vocab_size
        if n == 0:
            return np.full(y.shape, 1 / V)
        lower = self._probability(n - 1, h % V ** max(n - 2, 0), y)
        total, types = self._contexts(n, h)
        k = types if self.smoothing is None else self.smoothing
        found = _look_up(self.codes[n - 1], self.counts[n - 1], h * V + y)
        return np.where(total + k > 0, (found + k * lower) / np.maximum(total + k, 1e-300), lower)

    def _contexts(self, n: int, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """c(h), and the number of distinct tokens that follow h."""
        contexts, totals, types = self._all_contexts[n - 1]
        return _look_up(contexts, totals, h), _look_up(contexts, types, h)

    @functools.cached_property
    def _all_contexts(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        found = []
        for codes, counts in zip(self.codes, self.counts, strict=True):
            contexts, first, types = np.unique(
                codes // self.vocab_size, return_index=True, return_counts=True
            )
            found.append((contexts, np.add.reduceat(counts, first), types))
        return found


def count_ngrams(
    source: Sequences,
    sequences: range | None = None,
    *,
    order: int = 3,
    smoothing: float | None = None,
) -> NGrams:
    """Counts the n-grams of a text, for n from 1 to `order`.

    The last token of an n-gram is a target; n-grams reach neither over the start of a sequence nor
    over padding.

    Args:
      source: the text, `TokenData` or `TokenFile`.
      sequences: those of its sequences that are counted; by default all.
      order: the largest n, at least 2.
      smoothing: k, see the module's docstring; None is the number of distinct tokens that follow.

    Raises:
      InputError: no valid position, an argument out of range, or n-grams of more than 2^62 kinds.
      InputTypeError: an argument of another type.

    Cost: sorting all positions for each n; memory 16 bytes for each distinct n-gram.
    """
    every = check_range(source, sequences)
    order = check_integer("order", order, minimum=2, maximum=_DIGITS)
    if smoothing is not None:
        smoothing = check_positive("smoothing", smoothing)
    V = source.vocab_size
    if V**order >= 1 << _DIGITS:
        raise InputError(f"order must leave fewer than 2^62 n-grams of {V} tokens; got {order}")
    parts: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in range(order)]
    for tokens, mask in _blocks(source, every):
        for n, part in enumerate(parts, start=1):
            h, y, _ = _ngrams_of(tokens, mask, n, V)
            part.append(np.unique(h * V + y, return_counts=True))
    codes, counts = zip(*map(_merge, parts), strict=True)
    if not counts[0].size:
        raise InputError("source must have at least one valid position in the sequences")
    return NGrams(V, smoothing, codes, counts)


def check_range(source: Sequences, sequences: range | None) -> range:
    """Some of the sequences of a text; all by default.

    Raises:
      InputError: the range is empty, goes beyond the text, or leaves sequences out.
      InputTypeError: `source` is not a text, or `sequences` not a range.
    """
    check_is("source", source, Sequences)
    every = range(source.num_sequences)
    if sequences is None:
        return every
    check_is("sequences", sequences, range)
    if sequences.step != 1 or not len(sequences) or sequences.stop > len(every):
        raise InputError(
            f"sequences must be some of {len(every)}, as in range(0, {len(every)}); got {sequences}"
        )
    return sequences


def _blocks(source: Sequences, sequences: range) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Tokens and masks of the sequences, some millions of positions at a time."""
    size = max(1, _BLOCK_POSITIONS // source.seq_len)
    for start in range(sequences.start, sequences.stop, size):
        tokens, mask = source.read(start, min(start + size, sequences.stop))
        yield np.asarray(tokens, np.int64), np.asarray(mask)


def _ngrams_of(
    tokens: np.ndarray, mask: np.ndarray, n: int, vocab_size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The last n-1 tokens before each target, as integers, the targets, and where these are."""
    N, T = mask.shape
    h, valid = np.zeros((N, T), np.int64), mask.copy()
    for back in range(min(n - 2, T), -1, -1):  # from the first token of h to the last
        h[:, back:] = h[:, back:] * vocab_size + tokens[:, : T - back]
        valid[:, back:] &= mask[:, : T - back]
        valid[:, :back] = False
    return h[valid], tokens[:, 1:][valid], valid


def _merge(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Adds up the counts of equal codes."""
    codes, at = np.unique(np.concatenate([codes for codes, _ in parts]), return_inverse=True)
    counts = np.zeros(codes.size, np.int64)
    np.add.at(counts, at, np.concatenate([counts for _, counts in parts]))
    return codes, counts


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The values of some keys, which are sorted; 0 where there is none."""
    at = np.minimum(np.searchsorted(keys, wanted), keys.size - 1)
    return np.where(keys[at] == wanted, values[at], 0)
