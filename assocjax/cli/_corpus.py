"""What commands do before they work: JAX as asked for, and the corpus."""

import argparse
import contextlib
import os
from typing import TYPE_CHECKING, Any

from assocjax.cli._terminal import show, status
from assocjax.errors import InputError

if TYPE_CHECKING:
    from assocjax.corpora import TokenData, TokenFile


def configure_jax(options: argparse.Namespace) -> None:
    import jax

    jax.config.update("jax_enable_x64", options.precision == "float64")
    if getattr(options, "matmul_precision", "highest") != "highest":
        jax.config.update("jax_default_matmul_precision", options.matmul_precision)
    # The runs of a sweep are divided among devices: let every core be one, unless the user chose
    # another number or JAX already runs in this process.
    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)


def corpus_options(options: argparse.Namespace) -> dict[str, Any]:
    """How a corpus is read and tokenised, as arguments of `load_tokens` and `write_tokens`."""
    names = ("vocab_size", "seq_len", "tokenizer", "oov", "long", "short")
    names += ("num_documents", "separator", "text_field", "default_vocab_size")
    return {name: getattr(options, name) for name in names} | {"seed": options.corpus_seed}


def load_corpus(options: argparse.Namespace) -> "TokenData":
    from assocjax.corpora import load_tokens

    with status("reading"):
        data = load_tokens(
            options.corpus, num_sequences=options.num_sequences, **corpus_options(options)
        )
    show_corpus(data, f", {data.unk_fraction:.1%} unknown")
    return data


def open_corpus(options: argparse.Namespace) -> "TokenData | TokenFile":
    """As `load_corpus`, or a token file, whose sequences stay on disk."""
    from assocjax.corpora import open_tokens
    from assocjax.corpora.token_files import is_token_file

    if not is_token_file(options.corpus):
        return load_corpus(options)
    if options.vocab_size is not None:
        raise InputError(
            f"--vocab-size: the token file {options.corpus!r} has a vocabulary of its own, got "
            f"{options.vocab_size}"
        )
    file = open_tokens(options.corpus, options.seq_len, num_sequences=options.num_sequences)
    show_corpus(file)
    return file


def show_corpus(data: "TokenData | TokenFile", unknown: str = "") -> None:
    show(
        f"{data.name}: {data.num_sequences} sequences of {data.seq_len} positions, vocabulary of "
        f"{data.vocab_size} tokens{unknown}"
    )
