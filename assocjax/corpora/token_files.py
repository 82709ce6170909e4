"""Token files: sequences of token ids on disk, read by ranges, for corpora larger than memory.

A token file is `NAME.bin` (little-endian integers) or `NAME.npy`, with a description `NAME.json`:

    dtype        of a .bin: uint16, int32, uint32 or int64
    vocabulary   the tokens in the order of their ids; or vocab_size, their number
    end_id       the id that stands between documents, if there is one; it is no token of a sequence
    seq_len      T, if the file holds sequences of T + 1 tokens one after another. Otherwise the
                 file is one stream, whose sequence n consists of the T + 1 tokens from n T on, so
                 that every bigram occurs once (windows as in `load_tokens`, across documents)
    name, sha256 of the corpus; by default the file's name and the hash of its bytes
    ids_sha256, sizes_sha256
                 optional: hashes of NAME.bin and of NAME.sizes.bin (null if there is none). Files
                 with other hashes are refused

If sequences are padded on the right, `NAME.sizes.bin` holds the number of real tokens of each, as
uint32. `write_tokens` makes a folder with `tokens.bin`; the path of a folder refers to that file.

The files of other tools (`assocjax.corpora._formats` lists them) need no description: what they do
not tell is given to `open_tokens`. If their documents are known, each is divided into sequences of
its own, as in `load_tokens`.
"""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from assocjax.arguments import Long, Short, check_integer, check_path, printable
from assocjax.corpora._formats import (
    Joined,
    Stored,
    is_dataset,
    join,
    read_stored,
    release,
    split_at,
)
from assocjax.corpora._layout import count_windows
from assocjax.corpora.tokenizers import MAX_VOCAB_SIZE, Subwords, load_tokenizer
from assocjax.corpora.tokens import check_lengths, find_token, hash_vocabulary
from assocjax.errors import InputError
from assocjax.storage.display import summarized

DESCRIPTION = "tokens.json"
_SUFFIXES = (".bin", ".npy", ".idx", ".arrow")


class Windows(NamedTuple):
    """Where the sequences of the documents of a stream stand.

    Attributes:
        first: int64 [documents + 1], number of the first sequence of each document.
        starts: int64 [documents], index of the first token of each document.
        lengths: int64 [documents], number of its tokens.
        num_sequences: N.
    """

    first: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    num_sequences: int

    def place(self, start: int, stop: int, seq_len: int) -> tuple[np.ndarray, np.ndarray]:
        """Index of the first token, and number of tokens, of each sequence of a range."""
        numbers = np.arange(start, stop)
        document = np.searchsorted(self.first, numbers, side="right") - 1
        within = (numbers - self.first[document]) * seq_len
        sizes = np.minimum(self.lengths[document] - within, seq_len + 1)
        return self.starts[document] + within, sizes


