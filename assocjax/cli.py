"""The command line: parse, call the library, print. Heavy imports wait until a command runs."""

import argparse
import contextlib
import math
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from assocjax.arguments import check_integer
from assocjax.errors import InputError, InputTypeError
from assocjax.options import FABLES_INIT_SCALES, parser

if TYPE_CHECKING:
    from assocjax.corpora import TokenData


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line.

    An error that the user can mend is one line on stderr and exit code 2; anything else is a bug
    and keeps its traceback.
    """
    try:
        options = parser(sweep, statistics, associations).parse_args(arguments)
        options.command(options)
    except (InputError, InputTypeError) as error:
        _fail(str(error), 2)
    except KeyboardInterrupt:
        _fail("interrupted", 130)


def sweep(options: argparse.Namespace) -> None:
    """Train over a grid of runs and compare every one with the closed forms."""
    from assocjax import figures, results, sweeps

    folder = results.output_folder(options.out)
    _configure_jax(options)
    data = _load(options)
    with _progress() as progress:
        dataset = sweeps.sweep(
            data,
            learning_rates=options.learning_rates,
            seeds=options.seeds,
            init_scales=options.init_scales or _default_init_scales(options.corpus),
            steps=options.steps,
            num_layers=options.num_layers,
            gradient=options.gradient,
            optimizer=options.optimizer,
            batch_size=options.batch_size,
            microbatch_size=options.microbatch_size,
            memory_limit=options.memory_limit,
            progress=progress,
        )
    results.save(dataset, folder / "sweep.nc")
    rows = sweeps.summary(dataset)
    results.save_json({**results.decode(dataset.attrs), "summary": rows}, folder / "summary.json")
    with _status("drawing"):
        paths = figures.save_sweep(dataset, folder)
    _print(
        f"After {options.steps} steps: loss in nats (at the start log V = "
        f"{math.log(data.vocab_size):.4f}); cosine of each weight with the theory, worst layer and "
        "seed; relative error of the output matrix"
    )
    for scale in dataset["init_scale"].values.tolist():
        of_scale = [dict(row) for row in rows if row["init_scale"] == scale]
        for row in of_scale:
            del row["init_scale"]
        _print_table(f"start sd {scale:g}", of_scale)
    if dataset.attrs["diverged"]:
        _print(f"diverged: {dataset.attrs['diverged']}")
    _print_written(folder, ["sweep.nc", "summary.json", *(path.name for path in paths)])


def statistics(options: argparse.Namespace) -> None:
    """Compute the basis functions of a corpus and what they compose to."""
    from assocjax import figures, results
    from assocjax.statistics import corpus_statistics

    folder = results.output_folder(options.out)
    _configure_jax(options)
    data = _load(options)
    with _status("counting"):
        found = corpus_statistics(data.tokens, data.vocab_size, data.mask)
        dataset = results.statistics_dataset(data, found)
    results.save(dataset, folder / "statistics.nc")
    rows = results.statistics_summary(dataset)
    results.save_json({**results.decode(dataset.attrs), "summary": rows}, folder / "summary.json")
    with _status("drawing"):
        paths = figures.save(figures.plot_statistics(dataset), folder / "statistics")
    _print_table(f"Statistics of {data.name}, {int(found.num_positions)} positions", rows)
    _print_written(folder, ["statistics.nc", "summary.json", *(path.name for path in paths)])


def associations(options: argparse.Namespace) -> None:
    """Print the top tokens of some tokens under each basis function and composed matrix."""
    from assocjax import associations as library
    from assocjax import results
    from assocjax.statistics import corpus_statistics

    check_integer("--top", options.top, minimum=1)
    folder = None if options.out is None else results.output_folder(options.out)
    _configure_jax(options)
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
        _print(f"\n{token} in {data.name}")
        for name, best in matrices.items():
            _print(f"  {name}: {library.MATRICES[name]}")
            line = "  ".join(f"{other} {score:.2g}" for other, score in best)
            _print(textwrap.fill(line, 76, initial_indent="    ", subsequent_indent="    "))
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


def _fail(message: str, code: int) -> NoReturn:
    print(f"assocjax: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def _configure_jax(options: argparse.Namespace) -> None:
    import jax

    jax.config.update("jax_enable_x64", options.precision == "float64")
    # The runs of a sweep are divided among devices: let every core be one, unless the user chose
    # another number or JAX already runs in this process.
    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)


def _default_init_scales(corpus: str) -> list[float]:
    return FABLES_INIT_SCALES if corpus == "fables" else [0.0]


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


def _print_table(title: str, rows: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(title),
        title_justify="left",
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for name, value in rows[0].items():
        table.add_column(name, justify="left" if isinstance(value, str) else "right")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row.values()))
    _print(table)


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return "-"
    if value and not 1e-3 <= abs(value) < 1e4:
        return f"{value:.2e}"
    return f"{value:.4f}".rstrip("0").rstrip(".")


def _status(what: str):
    from rich.console import Console

    console = Console(stderr=True)
    return console.status(what) if console.is_terminal else contextlib.nullcontext()


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr, fed with (steps done, steps in all). None where no one watches."""
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
    console = Console(stderr=True)
    disable = not console.is_terminal
    with rich_progress.Progress(*columns, console=console, disable=disable) as bar:
        task = bar.add_task("compiling", total=None)
        try:
            yield lambda done, total: bar.update(
                task, description="training", completed=done, total=total
            )
        except (InputError, InputTypeError):
            bar.remove_task(task)  # the error is all there is to say
            raise


if __name__ == "__main__":
    main()
