"""What the options of all commands share: errors, help, and how a corpus is read."""

import argparse
from collections.abc import Callable
from pathlib import Path

from assocjax.errors import InputError

Command = Callable[[argparse.Namespace], None]


class Parser(argparse.ArgumentParser):
    """Reports bad usage in one line."""

    def error(self, message: str):
        raise InputError(f"{message} (see {self.prog} --help)")


class Help(argparse.HelpFormatter):
    """Adds the default to an option's help, unless the help states it or there is none."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        # A default of 0 equals False, and is one all the same.
        stated = default is None or default is False or default == argparse.SUPPRESS
        if isinstance(default, list):
            default = " ".join(v if isinstance(v, str) else f"{v:g}" for v in default)
        if stated or not action.option_strings:
            return action.help
        return f"{action.help} (default: {default})".replace("%", "%%")


class Commands:
    """The commands of a parser, each of a function and its docstring's first line."""

    def __init__(self, main: "Parser"):
        self._add = main.add_subparsers(
            title="commands", metavar="COMMAND", required=True, parser_class=Parser
        )

    def bare(self, function: Command, epilog: str = "") -> Parser:
        """A command without options yet."""
        return self._of(function, [], epilog)

    def of_corpus(
        self,
        function: Command,
        *,
        out: str | None,
        num_sequences: int | None,
        sizes: bool = True,
        vocab_size: int = 256,
        choose: bool = True,
        precision: str | None = "float32",
        files: str = "",
        epilog: str = "",
    ) -> Parser:
        """A command that reads a corpus in tokens of its own choice, and writes results."""
        parser = self._of(
            function, [corpus_options(num_sequences, sizes, vocab_size, choose, files)], epilog
        )
        add_out(parser, out)
        if precision is not None:
            parser.add_argument(
                "--precision",
                choices=["float32", "float64"],
                default=precision,
                help="floating-point precision",
            )
        return parser

    def _of(self, function: Command, parents: list[Parser], epilog: str) -> Parser:
        summary = (function.__doc__ or "").strip()
        parser = self._add.add_parser(
            function.__name__.replace("_", "-"),
            help=summary,
            description=summary,
            formatter_class=Help,
            parents=parents,
            epilog=epilog,
        )
        parser.set_defaults(command=function)
        return parser


def corpus_options(
    num_sequences: int | None, sizes: bool, vocab_size: int, choose: bool, files: str
) -> Parser:
    """`sizes`: with V and T; `choose`: with a number of sequences to keep."""
    parser = Parser(add_help=False)
    group = parser.add_argument_group("corpus and tokens")
    add = group.add_argument
    reading_options(group, files)
    parser.set_defaults(default_vocab_size=vocab_size)
    if sizes:
        add(
            "--vocab-size",
            type=int,
            metavar="V",
            help=f"keep the V most frequent tokens (default: {vocab_size}, or what a text has)",
        )
        add("--seq-len", type=int, default=32, metavar="T", help="positions of a sequence")
    if choose:
        add(
            "--num-sequences",
            type=int,
            default=num_sequences,
            metavar="N",
            help="keep the first N sequences"
            + ("" if num_sequences else " (default: all; of fables, what 2000 stories give)"),
        )
    add(
        "--tokenizer",
        default="word",
        help="word, bpe (trained on the corpus) or a tokenizer.json file",
    )
    add(
        "--oov",
        choices=["unk", "drop"],
        default="unk",
        help="other tokens become <unk>, or their documents are dropped",
    )
    add(
        "--long",
        choices=["window", "cut"],
        default="window",
        help="documents of more than T+1 tokens are split into windows, or cut",
    )
    add(
        "--short",
        choices=["drop", "pad"],
        default="drop",
        help="documents of fewer than T+1 tokens are dropped, or padded and masked",
    )
    return parser


def add_out(parser: Parser, out: str | None, what: str = "folder for the results") -> None:
    """Where results go, and whether they may replace others."""
    parser.add_argument("--out", type=Path, default=out and Path(out), help=what)
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace results of another configuration that are there, or compute the same anew",
    )


def reading_options(group: argparse._ArgumentGroup, files: str = "") -> None:
    add = group.add_argument
    add(
        "--corpus",
        default="fables",
        help="fables, python-docs, tinystories, hf:owner/name[:split], or a .txt, .jsonl or "
        f".parquet file{files}",
    )
    add("--num-documents", type=int, help="documents to read (default: all; of a hub 10000)")
    add("--separator", default="<|endoftext|>", help="what separates documents of a .txt file")
    add("--text-field", default="text", help="field or column of .jsonl, .parquet and hub")
    add("--corpus-seed", type=int, default=0, help="seed of the fables")


def add_optimizer(add: Callable) -> None:
    """How a run is trained; `add` is `add_argument` of a parser or group."""
    add("--optimizer", default="sgd", help="any optax optimizer, by name")
    add(
        "--batch-size",
        type=int,
        metavar="N",
        help="sequences in a minibatch (default: the full batch)",
    )
    add(
        "--microbatch-size",
        type=int,
        metavar="N",
        help="sequences differentiated at once (default: what fits in 8 MiB, on a GPU in 1 GiB)",
    )
