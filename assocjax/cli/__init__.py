"""The command line; a module for each command, which imports what is heavy only when it runs.

`sweep`, `horizon` (in `sweep`), `track`, `explore` (in `track`) and `ablate` train; `statistics`,
`associations`, `tokenize`, `merge` (in `statistics`) and `attribute` read a corpus;
`pretrain_tiny` and `compare` are of language models; `reproduce` is of the paper.
"""

import argparse
import sys
from typing import NoReturn

from assocjax.arguments import printable
from assocjax.cli._options import parser
from assocjax.cli.ablate import ablate
from assocjax.cli.attribute import attribute
from assocjax.cli.compare import compare
from assocjax.cli.pretrain_tiny import pretrain_tiny
from assocjax.cli.reproduce import reproduce
from assocjax.cli.statistics import associations, merge, statistics, tokenize
from assocjax.cli.sweep import horizon, sweep
from assocjax.cli.track import explore, track
from assocjax.errors import InputError, InputTypeError


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
