"""The options of the command line."""

import argparse
from collections.abc import Callable
from pathlib import Path

from assocjax.errors import InputError

FABLES_INIT_SCALES = [0.0, 1e-4]
"""Where starts of `fables` begin to hide the theory; those of another text may differ."""

THEORIES = ("leading", "effective")  # those of `runs`, which imports JAX

MATRICES = ("bigram", "context", "interchangeability", "value", "composed", "query_key")
"""Those of `attribution`, which imports JAX."""

EDITS = ("remove", "keep", "replace", "swap")
"""Those of `ablation`."""

ARTEFACTS = ("table1", "table2", "table3", "figure3", "figure4", "figure5", "figures6-8")
"""Those of `reproduce`, which imports JAX."""

DENSE_VOCAB_SIZE = 8192
"""Dense statistics of a larger vocabulary would take several GiB."""

_TOKEN_FILES = (
    "; or a token file, with a vocabulary of its own: a folder of assocjax tokenize, a .bin or .npy"
)
_SHARDS = (
    "In shards, in any order and on any machines; a shard that was stopped goes on when it is "
    "started again: statistics --shard I/N for each I; merge counts-*-of-N.nc; statistics --shard "
    "I/N --counts counts.nc for each I; merge correlations-*-of-N.nc; then associations "
    "--statistics reads counts.nc and correlations.nc. The result has the same bits for every N."
)

Command = Callable[[argparse.Namespace], None]


class _Parser(argparse.ArgumentParser):
    """Reports bad usage in one line."""

    def error(self, message: str):
        raise InputError(f"{message} (see {self.prog} --help)")


class _Help(argparse.HelpFormatter):
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