@summarized
@dataclasses.dataclass(frozen=True, eq=False)
class TokenFile:
    """Like `TokenData`, but the sequences stay on disk until `read` loads them.

    Attributes:
        ids: The file's integers, memory-mapped: [N, T+1], or one stream.
        windows: Where the sequences of the documents stand, if these are known.
        sizes: Number of real tokens of each sequence [N], memory-mapped; None without padding.
        seq_len: T.
        vocabulary: id -> token.
        name, sha256: Of the corpus.
        tokens_sha256: Hash of the inputs of computations: the file, its sizes and its vocabulary.
        path: The file.
    """

    ids: np.ndarray | Joined
    windows: Windows | None
    sizes: np.ndarray | None
    seq_len: int
    vocabulary: tuple[str, ...]
    name: str
    sha256: str
    tokens_sha256: str
    path: Path

    @property
    def num_sequences(self) -> int:
        """N."""
        if self.windows is not None:
            return self.windows.num_sequences
        return len(self.ids) if self.ids.ndim == 2 else (len(self.ids) - 1) // self.seq_len

    @property
    def vocab_size(self) -> int:
        """V."""
        return len(self.vocabulary)

    def _highlights(self) -> dict[str, str]:
        return {"size": f"N = {self.num_sequences}, T = {self.seq_len}, V = {self.vocab_size}"}

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens int32 [n, T+1] and mask bool [n, T] of the sequences from `start` to `stop`.

        Raises:
            InputError: If an id is not below V.
        """
        T = self.seq_len
        sizes = np.full(stop - start, T + 1) if self.sizes is None else self.sizes[start:stop]
        if self.windows is not None:
            first, sizes = self.windows.place(start, stop, T)
            offsets = np.arange(T + 1)
            positions = first[:, None] + np.minimum(offsets, sizes[:, None] - 1)
            tokens = np.where(offsets < sizes[:, None], self.ids[positions], 0)
        elif self.ids.ndim == 2:
            tokens = np.asarray(self.ids[start:stop])
        else:
            stream = np.asarray(self.ids[start * T : stop * T + 1])
            tokens = np.lib.stride_tricks.sliding_window_view(stream, T + 1)[::T]
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= self.vocab_size:
            stray = low if low < 0 else high
            raise InputError(
                f"{self.path}: expected ids from 0 to {self.vocab_size - 1}, got {low} to {high} "
                f"in sequences {start} to {stop}; if {stray} stands between documents, give it as "
                "end_id"
            )
        mask = np.arange(1, T + 1) < np.asarray(sizes)[:, None]
        tokens = tokens.astype(np.int32)
        for array in self.ids.arrays if isinstance(self.ids, Joined) else (self.ids,):
            release(array)
        return tokens, mask

    def first(self, num_sequences: int) -> TokenFile:
        """The first `num_sequences` sequences.

        Raises:
            InputError: If there are fewer.
            InputTypeError: If `num_sequences` is not an integer.
        """
        N, T = check_integer("num_sequences", num_sequences, minimum=1), self.seq_len
        if self.num_sequences < N:
            raise InputError(
                f"num_sequences: {self.path} has {self.num_sequences} sequences of {T + 1} tokens, "
                f"got {N}"
            )
        if self.windows is not None:
            return dataclasses.replace(self, windows=self.windows._replace(num_sequences=N))
        kept = self.ids[:N] if self.ids.ndim == 2 else self.ids[: N * T + 1]
        sizes = None if self.sizes is None else self.sizes[:N]
        return dataclasses.replace(self, ids=kept, sizes=sizes)

    def describe(self) -> dict[str, object]:
        """The corpus, its sizes and the hash of its tokens."""
        names = ("name", "sha256", "num_sequences", "seq_len", "vocab_size", "tokens_sha256")
        return {name: getattr(self, name) for name in names}

    def token_id(self, token: str) -> int:
        """The id of a token. Raises InputError if it is not in the vocabulary."""
        return find_token(token, self.vocabulary, self.name)


def is_token_file(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a token file: by its suffix, or as a folder of `write_tokens` or of
    `Dataset.save_to_disk`."""
    path = Path(check_path("corpus", path, "a name or a path"))
    return path.suffix in _SUFFIXES or os.path.isfile(path / DESCRIPTION) or is_dataset(path)


