"""Sources: from the name of a corpus to its documents.

| corpus | documents |
|---|---|
| `"fables"` | generated stories (`assocjax.corpora.fables`), without a download |
| `"python-docs"` | the prose of Python's own language reference, part of every CPython |
| a path to `.txt` | documents split at `separator` |
| a path to `.jsonl` | one JSON object a line, with its text under `text_field` |
| a path to `.parquet` | the column `text_field`, strings in any of Arrow's layouts |
| `"tinystories"` | short for `hf:roneneldan/TinyStories:train` |
| `"hf:owner/name[:split]"` | a dataset of the Hugging Face hub, streamed |
| `"hf:FOLDER[:split]"` | a local folder in any format that `datasets` reads |
| strings | any iterable of them, read once: a list, a generator, a column of a DataFrame |
| rows or a table | with a text under `text_field`: a `datasets.Dataset`, dicts, a DataFrame |

Parquet files and the hub need the extra `data`: `pip install 'assocjax[data]'`.

For all of them: text is UTF-8; rows without text (null, empty, only white space) are left out;
U+FEFF, the byte order mark, is dropped everywhere, also inside a text, where files were joined. A
text with more than a twentieth of NUL characters is an error, since it is probably UTF-16 that was
decoded as UTF-8. A row or a table without a field or column `text_field` is an error too.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from assocjax.arguments import (
    SEPARATOR,
    TEXT_FIELD,
    check_integer,
    check_path,
    check_string,
    printable,
)
from assocjax.corpora import fables
from assocjax.errors import InputError, InputTypeError

HUB_DOCUMENTS = 10_000
"""Default number of documents streamed from a hub dataset."""

Texts = str | os.PathLike[str] | Iterable[Any]
"""A corpus of texts, see the module's docstring."""

_NAMED = ("fables", "python-docs", "tinystories")
_ALIASES = {"tinystories": "hf:roneneldan/TinyStories:train"}
_BOM = "\ufeff"


class Documents(NamedTuple):
    """The text of a corpus.

    Attributes:
        name: Name of the corpus in results: its name, or the name of its file, in which bytes that
            are not UTF-8 are escaped.
        documents: The documents, none empty.
        sha256: Hash of the text, see `hash_documents`.
    """

    name: str
    documents: list[str]
    sha256: str


def commit_of(corpus: str) -> str | None:
    """The commit of a text of the hub; None for other texts, and if the hub cannot be asked."""
    from assocjax.corpora import _hub

    source = _ALIASES.get(corpus, corpus)
    return _hub.commit_of(source.removeprefix("hf:")) if source.startswith("hf:") else None


def read_documents(
    corpus: Texts,
    *,
    seed: int = 0,
    num_documents: int | None = None,
    separator: str = SEPARATOR,
    text_field: str = TEXT_FIELD,
    min_words: int = 80,
) -> Documents:
    """Reads the documents of a corpus; rows without text are left out.

    Args:
        corpus: A name, a path, or texts, see the table above.
        seed: Seed of the fables; ignored for other corpora.
        num_documents: Largest number of documents to read. By default 2,000 fables, the first
            10,000 documents of a hub dataset, and all documents of any other corpus.
        separator: String between two documents of a `.txt` file.
        text_field: The field or column of a file, a dataset or a table that holds the text.
        min_words: Least length of a fable in word tokens.

    Raises:
        InputError: If the corpus is unknown, an entry is not text, a file is missing, empty, not
            UTF-8 or not in its format, the hub cannot be reached, an extra is not installed, or
            more fables are requested than can be generated.
        InputTypeError: If an argument has a wrong type.
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
    corpus: Texts,
    *,
    seed: int = 0,
    num_documents: int | None = None,
    separator: str = SEPARATOR,
    text_field: str = TEXT_FIELD,
    min_words: int = 80,
) -> tuple[str, Iterator[str]]:
    """Like `read_documents`, but returns the name and an iterator over the documents.

    A hub dataset and a `.parquet` file are then never completely in memory. The iterator raises
    InputError at its first document if the corpus is empty.
    """
    if num_documents is not None:
        num_documents = check_integer(
            "num_documents", num_documents, minimum=1, maximum=sys.maxsize
        )
    check_integer("seed", seed, minimum=0)
    check_string("separator", separator)
    check_string("text_field", text_field)
    what, first = "row", 1
    if not isinstance(corpus, str | os.PathLike):
        name, rows = _given_rows(corpus, text_field)
        label, what, first = name, "index", 0
    else:
        name = check_path("corpus", corpus, "a name or a path")
        label = name = _ALIASES.get(name, name)
        if label == "fables":
            rows = fables.generate(num_documents or fables.NUM_DOCUMENTS, seed, min_words)
        elif label == "python-docs":
            rows = _python_docs()
        elif label.startswith("hf:"):
            from assocjax.corpora import _hub

            name, rows = _hub.stream_dataset(label.removeprefix("hf:"))
            num_documents = num_documents or HUB_DOCUMENTS
        else:
            name, rows = printable(Path(label).name), _read_file(label, separator, text_field)
            what = "line" if label.endswith(".jsonl") else what
    texts = _texts(rows, text_field, f"corpus: {label!r}, {what}", first)
    return name, _some(itertools.islice(texts, num_documents), label)


def _given_rows(corpus: Any, text_field: str) -> tuple[str, Iterator[Any]]:
    """The name and the rows of a corpus in memory: strings, mappings, or a table of columns."""
    name = getattr(getattr(corpus, "info", None), "dataset_name", None)  # of a datasets.Dataset
    if isinstance(corpus, Mapping) or hasattr(corpus, "columns"):
        names = corpus if isinstance(corpus, Mapping) else corpus.columns
        names = list(getattr(corpus, "column_names", names))  # of pyarrow; its columns are data
        if text_field not in names:
            raise InputError(f"corpus: no column {text_field!r} (text_field); it has {names}")
        corpus = corpus[text_field]
    try:
        if isinstance(corpus, bytes | bytearray):
            raise TypeError
        return name or "texts", iter(corpus)
    except TypeError:
        raise InputTypeError(
            "corpus must be a name, a path or an iterable of strings; got "
            f"{type(corpus).__name__} {corpus!r}"
        ) from None


def _texts(rows: Iterable[Any], text_field: str, what: str, first: int) -> Iterator[str]:
    """The texts of rows; each row is a text or has one under `text_field`.

    Rows without text are left out, and byte order marks, which joined files contain, are removed.

    Args:
        rows: The rows.
        what: Name of a row in error messages, before its number; the first is number `first`.
    """
    for number, row in enumerate(rows, first):
        where = f"{what} {number}"
        if isinstance(row, Mapping):
            if text_field not in row:
                fields = ", ".join(map(repr, row)) or "none"
                raise InputError(f"{where}: no field {text_field!r} (text_field); it has {fields}")
            row, where = row[text_field], f"{where}: field {text_field!r} (text_field)"
        text = row.as_py() if hasattr(row, "as_py") else row  # a scalar of pyarrow
        # pandas represents null by NaN or NA.
        is_nan = isinstance(text, float) and text != text
        if text is None or is_nan or type(text).__name__ == "NAType":
            continue
        if not isinstance(text, str):
            raise InputError(f"{where}: expected a string, got {type(text).__name__}")
        try:
            text.encode()  # fails for half a surrogate pair, which JSON can contain
        except UnicodeEncodeError as error:
            raise InputError(f"{where} is not text ({error})") from None
        text = text.replace(_BOM, "")
        _refuse_nul(text, where)
        if text.strip():
            yield text


def _refuse_nul(text: str, where: str) -> None:
    """In UTF-16, every second byte of ASCII is NUL, and about every tenth byte of Cyrillic text."""
    nul = text.count("\0")
    if nul >= 16 and nul > len(text) / 20:
        raise InputError(
            f"{where} is not UTF-8: {nul} of {len(text)} characters are NUL, as in UTF-16 or "
            "UTF-32; convert it to UTF-8"
        )


def _some(documents: Iterator[str], corpus: str) -> Iterator[str]:
    first = next(documents, None)
    if first is None:
        raise InputError(f"corpus: {corpus!r} holds no document")
    yield first
    yield from documents


def hash_documents(documents: Iterable[str]) -> str:
    """SHA-256 of documents: of the UTF-8 bytes of each, after their number, as in `5:hello`.

    The numbers make the hash depend on where documents end, not only on their joined text.
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