def parser(
    sweep: Command,
    horizon: Command,
    statistics: Command,
    associations: Command,
    tokenize: Command,
    merge: Command,
    ablate: Command,
    attribute: Command,
    pretrain_tiny: Command,
    track: Command,
    explore: Command,
    reproduce: Command,
) -> argparse.ArgumentParser:
    """The parser; `options.command(options)` then runs the chosen command."""
    main = _Parser(
        prog="assocjax",
        description="How semantic associations form while an attention-based language model "
        "trains: statistics of a text, closed-form and exact training, side by side.",
        epilog="Results are NetCDF, JSON and figures (PNG, PDF) in the folder --out.",
    )
    commands = main.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(
        function: Command,
        *,
        out: str | None,
        num_sequences: int | None,
        sizes: bool = True,
        precision: str | None = "float32",
        files: str = "",
    ):
        summary = (function.__doc__ or "").strip()
        subparser = commands.add_parser(
            function.__name__,
            help=summary,
            description=summary,
            formatter_class=_Help,
            parents=[_corpus_options(num_sequences, sizes, files)],
        )
        subparser.set_defaults(command=function)
        subparser.add_argument("--out", type=Path, default=out, help="folder for the results")
        if precision is not None:
            subparser.add_argument(
                "--precision",
                choices=["float32", "float64"],
                default=precision,
                help="floating-point precision",
            )
        return subparser

    subparser = command(sweep, out="assocjax-sweep", num_sequences=128)
    _sweep_options(subparser)
    subparser = command(
        horizon, out="assocjax-horizon", num_sequences=128, sizes=False, precision="float64"
    )
    _horizon_options(subparser)
    subparser = command(
        statistics, out="assocjax-statistics", num_sequences=None, files=_TOKEN_FILES
    )
    subparser.epilog = _SHARDS
    _add_matrices(subparser)
    subparser.add_argument(
        "--shard",
        metavar="I/N",
        help="only the I-th of N parts of the sequences, by sparse sums, to be merged",
    )
    subparser.add_argument(
        "--counts", type=Path, metavar="FILE", help="merged counts: --shard is of the second pass"
    )
    subparser = command(associations, out=None, num_sequences=None, files=_TOKEN_FILES)
    _add_matrices(subparser)
    subparser.add_argument(
        "--statistics",
        type=Path,
        metavar="FOLDER",
        help="read counts.nc and correlations.nc there, and no corpus",
    )
    subparser.add_argument("tokens", nargs="+", metavar="TOKEN", help="token to look up")
    subparser.add_argument("--top", type=int, default=8, help="associations to list a matrix")
    subparser.add_argument(
        "--frequency-corrected",
        action="store_true",
        help="divide token frequencies out, so that rare and frequent tokens compare",
    )
    subparser = command(track, out="assocjax-track", num_sequences=512)
    _track_options(subparser)
    summary = (explore.__doc__ or "").strip()
    subparser = commands.add_parser(
        "explore", help=summary, description=summary, formatter_class=_Help
    )
    subparser.set_defaults(command=explore)
    subparser.add_argument("results", type=Path, metavar="RESULTS", help="track.nc of a track")
    subparser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.html",
        help="the page (default: RESULTS with the ending .html)",
    )
    subparser.add_argument(
        "--token", help="what is shown first (default: a word of middling frequency)"
    )
    subparser.add_argument(
        "--max-steps",
        type=int,
        default=24,
        metavar="N",
        help="of more recorded steps, N that are evenly spread",
    )
    command(tokenize, out="assocjax-tokens", num_sequences=None, precision=None)
    summary = (merge.__doc__ or "").strip()
    subparser = commands.add_parser(
        "merge", help=summary, description=summary, formatter_class=_Help, epilog=_SHARDS
    )
    subparser.set_defaults(command=merge)
    subparser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="of all shards")
    subparser.add_argument(
        "--out", type=Path, default="assocjax-statistics", help="folder for the results"
    )
    subparser = command(ablate, out="assocjax-ablation", num_sequences=128)
    _ablation_options(subparser)
    subparser = command(attribute, out=None, num_sequences=None, precision="float64")
    subparser.epilog = (
        "Rows and columns are those of `assocjax associations`: bigram [bird, flew] is how often "
        "flew follows bird, context [flew, bird] how often bird stands before flew, both minus "
        "chance; value [bird, flew] says that bird announces what follows flew."
    )
    subparser.add_argument(
        "tokens", nargs=2, metavar="TOKEN", help="the row and the column of the entry"
    )
    subparser.add_argument(
        "--weight",
        nargs="+",
        choices=MATRICES,
        default=["value"],
        metavar="MATRIX",
        help=f"matrices whose entry is taken apart, of {', '.join(MATRICES)}",
    )
    subparser.add_argument("--top", type=int, default=8, help="documents to list a matrix")
    summary = (pretrain_tiny.__doc__ or "").strip()
    subparser = commands.add_parser(
        "pretrain-tiny", help=summary, description=summary, formatter_class=_Help
    )
    subparser.set_defaults(command=pretrain_tiny)
    _reading_options(subparser.add_argument_group("corpus"))
    _pretraining_options(subparser)
    summary = (reproduce.__doc__ or "").strip()
    subparser = commands.add_parser(
        "reproduce", help=summary, description=summary, formatter_class=_Help
    )
    subparser.set_defaults(command=reproduce)
    _reproduce_options(subparser)
    return main


def _add_matrices(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--matrices",
        choices=["auto", "dense", "sparse"],
        default="auto",
        help="dense [V, V], of which some 12 are held, or sparse (float64, on the CPU); auto is "
        f"sparse for V above {DENSE_VOCAB_SIZE} and for token files (default: auto)",
    )


def _corpus_options(num_sequences: int | None, sizes: bool, files: str) -> _Parser:
    parser = _Parser(add_help=False)
    group = parser.add_argument_group("corpus and tokens")
    add = group.add_argument
    _reading_options(group, files)
    if sizes:
        add(
            "--vocab-size",
            type=int,
            metavar="V",
            help="keep the V most frequent tokens (default: 256, or all of a smaller text)",
        )
        add("--seq-len", type=int, default=32, metavar="T", help="positions of a sequence")
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


