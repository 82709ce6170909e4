"""Tokens: from a corpus to arrays of token ids.

`load_tokens` reads documents (`assocjax.corpora.sources`), tokenises them, chooses the vocabulary,
and lays the documents out as sequences of `seq_len` + 1 tokens. The protocol of the paper (Im, Oh,
Fang, Li, "How Do Transformers Learn to Associate Tokens", ICLR 2026, arXiv 2601.19208) is

    load_tokens("tinystories", vocab_size=3000, seq_len=200, oov="drop", long="cut", short="drop")

The defaults use more of a text: words outside the vocabulary become `<unk>`, and a long document
gives several sequences.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np

from assocjax.arguments import (
    TEXT_FIELD,
    UNKNOWN,
    VOCAB_SIZE,
    Long,
    Oov,
    Short,
    check_choice,
    check_integer,
    check_path,
    check_sequence,
    printable,
)
from assocjax.corpora import fables
from assocjax.corpora._layout import (
    count_in_documents,
    covering_size,
    gather,
    lay_out,
    select_vocabulary,
)
from assocjax.corpora.sources import SEPARATOR, Texts, open_source, repeatable
from assocjax.corpora.tokenizers import MAX_VOCAB_SIZE, choose_encoder, encode_all
from assocjax.errors import InputError, InputTypeError
from assocjax.storage.display import summarized

MAX_SEQ_LEN = 2**20
_FABLE_WORDS = 80


@summarized
@dataclasses.dataclass(frozen=True, eq=False)
class TokenData:
    """Sequences of token ids, their vocabulary, and how they were made.

    With N sequences, T positions and V tokens in the vocabulary; inputs are `tokens[:, :-1]`,
    targets `tokens[:, 1:]`.

    Attributes:
        tokens: int32 [N, T+1], ids below V; padding is 0.
        mask: bool [N, T]; position t counts where `tokens[:, t]` and `tokens[:, t+1]` are both
            real, not padding.
        vocabulary: id -> token, of length V.
        name: Name of the corpus.
        sha256: Hash of the corpus text (`assocjax.corpora.sources.hash_documents`).
        tokenizer, oov, long, short: The options of `load_tokens` that made it, or `"unknown"`.
        num_documents: Documents read.
        dropped_oov: Documents dropped for a token outside the vocabulary.
        dropped_short: Further documents dropped because they are too short.
        unk_fraction: Fraction of the real tokens in `tokens` that are `<unk>`.
        covering_size: The least vocabulary that leaves at most 5 % of the text unknown; 0 if the
            text was not counted.
        documents: int32 [N], the document of each sequence, counted from 0 in the order of
            reading; None if unknown.

    Raises:
        InputError: If shapes are inconsistent or an id is out of range.
        InputTypeError: If `tokens` is not int32, `mask` not bool or `vocabulary` not of strings.
    """

    tokens: np.ndarray
    mask: np.ndarray
    vocabulary: tuple[str, ...]
    name: str
    sha256: str
    tokenizer: str = "word"
    oov: str = "unk"
    long: str = "window"
    short: str = "drop"
    num_documents: int = 0
    dropped_oov: int = 0
    dropped_short: int = 0
    unk_fraction: float = 0.0
    covering_size: int = 0
    documents: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name, dtype in (("tokens", np.int32), ("mask", np.bool_)):
            array = getattr(self, name)
            kind = getattr(array, "dtype", type(array).__name__)
            if not isinstance(array, np.ndarray) or kind != dtype:
                raise InputTypeError(
                    f"{name}: expected a NumPy array of {np.dtype(dtype)}, got {kind}"
                )
        for token in check_sequence("vocabulary", self.vocabulary, "strings"):
            if not isinstance(token, str):
                raise InputTypeError(f"vocabulary must be strings; one is {token!r}")
        _check_ids("tokens", self.tokens, self.vocab_size)
        N, T = self.num_sequences, self.seq_len
        for name, shape in (("mask", (N, T)), ("documents", (N,))):
            found = getattr(self, name)
            if found is not None and np.shape(found) != shape:
                raise InputError(
                    f"{name}: expected shape {list(shape)} beside tokens of shape {[N, T + 1]}, "
                    f"got {list(np.shape(found))}"
                )

    @property
    def num_sequences(self) -> int:
        """N."""
        return self.tokens.shape[0]

    @property
    def seq_len(self) -> int:
        """T, the number of positions; a sequence has T + 1 tokens."""
        return self.tokens.shape[1] - 1

    @property
    def vocab_size(self) -> int:
        """V."""
        return len(self.vocabulary)

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens [n, T+1] and mask [n, T] of the sequences from `start` to `stop`."""
        return self.tokens[start:stop], self.mask[start:stop]

    @functools.cached_property
    def max_distinct(self) -> int:
        """The argument `max_distinct` of `exact_gradient`, see `count_distinct`."""
        return most_distinct(self.tokens)

    @functools.cached_property
    def tokens_sha256(self) -> str:
        """Hash of the inputs of computations: tokens, mask, vocabulary and documents.

        The hash of the text, `sha256`, does not depend on how the text was tokenised.
        """
        digest = hash_vocabulary(self.vocabulary)
        for array, dtype in ((self.tokens, "<i4"), (self.mask, "?"), (self.documents, "<i4")):
            if array is not None:
                digest.update(repr(np.shape(array)).encode())
                digest.update(np.ascontiguousarray(array, dtype).data)
        return digest.hexdigest()

    def describe(self) -> dict[str, object]:
        """How the data were made, their sizes, and `tokens_sha256` for the arrays and vocabulary.

        Two results count as results of the same data if these descriptions are equal.
        """
        left_out = ("tokens", "mask", "vocabulary", "documents", "covering_size")
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        made = {name: value for name, value in fields.items() if name not in left_out}
        computed = ("num_sequences", "seq_len", "vocab_size", "tokens_sha256")
        return made | {name: getattr(self, name) for name in computed}

    def _highlights(self) -> dict[str, str]:
        counts = np.bincount(self.tokens[:, 1:][self.mask], minlength=self.vocab_size)
        frequent = [self.vocabulary[i] for i in np.argsort(-counts, kind="stable")[:10]]
        size = f"N = {self.num_sequences}, T = {self.seq_len}, V = {self.vocab_size}"
        return {"size": size, "most frequent": " ".join(map(repr, frequent))}

    def token_id(self, token: str) -> int:
        """The id of a token. Raises InputError if it is not in the vocabulary."""
        return find_token(token, self.vocabulary, self.name)


