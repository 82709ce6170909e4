"""The command line: a module for each command, with its options and its code.

`sweep`, `horizon`, `track` and `ablate` train; `explore` shows the results of `track`. `predict`
predicts, from statistics alone, when associations form in a language model. `statistics` and
`associations` analyse a text, `attribute` finds where an association comes from; `tokenize` and
`merge` are for large texts. `compare` compares language models with the theory, `ngrams` what they
predict with n-grams, and `pretrain_tiny` trains small ones. `reproduce` makes the paper's tables
and figures.

Each command is a class of options, from which the parser (cyclopts) and the documentation are made.
Heavy libraries are imported when a command runs, so that help never waits for JAX.
"""

import importlib
import importlib.metadata
import sys
from typing import NoReturn

import cyclopts

from assocjax.cli._finished import run
from assocjax.cli._options import as_typed
from assocjax.cli._terminal import quiet, show
from assocjax.errors import InputError, InputTypeError

COMMANDS = ("sweep", "horizon", "statistics", "associations", "tokenize", "merge", "track")
COMMANDS += ("explore", "predict", "ablate", "attribute", "pretrain-tiny", "compare", "ngrams")
COMMANDS += ("reproduce",)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line.

    An error caused by user input is one line on stderr and exit code 2; anything else is a bug and
    keeps its traceback.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    command = None
    try:
        if not arguments:
            raise InputError("COMMAND is missing (see assocjax --help)")
        app = make_app(*set(arguments[:1]).intersection(COMMANDS))
        command = app(arguments, print_error=False, exit_on_error=False)
        if command is not None:  # None after --help and --version
            with quiet(command.quiet):
                run(command)
    except cyclopts.CycloptsError as error:
        error.verbose = False
        of = " ".join(("assocjax", *(error.command_chain or ())))
        message, argument = str(error), error.argument
        if isinstance(error, cyclopts.MissingArgumentError) and argument and argument.index == 0:
            needed, _ = argument.token_count()
            message = f"{argument.name.lstrip('-').upper()} is missing"
            message += f": {needed} are needed" if needed > 1 else ""
        _fail(f"{message} (see {of} --help)", 2)
    except (InputError, InputTypeError) as error:
        _fail(as_typed(str(error), command), 2)
    except KeyboardInterrupt as interrupt:
        _fail(str(interrupt) or "interrupted", 130)


def make_app(*names: str) -> cyclopts.App:
    """The parser of some commands, or of all; the documentation is made from it too."""
    app = cyclopts.App(
        name="assocjax",
        help="How semantic associations form while an attention-based language model trains: "
        "statistics of a text, and closed-form and exact training side by side.",
        help_epilogue="Options of a command: assocjax COMMAND --help. Results are NetCDF, JSON and "
        "figures (PNG, PDF) in the folder --out.",
        help_format="markdown",
        version=lambda: importlib.metadata.version("assocjax"),
        version_flags=("--version",),
        result_action="return_value",
    )
    for name in names or COMMANDS:
        module = importlib.import_module(f"assocjax.cli.{name.replace('-', '_')}")
        command = getattr(module, name.title().replace("-", ""))
        app.command(command, name=name, help_epilogue="")
    return app


def _fail(message: str, code: int) -> NoReturn:
    show(f"assocjax: {' '.join(message.split())}", whole=True, stderr=True)
    sys.exit(code)
