"""Writing token files: a corpus of any size, in bounded memory, on all cores, resumably.

The text is read once (twice if a BPE tokeniser is trained on it). Tokens get provisional numbers,
which are kept on disk (`_Numbers`); when all are known, the vocabulary is chosen, and a second pass
over the numbers, not over the text, writes the sequences.
"""

from __future__ import annotations

import filecmp
import hashlib
import importlib.metadata
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from assocjax.arguments import (
    SEPARATOR,
    TEXT_FIELD,
    VOCAB_SIZE,
    Long,
    Oov,
    Short,
    check_path,
    printable,
)
from assocjax.corpora._layout import (
    Layout,
    count_in_documents,
    gather,
    lay_out,
    select_vocabulary,
)
from assocjax.corpora.sources import Texts, open_source, update_hash
from assocjax.corpora.token_files import DESCRIPTION, DTYPES, TokenFile, hash_file, open_tokens
from assocjax.corpora.tokenizers import (
    Encoder,
    Subwords,
    Words,
    encode,
    in_batches,
    load_tokenizer,
)
from assocjax.corpora.tokens import (
    check_choices,
    check_sizes,
    choose_encoder,
    fable_words,
    repeatable,
)
from assocjax.errors import InputError
from assocjax.storage import Folder, claim, flatten

_STATE, _TOKENIZER = "state.json", "tokenizer.json"
_KEPT = 2**23  # tokens in memory before they are saved, with all that is needed to go on from there
_CHUNK = 2**22  # tokens of the second pass in memory
_WORK = "tokens"

Progress = Callable[[int, int, str], None]


