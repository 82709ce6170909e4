"""The command line: parse, call the library, print. Heavy imports wait until a command runs."""

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assocjax.errors import InputError, InputTypeError

if TYPE_CHECKING:
    from assocjax.corpora import TokenData


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line.

    An error that the user can mend is one line on stderr and exit code 2; anything else is a bug
    and keeps its traceback.
    """
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except (InputError, InputTypeError) as error:
        _fail(str(error), 2)
    except KeyboardInterrupt:
        _fail("interrupted", 130)


def sweep(options: argparse.Namespace) -> None:
    """Train over a grid of runs and compare every one with the closed forms."""
    from assocjax import figures, results, sweeps

    folder = results.output_folder(options.out)
    _set_precision(options)
    data = _load(options)
    with _progress() as progress:
        dataset = sweeps.sweep(
            data,
            learning_rates=options.learning_rates,
            seeds=options.seeds,
            init_scales=options.init_scales,
            steps=options.steps,
            num_layers=options.num_layers,
            gradient=options.gradient,
            optimizer=options.optimizer,
            batch_size=options.batch_size,
            microbatch_size=options.microbatch_size,
            memory_limit=int(options.memory_limit * 2**30),
            progress=progress,
        )
    results.save(dataset, folder / "sweep.nc")
    rows = sweeps.summary(dataset)
    results.save_json({**results.attributes(dataset), "summary": rows}, folder / "summary.json")
    with _status("drawing"):
        paths = figures.save_sweep(dataset, folder)
    _print_table(
        f"After {options.steps} steps: loss (nats), cosine of each weight with the theory (worst "
        "layer and seed), relative error of the output matrix",
        rows,
    )
    if dataset.attrs["diverged"]:
        _print(f"diverged: {dataset.attrs['diverged']}")
    _print_written(folder, ["sweep.nc", "summary.json", *(path.name for path in paths)])


def statistics(options: argparse.Namespace) -> None:
    """Compute the basis functions of a corpus and what they compose to."""
    from assocjax import figures, results
    from assocjax.statistics import corpus_statistics

    folder = results.output_folder(options.out)
    _set_precision(options)
    data = _load(options)
    with _status("counting"):
        found = corpus_statistics(data.tokens, data.vocab_size, data.mask)
        dataset = results.statistics_dataset(data, found)
    results.save(dataset, folder / "statistics.nc")
    rows = results.statistics_summary(dataset)
    results.save_json({**results.attributes(dataset), "summary": rows}, folder / "summary.json")
    with _status("drawing"):
        paths = figures.save(figures.plot_statistics(dataset), folder / "statistics")
    _print_table(f"Statistics of {data.name}, {int(found.num_positions)} positions", rows)
    _print_written(folder, ["statistics.nc", "summary.json", *(path.name for path in paths)])


def associations(options: argparse.Namespace) -> None:
    """Print the top tokens of some tokens under each basis function and composed matrix."""
    from assocjax import associations as library
    from assocjax import results
    from assocjax.statistics import corpus_statistics

    folder = None if options.out is None else results.output_folder(options.out)
    _set_precision(options)
    data = _load(options)
    for token in options.tokens:
        data.token_id(token)  # fails before the work
    with _status("counting"):
        found = corpus_statistics(data.tokens, data.vocab_size, data.mask)
        if options.frequency_corrected:
            found = library.frequency_corrected(found, data.tokens, data.mask)
    listing = {
        token: {
            name: library.top_associations(
                getattr(found, name), data.vocabulary, token, options.top
            )
            for name in library.MATRICES
        }
        for token in options.tokens
    }
    for token, matrices in listing.items():
        rows = [
            {
                "matrix": name,
                "lists": library.MATRICES[name],
                "tokens": "  ".join(f"{token} ({score:.2g})" for token, score in best),
            }
            for name, best in matrices.items()
        ]
        _print_table(f"{token} in {data.name}", rows, lines=True)
    if folder is not None:
        attributes = results.provenance(
            data,
            {
                "tokens": options.tokens,
                "top": options.top,
                "frequency_corrected": options.frequency_corrected,
            },
        )
        scores = {
            token: {name: [a._asdict() for a in best] for name, best in matrices.items()}
            for token, matrices in listing.items()
        }
        content = {**results.decode(attributes), "associations": scores}
        results.save_json(content, folder / "associations.json")
        _print_written(folder, ["associations.json"])


class _Parser(argparse.ArgumentParser):
    """Reports bad usage in one line."""

    def error(self, message: str):
        _fail(f"{message} (see {self.prog} --help)", 2)


class _Help(argparse.HelpFormatter):
    """Adds the default to an option's help, unless the help states it or there is none."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        stated = action.default in (None, False, argparse.SUPPRESS) or not action.option_strings
        default = action.default
        if isinstance(default, list):
            default = " ".join(f"{value:g}" for value in default)
        return action.help if stated else f"{action.help} (default: {default})".replace("%", "%%")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="assocjax",
        description="How semantic associations form while an attention-based language model "
        "trains: statistics of a text, closed-form and exact training, side by side.",
        epilog="Each command writes NetCDF, JSON and figures (PNG, PDF) into the folder --out.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(function: Callable, *, out: str | None, num_sequences: int | None):
        summary = (function.__doc__ or "").strip()
        subparser = commands.add_parser(
            function.__name__,
            help=summary,
            description=summary,
            formatter_class=_Help,
            parents=[_corpus_options(num_sequences)],
        )
        subparser.set_defaults(command=function)
        subparser.add_argument("--out", type=Path, default=out, help="folder for the results")
        subparser.add_argument(
            "--precision",
            choices=["float32", "float64"],
            default="float32",
            help="floating-point precision",
        )
        return subparser

    subparser = command(sweep, out="assocjax-sweep", num_sequences=256)
    _sweep_options(subparser)
    command(statistics, out="assocjax-statistics", num_sequences=None)
    subparser = command(associations, out=None, num_sequences=None)
    subparser.add_argument("tokens", nargs="+", metavar="TOKEN", help="token to look up")
    subparser.add_argument("--top", type=int, default=8, help="associations to list a matrix")
    subparser.add_argument(
        "--frequency-corrected",
        action="store_true",
        help="divide token frequencies out, so that rare and frequent tokens compare",
    )
    return parser


