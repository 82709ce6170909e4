"""Files of text, read in blocks: .txt, .jsonl and .parquet, compressed or not, one or many.

Memory does not grow with the size of a file. A document of any length is read in pieces
(`LONGEST`); only a line of .jsonl is in memory as a whole.
"""

from __future__ import annotations

import bz2
import codecs
import contextlib
import glob
import gzip
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from assocjax.errors import InputError

LONGEST = 2**20
"""Largest number of characters of a document. A longer one is read as several documents: it is cut
before the last space, tab or line break among so many characters, or after them if there is none.
"""

LONGEST_LINE = 2**27
"""Largest number of characters of a line of .jsonl, which is in memory as a whole."""

SUFFIXES = (".txt", ".jsonl", ".parquet")
COMPRESSED = (".gz", ".bz2", ".zst")
BOM = "\ufeff"
_BLOCK = 2**20  # bytes
_ROWS = 64  # of .parquet, decoded at once


class Position:
    """How much of some files has been read.

    Attributes:
        total: Bytes of all files, as they are on disk; 0 for texts that are not in files.
    """

    def __init__(self, total: int = 0):
        self.total = total
        self._before = 0
        self._within: Callable[[], int] = int

    @property
    def done(self) -> int:
        """Bytes read so far."""
        return self._before + self._within()

    def restart(self) -> None:
        """Files are read from the first one again."""
        self._before, self._within = 0, int

    @contextlib.contextmanager
    def of_file(self, size: int, within: Callable[[], int]) -> Iterator[None]:
        """For a block that reads one file of `size` bytes; `within` gives those read so far."""
        self._within = within
        try:
            yield
        finally:
            self._before, self._within = self._before + size, int


def format_of(path: str | os.PathLike[str]) -> str | None:
    """The suffix that tells the format of a text, without that of its compression."""
    name = os.path.basename(path).lower()
    stem, end = os.path.splitext(name)
    suffix = os.path.splitext(stem)[1] if end in COMPRESSED else end
    return suffix if suffix in SUFFIXES else None


def find_files(name: str) -> list[Path]:
    """The files of text that a path stands for: itself, those of a folder, or of a pattern.

    Files of a folder are those at any depth that end in `SUFFIXES`, also compressed, except for
    hidden ones. Files are in the order of their paths.

    Returns:
        The files; none if the name is not that of a folder, nor of a text file.

    Raises:
        InputError: If there is no such file.
    """
    path = Path(name)
    # os.path returns False for names that no file can have; Path raises.
    if name and os.path.isdir(path):
        files = [file.relative_to(path) for file in path.rglob("*") if format_of(file)]
        shown = [f for f in files if not any(part.startswith(".") for part in f.parts)]
        found = [path / file for file in sorted(shown) if (path / file).is_file()]
        if not found:
            raise InputError(
                f"corpus: {name!r} is a folder without a text; expected files that end in "
                f"{', '.join(SUFFIXES)}, or hf:{path} for a folder of other files that the library "
                "datasets can read; a folder of assocjax tokenize works only for statistics and "
                "associations, and only if it is complete, with a tokens.json"
            )
        return found
    if glob.has_magic(name) and not os.path.lexists(path):
        files = [Path(file) for file in sorted(glob.glob(name, recursive=True))]
        if files := [file for file in files if format_of(file) and file.is_file()]:
            return files
        if format_of(path):
            raise InputError(f"corpus: no file matches {name!r}")
    if format_of(path) is None:
        return []
    if not os.path.isfile(path):
        raise InputError(f"corpus: no file {name!r}")
    return [path]


def rows_of(path: Path, separator: str, text_field: str, position: Position) -> Iterator[Any]:
    """The documents of a text file, or its rows, which hold a document each."""
    where = f"corpus: {str(path)!r}"
    try:
        with path.open("rb") as raw:
            size = os.fstat(raw.fileno()).st_size
            if format_of(path) == ".parquet":
                yield from _parquet(raw, path, text_field, size, position)
                return
            with position.of_file(size, raw.tell), _decompressed(raw, path, where) as file:
                blocks = _decoded(file, where)
                if format_of(path) == ".jsonl":
                    yield from _records(blocks, where)
                else:
                    yield from _split(blocks, separator)
    except OSError as error:
        raise InputError(f"corpus: cannot read {str(path)!r} ({_reason(error)})") from None


def cut(text: str) -> Iterator[str]:
    """A document in pieces of at most `LONGEST` characters."""
    start = 0
    while len(text) - start > LONGEST:
        stop = _place_to_cut(text, start)
        yield text[start:stop]
        start = stop
    yield text[start:] if start else text


def refuse_nul(text: str, where: str) -> None:
    """In UTF-16, every second byte of ASCII is NUL, and about every tenth byte of Cyrillic text."""
    nul = text.count("\0")
    if nul >= 16 and nul > len(text) / 20:
        raise InputError(
            f"{where} is not UTF-8: {nul} of {len(text)} characters are NUL, as in UTF-16 or "
            "UTF-32; convert it to UTF-8"
        )


