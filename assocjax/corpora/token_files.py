"""Token files: sequences of token ids on disk, read by ranges, for corpora larger than memory.

A token file is `NAME.bin` (little-endian integers) or `NAME.npy`, with a description `NAME.json`:

    dtype        of a .bin: uint16, int32, uint32 or int64
    vocabulary   the tokens in the order of their ids; or vocab_size, their number
    seq_len      T, if the file holds sequences of T + 1 tokens one after another. Otherwise the
                 file is one stream, whose sequence n consists of the T + 1 tokens from n T on, so
                 that every bigram occurs once (windows as in `load_tokens`, across documents)
    name, sha256 of the corpus; by default the file's name and the hash of its bytes
    ids_sha256, sizes_sha256
                 optional: hashes of NAME.bin and of NAME.sizes.bin (null if there is none). Files
                 with other hashes are refused

If sequences are padded on the right, `NAME.sizes.bin` holds the number of real tokens of each, as
uint32. `write_tokens` makes a folder with `tokens.bin`; the path of a folder refers to that file.

Every id is a token: an id that separates documents needs an entry in the vocabulary.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from assocjax.arguments import check_integer, check_path, printable
from assocjax.corpora.tokenizers import MAX_VOCAB_SIZE
from assocjax.corpora.tokens import find_token, hash_vocabulary
from assocjax.errors import InputError
from assocjax.storage.display import summarized

DESCRIPTION = "tokens.json"
DTYPES = {"uint16": "<u2", "int32": "<i4", "uint32": "<u4", "int64": "<i8"}


@summarized
@dataclasses.dataclass(frozen=True, eq=False)
class TokenFile:
    """Like `TokenData`, but the sequences stay on disk until `read` loads them.

    Attributes:
        ids: The file's integers, memory-mapped: [N, T+1], or one stream.
        sizes: Number of real tokens of each sequence [N], memory-mapped; None without padding.
        seq_len: T.
        vocabulary: id -> token.
        name, sha256: Of the corpus.
        tokens_sha256: Hash of the inputs of computations: the file, its sizes and its vocabulary.
        path: The file.
    """

    ids: np.ndarray
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
        if self.ids.ndim == 2:
            tokens = np.asarray(self.ids[start:stop])
        else:
            stream = np.asarray(self.ids[start * T : stop * T + 1])
            tokens = np.lib.stride_tricks.sliding_window_view(stream, T + 1)[::T]
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= self.vocab_size:
            stray = low if low < 0 else high
            raise InputError(
                f"{self.path}: expected ids from 0 to {self.vocab_size - 1}, got {low} to {high} "
                f"in sequences {start} to {stop}; if {stray} stands between documents, leave it "
                "out of the file or add it to the vocabulary"
            )
        sizes = np.full(stop - start, T + 1) if self.sizes is None else self.sizes[start:stop]
        mask = np.arange(1, T + 1) < np.asarray(sizes)[:, None]
        return tokens.astype(np.int32), mask

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
    """Whether a path is a token file: by its suffix, or as a folder of `write_tokens`."""
    path = Path(check_path("corpus", path, "a name or a path"))
    return path.suffix in (".bin", ".npy") or os.path.isfile(path / "tokens.json")


def open_tokens(
    path: str | os.PathLike[str], seq_len: int | None = None, *, num_sequences: int | None = None
) -> TokenFile:
    """Opens a token file, see the module's docstring.

    Args:
        path: A `.bin` or `.npy` file, or a folder with `tokens.bin`.
        seq_len: T, for a stream. A file of sequences has its own.
        num_sequences: Keep only the first `num_sequences`; by default all.

    Raises:
        InputError: If a file is missing, has another format, or does not match its description,
            for example because one of them was replaced; if `seq_len` is missing for a stream, or
            a stream is too short for one sequence, or for `num_sequences`.
        InputTypeError: If a number is not an integer.

    Cost: reading the file once, for its hash; its tokens are not kept in memory.
    """
    path = Path(check_path("path", path))
    path = path / "tokens.bin" if os.path.isdir(path) else path
    about = _read_description(path.with_suffix(".json"))
    own = about.get("seq_len")
    ids = _map(path, about.get("dtype"))
    if ids.ndim == 2 or own is not None:
        T = ids.shape[-1] - 1 if own is None else own
        T = check_integer(f"{path}: seq_len", T, minimum=1)
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
    sizes_path = path.with_suffix(".sizes.bin")
    sizes = _map(sizes_path, "uint32") if os.path.isfile(sizes_path) else None
    if sizes is not None and sizes.shape != ids.shape[:1]:
        raise InputError(f"{sizes_path}: expected {len(ids)} sizes, got {sizes.size}")
    hashes = _check_hashes(path, None if sizes is None else sizes_path, about)
    vocabulary = about["vocabulary"]
    digest = hash_vocabulary(vocabulary)
    digest.update(json.dumps(hashes).encode())
    file = TokenFile(
        ids=ids,
        sizes=sizes,
        seq_len=T,
        vocabulary=vocabulary,
        name=printable(about.get("name", path.name)),
        sha256=printable(about.get("sha256") or hashes["ids_sha256"]),
        tokens_sha256=digest.hexdigest(),
        path=path,
    )
    return file if num_sequences is None else file.first(num_sequences)


def _read_description(path: Path) -> dict[str, Any]:
    """The description of a token file, with its vocabulary as a tuple of names."""
    try:
        about = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(
            f"{path}: cannot read the description of a token file ({error.strerror})"
        ) from None
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
        vocabulary = map(str, range(size))
    elif not isinstance(vocabulary, list) or not all(isinstance(v, str) for v in vocabulary):
        raise InputError(f"{path}: vocabulary must be a list of strings")
    return about | {"vocabulary": tuple(map(printable, vocabulary))}


def _map(path: Path, dtype: str | None) -> np.ndarray:
    is_npy = path.suffix == ".npy"
    if not is_npy and str(dtype) not in DTYPES:
        raise InputError(f"{path}: dtype must be one of {', '.join(DTYPES)}; got {dtype!r}")
    try:
        # np.load also reads pickles and archives, and treats any other file as a pickle.
        ids = open_memmap(path, mode="r") if is_npy else np.memmap(path, DTYPES[str(dtype)], "r")
    except Exception as error:  # for a bad header, NumPy also raises errors of Python's parser
        is_bare = "magic string" in str(error)  # with which a .npy begins
        hint = "; a file of plain integers must be named .bin, with its dtype in the description"
        raise InputError(f"{path}: cannot read tokens ({error}){hint if is_bare else ''}") from None
    if ids.ndim not in (1, 2) or not np.issubdtype(ids.dtype, np.integer):
        raise InputError(
            f"{path}: expected integers, [N, T+1] or one stream, got {ids.dtype} of shape "
            f"{list(ids.shape)}"
        )
    return ids


def _check_hashes(path: Path, sizes_path: Path | None, about: dict[str, Any]) -> dict[str, Any]:
    """Hashes of a file and of its sizes; raises if its description has other ones."""
    hashes = {"ids_sha256": hash_file(path), "sizes_sha256": sizes_path and hash_file(sizes_path)}
    for key, found in hashes.items():
        if "ids_sha256" in about and about.get(key) != found:
            raise InputError(
                f"{path}: expected {key} {about.get(key)}, as its description says, got {found}; "
                "one of the two was replaced, truncated or damaged: make both again"
            )
    return hashes


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
