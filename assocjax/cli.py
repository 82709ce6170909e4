"""The command line: parses, runs a command, and makes one line of what the user can mend.

Heavy imports wait until a command runs.
"""

import argparse
import sys
from typing import NoReturn

from assocjax.arguments import printable
from assocjax.commands.ablation import ablate
from assocjax.commands.attribution import attribute
from assocjax.commands.compare import compare
from assocjax.commands.llm import pretrain_tiny
from assocjax.commands.reproduce import reproduce
from assocjax.commands.statistics import associations, merge, statistics, tokenize
from assocjax.commands.tracking import explore, track
from assocjax.commands.training import horizon, sweep
from assocjax.errors import InputError, InputTypeError
from assocjax.options import parser


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line.

    An error that the user can mend is one line on stderr and exit code 2; anything else is a bug
    and keeps its traceback.
    """
    try:
        options = make_parser().parse_args(arguments)
        options.command(options)
    except (InputError, InputTypeError) as error:
        _fail(str(error), 2)
    except KeyboardInterrupt as interrupt:
        _fail(str(interrupt) or "interrupted", 130)


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands; the documentation is made of it too."""
    commands = (sweep, horizon, statistics, associations, tokenize, merge)
    commands += (track, explore, ablate, attribute, pretrain_tiny, compare, reproduce)
    return parser(commands)


def _fail(message: str, code: int) -> NoReturn:
    print(f"assocjax: {printable(' '.join(message.split()))}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