def _place_to_cut(text: str, start: int) -> int:
    stop = start + LONGEST
    place = max(text.rfind(space, start + 1, stop) for space in " \n\t\r")
    return stop if place < 0 else place


@contextlib.contextmanager
def _decompressed(raw: IO[bytes], path: Path, where: str) -> Iterator[IO[bytes]]:
    suffix = path.suffix.lower()
    if suffix == ".zst":
        try:
            import pyarrow as pa
        except ImportError:
            raise InputError(f"{where} needs pyarrow: pip install 'assocjax[data]'") from None
        with pa.CompressedInputStream(pa.PythonFile(raw, "r"), "zstd") as file:
            yield file
    elif suffix == ".gz":
        with gzip.open(raw) as file:
            yield file  # type: ignore[misc]
    elif suffix == ".bz2":
        with bz2.open(raw) as file:
            yield file
    else:
        yield raw


def _decoded(file: IO[bytes], where: str) -> Iterator[str]:
    """The text of a file in blocks, without byte order marks. Line ends are not translated."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    read, block = 0, b" "
    while block:
        try:
            block = file.read(_BLOCK)
        except (EOFError, zlib.error) as error:
            raise OSError(str(error)) from None
        kept = len(decoder.getstate()[0])  # bytes of a character that is not complete yet
        try:
            text = decoder.decode(block, final=not block).replace(BOM, "")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{where} is not UTF-8 (byte 0x{error.object[error.start]:02x} at offset "
                f"{read - kept + error.start}); convert it to UTF-8"
            ) from None
        read += len(block)
        refuse_nul(text, where)
        yield text


def _split(blocks: Iterator[str], separator: str) -> Iterator[str]:
    """The documents of a text; one that is too long for memory in the pieces of `cut`."""
    rest = ""
    for block in blocks:
        *complete, rest = (rest + block).split(separator)
        yield from complete
        start = 0
        # Here the document is longer for certain: a separator, whole or its beginning, may only
        # be in what follows these characters.
        while len(rest) - start >= LONGEST + len(separator):
            stop = _place_to_cut(rest, start)
            yield rest[start:stop]
            start = stop
        rest = rest[start:]
    yield rest


def _records(blocks: Iterator[str], where: str) -> Iterator[dict[str, Any] | None]:
    """The object of each line of JSON; None for an empty line."""
    for number, line in enumerate(_lines(blocks, where), start=1):
        try:
            record = json.loads(line) if line and not line.isspace() else None
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}, line {number}: not JSON ({error})") from None
        if not isinstance(record, dict | None):
            raise InputError(
                f"{where}, line {number}: expected a JSON object, got {type(record).__name__}"
            )
        yield record


def _lines(blocks: Iterator[str], where: str) -> Iterator[str]:
    parts: list[str] = []
    length = number = 0
    for block in blocks:
        # Not splitlines: it splits at characters that JSON allows within a string.
        first, *others = block.split("\n")
        parts.append(first)
        length += len(first)
        if length > LONGEST_LINE:
            raise InputError(
                f"{where}, line {number + 1}: expected lines of at most {LONGEST_LINE} "
                "characters, since a line of .jsonl is in memory as a whole; write so long a "
                "document to a .txt file"
            )
        if others:
            line, parts = "".join(parts), others[-1:]
            yield line
            del line  # it may be long
            yield from others[:-1]
            number, length = number + len(others), len(others[-1])
    yield "".join(parts)


def _parquet(
    raw: IO[bytes], path: Path, text_field: str, size: int, position: Position
) -> Iterator[Any]:
    where = f"corpus: {str(path)!r}"
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise InputError(f"{where} needs pyarrow: pip install 'assocjax[data]'") from None
    rows = of_rows = 0
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(position.of_file(size, lambda: size * rows // max(1, of_rows)))
            if path.suffix.lower() in COMPRESSED:  # it is not read from its beginning to its end
                unpacked = stack.enter_context(tempfile.TemporaryFile())
                shutil.copyfileobj(stack.enter_context(_decompressed(raw, path, where)), unpacked)
                raw = unpacked
            # With a buffer, columns are read in parts too.
            file = stack.enter_context(parquet.ParquetFile(raw, buffer_size=_BLOCK))
            of_rows = file.metadata.num_rows
            names = file.schema_arrow.names
            if names.count(text_field) != 1:
                raise InputError(
                    f"{where}: expected one column {text_field!r} (text_field); it has {names}"
                )
            for batch in file.iter_batches(_ROWS, columns=[text_field]):
                yield from batch.column(0).to_pylist()
                rows += len(batch)
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: column {text_field!r} is not UTF-8 ({error})") from None
    except (pa.ArrowException, OSError, EOFError, zlib.error) as error:
        raise InputError(f"{where} is no parquet file ({_reason(error)})") from None


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0]
