"""Options of the commands that follow associations over training: `track` and `explore`."""

from pathlib import Path

from assocjax.cli._options.base import Command, Commands, add_optimizer, add_out


def add_track(commands: Commands, function: Command) -> None:
    parser = commands.of_corpus(function, out="assocjax-track", num_sequences=512)
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
    add_optimizer(add)
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


def add_explore(commands: Commands, function: Command) -> None:
    parser = commands.bare(function)
    add = parser.add_argument
    add("results", type=Path, metavar="RESULTS", help="track.nc of a track")
    add_out(parser, None, "the page (default: RESULTS with the ending .html)")
    add("--token", help="what is shown first (default: bird, or a word of middling frequency)")
    add(
        "--max-steps",
        type=int,
        metavar="N",
        help="of more recorded steps, N that are evenly spread (default: 24; 12 of over 1500 "
        "tokens)",
    )
