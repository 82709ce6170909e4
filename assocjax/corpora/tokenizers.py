"""Tokenisers: from documents to one flat stream of token ids.

There are two kinds. `words` is the paper's: in lower case, each run of letters is a token, and so
is every other character that is not white space. `train_bpe` and `load_tokenizer` return a subword
tokeniser of the `tokenizers` library. Both turn a corpus into a `TokenStream`, one array of ids for
all documents; all later steps (vocabulary, policies, windows) are array arithmetic.
"""

from __future__ import annotations

import collections
import hashlib
import importlib.metadata
import itertools
import os
import platform
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from assocjax.arguments import check_integer
from assocjax.corpora.sources import update_hash
from assocjax.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


MAX_VOCAB_SIZE = 2**24
"""The largest vocabulary: the name of each token is in memory, and larger sizes are mistakes."""

BATCH_DOCUMENTS, BATCH_CHARACTERS = 1000, 2**20
"""Documents are tokenised in batches that are complete when they reach one of these numbers."""


class TokenStream(NamedTuple):
    """All documents as one array of ids.

    Attributes:
        ids: int32 [tokens], the documents one after another.
        lengths: int64 [documents], tokens in each.
        types: id -> token; for a subword tokeniser its whole vocabulary, also unused tokens.
    """

    ids: np.ndarray
    lengths: np.ndarray
    types: tuple[str, ...]


def words(text: str) -> list[str]:
    """Splits a text into the paper's word tokens (Im, Oh, Fang, Li, arXiv 2601.19208).

    In lower case, each run of letters (of any script) is a token; every other character that is not
    white space is a token by itself: `"Don't! 42"` gives `don ' t ! 4 2`.

    Cost: about 5 million words a second.
    """
    text = text.lower()
    # \w without digits and underscore is the letters plus a few numerals such as "²" and "½" (they
    # are alphanumeric, but neither letters nor decimal digits): exclude those that occur.
    numerals = sorted(
        c for c in set(text) if c > "\x7f" and c.isalnum() and not (c.isalpha() or c.isdecimal())
    )
    return re.findall(rf"[^\W\d_{''.join(numerals)}]+|\S", text)


class Encoder(Protocol):
    """From documents to ids, in two steps, of which threads run the first in parallel.

    Attributes:
        threads: Number of threads that are worth while.
    """

    threads: int

    @property
    def types(self) -> Sequence[str]:
        """id -> token; for words, those that have occurred so far."""
        ...

    @property
    def decides(self) -> str:
        """All that determines the ids, except for the text."""
        ...

    def encode(self, documents: Sequence[str]) -> Any:
        """Tokenises documents, in any order and any thread."""
        ...

    def number(self, encoded: Any) -> tuple[np.ndarray, np.ndarray]:
        """Ids, int32 [tokens], and lengths, int64 [documents], of encoded documents, in order."""
        ...


class Words:
    """Numbers the tokens of `words` by their first occurrence.

    Args:
        types: Tokens that have numbers already, of a computation that is resumed.
    """

    threads = min(8, os.cpu_count() or 1)  # more would wait for the text to be read

    def __init__(self, types: Iterable[str] = ()):
        self._numbers = {token: number for number, token in enumerate(types)}

    @property
    def types(self) -> Sequence[str]:
        return tuple(self._numbers)

    @property
    def decides(self) -> str:
        # Python's version determines which characters are letters.
        return f"word, Python {platform.python_version()}"

    def encode(self, documents: Sequence[str]) -> tuple[np.ndarray, np.ndarray, list[str]]:
        from assocjax.corpora._words import number_words

        return number_words(documents)

    def number(
        self, encoded: tuple[np.ndarray, np.ndarray, list[str]]
    ) -> tuple[np.ndarray, np.ndarray]:
        ids, lengths, types = encoded
        numbers = self._numbers
        # A new token gets the next free number.
        new = [numbers.setdefault(token, len(numbers)) for token in types]
        return np.array(new, np.int32)[ids], lengths


