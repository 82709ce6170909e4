"""Writing token files: a corpus of any size, in bounded memory, on all cores, resumably.

The text is read once (twice if a BPE tokeniser is trained on it). Tokens get provisional numbers,
which are kept on disk (`_numbers`); when all are known, the vocabulary is chosen, and a second pass
over the numbers, not over the text, writes the sequences.
"""

from __future__ import annotations

import filecmp
import importlib.metadata
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

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
from assocjax.corpora._formats import DTYPES
from assocjax.corpora._layout import (
    Layout,
    count_in_documents,
    gather,
    lay_out,
    select_vocabulary,
)
from assocjax.corpora._numbers import CHUNK, TOKENIZER, Numbers, write_whole
from assocjax.corpora.sources import Texts, open_source, repeatable
from assocjax.corpora.token_files import DESCRIPTION, TokenFile, hash_file, open_tokens
from assocjax.corpora.tokenizers import Subwords, Words, choose_encoder, load_tokenizer
from assocjax.corpora.tokens import check_choices, check_sizes, fable_words
from assocjax.errors import InputError
from assocjax.storage import Folder, claim

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

    Cost: little more than tokenising, see `benchmarks/tokenize_text.py`.
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

    def read(phase: Callable[[], str]) -> Iterator[str]:
        """The documents, from the first one; reports how much of their files has been read."""
        for number, document in enumerate(source.read()):
            if number % 100 == 0 and source.position.total:
                report(source.position.done, source.position.total, phase())
            yield document

    with (
        claim(folder, "tokenize", decides, result=DESCRIPTION, overwrite=overwrite) as claimed,
        claimed.scratch() as parts,
        claimed.writing(),
    ):
        numbers = Numbers(claimed, decides)
        if tokenizer == "bpe" and numbers.tokenizer is not None:
            encoder = Subwords(load_tokenizer(numbers.tokenizer))
        else:
            if tokenizer == "bpe":
                source = repeatable(source)
            training = partial(read, lambda: "training the tokenizer")
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
                known = np.ones(each.size, bool)
                if oov == "drop":
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
            data.append(parts / TOKENIZER)
            write_whole(data[-1], encoder.tokenizer.to_str())
        description = new.with_suffix(".json")
        description.write_text(json.dumps(about, ensure_ascii=False), "utf-8")
        _replace(claimed, data, description)
    return open_tokens(folder)


def _parts(layout: Layout, seq_len: int) -> Iterator[Layout]:
    """Sequences of a layout, so many at once that their tokens are no more than `CHUNK`."""
    size = max(1, CHUNK // (seq_len + 1))
    for first in range(0, layout.starts.size, size):
        rows = slice(first, first + size)
        yield layout._replace(starts=layout.starts[rows], sizes=layout.sizes[rows])


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