def _read_file(name: str, separator: str, text_field: str) -> Iterable[Any]:
    path = Path(name)
    readers = {
        ".txt": lambda: _decode(path).split(separator),
        ".jsonl": lambda: _read_jsonl(path),
        ".parquet": lambda: _read_parquet(path, text_field),
    }
    reader = readers.get(path.suffix.lower())
    # os.path returns False for names that no file can have; Path raises.
    if os.path.isdir(path) and path != Path():  # "" is handled below, as an unknown corpus
        raise InputError(
            f"corpus: {str(path)!r} is a folder; expected a file, or hf:{path} for a folder of "
            "files that the library datasets can read; a folder of assocjax tokenize works only "
            "for statistics and associations, and only if it is complete, with a tokens.json"
        )
    if reader is None:
        close = difflib.get_close_matches(name, _NAMED, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        shown = name if len(name) <= 100 else f"{name[:100]}..."
        raise InputError(
            f"corpus: unknown corpus {shown!r}{hint}; known are {', '.join(_NAMED)}, "
            f"hf:owner/name[:split] and paths that end in {', '.join(readers)}; a text itself is "
            "given in a list, as [text]"
        )
    if not os.path.isfile(path):
        raise InputError(f"corpus: no file {str(path)!r}")
    return reader()


def _decode(path: Path) -> str:
    where = f"corpus: {str(path)!r}"
    try:
        text = path.read_bytes().decode().replace(_BOM, "")  # line ends are not translated
    except OSError as error:
        raise InputError(f"corpus: cannot read {str(path)!r} ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where} is not UTF-8 (byte 0x{error.object[error.start]:02x} at offset "
            f"{error.start}); convert it to UTF-8"
        ) from None
    if not text.strip():
        raise InputError(f"{where} is empty")
    _refuse_nul(text, where)
    return text


def _read_jsonl(path: Path) -> Iterator[dict[str, Any] | None]:
    """The object of each line; None for an empty line."""
    # Not splitlines: it splits at characters that JSON allows within a string.
    for number, line in enumerate(_decode(path).split("\n"), start=1):
        where = f"corpus: {str(path)!r}, line {number}"
        try:
            record = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: not JSON ({error})") from None
        if not isinstance(record, dict | None):
            raise InputError(f"{where}: expected a JSON object, got {type(record).__name__}")
        yield record


def _read_parquet(path: Path, text_field: str) -> Iterator[Any]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise InputError(
            f"corpus: {str(path)!r} needs pyarrow: pip install 'assocjax[data]'"
        ) from None

    where = f"corpus: {str(path)!r}"
    try:
        # In batches, so that reading a few documents does not read the whole file.
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if names.count(text_field) != 1:
                raise InputError(
                    f"{where}: expected one column {text_field!r} (text_field); it has {names}"
                )
            for batch in file.iter_batches(columns=[text_field]):
                yield from batch.column(0).to_pylist()
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: column {text_field!r} is not UTF-8 ({error})") from None
    except (pa.ArrowException, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{where} is no parquet file ({reason})") from None
