"""Token files: sequences of token ids on disk, read by ranges, for corpora larger than memory.

A token file is `NAME.bin` (little-endian integers) or `NAME.npy`, beside a `NAME.json` with

    dtype        uint16 or uint32, of a .bin
    vocabulary   the tokens in the order of their ids, or vocab_size: how many there are
    seq_len      T, if the file holds sequences of T + 1 tokens one after another; otherwise it is
                 one stream, of which sequence n takes T + 1 tokens from n T on, so that every
                 bigram occurs once (windows as of `load_tokens`, across documents)
    name, sha256 of the corpus; by default the file's name and the hash of its bytes

and, where sequences are padded on the right, `NAME.sizes.bin`: uint32, the real tokens of each.
`write_tokens` makes a folder with `tokens.bin`; a folder stands for the file in it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from assocjax.arguments import check_choice, check_integer
from assocjax.corpora import fables
from assocjax.corpora.layout import count_in_documents, gather, lay_out, rank_types
from assocjax.corpora.sources import SEPARATOR, stream_documents, update_hash
from assocjax.corpora.tokenizers import (
    TokenStream,
    load_tokenizer,
    stream_subwords,
    stream_words,
    word_table,
)
from assocjax.corpora.tokens import DEFAULT_VOCAB_SIZE, find_token
from assocjax.errors import InputError

_BATCH = 1000  # documents tokenised at once
_READ = 1 << 20  # bytes hashed at once
_DTYPES = {"uint16": "<u2", "uint32": "<u4"}


@dataclasses.dataclass(frozen=True, eq=False)
class TokenFile:
    """As `TokenData`, but the sequences stay on disk until `read` asks for them.

    Attributes:
        ids: The file's integers, memory-mapped: [N, T+1], or one stream.
        sizes: Real tokens of each sequence [N], memory-mapped; None where all are full.
        seq_len: T.
        vocabulary: id -> token.
        name, sha256: Of the corpus.
        path: The file.
    """

    ids: np.ndarray
    sizes: np.ndarray | None
    seq_len: int
    vocabulary: tuple[str, ...]
    name: str
    sha256: str
    path: Path

    @property
    def num_sequences(self) -> int:
        """N."""
        return len(self.ids) if self.ids.ndim == 2 else (len(self.ids) - 1) // self.seq_len

    @property
    def vocab_size(self) -> int:
        """V."""
        return len(self.vocabulary)

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens int32 [n, T+1] and mask bool [n, T] of the sequences from `start` to `stop`.

        Raises:
            InputError: If an id is not below V.
        """
        T = self.seq_len
        if self.ids.ndim == 2:
            tokens = np.asarray(self.ids[start:stop])
        else:
            stream = np.asarray(self.ids[start * T : stop * T + 1])
            tokens = np.lib.stride_tricks.sliding_window_view(stream, T + 1)[::T]
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= self.vocab_size:
            raise InputError(
                f"{self.path}: expected ids from 0 to {self.vocab_size - 1}, got {low} to {high} "
                f"in sequences {start} to {stop}"
            )
        sizes = np.full(stop - start, T + 1) if self.sizes is None else self.sizes[start:stop]
        mask = np.arange(1, T + 1) < np.asarray(sizes)[:, None]
        return tokens.astype(np.int32), mask

    def describe(self) -> dict[str, object]:
        """Its corpus and sizes."""
        names = ("name", "sha256", "num_sequences", "seq_len", "vocab_size")
        return {name: getattr(self, name) for name in names}

    def token_id(self, token: str) -> int:
        """The id of a token. Raises InputError if it is not in the vocabulary."""
        return find_token(token, self.vocabulary, self.name)


def is_token_file(path: str | os.PathLike[str]) -> bool:
    """Whether `open_tokens` is to read it: by its suffix, or as a folder of `write_tokens`."""
    path = Path(path)
    return path.suffix in (".bin", ".npy") or (path / "tokens.json").is_file()


