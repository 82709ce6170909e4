"""Files of token ids that other tools wrote, memory-mapped.

| file | what it tells |
|---|---|
| `.npy` with a header | dtype and shape |
| `.bin`, and `.npy` without a header | nothing: integers of a `dtype` that has to be given |
| `.bin` with a header of 256 int32 (llm.c, modded-nanogpt) | dtype: uint16 or uint32 |
| `.bin` beside `.idx` (Megatron) | dtype and documents |
| `.arrow`, and a folder of `Dataset.save_to_disk` | dtype; a row of `input_ids` is a document |

None of them tells how many tokens its vocabulary has.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.format import open_memmap

from assocjax.errors import InputError

DTYPES = {"uint16": "<u2", "int32": "<i4", "uint32": "<u4", "int64": "<i8"}
_CHUNK = 2**22  # ids that are searched for the ends of documents at once
_NPY = b"\x93NUMPY"
_HEADERS = {(20240520, 1): "uint16", (20240801, 7): "uint32"}  # (number, version) of llm.c
_HEADER_BYTES = 4 * 256
_MEGATRON = b"MMIDIDX\x00\x00"
_MEGATRON_DTYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}


class Joined:
    """Arrays one after another, as one array of ids [tokens], of which parts can be read."""

    def __init__(self, arrays: Sequence[np.ndarray]):
        self.arrays = arrays
        self.dtype = np.result_type(*arrays)
        self.starts = np.cumsum([0, *(array.size for array in arrays)])
        self.size = int(self.starts[-1])
        self.ndim, self.shape = 1, (self.size,)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, at: Any) -> np.ndarray:
        """The ids at a slice, or at an array of indices."""
        if isinstance(at, slice):
            at = np.arange(*at.indices(self.size))
        which = np.searchsorted(self.starts, at, side="right") - 1
        found = np.empty(at.shape, self.dtype)
        for n in np.unique(which):
            here = which == n
            found[here] = self.arrays[n][at[here] - self.starts[n]]
        return found


class Stored(NamedTuple):
    """What files of token ids hold.

    Attributes:
        ids: Memory-mapped integers: [N, T+1], or one stream, or several.
        documents: int64 [documents], start and length of each in the stream; None if unknown.
        files: The files, whose bytes determine all of this.
    """

    ids: np.ndarray | Joined
    documents: tuple[np.ndarray, np.ndarray] | None
    files: list[Path]


def is_dataset(path: Path) -> bool:
    """Whether a path is a folder of `Dataset.save_to_disk`."""
    return any(os.path.isfile(path / name) for name in ("state.json", "dataset_dict.json"))


def read_stored(path: Path, dtype: str | None) -> Stored:
    """Opens a file, or a folder of a dataset.

    Args:
        path: See the table above.
        dtype: Of a file that does not tell its own.

    Raises:
        InputError: If a file cannot be read, is in none of the formats, or its dtype is not known.
    """
    if is_dataset(path) or path.suffix == ".arrow":
        stored = _arrow(path)
    elif path.suffix == ".idx" or _begins(path.with_suffix(".idx"), _MEGATRON):
        stored = _megatron(path.with_suffix(".bin"), path.with_suffix(".idx"))
    elif path.suffix == ".npy" and (dtype is None or _begins(path, _NPY)):
        stored = Stored(_npy(path), None, [path])
    else:
        stored = Stored(_integers(path, dtype), None, [path])
    if dtype not in (None, stored.ids.dtype.name):
        raise InputError(f"dtype: {path} holds {stored.ids.dtype}; got {dtype!r}")
    return stored


def join(parts: Sequence[Stored]) -> Stored:
    """Several files as one; no document goes on from one file to the next."""
    starts, lengths, before = [], [], 0
    for part in parts:
        if part.ids.ndim != 1:
            raise InputError(
                f"{part.files[0]}: expected a stream of tokens, as one of several files, got shape "
                f"{list(part.ids.shape)}"
            )
        start, length = part.documents or (np.zeros(1, np.int64), np.array([part.ids.size]))
        starts.append(start + before)
        lengths.append(length)
        before += part.ids.size
    arrays = [a for p in parts for a in (p.ids.arrays if isinstance(p.ids, Joined) else [p.ids])]
    files = [file for part in parts for file in part.files]
    return Stored(Joined(arrays), (np.concatenate(starts), np.concatenate(lengths)), files)


def split_at(stored: Stored, end_id: int) -> Stored:
    """Ends a document wherever an id stands, which then belongs to no document.

    Cost: reading all ids once; 16 bytes of memory for each document.
    """
    ids = stored.ids
    found = []
    for first in range(0, ids.size, _CHUNK):
        found.append(first + np.flatnonzero(ids[first : first + _CHUNK] == end_id))
        for array in ids.arrays if isinstance(ids, Joined) else (ids,):
            release(array)
    at = np.concatenate([np.zeros(0, np.int64), *found])
    starts, lengths = stored.documents or (np.zeros(1, np.int64), np.array([ids.size]))
    ends = starts + lengths
    at = at[at < ends[np.searchsorted(starts, at, side="right") - 1]]  # those within documents
    starts, ends = np.sort(np.append(starts, at + 1)), np.sort(np.append(ends, at))
    return stored._replace(documents=(starts, ends - starts))


def release(array: np.ndarray) -> None:
    """Gives back the memory of those parts of a memory-mapped file that have been read: they would
    count as memory of the process, as much as the file is long, until other processes need it."""
    mapped = getattr(array, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        mapped.madvise(mmap.MADV_DONTNEED)


def _begins(path: Path, start: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(start)) == start
    except (OSError, ValueError):
        return False


def _npy(path: Path) -> np.ndarray:
    try:
        # np.load also reads pickles and archives, and treats any other file as a pickle.
        return open_memmap(path, mode="r")
    except Exception as error:  # for a bad header, NumPy also raises errors of Python's parser
        if "magic string" in str(error):  # with which a .npy begins
            raise InputError(
                f"dtype: {path} has no header of a .npy and does not tell it; if it holds plain "
                f"integers, give one of {', '.join(DTYPES)}"
            ) from None
        raise InputError(f"{path}: cannot read tokens ({error})") from None


def _integers(path: Path, dtype: str | None) -> np.ndarray:
    """The integers of a file, after a header of llm.c if it has one."""
    try:
        with path.open("rb") as file:
            number, version, size = struct.unpack("<3i", file.read(12).ljust(12, b"\0"))
        told = _HEADERS.get((number, version))
        if told:
            ids = np.memmap(path, DTYPES[told], "r", _HEADER_BYTES)
            if ids.size == size:
                return ids
            if dtype is None:
                raise ValueError(f"expected {size} tokens, as its header says, got {ids.size}")
        if str(dtype) not in DTYPES:
            given = "does not tell it" if dtype is None else f"cannot have {dtype!r}"
            raise InputError(f"dtype: {path} {given}; give one of {', '.join(DTYPES)}")
        return np.memmap(path, DTYPES[str(dtype)], "r")
    except OSError as error:
        raise InputError(f"{path}: cannot read tokens ({error.strerror})") from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot read tokens ({error})") from None


def _megatron(path: Path, index: Path) -> Stored:
    """A .bin file and its .idx: header, version, dtype, numbers of sequences and of documents; the
    length int32 and the first byte int64 of each sequence; the first sequence int64 of each
    document and, at last, of none."""
    try:
        content = np.memmap(index, np.uint8, "r")
        header = struct.unpack("<9sQBQQ", content[:34].tobytes())
        name, version, code, num_sequences, num_documents = header
        if name != _MEGATRON or version != 1 or code not in _MEGATRON_DTYPES:
            raise ValueError(f"its header has version {version} and dtype {code}")
        dtype = np.dtype(_MEGATRON_DTYPES[code])
        at = 34 + 4 * num_sequences
        lengths = np.frombuffer(content, "<i4", num_sequences, 34).astype(np.int64)
        starts = np.frombuffer(content, "<i8", num_sequences, at) // dtype.itemsize
        first = np.frombuffer(content, "<i8", num_documents, at + 8 * num_sequences)
        ids = np.memmap(path, dtype, "r")
        ends = starts + lengths
        if np.any(starts[1:] != ends[:-1]) or np.any(ends > ids.size) or np.any(lengths < 0):
            raise ValueError(f"its sequences do not follow each other in {path.name}")
        if (
            not first.size
            or first[0] != 0
            or first[-1] != starts.size
            or np.any(np.diff(first) < 0)
        ):
            raise ValueError("its documents do not begin and end with its sequences")
    except (OSError, ValueError, struct.error) as error:
        raise InputError(f"{index}: cannot read the index of {path.name} ({error})") from None
    bounds = np.append(starts, ids.size if not starts.size else ends[-1])[first]
    return Stored(ids, (bounds[:-1], np.diff(bounds)), [path, index])


def _arrow(path: Path) -> Stored:
    """The column `input_ids` of a dataset: every row is a document."""
    try:
        import pyarrow as pa
    except ImportError:
        raise InputError(f"{path} needs pyarrow: pip install 'assocjax[data]'") from None
    files = [path] if path.suffix == ".arrow" else _files_of_dataset(path)
    arrays, starts, lengths, before = [], [], [], 0
    for file in files:
        try:
            source = pa.memory_map(str(file))
            try:
                table = pa.ipc.open_stream(source).read_all()
            except pa.ArrowInvalid:
                table = pa.ipc.open_file(source).read_all()
        except (OSError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{file}: cannot read an Arrow table ({reason})") from None
        if "input_ids" not in table.column_names:
            raise InputError(
                f"{file}: expected a column 'input_ids', with the tokens of a document in each "
                f"row; it has {table.column_names}"
            )
        for rows in table.column("input_ids").chunks:
            kind = rows.type
            if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not (
                pa.types.is_integer(kind.value_type)
            ):
                raise InputError(f"{file}: expected lists of integers in 'input_ids', got {kind}")
            if rows.null_count or rows.values.null_count:
                raise InputError(f"{file}: 'input_ids' has missing values; expected integers")
            bounds = rows.offsets.to_numpy().astype(np.int64)
            arrays.append(rows.values.to_numpy(zero_copy_only=True))
            starts.append(bounds[:-1] + before)
            lengths.append(np.diff(bounds))
            before += arrays[-1].size
    if not before:
        raise InputError(f"{path}: expected tokens in 'input_ids', got none")
    return Stored(Joined(arrays), (np.concatenate(starts), np.concatenate(lengths)), files)


def _files_of_dataset(path: Path) -> list[Path]:
    try:
        if os.path.isfile(path / "dataset_dict.json"):
            splits = json.loads((path / "dataset_dict.json").read_text("utf-8"))["splits"]
            raise InputError(
                f"{path} holds several datasets; give one of "
                f"{', '.join(str(path / split) for split in splits)}"
            )
        state = json.loads((path / "state.json").read_text("utf-8"))
        files = [path / file["filename"] for file in state["_data_files"]]
        selected = state.get("_indices_files") or state.get("_indices_data_files")
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a dataset of save_to_disk ({error})") from None
    if selected or not files:
        raise InputError(
            f"{path}: expected rows in the order of its files; save dataset.flatten_indices()"
        )
    return files
