"""Sources: from the name of a corpus to its documents.

| corpus | what |
|---|---|
| `"fables"` | stories told on the spot (`assocjax.corpora.fables`), nothing to download |
| `"python-docs"` | the prose of Python's own language reference, part of every CPython |
| a path to `.txt` | documents split at `separator` |
| a path to `.jsonl` | one JSON object a line, with its text under `text_field` |
| a path to `.parquet` | the column `text_field` |
| `"tinystories"` | short for `hf:roneneldan/TinyStories:train` |
| `"hf:owner/name[:split]"` | a dataset of the Hugging Face hub, streamed |
| `"hf:FOLDER[:split]"` | a local folder in any format that `datasets` reads |

Parquet files and the hub need the extra `data`: `pip install 'assocjax[data]'`.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from assocjax.arguments import check_integer, check_string
from assocjax.corpora import fables
from assocjax.errors import InputError, InputTypeError

SEPARATOR = "<|endoftext|>"
HUB_DOCUMENTS = 10_000
"""Documents streamed from a hub dataset unless `num_documents` says otherwise."""

_NAMED = ("fables", "python-docs", "tinystories")
_ALIASES = {"tinystories": "hf:roneneldan/TinyStories:train"}


class Documents(NamedTuple):
    """The text of a corpus.

    Attributes:
        name: What the corpus is called in results: its name, or the name of its file.
        documents: The documents, none empty.
        sha256: Hash of the text, see `hash_documents`.
    """

    name: str
    documents: list[str]
    sha256: str


def read_documents(
    corpus: str | os.PathLike[str],
    *,
    seed: int = 0,
    num_documents: int | None = None,
    separator: str = SEPARATOR,
    text_field: str = "text",
    min_words: int = 80,
) -> Documents:
    """Reads the documents of a corpus; documents of white space alone are left out.

    Args:
        corpus: A name or a path, see the table above.
        seed: Seed of the fables; other corpora have no use for it.
        num_documents: Read at most so many. By default 2,000 fables, the first 10,000 documents
            of a hub dataset, and all documents of anything else.
        separator: What stands between two documents of a `.txt` file.
        text_field: The field of a `.jsonl` file, or the column of a `.parquet` file or dataset,
            that holds the text.
        min_words: Least length of a fable in word tokens.

    Raises:
        InputError: For an unknown corpus, a file that is missing, empty, not UTF-8 or not in its
            format, a hub that cannot be reached, or an extra that is not installed.
        InputTypeError: For an argument of a wrong type.
    """
    name, texts = stream_documents(
        corpus,
        seed=seed,
        num_documents=num_documents,
        separator=separator,
        text_field=text_field,
        min_words=min_words,
    )
    documents = list(texts)
    return Documents(name, documents, hash_documents(documents))


def stream_documents(
    corpus: str | os.PathLike[str],
    *,
    seed: int = 0,
    num_documents: int | None = None,
    separator: str = SEPARATOR,
    text_field: str = "text",
    min_words: int = 80,
) -> tuple[str, Iterator[str]]:
    """As `read_documents`: the name, and the documents one by one.

    A hub dataset and a `.parquet` file are then never wholly in memory. That there is a document
    is known when the first is asked for.
    """
    if num_documents is not None:
        num_documents = check_integer("num_documents", num_documents, minimum=1)
    check_string("separator", separator)
    check_string("text_field", text_field)
    if not isinstance(corpus, str | os.PathLike):
        raise InputTypeError(
            f"corpus must be a name or a path; got {type(corpus).__name__} {corpus!r}"
        )
    corpus = os.fspath(corpus)
    corpus = _ALIASES.get(corpus, corpus)
    if corpus == "fables":
        name = corpus
        texts: Iterable[str] = fables.generate(
            num_documents or fables.NUM_DOCUMENTS, seed, min_words
        )
    elif corpus == "python-docs":
        name, texts = corpus, _python_docs()
    elif corpus.startswith("hf:"):
        from assocjax.corpora import hub

        name, texts = hub.stream_dataset(corpus.removeprefix("hf:"), text_field)
        num_documents = num_documents or HUB_DOCUMENTS
    else:
        path = Path(corpus)
        name, texts = path.name, _read_file(path, separator, text_field)
    return name, _some(itertools.islice(filter(str.strip, texts), num_documents), corpus)


def _some(documents: Iterator[str], corpus: str) -> Iterator[str]:
    first = next(documents, None)
    if first is None:
        raise InputError(f"corpus: {corpus!r} holds no document")
    yield first
    yield from documents


def hash_documents(documents: Iterable[str]) -> str:
    """SHA-256 of documents: of each one's UTF-8 bytes after their number, as `5:hello`.

    The number makes it depend on where a document ends, not only on their joined text.
    """
    digest = hashlib.sha256()
    for document in documents:
        update_hash(digest, document)
    return digest.hexdigest()


def update_hash(digest: hashlib._Hash, document: str) -> None:
    """Adds one more document to the hash of `hash_documents`."""
    data = document.encode()
    digest.update(b"%d:" % len(data))
    digest.update(data)


def _python_docs() -> list[str]:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise InputError(
            "corpus: 'python-docs' needs the module pydoc_data, which this Python leaves out"
        ) from None
    return [topics[key] for key in sorted(topics)]


def _read_file(path: Path, separator: str, text_field: str) -> Iterable[str]:
    readers = {
        ".txt": lambda: _decode(path).split(separator),
        ".jsonl": lambda: _read_jsonl(path, text_field),
        ".parquet": lambda: _read_parquet(path, text_field),
    }
    reader = readers.get(path.suffix.lower())
    if path.is_dir() and path != Path():  # "" is no corpus at all
        raise InputError(
            f"corpus: {str(path)!r} is a folder; expected a file, or hf:{path} for a folder of "
            "files that the library datasets can read; one of assocjax tokenize is for statistics "
            "and associations, and has a tokens.json once it is whole"
        )
    if reader is None:
        close = difflib.get_close_matches(str(path), _NAMED, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise InputError(
            f"corpus: unknown corpus {str(path)!r}{hint}; known are {', '.join(_NAMED)}, "
            f"hf:owner/name[:split] and paths that end in {', '.join(readers)}"
        )
    if not path.is_file():
        raise InputError(f"corpus: no file {str(path)!r}")
    return reader()


def _decode(path: Path) -> str:
    data = _read_bytes(path)
    if not data.strip():
        raise InputError(f"corpus: {str(path)!r} is empty")
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise InputError(
            f"corpus: {str(path)!r} is not UTF-8 (byte 0x{data[error.start]:02x} at offset "
            f"{error.start})"
        ) from None


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"corpus: cannot read {str(path)!r} ({error.strerror})") from None


def _read_jsonl(path: Path, text_field: str) -> Iterator[str]:
    # Not splitlines: it splits at characters that JSON allows within a string.
    for number, line in enumerate(_decode(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"corpus: {str(path)!r}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: not JSON ({error})") from None
        if not isinstance(record, dict):
            raise InputError(f"{where}: expected a JSON object, got {type(record).__name__}")
        if text_field not in record:
            fields = ", ".join(map(repr, record)) or "none"
            raise InputError(f"{where}: no field {text_field!r} (text_field); it has {fields}")
        text = record[text_field]
        if not isinstance(text, str):
            raise InputError(
                f"{where}: field {text_field!r} (text_field): expected a string, got "
                f"{type(text).__name__}"
            )
        try:
            text.encode()  # JSON can spell half a surrogate pair, which is no character
        except UnicodeEncodeError as error:
            raise InputError(f"{where}: field {text_field!r} is not text ({error})") from None
        yield text


def _read_parquet(path: Path, text_field: str) -> Iterator[str]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise InputError(
            f"corpus: {str(path)!r} needs pyarrow: pip install 'assocjax[data]'"
        ) from None

    if not path.stat().st_size:
        raise InputError(f"corpus: {str(path)!r} is empty")
    try:
        # Batch by batch, so that a few documents of a large file need not wait for all of it.
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            if text_field not in schema.names:
                columns = ", ".join(map(repr, schema.names)) or "none"
                raise InputError(
                    f"corpus: {str(path)!r}: no column {text_field!r} (text_field); it has "
                    f"{columns}"
                )
            kind = schema.field(text_field).type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise InputError(
                    f"corpus: {str(path)!r}: column {text_field!r} (text_field): expected "
                    f"strings, got {kind}"
                )
            for batch in file.iter_batches(columns=[text_field]):
                yield from filter(None, batch.column(0).to_pylist())
    except (pa.ArrowException, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"corpus: {str(path)!r} is no parquet file ({reason})") from None