def open_tokens(
    path: str | os.PathLike[str], seq_len: int | None = None, *, num_sequences: int | None = None
) -> TokenFile:
    """Opens a token file, see the module's docstring; its tokens are not read yet.

    Args:
        path: A `.bin` or `.npy` file, or a folder with `tokens.bin`.
        seq_len: T, of a stream. A file of sequences has its own.
        num_sequences: Keep the first so many; by default all.

    Raises:
        InputError: If a file is missing or does not fit its description, a stream comes without
            `seq_len`, or it is too short for one sequence, or for `num_sequences`.
    """
    path = Path(path)
    path = path / "tokens.bin" if path.is_dir() else path
    about = _read_description(path.with_suffix(".json"))
    own = about.get("seq_len")
    ids = _map(path, about.get("dtype"))
    if ids.ndim == 2 or own is not None:
        T = check_integer("seq_len", ids.shape[1] - 1 if own is None else own, minimum=1)
        if ids.size % (T + 1) or (ids.ndim == 2 and ids.shape[1] != T + 1):
            raise InputError(
                f"{path}: expected sequences of {T + 1} tokens (seq_len + 1), got shape "
                f"{list(ids.shape)}"
            )
        ids = ids.reshape(-1, T + 1)
    elif seq_len is None:
        raise InputError(f"seq_len must be given: {path} is a stream of tokens")
    else:
        T = check_integer("seq_len", seq_len, minimum=1)
    if ids.size < T + 1:
        raise InputError(f"{path}: expected at least {T + 1} tokens, got {ids.size}")
    vocabulary = about.get("vocabulary")
    if vocabulary is None:
        size = check_integer(f"{path}: vocab_size", about["vocab_size"], minimum=2)
        vocabulary = map(str, range(size))
    sizes_path = path.with_suffix(".sizes.bin")
    sizes = _map(sizes_path, "uint32") if sizes_path.exists() else None
    if sizes is not None and sizes.shape != ids.shape[:1]:
        raise InputError(f"{sizes_path}: expected {len(ids)} sizes, got {sizes.size}")
    file = TokenFile(
        ids=ids,
        sizes=sizes,
        seq_len=T,
        vocabulary=tuple(vocabulary),
        name=about.get("name", path.name),
        sha256=about.get("sha256") or _hash_file(path),
        path=path,
    )
    if num_sequences is None:
        return file
    N = check_integer("num_sequences", num_sequences, minimum=1)
    if file.num_sequences < N:
        raise InputError(
            f"num_sequences: {path} has {file.num_sequences} sequences of {T + 1} tokens, got {N}"
        )
    kept = ids[:N] if ids.ndim == 2 else ids[: N * T + 1]
    return dataclasses.replace(file, ids=kept, sizes=None if sizes is None else sizes[:N])


def write_tokens(
    corpus: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    vocab_size: int | None = None,
    seq_len: int,
    tokenizer: str | os.PathLike[str] = "word",
    oov: Literal["unk", "drop"] = "unk",
    long: Literal["window", "cut"] = "window",
    short: Literal["drop", "pad"] = "drop",
    seed: int = 0,
    num_documents: int | None = None,
    separator: str = SEPARATOR,
    text_field: str = "text",
    default_vocab_size: int = DEFAULT_VOCAB_SIZE,
) -> TokenFile:
    """Tokenises a corpus into a folder: the sequences of `load_tokens`, without holding them.

    Documents of a hub dataset or a `.parquet` file are streamed; of other corpora the text is held
    while it is tokenised. What else is held are the different tokens and one number a document.

    Args:
        corpus, vocab_size, seq_len, oov, long, short, seed, num_documents, separator, text_field,
            default_vocab_size: As of `load_tokens`.
        folder: Where to write, made if need be. Files of the same names are replaced.
        tokenizer: `"word"` or the path of a `tokenizer.json`. BPE reads its text twice: save one
            by `train_bpe(documents, vocab_size).save(path)`.

    Returns:
        The written file, open.

    Raises:
        InputError, InputTypeError: As `load_tokens`, or the folder cannot be written.
    """
    seq_len = check_integer("seq_len", seq_len, minimum=1)
    default_vocab_size = check_integer("default_vocab_size", default_vocab_size, minimum=2)
    check_choice("oov", oov, ("unk", "drop"))
    check_choice("long", long, ("window", "cut"))
    check_choice("short", short, ("drop", "pad"))
    if tokenizer == "bpe":
        raise InputError("tokenizer: expected 'word' or a tokenizer.json file, got 'bpe'")
    if num_documents is None and corpus == "fables":
        num_documents = fables.NUM_DOCUMENTS
    name, documents = stream_documents(
        corpus,
        seed=seed,
        num_documents=num_documents,
        separator=separator,
        text_field=text_field,
        min_words=max(80, (seq_len + 1) * (1 if tokenizer == "word" else 2)),
    )
    folder = Path(folder)
    parts = {key: folder / f"{key}.part" for key in ("stream", "tokens", "sizes")}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with parts["stream"].open("wb") as file:
            counts, lengths, types = _number(documents, os.fspath(tokenizer), digest, file)
        present = int(np.count_nonzero(counts))
        if tokenizer != "word" and vocab_size in (None, len(types)):
            new_ids, vocabulary = np.arange(len(types), dtype=np.int32), types
        else:
            size = min(default_vocab_size, present) if vocab_size is None else vocab_size
            new_ids, vocabulary = rank_types(counts, types, size, oov)
        dtype = "uint16" if len(vocabulary) <= 2**16 else "uint32"
        written, padded = 0, False
        with parts["tokens"].open("wb") as tokens_file, parts["sizes"].open("wb") as sizes_file:
            for ids, each in _batches(parts["stream"], lengths):
                ids = new_ids[ids]
                known = count_in_documents(ids < 0, each) == 0
                layout = lay_out(each, known, seq_len, long=long, short=short)
                if layout.starts.size:
                    tokens, _ = gather(ids, layout, seq_len)
                    tokens.astype(_DTYPES[dtype]).tofile(tokens_file)
                    layout.sizes.astype("<u4").tofile(sizes_file)
                    written += len(tokens)
                    padded |= bool(np.any(layout.sizes <= seq_len))
        if not written:
            raise InputError(
                f"corpus: {name} gives no sequence of {seq_len + 1} tokens (seq_len + 1)"
            )
        about = {
            "dtype": dtype,
            "seq_len": seq_len,
            "name": name,
            "sha256": digest.hexdigest(),
            "tokenizer": os.fspath(tokenizer),
            "oov": oov,
            "long": long,
            "short": short,
            "num_documents": len(lengths),
            "versions": {"assocjax": importlib.metadata.version("assocjax")},
            "vocabulary": vocabulary,
        }
        (folder / "tokens.sizes.bin").unlink(missing_ok=True)
        parts["tokens"].replace(folder / "tokens.bin")
        if padded:
            parts["sizes"].replace(folder / "tokens.sizes.bin")
        (folder / "tokens.json").write_text(json.dumps(about, ensure_ascii=False), "utf-8")
    except OSError as error:
        raise InputError(f"cannot write tokens to {folder}: {error.strerror}") from None
    finally:
        for part in parts.values():
            with contextlib.suppress(OSError):
                part.unlink()
    return open_tokens(folder)