def _corpus_options(num_sequences: int | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    group = parser.add_argument_group("corpus and tokens")
    add = group.add_argument
    add(
        "--corpus",
        default="fables",
        help="fables, python-docs, tinystories, hf:owner/name[:split], or a .txt, .jsonl or "
        ".parquet file",
    )
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
    add("--num-documents", type=int, help="documents to read (default: all; of a hub 10000)")
    add("--separator", default="<|endoftext|>", help="what separates documents of a .txt file")
    add("--text-field", default="text", help="field or column of .jsonl, .parquet and hub")
    add("--corpus-seed", type=int, default=0, help="seed of the fables")
    return parser


def _sweep_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("grid and training")
    add = group.add_argument
    add(
        "--learning-rates",
        type=float,
        nargs="+",
        default=[0.02, 0.05, 0.1, 0.2, 0.5, 1.0],
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
        default=[0.0],
        metavar="SD",
        help="standard deviations of the start; 0 is the zero start",
    )
    add("--steps", type=int, default=40, help="updates of every run")
    add("--num-layers", type=int, default=3, metavar="L", help="layers")
    add("--gradient", choices=["exact", "leading"], default="exact", help="what trains the weights")
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
        help="sequences differentiated at once (default: what fits in 64 MiB)",
    )
    add("--memory-limit", type=float, default=4.0, metavar="GIB", help="for runs done together")


def _fail(message: str, code: int):
    print(f"assocjax: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def _set_precision(options: argparse.Namespace) -> None:
    import jax

    jax.config.update("jax_enable_x64", options.precision == "float64")


def _load(options: argparse.Namespace) -> "TokenData":
    from assocjax.corpora import load_tokens

    with _status("reading"):
        data = load_tokens(
            options.corpus,
            vocab_size=options.vocab_size,
            seq_len=options.seq_len,
            num_sequences=options.num_sequences,
            tokenizer=options.tokenizer,
            oov=options.oov,
            long=options.long,
            short=options.short,
            seed=options.corpus_seed,
            num_documents=options.num_documents,
            separator=options.separator,
            text_field=options.text_field,
        )
    _print(
        f"{data.name}: {data.num_sequences} sequences of {data.seq_len} positions, vocabulary of "
        f"{data.vocab_size} tokens, {data.unk_fraction:.1%} unknown"
    )
    return data


def _print(text: Any, **options: Any) -> None:
    from rich.console import Console

    Console(highlight=False).print(text, markup=False, **options)


def _print_written(folder: Path, names: list[str]) -> None:
    _print(f"written to {folder}: {', '.join(names)}", soft_wrap=True)


def _print_table(title: str, rows: list[dict[str, Any]], *, lines: bool = False) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", show_lines=lines)
    for name, value in rows[0].items():
        table.add_column(name, justify="left" if isinstance(value, str) else "right")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row.values()))
    _print(table)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "-" if value != value else f"{value:.4g}"
    return str(value)


def _status(what: str):
    from rich.console import Console

    console = Console(stderr=True)
    return console.status(what) if console.is_terminal else contextlib.nullcontext()


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr, fed with (steps done, steps in all)."""
    from rich import progress as rich_progress
    from rich.console import Console

    columns = (
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TextColumn("steps"),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TextColumn("left"),
        rich_progress.TimeRemainingColumn(),
    )
    with rich_progress.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("compiling", total=None)
        yield lambda done, total: bar.update(
            task, description="training", completed=done, total=total
        )


if __name__ == "__main__":
    main()