def as_token_data(data: Any, name: str = "data") -> TokenData:
    """Any corpus as `TokenData`, for functions that need the names of tokens.

    Args:
        data: `TokenData`, returned as it is; a `TokenFile`, which is read into memory; or an
            integer array [N, T+1] without padding, whose tokens are named by their ids, `"0"` and
            so on.
        name: Name of the argument in error messages.

    Raises:
        InputError, InputTypeError: If it is none of these, or an array of another shape, or with a
            negative id.
    """
    if isinstance(data, TokenData):
        return data
    unknown = dict.fromkeys(("tokenizer", "oov", "long", "short"), "unknown")
    if hasattr(data, "read") and hasattr(data, "vocabulary"):
        tokens, mask = data.read(0, data.num_sequences)
        return TokenData(tokens, mask, data.vocabulary, data.name, data.sha256, **unknown)
    try:
        tokens = np.asarray(data)
    except (TypeError, ValueError):  # such as rows of different lengths
        tokens = np.empty(0)
    if tokens.dtype.kind not in "iu":
        kind = getattr(data, "dtype", type(data).__name__)
        raise InputTypeError(
            f"{name} must be TokenData, a TokenFile or an integer array [N, T+1]; got {kind}"
        )
    high = _check_ids(name, tokens, MAX_VOCAB_SIZE)
    vocabulary = tuple(map(str, range(max(2, 1 + high))))
    sha256 = hashlib.sha256(tokens.astype("<i4").tobytes()).hexdigest()
    mask = np.ones_like(tokens[:, 1:], bool)
    return TokenData(tokens.astype(np.int32), mask, vocabulary, "array", sha256, **unknown)


def _check_ids(name: str, tokens: np.ndarray, vocab_size: int) -> int:
    """The largest id; raises if the shape is not that of sequences or an id is out of range."""
    if tokens.ndim != 2 or tokens.size < 1 or tokens.shape[-1] < 2:
        raise InputError(f"{name}: expected shape [N >= 1, T+1 >= 2], got {list(tokens.shape)}")
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= vocab_size:
        raise InputError(f"{name}: expected ids from 0 to {vocab_size - 1}, got {low} to {high}")
    return high


