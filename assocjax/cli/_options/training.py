"""Options of the commands that train the theory's transformer: `sweep`, `horizon`, `ablate`."""

import argparse
from collections.abc import Callable

from assocjax.cli._options.base import Command, Commands, add_optimizer

FABLES_INIT_SCALES = [0.0, 1e-4]
"""Where starts of `fables` begin to hide the theory; those of another text may differ."""

THEORIES = ("leading", "effective")  # those of `runs`, which imports JAX

EDITS = ("remove", "keep", "replace", "swap")
"""Those of `ablation`."""


def add_sweep(commands: Commands, function: Command) -> None:
    parser = commands.of_corpus(function, out="assocjax-sweep", num_sequences=128)
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
    add_optimizer(add)
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


def add_horizon(commands: Commands, function: Command) -> None:
    parser = commands.of_corpus(
        function, out="assocjax-horizon", num_sequences=128, sizes=False, precision="float64"
    )
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


def add_ablate(commands: Commands, function: Command) -> None:
    parser = commands.of_corpus(function, out="assocjax-ablation", num_sequences=128)
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