def _number(
    documents: Iterator[str], tokenizer: str, digest: Any, file: Any
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Writes provisional ids; returns how often each occurs, lengths of documents, and types."""
    table = word_table()
    loaded = None if tokenizer == "word" else load_tokenizer(tokenizer)
    counts, lengths, types = np.zeros(0, np.int64), [], ()
    while batch := list(itertools.islice(documents, _BATCH)):
        for document in batch:
            update_hash(digest, document)
        stream: TokenStream = (
            stream_words(batch, table) if loaded is None else stream_subwords(loaded, batch)
        )
        types = stream.types
        new = np.bincount(stream.ids, minlength=len(types))
        new[: counts.size] += counts
        counts = new
        lengths.append(stream.lengths)
        stream.ids.astype("<i4").tofile(file)
    return counts, np.concatenate(lengths), types


def _batches(path: Path, lengths: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Some documents at a time: their ids, and the length of each."""
    ids = np.memmap(path, "<i4", "r") if lengths.sum() else np.zeros(0, np.int32)
    start = 0
    for first in range(0, lengths.size, _BATCH):
        each = lengths[first : first + _BATCH]
        stop = start + int(each.sum())
        yield np.asarray(ids[start:stop]), each
        start = stop


def _read_description(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(
            f"{path}: cannot read the description of a token file ({error.strerror})"
        ) from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from None
    if not isinstance(about, dict) or not ({"vocabulary", "vocab_size"} & about.keys()):
        raise InputError(f"{path}: expected a JSON object with vocabulary or vocab_size")
    return about


def _map(path: Path, dtype: str | None) -> np.ndarray:
    if path.suffix != ".npy" and dtype not in _DTYPES:
        raise InputError(f"{path}: dtype must be one of {', '.join(_DTYPES)}; got {dtype!r}")
    try:
        if path.suffix == ".npy":
            ids = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            ids = np.memmap(path, _DTYPES[str(dtype)], "r")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot read tokens ({error})") from None
    if ids.ndim not in (1, 2) or not np.issubdtype(ids.dtype, np.integer):
        raise InputError(
            f"{path}: expected integers, [N, T+1] or one stream, got {ids.dtype} of shape "
            f"{list(ids.shape)}"
        )
    return ids


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(_READ):
            digest.update(data)
    return digest.hexdigest()