def _reading_options(group: argparse._ArgumentGroup, files: str = "") -> None:
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


def _sweep_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("grid and training")
    add = group.add_argument
    add(
        "--learning-rates",
        type=float,
        nargs="+",
        default=[0.1, 0.5, 1.0, 2.0],
        metavar="ETA",
        help="step sizes",
    )
    add(
        "--seeds",
        type=int,
        nargs="+",
        default=[0, 1],
        metavar="SEED",
        help="seeds of the start and of the order of batches",
    )
    add(
        "--init-scales",
        type=float,
        nargs="+",
        metavar="SD",
        help="standard deviations of the start; 0 is the zero start (default: 0; for fables "
        f"{' '.join(f'{scale:g}' for scale in FABLES_INIT_SCALES)})",
    )
    add("--steps", type=int, default=40, help="updates of every run")
    add("--num-layers", type=int, default=3, metavar="L", help="layers")
    _add_theories(add)
    add("--gradient", choices=["exact", *THEORIES], default="exact", help="what trains the weights")
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
        help="sequences differentiated at once (default: what fits in 16 MiB, on a GPU in 1 GiB)",
    )
    add(
        "--matmul-precision",
        choices=["highest", "tensorfloat32", "bfloat16"],
        default="highest",
        help="of matrix products in float32, where a device has less; its error is printed",
    )
    add(
        "--memory-limit",
        type=_gibibytes,
        default="4",
        metavar="GIB",
        help="memory for runs done together",
    )
    add(
        "--checkpoint-every",
        type=int,
        metavar="STEPS",
        help="steps after which all is saved under --out; after an interruption the same command "
        "goes on from there (default: a tenth of --steps, 100 at most)",
    )

    group = parser.add_argument_group(
        "processes", "The same command in every process, on as many machines; --out is shared."
    )
    add = group.add_argument
    add(
        "--distributed",
        action="store_true",
        help="join the other processes of a Slurm job, a TPU pod or another cluster that JAX knows",
    )
    add("--coordinator", metavar="HOST:PORT", help="elsewhere: the address of process 0")
    add("--num-processes", type=int, metavar="N", help="elsewhere: how many processes there are")
    add("--process-id", type=int, metavar="I", help="elsewhere: which of them this is, from 0")


def _pretraining_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model and training")
    for name, kind, default, metavar, what in (
        ("--vocab-size", int, 2048, "V", "tokens of a byte-pair vocabulary, trained on the corpus"),
        ("--seq-len", int, 128, "T", "positions of a sequence"),
        ("--batch-size", int, 32, "N", "sequences of a step"),
        ("--steps", int, 512, "STEPS", "updates; checkpoints after 0, 1, 2, 4, ... of them"),
        ("--num-layers", int, 6, "L", "layers"),
        ("--width", int, 128, "D", "size of the residual stream"),
        ("--num-heads", int, 4, "H", "attention heads"),
        ("--learning-rate", float, 1e-3, "ETA", "the largest, after the warmup"),
        ("--seed", int, 0, "SEED", "seed of the start and of the order of sequences"),
    ):
        group.add_argument(name, type=kind, default=default, metavar=metavar, help=what)
    parser.add_argument(
        "--out",
        type=Path,
        default="assocjax-pretrained",
        help="folder for step0, step1, step2, ...; after an interruption the same command goes on",
    )


