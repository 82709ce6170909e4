"""Sources: from the name of a corpus to its documents.

| corpus | documents |
|---|---|
| `"fables"` | generated stories (`assocjax.corpora.fables`), without a download |
| `"python-docs"` | the prose of Python's own language reference, part of every CPython |
| a path to `.txt` | documents split at `separator` |
| a path to `.jsonl` | one JSON object a line, with its text under `text_field` |
| a path to `.parquet` | the column `text_field`, strings in any of Arrow's layouts |
| one of these, and `.gz`, `.bz2` or `.zst` | the same, compressed |
| a folder, or a pattern such as `"shards/*.jsonl.gz"` | all of its files of these kinds, by path |
| `"tinystories"` | short for `hf:roneneldan/TinyStories:train` |
| `"hf:owner/name[:split]"` | a dataset of the Hugging Face hub, streamed |
| `"hf:FOLDER[:split]"` | a local folder in any format that `datasets` reads |
| strings | any iterable of them, read once: a list, a generator, a column of a DataFrame |
| rows or a table | with a text under `text_field`: a `datasets.Dataset`, dicts, a DataFrame |

Parquet files, `.zst` and the hub need the extra `data`: `pip install 'assocjax[data]'`.
Files are read in blocks, so that memory does not grow with their size.

For all of them: text is UTF-8; rows without text (null, empty, only white space) are left out;
U+FEFF, the byte order mark, is dropped everywhere, also inside a text, where files were joined. A
document of more than 2^20 characters is read as several documents: it is cut before the last space,
tab or line break among its first 2^20 characters (after them if there is none), and so on. A text
with more than a twentieth of NUL characters is an error, since it is probably UTF-16 that was
decoded as UTF-8. A row or a table without a field or column `text_field` is an error too.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
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
from assocjax.corpora._files import (
    BOM,
    COMPRESSED,
    SUFFIXES,
    Position,
    cut,
    find_files,
    format_of,
    refuse_nul,
    rows_of,
)
from assocjax.errors import InputError, InputTypeError

HUB_DOCUMENTS = 10_000
"""Default number of documents streamed from a hub dataset."""

Texts = str | os.PathLike[str] | Iterable[Any]
"""A corpus of texts, see the module's docstring."""

_NAMED = ("fables", "python-docs", "tinystories")
_ALIASES = {"tinystories": "hf:roneneldan/TinyStories:train"}


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
    source = open_source(
        corpus,
        seed=seed,
        num_documents=num_documents,
        separator=separator,
        text_field=text_field,
        min_words=min_words,
    )
    documents = list(source.read())
    return Documents(source.name, documents, hash_documents(documents))


class Source(NamedTuple):
    """A corpus, whose documents are read one after another.

    Attributes:
        name: Name of the corpus in results.
        read: Returns an iterator over the documents, from the first one. The iterator raises
            InputError where a document cannot be read, and at once if there is none.
        position: How much of the files has been read.
        is_repeatable: Whether the documents can be read more than once.
    """

    name: str
    read: Callable[[], Iterator[str]]
    position: Position
    is_repeatable: bool


def open_source(
    corpus: Texts,
    *,
    seed: int = 0,
    num_documents: int | None = None,
    separator: str = SEPARATOR,
    text_field: str = TEXT_FIELD,
    min_words: int = 80,
) -> Source:
    """As `read_documents`, but documents are read when they are needed, in bounded memory."""
    if num_documents is not None:
        num_documents = check_integer(
            "num_documents", num_documents, minimum=1, maximum=sys.maxsize
        )
    check_integer("seed", seed, minimum=0)
    check_string("separator", separator)
    check_string("text_field", text_field)
    position, repeatable = Position(), True

    def texts_of(rows: Callable[[], Iterable[Any]], what: str = "row", first: int = 1):
        return _texts(rows(), text_field, f"corpus: {label!r}, {what}", first)

    if not isinstance(corpus, str | os.PathLike):
        name, given = _given_rows(corpus, text_field)
        label, repeatable = name, iter(given) is not given
        texts = partial(texts_of, lambda: given, "index", 0)
    else:
        name = check_path("corpus", corpus, "a name or a path")
        label = name = _ALIASES.get(name, name)
        if label == "fables":
            stories = num_documents or fables.NUM_DOCUMENTS
            texts = partial(texts_of, lambda: fables.generate(stories, seed, min_words))
        elif label == "python-docs":
            texts = partial(texts_of, _python_docs)
        elif label.startswith("hf:"):
            from assocjax.corpora import _hub

            name, rows = _hub.open_dataset(label.removeprefix("hf:"))
            texts = partial(texts_of, rows)
            num_documents = num_documents or HUB_DOCUMENTS
        else:
            folder = os.path.abspath(label) if os.path.isdir(label) else label
            name, files = printable(Path(folder).name), find_files(label)
            if not files:
                raise _unknown(label)
            position = Position(sum(os.path.getsize(file) for file in files))
            texts = partial(_texts_of_files, files, separator, text_field, position)

    def read() -> Iterator[str]:
        position.restart()
        return _some(itertools.islice(texts(), num_documents), label)

    return Source(name, read, position, repeatable)


def repeatable(source: Source) -> Source:
    """A corpus that can be read more than once; if it cannot, its documents are kept in memory."""
    if source.is_repeatable:
        return source
    return source._replace(read=partial(iter, list(source.read())), is_repeatable=True)


def _texts_of_files(
    files: list[Path], separator: str, text_field: str, position: Position
) -> Iterator[str]:
    for file in files:
        what = "line" if format_of(file) == ".jsonl" else "row"
        rows = rows_of(file, separator, text_field, position)
        yield from _texts(rows, text_field, f"corpus: {str(file)!r}, {what}", 1)


def _unknown(name: str) -> InputError:
    close = difflib.get_close_matches(name, _NAMED, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    shown = name if len(name) <= 100 else f"{name[:100]}..."
    return InputError(
        f"corpus: unknown corpus {shown!r}{hint}; known are {', '.join(_NAMED)}, "
        f"hf:owner/name[:split] and paths that end in {', '.join(SUFFIXES)}, or in one of these "
        f"and {', '.join(COMPRESSED)}; a text itself is given in a list, as [text]"
    )


def _given_rows(corpus: Any, text_field: str) -> tuple[str, Iterable[Any]]:
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
        iter(corpus)
        return name or "texts", corpus
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
            if not text.isascii():
                text.encode()  # fails for half a surrogate pair, which JSON can contain
        except UnicodeEncodeError as error:
            raise InputError(f"{where} is not text ({error})") from None
        text = text.replace(BOM, "")
        refuse_nul(text, where)
        yield from (piece for piece in cut(text) if piece and not piece.isspace())


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