def write_tokens(
    corpus: Texts,
    folder: str | os.PathLike[str],
    *,
    vocab_size: int | None = None,
    seq_len: int,
    tokenizer: str | os.PathLike[str] = "word",
    oov: Oov = "unk",
    long: Long = "window",
    short: Short = "drop",
    seed: int = 0,
    num_documents: int | None = None,
    separator: str = SEPARATOR,
    text_field: str = TEXT_FIELD,
    default_vocab_size: int = VOCAB_SIZE,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> TokenFile:
    """Tokenises a corpus to a folder: the sequences of `load_tokens`, written to disk.

    Documents are read, tokenised on all cores and written in blocks. In memory are a few blocks and
    the different tokens (about 150 bytes each); on disk are, until the end, 4 bytes for each token
    and 8 for each document more than the result has. A writing that was killed, and had written
    more than 8 million tokens, continues there when it is started again, and gives the same bits:
    the text that is tokenised already is read again, to compare its hash, but not tokenised.

    Args:
        corpus, vocab_size, seq_len, oov, long, short, seed, num_documents, separator, text_field,
            default_vocab_size: As in `load_tokens`.
        folder: Folder to write to; it is made if needed.
        tokenizer: As in `load_tokens`. BPE is trained in a first pass over the text, and written
            to the folder as `tokenizer.json`.
        overwrite: Replace another token file in the folder. It is replaced at the end, and is
            unchanged if anything fails before.
        progress: Called with (bytes done, bytes in total, name of the phase): of the files as they
            are read, of the numbers as the sequences are written. Corpora that are no files are
            read without a call.

    Returns:
        The written file, opened.

    Raises:
        InputError, InputTypeError: As `load_tokens`; or if the folder holds another token file or
            files that assocjax did not write, or cannot be written; or if the text changes while it
            is read.

    Cost: on two cores 30 MB of text a second by words; by a subword tokeniser the speed of
    the library `tokenizers` (`benchmarks/tokenize_text.py`).
    """
    check_choices(oov, long, short)
    seq_len, vocab_size, default_vocab_size = check_sizes(seq_len, vocab_size, default_vocab_size)
    tokenizer = check_path("tokenizer", tokenizer, "'word', 'bpe' or a path")
    source = open_source(
        corpus,
        seed=seed,
        num_documents=num_documents,
        separator=separator,
        text_field=text_field,
        min_words=fable_words(seq_len, tokenizer),
    )
    folder = check_path("folder", folder)
    decides = {
        "corpus": source.name,
        "vocab_size": vocab_size,
        "default_vocab_size": default_vocab_size,
        "seq_len": seq_len,
        "tokenizer": printable(tokenizer),
        "oov": oov,
        "long": long,
        "short": short,
        "num_documents": num_documents,
        "seed": seed,
        "separator": separator,
        "text_field": text_field,
        "assocjax": importlib.metadata.version("assocjax"),
    }
    report = progress or (lambda done, total, phase: None)

    def read(phase: str) -> Iterator[str]:
        """The documents, from the first one; reports how much of their files has been read."""
        for number, document in enumerate(source.read()):
            if number % 100 == 0 and source.position.total:
                report(source.position.done, source.position.total, phase)
            yield document

    with (
        claim(folder, "tokenize", decides, result=DESCRIPTION, overwrite=overwrite) as claimed,
        claimed.scratch() as parts,
        claimed.writing(),
    ):
        numbers = _Numbers(claimed, decides)
        if tokenizer == "bpe" and numbers.tokenizer is not None:
            encoder = Subwords(load_tokenizer(numbers.tokenizer))
        else:
            if tokenizer == "bpe":
                source = repeatable(source)
            training = partial(read, "training the tokenizer")
            encoder = choose_encoder(
                tokenizer, training, source.name, vocab_size, default_vocab_size
            )
        if isinstance(encoder, Words):
            encoder = Words(numbers.types)
        sha256 = numbers.of_text(read, encoder)
        numbers.save(parts)
        types = tuple(encoder.types)
        new_ids, vocabulary = select_vocabulary(
            numbers.count(len(types)),
            types,
            vocab_size,
            default_vocab_size,
            oov,
            subwords=tokenizer != "word",
        )
        dtype = "uint16" if len(vocabulary) <= 2**16 else "uint32"
        new = parts / "tokens.bin"
        sizes = new.with_suffix(".sizes.bin")
        written, padded = 0, False
        with new.open("wb") as tokens_file, sizes.open("wb") as sizes_file:
            for ids, each in numbers.read(lambda done, total: report(done, total, "writing")):
                ids = new_ids[ids]
                known = count_in_documents(ids < 0, each) == 0
                layout = lay_out(each, known, seq_len, long=long, short=short)
                for part in _parts(layout, seq_len):
                    tokens, _ = gather(ids, part, seq_len)
                    tokens.astype(DTYPES[dtype]).tofile(tokens_file)
                    part.sizes.astype("<u4").tofile(sizes_file)
                    padded |= bool(np.any(part.sizes <= seq_len))
                written += layout.starts.size
        if not written:
            raise InputError(
                f"corpus: {source.name} gives no sequence of {seq_len + 1} tokens (seq_len + 1)"
            )
        about = {
            "dtype": dtype,
            "seq_len": seq_len,
            "name": source.name,
            "sha256": sha256,
            "ids_sha256": hash_file(new),
            "sizes_sha256": hash_file(sizes) if padded else None,
            **{option: decides[option] for option in ("tokenizer", "oov", "long", "short")},
            "num_documents": numbers.documents,
            "versions": {"assocjax": decides["assocjax"]},
            "vocabulary": vocabulary,
        }
        data = [new, sizes] if padded else [new]
        if tokenizer == "bpe" and isinstance(encoder, Subwords):
            data.append(parts / _TOKENIZER)
            _write(data[-1], encoder.tokenizer.to_str())
        description = new.with_suffix(".json")
        description.write_text(json.dumps(about, ensure_ascii=False), "utf-8")
        _replace(claimed, data, description)
    return open_tokens(folder)


def _parts(layout: Layout, seq_len: int) -> Iterator[Layout]:
    """Sequences of a layout, so many at once that their tokens are no more than `_CHUNK`."""
    size = max(1, _CHUNK // (seq_len + 1))
    for first in range(0, layout.starts.size, size):
        rows = slice(first, first + size)
        yield layout._replace(starts=layout.starts[rows], sizes=layout.sizes[rows])


class _Numbers:
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
            if (place / _TOKENIZER).is_file():
                self.tokenizer = place / _TOKENIZER
            if state["types_bytes"]:
                with (place / "types").open("rb") as file:
                    self.types = file.read(state["types_bytes"]).decode().split("\n")[:-1]

    def of_text(self, read: Callable[[str], Iterator[str]], encoder: Encoder) -> str:
        """Numbers the tokens of all documents that `read` gives, or those that are left.

        Returns:
            The hash of the text.
        """
        self._encoder = encoder
        documents = read("tokenizing")
        if self._place is not None:
            documents = self._continued(read("reading again"))
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
        elif isinstance(self._encoder, Subwords) and not (place / _TOKENIZER).exists():
            _write(place / _TOKENIZER, self._encoder.tokenizer.to_str())
        self._ids, self._lengths = [], []
        self._state = {
            "decides": self._decides,
            "encoder": self._encoder.decides,
            "documents": self.documents,
            "tokens": tokens,
            "types_bytes": types,
            "sha256": self._digest.hexdigest(),
        }
        _write(place / _STATE, json.dumps(self._state))

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
            while (lengths := np.fromfile(sizes, "<i8", _CHUNK // 64)).size:
                chunk = np.cumsum(lengths) // _CHUNK
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


def _write(path: Path, text: str) -> None:
    """Writes a file of unfinished work atomically."""
    part = path.with_suffix(".part")
    _extend(part, 0, [text.encode()])
    part.replace(path)


def _replace(folder: Folder, data: list[Path], description: Path) -> None:
    """Moves a new token file, which is complete on disk, to its place, with its description.

    The old description is removed first and the new one is moved last, so that data never stand
    beside the description of other data, even if the process is killed.
    """
    if folder.complete:
        if filecmp.cmp(description, folder.path / DESCRIPTION, shallow=False):
            return
        raise InputError(
            f"folder {folder.path} holds the tokens of another text or tokenizer of the same "
            "name; choose another folder, or replace them with overwrite=True (--overwrite)"
        )
    folder.remove(DESCRIPTION, "tokens.sizes.bin")
    for new in (*data, description):
        with folder.file(new.name) as part:
            new.replace(part)
    folder.finish()
