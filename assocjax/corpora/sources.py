"""Sources: from the name of a corpus to its documents.

| corpus | what |
|---|---|
| `"fables"` | stories told on the spot (`assocjax.corpora.fables`), nothing to download |
| `"python-docs"` | the prose of Python's own language reference, part of every CPython |
| a path to `.txt` | documents split at `separator` |
| a path to `.jsonl` | one JSON object a line, with its text under `text_field` |
| a path to `.parquet` | the column `text_field`, strings in any of Arrow's layouts |
| `"tinystories"` | short for `hf:roneneldan/TinyStories:train` |
| `"hf:owner/name[:split]"` | a dataset of the Hugging Face hub, streamed |
| `"hf:FOLDER[:split]"` | a local folder in any format that `datasets` reads |

Parquet files and the hub need the extra `data`: `pip install 'assocjax[data]'`.

Of every one of them: text is UTF-8; rows without text (null, empty, white space alone) are left
out; U+FEFF, the byte order mark, is dropped wherever it stands, as where files were joined; and a
text of which more than a twentieth is NUL is refused, as UTF-16 that was taken for UTF-8. A file
whose table, or a line of it, has no field or column of that name is refused, too.
"""

from __future__ import annotations

import codecs
import difflib
import hashlib
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from assocjax.arguments import check_integer, check_path, check_string, printable
from assocjax.corpora import fables
from assocjax.defaults import SEPARATOR, TEXT_FIELD
from assocjax.errors import InputError

HUB_DOCUMENTS = 10_000
"""Documents streamed from a hub dataset unless `num_documents` says otherwise."""

_NAMED = ("fables", "python-docs", "tinystories")
_ALIASES = {"tinystories": "hf:roneneldan/TinyStories:train"}
_BOM = "\ufeff"
# UTF-32 first: its mark begins with that of UTF-16.
_MARKS = {
    "UTF-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
    "UTF-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}


class Documents(NamedTuple):
    """The text of a corpus.

    Attributes:
        name: What the corpus is called in results: its name, or the name of its file, of which
            bytes that are not UTF-8 are escaped.
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
    text_field: str = TEXT_FIELD,
    min_words: int = 80,
) -> Documents:
    """Reads the documents of a corpus; rows without text are left out.

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
            format, a hub that cannot be reached, an extra that is not installed, or more fables
            than can be told.
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
    text_field: str = TEXT_FIELD,
    min_words: int = 80,
) -> tuple[str, Iterator[str]]:
    """As `read_documents`: the name, and the documents one by one.

    A hub dataset and a `.parquet` file are then never wholly in memory. That there is a document
    is known when the first is asked for.
    """
    if num_documents is not None:
        num_documents = check_integer(
            "num_documents", num_documents, minimum=1, maximum=sys.maxsize
        )
    check_integer("seed", seed, minimum=0)
    check_string("separator", separator)
    check_string("text_field", text_field)
    corpus = check_path("corpus", corpus, "a name or a path")
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
        name, texts = printable(path.name), _read_file(path, separator, text_field)
    documents = filter(str.strip, (_plain(text, corpus) for text in texts))
    return name, _some(itertools.islice(documents, num_documents), corpus)


def _plain(text: str, corpus: str) -> str:
    """Without byte order marks, which joined files leave inside a text."""
    text = text.replace(_BOM, "")
    _refuse_nul(text, corpus)
    return text


def _refuse_nul(text: str, corpus: str) -> None:
    """Of UTF-16, ASCII is every second byte NUL; Cyrillic, for its spaces, still every tenth."""
    nul = text.count("\0")
    if nul >= 16 and nul > len(text) / 20:
        raise InputError(
            f"corpus: {corpus!r} is not UTF-8: {nul} of {len(text)} characters are NUL, as of "
            "UTF-16 or UTF-32 without a byte order mark; convert it to UTF-8"
        )


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
    # os.path answers no to names that no file can have, at which Path raises.
    if os.path.isdir(path) and path != Path():  # "" is no corpus at all
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
    if not os.path.isfile(path):
        raise InputError(f"corpus: no file {str(path)!r}")
    return reader()


def _decode(path: Path) -> str:
    data = _read_bytes(path)
    if not data.strip():
        raise InputError(f"corpus: {str(path)!r} is empty")
    for encoding, marks in _MARKS.items():
        if data.startswith(marks):
            raise InputError(
                f"corpus: {str(path)!r} is not UTF-8: it begins with the byte order mark of "
                f"{encoding}; convert it to UTF-8"
            )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"corpus: {str(path)!r} is not UTF-8 (byte 0x{data[error.start]:02x} at offset "
            f"{error.start})"
        ) from None
    _refuse_nul(text, str(path))
    return text.replace(_BOM, "")


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
        if text is None:
            continue
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

    where = f"corpus: {str(path)!r}"
    try:
        if not path.stat().st_size:
            raise InputError(f"{where} is empty")
        # Batch by batch, so that a few documents of a large file need not wait for all of it.
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            columns = ", ".join(map(repr, schema.names)) or "none"
            if schema.names.count(text_field) != 1:
                what = "several columns" if text_field in schema.names else "no column"
                raise InputError(f"{where}: {what} {text_field!r} (text_field); it has {columns}")
            kind = schema.field(text_field).type
            of = kind.value_type if pa.types.is_dictionary(kind) else kind
            is_strings = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
            if not any(is_kind(of) for is_kind in (*is_strings, pa.types.is_null)):
                raise InputError(
                    f"{where}: column {text_field!r} (text_field): expected strings, got {kind}"
                )
            for batch in file.iter_batches(columns=[text_field]):
                yield from filter(None, batch.column(0).to_pylist())
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: column {text_field!r} is not UTF-8 ({error})") from None
    except (pa.ArrowException, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{where} is no parquet file ({reason})") from None
