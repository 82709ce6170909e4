"""Options of the commands about language models: `pretrain-tiny`, `compare`."""

from assocjax.cli._options.base import Command, Commands, add_out, reading_options

PROBES = ("single", "occurrence")
"""Those of `llm.revisions`, which imports JAX."""


def add_pretrain_tiny(commands: Commands, function: Command) -> None:
    parser = commands.bare(function)
    reading_options(parser.add_argument_group("corpus"))
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
    add_out(
        parser,
        "assocjax-pretrained",
        "folder for step0, step1, step2, ...; after an interruption the same command goes on",
    )


def add_compare(commands: Commands, function: Command) -> None:
    parser = commands.bare(function)
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a folder (of a folder for each revision), a .gguf file, or owner/name on the hub",
    )
    parser.add_argument(
        "--revisions",
        metavar="NAME,...",
        help="checkpoints to compare, such as step0,step1,step512 (default: the model itself)",
    )
    group = parser.add_argument_group("corpus")
    reading_options(group, "; or a token file in the model's tokens")
    group.add_argument("--seq-len", type=int, default=128, metavar="T", help="positions")
    group.add_argument(
        "--num-sequences",
        type=int,
        metavar="N",
        help="count the first N sequences (default: 4000, or all of a shorter text)",
    )
    group = parser.add_argument_group("comparison")
    for name, kind, default, metavar, what in (
        (
            "--num-tokens",
            int,
            None,
            "N",
            "the most frequent tokens to compare (default: 2000, or all that occur --min-count "
            "times)",
        ),
        ("--min-count", int, 10, "N", "how often a token must occur"),
        ("--shuffles", int, 100, "N", "shuffles of the tokens that make a null"),
        ("--bins", int, 10, "N", "bins of frequency, within which the second null shuffles"),
        ("--seed", int, 0, "SEED", "seed of the shuffles"),
    ):
        group.add_argument(name, type=kind, default=default, metavar=metavar, help=what)
    group.add_argument(
        "--probe",
        choices=PROBES,
        default="single",
        help="each token alone (the paper's), or its mean over its occurrences in the sequences",
    )
    add_out(
        parser,
        "assocjax-compare",
        "folder for the results, a file for each revision; after an interruption the same command "
        "goes on",
    )
