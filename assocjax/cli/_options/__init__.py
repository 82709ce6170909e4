"""The options of the command line; a module for each family of commands. Imports nothing heavy."""

from collections.abc import Callable, Sequence

from assocjax.cli._options import llm, reproduce, statistics, tracking, training
from assocjax.cli._options.base import Command, Commands, Parser

_OPTIONS: dict[str, Callable[[Commands, Command], None]] = {
    "sweep": training.add_sweep,
    "horizon": training.add_horizon,
    "statistics": statistics.add_statistics,
    "associations": statistics.add_associations,
    "tokenize": statistics.add_tokenize,
    "merge": statistics.add_merge,
    "ablate": training.add_ablate,
    "attribute": statistics.add_attribute,
    "pretrain_tiny": llm.add_pretrain_tiny,
    "compare": llm.add_compare,
    "track": tracking.add_track,
    "explore": tracking.add_explore,
    "reproduce": reproduce.add_reproduce,
}


def parser(functions: Sequence[Command]) -> Parser:
    """The parser; `options.command(options)` then runs the chosen one of `functions`."""
    main = Parser(
        prog="assocjax",
        description="How semantic associations form while an attention-based language model "
        "trains: statistics of a text, closed-form and exact training, side by side.",
        epilog="Results are NetCDF, JSON and figures (PNG, PDF) in the folder --out.",
    )
    commands = Commands(main)
    for function in functions:
        _OPTIONS[function.__name__](commands, function)
    return main