class Subwords:
    """The ids of a `tokenizers.Tokenizer`, without its special tokens.

    The name of a special token in a text, such as `<|endoftext|>`, is tokenised like other text.
    """

    threads = 2  # each runs the library, which uses all cores, or copies what it returned

    def __init__(self, tokenizer: Tokenizer):
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        # Ids may have gaps (removed tokens): name these ids too, so that ids remain the tokeniser's
        self.types = [f"<id {i}>" for i in range(1 + max(vocabulary.values(), default=-1))]
        for token, i in vocabulary.items():
            self.types[i] = token
        setattr(tokenizer, "encode_special_tokens", True)  # noqa: B010, as in train_bpe
        self.tokenizer = tokenizer

    @property
    def decides(self) -> str:
        digest = hashlib.sha256(self.tokenizer.to_str().encode()).hexdigest()
        return f"{digest}, tokenizers {importlib.metadata.version('tokenizers')}"

    def encode(self, documents: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Raises InputError if there is no token for a part of a text, and no unknown token."""
        try:  # the library itself runs on all cores
            encodings = self.tokenizer.encode_batch_fast(documents, add_special_tokens=False)
        except Exception as error:  # the library raises plain Exception
            raise InputError(f"tokenizer: cannot encode the text ({_reason(error)})") from None
        lengths = np.fromiter(map(len, encodings), np.int64, len(encodings))
        ids = itertools.chain.from_iterable(encoding.ids for encoding in encodings)
        return np.fromiter(ids, np.int32, int(lengths.sum())), lengths

    def number(self, encoded: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        return encoded


def choose_encoder(
    tokenizer: str,
    read: Callable[[], Iterable[str]],
    name: str,
    vocab_size: int | None,
    default_vocab_size: int,
) -> Encoder:
    """The encoder that the option `tokenizer` names. BPE is trained, on the documents of `read`, of
    the corpus `name`."""
    if tokenizer != "bpe":
        return Words() if tokenizer == "word" else Subwords(load_tokenizer(tokenizer))
    encoder = Subwords(train_bpe(read(), vocab_size or default_vocab_size))
    if vocab_size is not None and len(encoder.types) < vocab_size:
        raise InputError(
            f"vocab_size: BPE on {name} reaches {len(encoder.types)} tokens and then has no pair "
            f"left to merge, got {vocab_size}"
        )
    return encoder


def in_batches(documents: Iterable[str]) -> Iterator[list[str]]:
    """Documents in lists whose size in memory is bounded."""
    batch, characters = [], 0
    for document in documents:
        batch.append(document)
        characters += len(document)
        if len(batch) >= BATCH_DOCUMENTS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def encode(
    encoder: Encoder, batches: Iterable[list[str]]
) -> Iterator[tuple[list[str], np.ndarray, np.ndarray]]:
    """Tokenises batches on all cores while the next ones are read; yields each, in order, with its
    ids, int32 [tokens], and the lengths of its documents, int64 [documents]."""
    waiting: collections.deque[tuple[list[str], Future]] = collections.deque()
    with ThreadPoolExecutor(encoder.threads) as pool:
        try:
            for batch in batches:
                waiting.append((batch, pool.submit(encoder.encode, batch)))
                if len(waiting) > encoder.threads:
                    first, encoded = waiting.popleft()
                    yield first, *encoder.number(encoded.result())
            for first, encoded in waiting:
                yield first, *encoder.number(encoded.result())
        finally:
            pool.shutdown(cancel_futures=True)


def encode_all(encoder: Encoder, documents: Iterable[str], digest: Any) -> TokenStream:
    """All documents in memory, which are added to their hash `digest` (see `update_hash`)."""
    all_ids, all_lengths = [], []
    for batch, ids, lengths in encode(encoder, in_batches(documents)):
        for document in batch:
            update_hash(digest, document)
        all_ids.append(ids)
        all_lengths.append(lengths)
    return TokenStream(np.concatenate(all_ids), np.concatenate(all_lengths), tuple(encoder.types))


def train_bpe(
    documents: Iterable[str], vocab_size: int, special_tokens: Sequence[str] = ()
) -> Tokenizer:
    """Trains a byte-level BPE tokeniser. The same documents give the same tokeniser.

    Its alphabet consists of the bytes that occur in `documents`, so that no id is wasted on a byte
    that does not occur; in other texts, unseen bytes would be lost. `.save(path)` writes the
    `tokenizer.json` that `load_tokenizer` reads.

    Args:
        documents: Training text.
        vocab_size: Size of the vocabulary: alphabet and merges. The tokeniser has fewer tokens
            if no pair is left to merge.
        special_tokens: Tokens that do not stand for text; they take the first ids.

    Raises:
        InputError: If `vocab_size` is smaller than the alphabet, or more than 2^24.
        InputTypeError: If it is not an integer.
    """
    vocab_size = check_integer("vocab_size", vocab_size, minimum=1, maximum=MAX_VOCAB_SIZE)
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    # Attributes of a Rust object; the library's type stubs have no setters.
    setattr(tokenizer, "pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=False))  # noqa: B010
    setattr(tokenizer, "decoder", decoders.ByteLevel())  # noqa: B010
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, show_progress=False, special_tokens=list(special_tokens)
    )
    tokenizer.train_from_iterator(documents, trainer)
    size = tokenizer.get_vocab_size()
    if size > vocab_size:
        raise InputError(
            f"vocab_size: expected at least {size} for BPE on this text, its number of different "
            f"bytes, got {vocab_size}"
        )
    return tokenizer


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """Loads a `tokenizer.json` of the `tokenizers` library, so that a text always has the same ids.

    Truncation, padding, and the dropout of BPE, which tokenises at random, are switched off.

    Raises:
        InputError: If the file is missing, is not such a file, gives two tokens the same id (which
            would then be ambiguous), or has ids of 2^24 or more.
    """
    from tokenizers import Tokenizer

    path = Path(path)
    if not os.path.isfile(path):
        raise InputError(f"tokenizer: no file {str(path)!r}; expected 'word', 'bpe' or a file")
    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises plain Exception
        raise InputError(
            f"tokenizer: {str(path)!r} is no tokenizer.json ({_reason(error)})"
        ) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    without_dropout(tokenizer)
    token_of: dict[int, str] = {}
    for token, i in sorted(tokenizer.get_vocab(with_added_tokens=True).items()):
        if i in token_of:
            raise InputError(
                f"tokenizer: {str(path)!r} gives two tokens the id {i}: {token_of[i]!r} and "
                f"{token!r}; expected different ids"
            )
        token_of[i] = token
    if token_of and max(token_of) >= MAX_VOCAB_SIZE:
        raise InputError(
            f"tokenizer: {str(path)!r}: expected ids below {MAX_VOCAB_SIZE}, got {max(token_of)}"
        )
    return tokenizer


def without_dropout(tokenizer: Tokenizer) -> None:
    """Switches off the dropout of BPE, with which each reading of a text gives other tokens."""
    if getattr(tokenizer.model, "dropout", None):
        setattr(tokenizer.model, "dropout", None)  # noqa: B010, as in train_bpe


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