def most_distinct(tokens: np.ndarray) -> int:
    """The largest number of distinct tokens among the inputs of a sequence of [N, T+1], rounded up
    to a multiple of 8."""
    inputs = np.sort(tokens[:, :-1], axis=1)
    most = 1 + int(np.max(np.sum(inputs[:, 1:] != inputs[:, :-1], axis=1)))
    return min(inputs.shape[1], -(-most // 8) * 8)


def hash_vocabulary(vocabulary: Sequence[str]) -> hashlib._Hash:
    """A SHA-256 object, updated with the names of tokens in the order of their ids."""
    return hashlib.sha256(json.dumps(list(map(str, vocabulary))).encode())


def find_token(token: str, vocabulary: Sequence[str], name: str) -> int:
    """The id of a token. Raises InputError, which names similar tokens, if it is not found."""
    try:
        return vocabulary.index(token)
    except ValueError:
        close = difflib.get_close_matches(str(token), vocabulary, n=3)
        hint = f"; close to it are {', '.join(map(repr, close))}" if close else ""
        raise InputError(
            f"token: {token!r} is not among the {len(vocabulary)} tokens of the vocabulary "
            f"of {name}{hint}; a larger vocabulary keeps more of a text's tokens"
        ) from None


def load_tokens(
    corpus: Texts,
    *,
    vocab_size: int | None = None,
    seq_len: int,
    num_sequences: int | None = None,
    tokenizer: str | os.PathLike[str] = "word",
    oov: Oov = "unk",
    long: Long = "window",
    short: Short = "drop",
    seed: int = 0,
    num_documents: int | None = None,
    separator: str = SEPARATOR,
    text_field: str = TEXT_FIELD,
    default_vocab_size: int = VOCAB_SIZE,
) -> TokenData:
    """Reads a corpus and turns it into sequences of token ids.

    The vocabulary consists of the `vocab_size` most frequent tokens of the whole corpus, most
    frequent first, ties in alphabetical order. A BPE tokeniser that is trained here, and a loaded
    one whose whole vocabulary is kept, have their own order instead.

    Args:
        corpus: The corpus: a name, a path, or texts, that is any iterable of strings, a table or
            rows with a column `text_field`; see `assocjax.corpora.sources`.
        vocab_size: V, at least 2 and at most 2^24. By default as many as cover 95 % of the text
            (with `oov="drop"` as many as there are), at least 256, at most `default_vocab_size` and
            the number of different tokens; for a loaded tokeniser its whole vocabulary.
        seq_len: T, the number of positions, at least 1 and at most 2^20; a sequence has T + 1
            tokens.
        num_sequences: Keep only the first `num_sequences`; by default all. For the fables, enough
            stories are generated.
        tokenizer: `"word"` (the paper's, see `words`), `"bpe"` (byte-level, trained on the corpus
            to `vocab_size` tokens) or the path of a `tokenizer.json`. Its special tokens are not
            used: their names in a text are tokenised like other text.
        oov: How to treat a token outside the vocabulary. `"unk"`: it becomes `<unk>`, which
            is the last entry of the vocabulary if there is any such token. `"drop"` (the
            paper's): its whole document is dropped.
        long: How to treat a document of more than T + 1 tokens. `"window"`: it is divided into
            consecutive windows, each beginning with the last token of the previous one, so that
            every bigram occurs once; a shorter remainder is treated according to `short`. `"cut"`
            (the paper's): its first T + 1 tokens are kept.
        short: How to treat a document of fewer than T + 1 tokens. `"drop"`: it is dropped (the
            paper's). `"pad"`: it is padded with id 0 and masked. A document of one token is always
            dropped.
        seed: Seed of the fables.
        num_documents: Largest number of documents to read (by default all; 10,000 from the hub).
        separator: String between two documents of a `.txt` file.
        text_field: The field or column that holds the text.
        default_vocab_size: Largest default of `vocab_size`; by default 2,048.

    Returns:
        The sequences, in the order of the text.

    Raises:
        InputError: If a value is invalid, the corpus cannot be read, `vocab_size` exceeds the
            number of different tokens, or there are fewer sequences than requested, or none.
        InputTypeError: If an argument has a wrong type.

    Cost: one to two seconds for a million words.
    """
    check_choices(oov, long, short)
    seq_len, vocab_size, default_vocab_size = check_sizes(seq_len, vocab_size, default_vocab_size)
    tokenizer = check_path("tokenizer", tokenizer, "'word', 'bpe' or a path")
    if num_sequences is not None:
        num_sequences = check_integer("num_sequences", num_sequences, minimum=1)
    seed = check_integer("seed", seed, minimum=0)
    if num_documents is None and isinstance(corpus, str) and corpus == "fables":
        # A fable gives at least one sequence. Never fewer fables than the default, so that the
        # vocabulary does not depend on the number of sequences that are kept.
        num_documents = max(fables.NUM_DOCUMENTS, num_sequences or 0)
    source = open_source(
        corpus,
        seed=seed,
        num_documents=num_documents,
        separator=separator,
        text_field=text_field,
        min_words=fable_words(seq_len, tokenizer),
    )
    if tokenizer == "bpe":
        source = repeatable(source)
    encoder = choose_encoder(tokenizer, source.read, source.name, vocab_size, default_vocab_size)
    digest = hashlib.sha256()
    stream = encode_all(encoder, source.read(), digest)
    counts = np.bincount(stream.ids, minlength=len(stream.types))
    subwords = tokenizer != "word"
    new_ids, vocabulary = select_vocabulary(
        counts, stream.types, vocab_size, default_vocab_size, oov, subwords=subwords
    )
    ids = new_ids[stream.ids]
    if len(vocabulary) < 2:
        raise InputError(
            f"corpus: {source.name} has {len(vocabulary)} different token; at least 2 are needed"
        )
    known = count_in_documents(ids < 0, stream.lengths) == 0
    layout = lay_out(stream.lengths, known, seq_len, long=long, short=short)
    dropped_oov = int(np.sum(~known))
    dropped_short = int(np.sum(known & (layout.per_document == 0)))
    available = layout.starts.size
    if available == 0:
        raise InputError(
            f"corpus: {source.name} gives no sequence of {seq_len + 1} tokens (seq_len + 1): of "
            f"{len(known)} documents {dropped_oov} were dropped for a token outside the vocabulary "
            f"(oov), {dropped_short} as too short (the longest has "
            f"{stream.lengths[known].max(initial=0)} tokens)"
        )
    if num_sequences is not None and num_sequences > available:
        raise InputError(
            f"num_sequences: {source.name} gives {available} sequences of {seq_len + 1} tokens "
            f"(seq_len + 1) from {len(known)} documents, got {num_sequences}"
        )
    kept = layout._replace(starts=layout.starts[:num_sequences], sizes=layout.sizes[:num_sequences])
    tokens, real = gather(ids, kept, seq_len)
    documents_read = np.arange(len(known), dtype=np.int32)
    unknown = vocabulary.index(UNKNOWN) if UNKNOWN in vocabulary else -1
    return TokenData(
        tokens=tokens,
        mask=real[:, 1:].copy(),
        vocabulary=vocabulary,
        name=source.name,
        sha256=digest.hexdigest(),
        tokenizer=printable(tokenizer),
        oov=oov,
        long=long,
        short=short,
        num_documents=len(known),
        dropped_oov=dropped_oov,
        dropped_short=dropped_short,
        unk_fraction=float(np.mean(tokens[real] == unknown)),
        covering_size=covering_size(counts),
        documents=np.repeat(documents_read, layout.per_document)[:num_sequences],
    )


def check_choices(oov: str, long: str, short: str) -> None:
    check_choice("oov", oov, get_args(Oov))
    check_lengths(long, short)


def check_lengths(long: str, short: str) -> None:
    check_choice("long", long, get_args(Long))
    check_choice("short", short, get_args(Short))


def check_sizes(
    seq_len: int, vocab_size: int | None, default_vocab_size: int
) -> tuple[int, int | None, int]:
    seq_len = check_integer("seq_len", seq_len, minimum=1, maximum=MAX_SEQ_LEN)
    if vocab_size is not None:
        vocab_size = check_integer("vocab_size", vocab_size, minimum=2, maximum=MAX_VOCAB_SIZE)
    default = check_integer(
        "default_vocab_size", default_vocab_size, minimum=2, maximum=MAX_VOCAB_SIZE
    )
    return seq_len, vocab_size, default


def fable_words(seq_len: int, tokenizer: str) -> int:
    """Least number of words of a fable, so that each gives a sequence."""
    # A subword can hold several word tokens (two punctuation marks), but rarely does.
    return max(_FABLE_WORDS, (seq_len + 1) * (1 if tokenizer == "word" else 2))
