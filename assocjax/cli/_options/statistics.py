"""Options of the commands that count a corpus and read what it says."""

from pathlib import Path

from assocjax.cli._options.base import Command, Commands, Parser, add_out

MATRICES = ("bigram", "context", "interchangeability", "value", "composed", "query_key")
"""Those of `attribution`, which imports JAX."""

DENSE_VOCAB_SIZE = 8192
"""Dense statistics of a larger vocabulary would take several GiB."""

_READ_VOCAB_SIZE = 3000
"""The paper's; where nothing is trained, it takes seconds."""

_TOKEN_FILES = (
    "; or a token file, with a vocabulary of its own: a folder of assocjax tokenize, a .bin or .npy"
)
_SHARDS = (
    "In shards, in any order and on any machines; a shard that was stopped goes on when it is "
    "started again: statistics --shard I/N for each I; merge counts-*-of-N.nc; statistics --shard "
    "I/N --counts counts.nc for each I; merge correlations-*-of-N.nc; then associations "
    "--statistics reads counts.nc and correlations.nc. The result has the same bits for every N."
)


def add_statistics(commands: Commands, function: Command) -> None:
    parser = commands.of_corpus(
        function,
        out="assocjax-statistics",
        num_sequences=None,
        files=_TOKEN_FILES,
        epilog=_SHARDS,
    )
    _add_matrices(parser)
    parser.add_argument(
        "--shard",
        metavar="I/N",
        help="only the I-th of N parts of the sequences, by sparse sums, to be merged",
    )
    parser.add_argument(
        "--counts", type=Path, metavar="FILE", help="merged counts: --shard is of the second pass"
    )


def add_associations(commands: Commands, function: Command) -> None:
    parser = commands.of_corpus(
        function, out=None, num_sequences=None, vocab_size=_READ_VOCAB_SIZE, files=_TOKEN_FILES
    )
    _add_matrices(parser)
    parser.add_argument(
        "--statistics",
        type=Path,
        metavar="FOLDER",
        help="read what statistics or merge has written there, and no corpus",
    )
    parser.add_argument("tokens", nargs="+", metavar="TOKEN", help="token to look up")
    parser.add_argument("--top", type=int, default=8, help="associations to list a matrix")
    parser.add_argument(
        "--frequency-corrected",
        action="store_true",
        help="divide token frequencies out, so that rare and frequent tokens compare",
    )


def add_tokenize(commands: Commands, function: Command) -> None:
    commands.of_corpus(
        function,
        out="assocjax-tokens",
        num_sequences=None,
        vocab_size=50_000,
        choose=False,
        precision=None,
    )


def add_merge(commands: Commands, function: Command) -> None:
    parser = commands.bare(function, _SHARDS)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="of all shards")
    add_out(parser, "assocjax-statistics")


def add_attribute(commands: Commands, function: Command) -> None:
    parser = commands.of_corpus(
        function,
        out=None,
        num_sequences=None,
        vocab_size=_READ_VOCAB_SIZE,
        precision="float64",
        epilog="Rows and columns are those of `assocjax associations`: bigram [bird, flew] is how "
        "often flew follows bird, context [flew, bird] how often bird stands before flew, both "
        "minus chance; value [bird, flew] says that bird announces what follows flew.",
    )
    parser.add_argument(
        "tokens", nargs=2, metavar="TOKEN", help="the row and the column of the entry"
    )
    parser.add_argument(
        "--weight",
        nargs="+",
        choices=MATRICES,
        default=["value"],
        metavar="MATRIX",
        help=f"after the tokens: matrices whose entry is taken apart, of {', '.join(MATRICES)}",
    )
    parser.add_argument("--top", type=int, default=8, help="documents to list a matrix")


def _add_matrices(parser: Parser) -> None:
    parser.add_argument(
        "--matrices",
        choices=["auto", "dense", "sparse"],
        default="auto",
        help="dense [V, V], of which some 12 are held, or sparse (float64, on the CPU); auto is "
        f"sparse for V above {DENSE_VOCAB_SIZE} and for token files",
    )
