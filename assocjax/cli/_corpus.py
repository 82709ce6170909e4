"""Options for the corpus and its tokens; configures JAX and reads the corpus."""

import contextlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from assocjax import arguments
from assocjax.cli._kinds import Count, Length, Precision, Seed, VocabSize, unless_given
from assocjax.cli._options import Device, Training, arguments_of, options
from assocjax.cli._terminal import note, status
from assocjax.errors import InputError

if TYPE_CHECKING:
    from assocjax.corpora import TokenData, TokenFile


_QUICK = 512  # size of a vocabulary with which training is quick
_ALL = "all; for the fables, all of 2000 stories"


def by_default(largest: int) -> Parameter:
    return unless_given(
        f"as many as cover {arguments.COVERAGE:.0%} of the text, from "
        f"{arguments.LEAST_VOCAB_SIZE} to {largest}"
    )


@options("Corpus")
class Reading:
    """Which documents are read."""

    corpus: str = "fables"
    """fables, python-docs, tinystories, hf:owner/name[:split], or a .txt, .jsonl or .parquet file,
    also with .gz, .bz2 or .zst; a folder or a pattern of such files"""
    num_documents: Count | None = None
    """number of documents to read (default: all; 10000 from the hub)"""
    separator: str = arguments.SEPARATOR
    """string between documents of a .txt file"""
    text_field: str = arguments.TEXT_FIELD
    """field or column with the text, in .jsonl, .parquet and hub datasets"""
    corpus_seed: Seed = 0
    """seed of the fables"""

    def read(self, function: Callable, *first: Any, **others: Any) -> Any:
        """Calls a function that reads the corpus with the options that are its parameters."""
        with status("reading"):
            return function(*first, **arguments_of(self, function, seed=self.corpus_seed, **others))


@options("Tokens")
class Tokens(Reading):
    """How documents become tokens and sequences."""

    tokenizer: str = "word"
    """word, bpe (trained on the corpus) or a tokenizer.json file"""
    oov: arguments.Oov = "unk"
    """tokens outside the vocabulary become `<unk>`, or their documents are dropped"""
    long: arguments.Long = "window"
    """documents of more than T+1 tokens are split into windows, or cut"""
    short: arguments.Short = "drop"
    """documents of fewer than T+1 tokens are dropped, or padded and masked"""


@options("Tokens")
class Sizes:
    """Sizes of the vocabulary and of sequences."""

    vocab_size: Annotated[VocabSize | None, by_default(arguments.VOCAB_SIZE)] = None
    """keep the V most frequent tokens"""
    seq_len: Length = 32
    """number of positions of a sequence"""


@options("Tokens")
class Sequences(Device, Tokens):
    """A corpus in memory, and the precision of JAX."""

    num_sequences: Annotated[Count | None, unless_given(_ALL)] = None
    """keep the first N sequences"""
    precision: Precision = "float32"
    """floating-point precision"""

    def load(self, **sizes: int) -> "TokenData":
        from assocjax.corpora import load_tokens

        data = self.read(load_tokens, **sizes)
        note(f"{describe_corpus(data)}, {data.unk_fraction:.1%} unknown")
        covers = 0 < data.covering_size <= data.vocab_size  # the sequences differ a little
        if data.unk_fraction > 1 - arguments.COVERAGE and not covers:
            note(many_unknown(data))
        by_default = getattr(self, "vocab_size", 0) is None
        if isinstance(self, Training) and by_default and data.vocab_size > _QUICK:
            note(
                "the time of a training step grows with the square of the vocabulary: a smaller "
                "--vocab-size is faster"
            )
        return data


@options("Tokens")
class Corpus(Sizes, Sequences):
    """A corpus in memory, with one vocabulary size and sequence length."""


@options("Tokens")
class AnyCorpus(Corpus):
    """A corpus in memory, or a token file, whose sequences stay on disk."""

    corpus: str = "fables"
    """fables, python-docs, tinystories, hf:owner/name[:split], or a .txt, .jsonl or .parquet file,
    also with .gz, .bz2 or .zst; a folder or a pattern of such files; or a token file, which has its
    own vocabulary: a folder of assocjax tokenize or of Dataset.save_to_disk, a .bin, .npy or
    .arrow, or a pattern of such files"""
    vocabulary: str | None = None
    """of a token file that does not tell it: the number of tokens, or a tokenizer.json"""
    dtype: Literal["uint16", "int32", "uint32", "int64"] | None = None
    """of a token file that does not tell it"""
    end_id: int | None = None
    """of a token file: the id that stands between documents"""

    def open(self) -> "TokenData | TokenFile":
        from assocjax.corpora import open_tokens
        from assocjax.corpora.token_files import is_token_file

        if not is_token_file(self.corpus):
            for name in ("vocabulary", "dtype", "end_id"):
                if (value := getattr(self, name)) is not None:
                    raise InputError(f"{name}: only for token files, got {value!r}")
            return self.load()
        if self.vocab_size is not None:
            raise InputError(
                f"--vocab-size: not allowed, since the token file {self.corpus!r} has its own "
                f"vocabulary (or --vocabulary); got {self.vocab_size}"
            )
        file = open_tokens(self.corpus, **arguments_of(self, open_tokens))
        note(describe_corpus(file))
        return file


def configure_jax(
    device: str | None,
    precision: str = "float32",
    matmul_precision: str = "highest",
    *,
    check: bool = True,
) -> None:
    """Chooses what JAX computes on, and how exactly; with `check`, calls `check_device`."""
    import jax

    platforms = jax.config.jax_platforms  # type: ignore[attr-defined]
    if device is not None:
        jax.config.update("jax_platforms", device)

    jax.config.update("jax_enable_x64", precision == "float64")
    if matmul_precision != "highest":
        jax.config.update("jax_default_matmul_precision", matmul_precision)
    # The runs of a sweep are divided among devices: let every core be one, unless the user chose
    # another number or JAX already runs in this process.
    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    if check:
        try:
            check_device(device)
        except InputError:
            jax.config.update("jax_platforms", platforms)
            raise


def many_unknown(data: "TokenData") -> str:
    """The warning that much of a text is outside the vocabulary, and what to give instead."""
    larger = "a larger --vocab-size knows more of it"
    if data.covering_size > data.vocab_size:
        larger = f"--vocab-size {data.covering_size} knows {arguments.COVERAGE:.0%} of the text"
    return (
        f"warning: {data.unk_fraction:.1%} of the tokens are outside the vocabulary and become "
        f"{arguments.UNKNOWN}; {larger}"
    )


def check_device(device: str | None) -> None:
    """Raises InputError if JAX cannot run on the kind of device that is asked for; starts JAX."""
    import jax

    if device is None:
        return
    try:
        found = jax.devices()[0].platform
    except RuntimeError:
        found = None
    if found != device:
        raise InputError(
            f"--device {device}: JAX finds no {device} here; without --device it takes the fastest "
            "device that it finds"
        )


def describe_corpus(data: "TokenData | TokenFile") -> str:
    return (
        f"{data.name}: {data.num_sequences} sequences of {data.seq_len} positions, vocabulary of "
        f"{data.vocab_size} tokens"
    )
