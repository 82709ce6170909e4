"""The numbers of the tokens of a text, before its vocabulary is known: on disk, and resumable."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from assocjax.corpora.sources import update_hash
from assocjax.corpora.tokenizers import Encoder, Subwords, Words, encode, in_batches
from assocjax.errors import InputError
from assocjax.storage import Folder, flatten

CHUNK = 2**19
"""Tokens of the second pass in memory, so few that they stay in cache."""

TOKENIZER = "tokenizer.json"
_STATE = "state.json"
_KEPT = 2**23  # tokens in memory before they are saved, with all that is needed to go on from there
_WORK = "tokens"


class Numbers:
    """The numbers of the tokens of a text, on disk, so that a later process can continue.

    In a folder of unfinished work, or of this process if the text is short, there are

        ids             int32, the tokens of all documents
        lengths         int64, the number of tokens of each document
        types           the different words, in the order of their numbers, each with a line break
        tokenizer.json  the subword tokeniser
        state.json      how much of these files counts, and the hash of the text so far; it is
                        replaced atomically after the other files have been extended

    Attributes:
        documents: Number of documents so far.
        types: The different words so far, and `tokenizer` the path of the saved tokeniser, of the
            process that is continued; else empty and None.
    """

    def __init__(self, folder: Folder, decides: dict[str, Any]):
        self._folder, self._decides = folder, flatten(decides)
        self._place: Path | None = None  # of what has been saved
        self._state: dict[str, Any] = {"documents": 0, "tokens": 0, "types_bytes": 0}
        self._ids: list[np.ndarray] = []  # that are not saved yet
        self._lengths: list[np.ndarray] = []
        self._digest = hashlib.sha256()
        self._encoder: Encoder | None = None
        self.documents, self.types, self.tokenizer = 0, [], None
        saved = folder.path / Folder.work_name(_WORK) / _STATE
        if folder.complete or folder.is_untouched or not saved.is_file():
            return
        place = folder.work(_WORK)
        state = json.loads(saved.read_text("utf-8"))
        if state["decides"] == self._decides:
            self._place, self._state = place, state
            if (place / TOKENIZER).is_file():
                self.tokenizer = place / TOKENIZER
            if state["types_bytes"]:
                with (place / "types").open("rb") as file:
                    self.types = file.read(state["types_bytes"]).decode().split("\n")[:-1]

    def of_text(self, read: Callable[[Callable[[], str]], Iterator[str]], encoder: Encoder) -> str:
        """Numbers the tokens of all documents that `read` gives, or those that are left.

        Args:
            read: Returns the documents, from the first one, given a function that returns the name
                of the phase of the work.
            encoder: Of the documents.

        Returns:
            The hash of the text.
        """
        self._encoder = encoder
        before = self._state["documents"]
        documents = read(lambda: "reading again" if self.documents < before else "tokenizing")
        if self._place is not None:
            documents = self._continued(documents)
        waiting = 0
        try:
            for batch, ids, lengths in encode(encoder, in_batches(documents)):
                self._ids.append(ids)
                self._lengths.append(lengths)
                self.documents += len(batch)
                for document in batch:
                    update_hash(self._digest, document)
                waiting += ids.size
                if waiting >= _KEPT:
                    self.save(self._place or self._folder.work(_WORK))
                    waiting = 0
        except KeyboardInterrupt:
            if self._place is None:
                raise
            raise KeyboardInterrupt(
                f"interrupted; what is tokenised is kept in {self._folder.path}: run the same "
                "again to resume"
            ) from None
        return self._digest.hexdigest()

    def _continued(self, documents: Iterator[str]) -> Iterator[str]:
        """The documents that are left; those before must be the ones whose numbers are saved."""
        assert self._encoder is not None
        for document in itertools.islice(documents, self._state["documents"]):
            update_hash(self._digest, document)
            self.documents += 1
        found = [self.documents, self._encoder.decides, self._digest.hexdigest()]
        if found != [self._state[name] for name in ("documents", "encoder", "sha256")]:
            raise InputError(
                f"folder {self._folder.path} holds unfinished tokens of another text or tokenizer "
                "of the same name; choose another folder, or remove this one"
            )
        return documents

    def save(self, place: Path) -> None:
        """Adds what is new to the files, and says in the state that it counts.

        Args:
            place: The folder of the files, unless there is one already.
        """
        self._place = place = self._place or place
        assert self._encoder is not None
        tokens = self._state["tokens"]
        for name, arrays, dtype, size in (
            ("ids", self._ids, "<i4", tokens),
            ("lengths", self._lengths, "<i8", self._state["documents"]),
        ):
            content = (array.astype(dtype, copy=False).data for array in arrays)
            _extend(place / name, size * np.dtype(dtype).itemsize, content)
        tokens += sum(ids.size for ids in self._ids)
        types = self._state["types_bytes"]
        if isinstance(self._encoder, Words):
            new = self._encoder.types[len(self.types) :]
            types = _extend(place / "types", types, (f"{token}\n".encode() for token in new))
            self.types.extend(new)
        elif isinstance(self._encoder, Subwords) and not (place / TOKENIZER).exists():
            write_whole(place / TOKENIZER, self._encoder.tokenizer.to_str())
        self._ids, self._lengths = [], []
        self._state = {
            "decides": self._decides,
            "encoder": self._encoder.decides,
            "documents": self.documents,
            "tokens": tokens,
            "types_bytes": types,
            "sha256": self._digest.hexdigest(),
        }
        write_whole(place / _STATE, json.dumps(self._state))

    def count(self, num_types: int) -> np.ndarray:
        """How often each token occurs, int64 [types]."""
        counts = np.zeros(num_types, np.int64)
        for ids, _ in self.read():
            counts += np.bincount(ids, minlength=num_types)
        return counts

    def read(
        self, report: Callable[[int, int], None] | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The ids of some whole documents at a time, and the lengths of these documents."""
        assert self._place is not None
        done, total = 0, 4 * self._state["tokens"]
        with (self._place / "ids").open("rb") as ids, (self._place / "lengths").open("rb") as sizes:
            while (lengths := np.fromfile(sizes, "<i8", CHUNK // 64)).size:
                chunk = np.cumsum(lengths) // CHUNK
                for each in np.split(lengths, 1 + np.flatnonzero(np.diff(chunk))):
                    found = np.fromfile(ids, "<i4", int(each.sum()))
                    yield found, each
                    done += found.nbytes
                    if report is not None:
                        report(done, total)


def _extend(path: Path, size: int, content: Iterable[Any]) -> int:
    """Cuts a file to a size, adds some bytes, and returns the new size; waits for the disk."""
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.truncate(size)
        file.seek(size)
        file.writelines(content)
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def write_whole(path: Path, text: str) -> None:
    """Writes a file of unfinished work atomically."""
    part = path.with_suffix(".part")
    _extend(part, 0, [text.encode()])
    part.replace(path)
