"""Options of the command `reproduce`."""

from assocjax.cli._options.base import Command, Commands, add_out

ARTEFACTS = ("table1", "table2", "table3", "figure3", "figure4", "figure5", "figures6-8")
"""Those of `assocjax.reproduce`, which imports JAX."""


def add_reproduce(commands: Commands, function: Command) -> None:
    parser = commands.bare(function)
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
        metavar="CORPUS",
        help="texts to read besides the fables, or in the paper's sizes instead of tinystories: "
        "python-docs, hf:owner/name[:split], or a .txt, .jsonl or .parquet file",
    )
    add("--precision", choices=["float32", "float64"], default="float32", help="of floating point")
    add_out(
        parser,
        "assocjax-reproduce",
        "folder for the results; what is there already is not computed again",
    )