def open_tokens(
    path: str | os.PathLike[str],
    seq_len: int | None = None,
    *,
    num_sequences: int | None = None,
    dtype: str | None = None,
    vocabulary: int | str | os.PathLike[str] | Sequence[str] | None = None,
    end_id: int | None = None,
    long: Long = "window",
    short: Short = "drop",
) -> TokenFile:
    """Opens a token file, see the module's docstring; its integers are memory-mapped.

    Args:
        path: A `.bin` or `.npy` file, a folder of `write_tokens`; a `.bin` with `.idx` of Megatron;
            an `.arrow` file, or a folder of `Dataset.save_to_disk` with a column `input_ids`; or a
            pattern such as `"train_*.bin"`, whose files are read in the order of their names.
        seq_len: T, for a stream. A file of sequences has its own.
        num_sequences: Keep only the first `num_sequences`; by default all.
        dtype: `"uint16"`, `"int32"`, `"uint32"` or `"int64"`, of a file without a header.
        vocabulary: For a file without a description, the number of tokens V, which are then named
            by their ids; the path of a `tokenizer.json`, for their names; or their names.
        end_id: The id that stands between documents, such as 50256 or 65535. No sequence contains
            it, and it need not be below V.
        long, short: How to treat long and short documents, as in `load_tokens`, if documents are
            known: by `end_id`, by the index of Megatron, as rows of a dataset, or as several files.

    Raises:
        InputError: If a file is missing, has another format, or does not match its description,
            for example because one of them was replaced; if what the file does not tell is not
            given; or a stream is too short for one sequence, or for `num_sequences`.
        InputTypeError: If an argument has a wrong type.

    Cost: reading the file once, for its hash, and with `end_id` once more; in memory are 24 bytes
    for each document that is known.
    """
    path = Path(check_path("path", path))
    check_lengths(long, short)
    if os.path.isdir(path) and not is_dataset(path):
        if not os.path.isfile(path / DESCRIPTION):
            raise InputError(
                f"{path}: cannot read tokens; a folder of assocjax tokenize that is complete has a "
                f"{DESCRIPTION}, one of Dataset.save_to_disk a state.json"
            )
        path = path / "tokens.bin"
    paths = [path]
    if glob.has_magic(str(path)) and not os.path.lexists(path):
        paths = [Path(file) for file in sorted(glob.glob(str(path)))]
    if not paths or not os.path.exists(paths[0]):
        raise InputError(f"{path}: cannot read tokens (no such file)")
    about = _describe(path, dtype, vocabulary, end_id)
    parts = [read_stored(file, about.get("dtype")) for file in paths]
    stored = parts[0] if len(parts) == 1 else join(parts)
    ids, own = stored.ids, about.get("seq_len")
    if ids.ndim not in (1, 2) or not np.issubdtype(ids.dtype, np.integer):
        raise InputError(
            f"{path}: expected integers, [N, T+1] or one stream, got {ids.dtype} of shape "
            f"{list(ids.shape)}"
        )
    rows = False
    if isinstance(ids, np.ndarray) and (ids.ndim == 2 or own is not None):
        rows = True
        T = ids.shape[-1] - 1 if own is None else own
        T = check_integer(f"{path}: seq_len", T, minimum=1)
        if ids.size % (T + 1) or ids.shape[1:] not in ((), (T + 1,)):
            raise InputError(
                f"{path}: expected sequences of {T + 1} tokens (seq_len + 1), got shape "
                f"{list(ids.shape)}"
            )
        ids = ids.reshape(-1, T + 1)
    elif seq_len is None:
        raise InputError(f"seq_len must be given: {path} is a stream of tokens")
    else:
        T = check_integer("seq_len", seq_len, minimum=1)
    if about.get("end_id") is not None:
        end_id = check_integer("end_id", about["end_id"], minimum=-(2**31))
        if rows:
            raise InputError(
                f"end_id: {path} holds sequences of {T + 1} tokens, not a stream of documents; got "
                f"{end_id}"
            )
        stored = split_at(stored, end_id)
    windows = _windows(stored, T, long, short)
    if (ids.size if windows is None else windows.num_sequences * (T + 1)) < T + 1:
        most = ids.size if windows is None else windows.lengths.max(initial=0)
        raise InputError(f"{path}: expected at least {T + 1} tokens in a document, got {most}")
    sizes_path = path.with_suffix(".sizes.bin")
    sizes = np.memmap(sizes_path, "<u4", "r") if os.path.isfile(sizes_path) and rows else None
    if sizes is not None and sizes.shape != ids.shape[:1]:
        raise InputError(f"{sizes_path}: expected {len(ids)} sizes, got {sizes.size}")
    hashes = _check_hashes(stored.files, None if sizes is None else sizes_path, about)
    digest = hash_vocabulary(about["vocabulary"])
    digest.update(json.dumps(hashes).encode())
    if windows is not None:
        digest.update(f"{long} {short}".encode())
        for array in (windows.starts, windows.lengths):
            digest.update(array.astype("<i8").data)
    file = TokenFile(
        ids=ids,
        windows=windows,
        sizes=sizes,
        seq_len=T,
        vocabulary=about["vocabulary"],
        name=printable(about.get("name", path.name)),
        sha256=printable(about.get("sha256") or hashes["ids_sha256"]),
        tokens_sha256=digest.hexdigest(),
        path=path,
    )
    return file if num_sequences is None else file.first(num_sequences)