def _track_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("run and record")
    add = group.add_argument
    add("--learning-rate", type=float, default=2.0, metavar="ETA", help="step size")
    add("--steps", type=int, default=64, help="updates")
    add("--num-layers", type=int, default=3, metavar="L", help="layers")
    add(
        "--init-scale",
        type=float,
        default=1e-5,
        metavar="SD",
        help="standard deviation of the start; from 0 the theory's lists are there at once",
    )
    add("--seed", type=int, default=0, help="seed of the start and of the order of batches")
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
        help="sequences differentiated at once (default: what fits in 16 MiB, on a GPU in 1 GiB)",
    )
    add(
        "--record-at",
        type=int,
        nargs="+",
        metavar="STEP",
        help="steps at which to record (default: 0 and about twenty, evenly on a log scale)",
    )
    add("--top", type=int, default=10, metavar="K", help="length of the lists")
    add(
        "--graph",
        nargs="+",
        default=[],
        metavar="TOKEN",
        help="tokens whose context to draw as a small graph",
    )


def _reproduce_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "artefacts",
        nargs="+",
        metavar="ARTEFACT",
        help=f"{', '.join(ARTEFACTS)} or all",
    )
    add(
        "--scale",
        choices=["tiny", "small", "paper"],
        default="small",
        help="the paper's sizes, smaller ones for two cores, or tiny ones that say nothing",
    )
    add(
        "--corpus",
        nargs="+",
        default=[],
        metavar="CORPUS",
        help="texts to read besides the fables, or in the paper's sizes instead of tinystories: "
        "python-docs, hf:owner/name[:split], or a .txt, .jsonl or .parquet file",
    )
    add("--precision", choices=["float32", "float64"], default="float32", help="of floating point")
    add(
        "--out",
        type=Path,
        default="assocjax-reproduce",
        help="folder for the results; what is there already is not computed again",
    )


def _horizon_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "settings", "The first of each list is the base; the others are tried one at a time."
    )
    for name, kind, default, metavar, what in (
        ("--learning-rates", float, [0.4, 0.2, 0.8], "ETA", "step sizes"),
        ("--vocab-sizes", int, [100, 50, 150], "V", "most frequent tokens to keep"),
        ("--seq-lens", int, [32, 16, 64], "T", "positions of a sequence"),
        ("--num-layers", int, [2, 1, 3], "L", "layers"),
    ):
        group.add_argument(name, type=kind, nargs="+", default=default, metavar=metavar, help=what)
    _add_theories(group.add_argument)
    group.add_argument(
        "--duration",
        type=float,
        default=24.0,
        metavar="TAU",
        help="training time, learning rate times steps, at which runs end",
    )
    group.add_argument(
        "--threshold", type=float, default=0.1, help="relative error that ends a theory"
    )


def _ablation_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    add = group.add_argument
    add("--learning-rate", type=float, default=1.0, metavar="ETA", help="step size")
    add("--steps", type=int, default=40, help="updates")
    add("--num-layers", type=int, default=3, metavar="L", help="layers")
    add("--init-scale", type=float, default=0.0, metavar="SD", help="standard deviation at start")
    add("--optimizer", default="sgd", help="any optax optimizer, by name")
    add("--batch-size", type=int, metavar="N", help="sequences in a minibatch (default: all)")
    add("--seed", type=int, default=0, help="seed of start, batches and random directions")
    group = parser.add_argument_group("ablation")
    add = group.add_argument
    add("--theory", choices=THEORIES, default="leading", help="whose terms are taken away")
    add(
        "--edits",
        nargs="+",
        choices=EDITS,
        default=["remove"],
        help="remove: the projection on the theory; keep: nothing but it; replace: the weight by "
        "the theory at the weight's norm; swap: the projection for the term of another weight "
        "(query_key gets that of value, value of output, output of query_key)",
    )
    add("--draws", type=int, default=8, help="random directions of each control")


def _add_theories(add: Callable) -> None:
    add(
        "--theories",
        nargs="+",
        choices=THEORIES,
        default=list(THEORIES),
        help="what every run is compared with",
    )


def _gibibytes(text: str) -> int:
    """Bytes in so many GiB."""
    try:
        size = int(float(text) * 2**30)
    except (ValueError, OverflowError):
        size = 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"expected a positive number of GiB, got {text!r}")
    return size
