"""Options that say which text is read in which tokens; JAX as asked for, and the corpus read."""

import contextlib
import os
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from assocjax import defaults
from assocjax.cli._options import AtLeast2, Count, Precision, Whole, chosen, options
from assocjax.cli._terminal import show, status
from assocjax.errors import InputError

READ_VOCAB_SIZE = 3000
"""The paper's; where nothing is trained, it takes seconds."""

if TYPE_CHECKING:
    from assocjax.corpora import TokenData, TokenFile


@options("Corpus")
class Reading:
    """Which documents are read."""

    corpus: str = "fables"
    """fables, python-docs, tinystories, hf:owner/name[:split], or a .txt, .jsonl or .parquet
    file"""
    num_documents: Count | None = None
    """documents to read (default: all; of a hub 10000)"""
    separator: str = defaults.SEPARATOR
    """what separates documents of a .txt file"""
    text_field: str = "text"
    """field or column of .jsonl, .parquet and hub"""
    corpus_seed: Whole = 0
    """seed of the fables"""

    def reading(self) -> dict[str, Any]:
        """How documents are read, as arguments of `read_documents`."""
        given = chosen(self, "num_documents", "separator", "text_field")
        return given | {"seed": self.corpus_seed}


@options("Tokens")
class Tokens(Reading):
    """In which tokens."""

    tokenizer: str = "word"
    """word, bpe (trained on the corpus) or a tokenizer.json file"""
    oov: Literal["unk", "drop"] = "unk"
    """other tokens become `<unk>`, or their documents are dropped"""
    long: Literal["window", "cut"] = "window"
    """documents of more than T+1 tokens are split into windows, or cut"""
    short: Literal["drop", "pad"] = "drop"
    """documents of fewer than T+1 tokens are dropped, or padded and masked"""

    def tokenizing(self) -> dict[str, Any]:
        """How a corpus is tokenised, as arguments of `load_tokens` and `write_tokens`."""
        return chosen(self, "tokenizer", "oov", "long", "short") | self.reading()


def by_default(vocab_size: int) -> Parameter:
    return Parameter(show_default=lambda given: f"{vocab_size}, or what a text has")


@options("Tokens")
class Sizes:
    """Of a vocabulary and of sequences."""

    DEFAULT_VOCAB_SIZE = defaults.VOCAB_SIZE

    vocab_size: Annotated[
        AtLeast2 | None, Parameter(metavar="V"), by_default(DEFAULT_VOCAB_SIZE)
    ] = None
    """keep the V most frequent tokens"""
    seq_len: Annotated[Count, Parameter(metavar="T")] = 32
    """positions of a sequence"""

    def sizes(self) -> dict[str, Any]:
        sizes = chosen(self, "vocab_size", "seq_len")
        return sizes | {"default_vocab_size": self.DEFAULT_VOCAB_SIZE}


@options("Tokens")
class Sequences(Tokens):
    """A corpus in memory, and JAX as it is asked for."""

    num_sequences: Annotated[
        Count | None,
        Parameter(
            metavar="N",
            show_default=lambda given: str(given or "all; of fables, what 2000 stories give"),
        ),
    ] = None
    """keep the first N sequences"""
    precision: Precision = "float32"
    """floating-point precision"""

    def load_sized(self, **sizes: Any) -> "TokenData":
        from assocjax.corpora import load_tokens

        arguments = {"num_sequences": self.num_sequences, **self.tokenizing(), **sizes}
        with status("reading"):
            data = load_tokens(self.corpus, **arguments)
        show_corpus(data, f", {data.unk_fraction:.1%} unknown")
        return data


@options("Tokens")
class Corpus(Sizes, Sequences):
    """A corpus in memory, of one size."""

    def load(self) -> "TokenData":
        return self.load_sized(**self.sizes())


@options("Tokens")
class AnyCorpus(Corpus):
    """A corpus in memory, or a token file, whose sequences stay on disk."""

    corpus: str = "fables"
    """fables, python-docs, tinystories, hf:owner/name[:split], or a .txt, .jsonl or .parquet
    file; or a token file, with a vocabulary of its own: a folder of assocjax tokenize, a .bin or
    .npy"""

    def open(self) -> "TokenData | TokenFile":
        from assocjax.corpora import open_tokens
        from assocjax.corpora.token_files import is_token_file

        if not is_token_file(self.corpus):
            return self.load()
        if self.vocab_size is not None:
            raise InputError(
                f"--vocab-size: the token file {self.corpus!r} has a vocabulary of its own, got "
                f"{self.vocab_size}"
            )
        file = open_tokens(self.corpus, self.seq_len, num_sequences=self.num_sequences)
        show_corpus(file)
        return file


def configure_jax(precision: str, matmul_precision: str = "highest") -> None:
    import jax

    jax.config.update("jax_enable_x64", precision == "float64")
    if matmul_precision != "highest":
        jax.config.update("jax_default_matmul_precision", matmul_precision)
    # The runs of a sweep are divided among devices: let every core be one, unless the user chose
    # another number or JAX already runs in this process.
    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)


def show_corpus(data: "TokenData | TokenFile", unknown: str = "") -> None:
    show(
        f"{data.name}: {data.num_sequences} sequences of {data.seq_len} positions, vocabulary of "
        f"{data.vocab_size} tokens{unknown}"
    )