def _windows(stored: Stored, seq_len: int, long: str, short: str) -> Windows | None:
    """The sequences of the documents that have any; None if the documents are not known."""
    if stored.documents is None:
        return None
    starts, lengths = stored.documents
    each = count_windows(lengths, seq_len, long=long, short=short)
    some = each > 0
    first = np.cumsum(np.append(0, each[some]))
    return Windows(first, starts[some], lengths[some], int(first[-1]))


def _describe(path: Path, dtype: Any, vocabulary: Any, end_id: Any) -> dict[str, Any]:
    """The description of a token file, completed by what is given, with the names of tokens."""
    beside = path.with_suffix(".json")
    described = not is_dataset(path) and os.path.isfile(beside)
    about = _read_description(beside) if described else {}
    given = {"dtype": dtype, "vocabulary": vocabulary, "end_id": end_id}
    for name, value in given.items():
        if value is None:
            continue
        if about.get(name) is not None:
            raise InputError(f"{name}: not allowed, since {beside} tells it; got {value!r}")
        about[name] = _name_tokens(value) if name == "vocabulary" else value
    if "vocabulary" not in about:
        raise InputError(
            f"vocabulary: {path} does not tell it; give the number of tokens or a tokenizer.json, "
            f"or describe the file in {beside.name}"
        )
    return about


def _name_tokens(vocabulary: Any) -> tuple[str, ...]:
    """The names of tokens, of one of the forms of the argument `vocabulary`."""
    if isinstance(vocabulary, str | os.PathLike):
        path = check_path("vocabulary", vocabulary)
        if not path.isdecimal():
            return tuple(map(printable, Subwords(load_tokenizer(path)).types))
        vocabulary = int(path)
    if isinstance(vocabulary, Iterable) and not hasattr(vocabulary, "shape"):
        names = tuple(vocabulary)
        if len(names) < 2 or not all(isinstance(name, str) for name in names):
            raise InputError(f"vocabulary must be two or more strings; got {names[:3]!r}")
        return tuple(map(printable, names))
    size = check_integer("vocabulary", vocabulary, minimum=2, maximum=MAX_VOCAB_SIZE)
    return tuple(map(str, range(size)))


def _read_description(path: Path) -> dict[str, Any]:
    """The description of a token file, with its vocabulary as a tuple of names."""
    try:
        about = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot read it ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error})") from None
    if not isinstance(about, dict) or not ({"vocabulary", "vocab_size"} & about.keys()):
        raise InputError(f"{path}: expected a JSON object with vocabulary or vocab_size")
    for name in ("name", "sha256"):
        if not isinstance(about.get(name, ""), str):
            raise InputError(f"{path}: {name} must be a string; got {about[name]!r}")
    vocabulary = about.get("vocabulary")
    if vocabulary is None:
        size = check_integer(
            f"{path}: vocab_size", about.get("vocab_size"), minimum=2, maximum=MAX_VOCAB_SIZE
        )
        return about | {"vocabulary": _name_tokens(size)}
    if not isinstance(vocabulary, list) or not all(isinstance(v, str) for v in vocabulary):
        raise InputError(f"{path}: vocabulary must be a list of strings")
    return about | {"vocabulary": tuple(map(printable, vocabulary))}


def _check_hashes(
    files: list[Path], sizes_path: Path | None, about: dict[str, Any]
) -> dict[str, Any]:
    """Hashes of the files and of sizes; raises if their description has other ones."""
    hashes = {"ids_sha256": hash_file(*files), "sizes_sha256": sizes_path and hash_file(sizes_path)}
    for key, found in hashes.items():
        if "ids_sha256" in about and about.get(key) != found:
            raise InputError(
                f"{files[0]}: expected {key} {about.get(key)}, as its description says, got "
                f"{found}; one of the two was replaced, truncated or damaged: make both again"
            )
    return hashes


def hash_file(*paths: Path) -> str:
    """SHA-256 of the bytes of files, one after another."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)  # type: ignore[arg-type]
    return digest.hexdigest()
