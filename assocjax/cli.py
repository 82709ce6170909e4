"""The command line: parse, call the library, print. Heavy imports wait until a command runs."""

import argparse
import contextlib
import json
import math
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from assocjax.arguments import check_integer
from assocjax.errors import InputError, InputTypeError
from assocjax.options import DENSE_VOCAB_SIZE, FABLES_INIT_SCALES, parser

if TYPE_CHECKING:
    from assocjax.corpora import TokenData, TokenFile
    from assocjax.sparse import SparseStatistics


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line.

    An error that the user can mend is one line on stderr and exit code 2; anything else is a bug
    and keeps its traceback.
    """
    try:
        commands = (sweep, horizon, statistics, associations, tokenize, merge)
        options = parser(*commands).parse_args(arguments)
        options.command(options)
    except (InputError, InputTypeError) as error:
        _fail(str(error), 2)
    except KeyboardInterrupt as interrupt:
        _fail(str(interrupt) or "interrupted", 130)


def sweep(options: argparse.Namespace) -> None:
    """Train over a grid of runs and compare every one with the theories."""
    from assocjax import figures, results, sweeps

    folder = results.output_folder(options.out)
    _configure_jax(options)
    first_process = _join(options)
    data = _load(options)
    with _at_once(), _progress() as progress:
        dataset = sweeps.sweep(
            data,
            learning_rates=options.learning_rates,
            seeds=options.seeds,
            init_scales=options.init_scales or _default_init_scales(options.corpus),
            steps=options.steps,
            num_layers=options.num_layers,
            theories=options.theories,
            gradient=options.gradient,
            optimizer=options.optimizer,
            batch_size=options.batch_size,
            microbatch_size=options.microbatch_size,
            memory_limit=options.memory_limit,
            checkpoint=folder,
            checkpoint_every=options.checkpoint_every,
            progress=progress,
            announce=_print,
        )
    if not first_process:
        return
    rows = sweeps.summary(dataset)
    results.save_json({**results.decode(dataset.attrs), "summary": rows}, folder / "summary.json")
    with _status("drawing"):
        paths = figures.save_sweep(dataset, folder)
    _print(
        f"After {options.steps} steps of size eta: loss in nats (at the start log V = "
        f"{math.log(data.vocab_size):.4f}); cosine of each weight with a theory, worst layer and "
        "seed; relative error of the output matrix"
    )
    for scale in dataset["init_scale"].values.tolist():
        of_scale = [_short(row) for row in rows if row["init_scale"] == scale]
        for row in of_scale:
            del row["init_scale"]
        _print_table(f"start sd {scale:g}", of_scale)
    if dataset.attrs["diverged"]:
        _print(f"diverged: {dataset.attrs['diverged']}")
    _print_written(folder, ["sweep.nc", "summary.json", *(path.name for path in paths)])


def horizon(options: argparse.Namespace) -> None:
    """Measure at which step each theory ends, and how that depends on the setting."""
    from assocjax import figures, horizons, results

    folder = results.output_folder(options.out)
    _configure_jax(options)
    V, T = options.vocab_sizes[0], options.seq_lens[0]

    def load(vocab_size: int, seq_len: int):
        # As many positions at every length.
        sequences = max(1, round(options.num_sequences * T / max(1, seq_len)))
        sizes = {"vocab_size": vocab_size, "seq_len": seq_len, "num_sequences": sequences}
        return _load(argparse.Namespace(**(vars(options) | sizes)))

    # All of them first: a size that the corpus does not allow fails before the work.
    sizes = [(size, T) for size in options.vocab_sizes] + [(V, size) for size in options.seq_lens]
    data = {size: load(*size) for size in dict.fromkeys(sizes)}
    with _progress() as progress:
        rows = horizons.horizon_study(
            lambda vocab_size, seq_len: data[vocab_size, seq_len],
            vocab_sizes=options.vocab_sizes,
            seq_lens=options.seq_lens,
            num_layers=options.num_layers,
            learning_rates=options.learning_rates,
            duration=options.duration,
            theories=options.theories,
            threshold=options.threshold,
            progress=progress,
        )
    laws = _laws(rows)
    names = ("vocab_sizes", "seq_lens", "num_layers", "learning_rates")
    names = (*names, "duration", "threshold", "theories", "precision")
    config = {name: getattr(options, name) for name in names}
    attributes = results.provenance(data[V, T], config)
    content = {**results.decode(attributes), "horizons": rows, "laws": laws}
    results.save_json(content, folder / "horizons.json")
    with _status("drawing"):
        figure = figures.plot_horizon_study(rows, corpus_name=data[V, T].name)
        paths = figures.save(figure, folder / "horizons")
    _print_table(
        f"Steps until a weight's relative error passes {options.threshold:g}, first layer to do so "
        f"(-: not within training time {options.duration:g}; 0: the theory never held)",
        [_horizon_row(row) for row in rows],
    )
    _print_table(
        "Laws: horizon, as training time, = prefactor * product of quantity^exponent",
        [_law_row(law) for law in laws],
    )
    _print_written(folder, ["horizons.json", *(path.name for path in paths)])


def _laws(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A power law for each theory and weight, or the reason why there is none."""
    from assocjax import horizons
    from assocjax.params import WEIGHTS

    laws = []
    for theory in dict.fromkeys(row["theory"] for row in rows):
        of_theory = [row for row in rows if row["theory"] == theory]
        for weight in WEIGHTS:
            law = {"theory": theory, "weight": weight}
            try:
                law |= horizons.fit_power_law(of_theory, of=f"{weight}*eta")._asdict()
            except InputError as error:
                law["none"] = str(error)
            laws.append(law)
    return laws


def _horizon_row(row: dict[str, Any]) -> dict[str, Any]:
    return _short({name: row[name] for name in row if "*" not in name or name == "output*eta"})


def _short(row: dict[str, Any]) -> dict[str, Any]:
    """The row of a table that has to fit a terminal."""
    short = {"vocab_size": "V", "seq_len": "T", "num_layers": "L", "learning_rate": "eta"}
    return {short.get(name, name): value for name, value in row.items()}


def _law_row(law: dict[str, Any]) -> dict[str, Any]:
    row = {"theory": law["theory"], "weight": law["weight"]}
    if "none" in law:
        return row | {"law": "too few horizons for a law"}
    exponents = (
        f"{name}^{exponent:.2f}({law['standard_errors'][name]:.2f})"
        for name, exponent in law["exponents"].items()
    )
    return row | {
        "law": f"{law['prefactor']:.3g} " + " ".join(exponents),
        "R^2": law["r_squared"],
        "rows": law["num_rows"],
    }


def statistics(options: argparse.Namespace) -> None:
    """Compute the basis functions of a corpus and what they compose to."""
    from assocjax import figures, results
    from assocjax.statistics import corpus_statistics

    folder = results.output_folder(options.out)
    _configure_jax(options)
    data = _source(options)
    if options.shard is not None or options.counts is not None:
        path = _run_shard(options, data, folder)
        _print_written(folder, [path.name])
        return
    if _is_sparse(options, data):
        _sparse_statistics(data, folder)
        return
    tokens, mask = data.read(0, data.num_sequences)
    with _status("counting"):
        found = corpus_statistics(tokens, data.vocab_size, mask)
        dataset = results.statistics_dataset(data, found)
    results.save(dataset, folder / "statistics.nc")
    rows = results.statistics_summary(dataset)
    results.save_json({**results.decode(dataset.attrs), "summary": rows}, folder / "summary.json")
    with _status("drawing"):
        paths = figures.save(figures.plot_statistics(dataset), folder / "statistics")
    _print_table(f"Statistics of {data.name}, {int(found.num_positions)} positions", rows)
    _print_written(folder, ["statistics.nc", "summary.json", *(path.name for path in paths)])


def _run_shard(options: argparse.Namespace, data: "TokenData | TokenFile", folder: Path) -> Path:
    """Writes one shard of a pass and returns its file."""
    from assocjax import shards

    numbers = (options.shard or "").split("/")
    if len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
        raise InputError(f"--shard: expected I/N such as 1/4, got {options.shard!r}")
    shard, of = map(int, numbers)
    kind = "counts" if options.counts is None else "correlations"
    path = folder / f"{kind}-{shard}-of-{of}.nc"
    with _progress(kind, "sequences") as progress:
        shards.run_shard(
            data, path, shard=shard, shards=of, counts=options.counts, progress=progress
        )
    return path


def _sparse_statistics(data: "TokenData | TokenFile", folder: Path) -> None:
    """Both passes, each in one shard, so that they can be stopped and resumed, too."""
    from assocjax import results, shards
    from assocjax.sparse import sparse_summary

    parts = {kind: folder / f"{kind}-1-of-1.nc" for kind in ("counts", "correlations")}
    files = {kind: folder / f"{kind}.nc" for kind in parts}
    for kind, part in parts.items():
        counts = files["counts"] if kind == "correlations" else None
        with _progress(kind, "sequences") as progress:
            shards.run_shard(data, part, shard=1, shards=1, counts=counts, progress=progress)
        with _status("composing"):
            results.save(shards.merge([part]), files[kind])
    for part in parts.values():
        part.unlink()
    found = shards.load_statistics(**files)
    rows = sparse_summary(found, data.vocabulary)
    attributes = results.decode(results.provenance(data, {}))
    results.save_json({**attributes, "summary": rows}, folder / "summary.json")
    _print_table(f"Statistics of {data.name}, {found.num_positions} positions", rows)
    _print_written(folder, ["counts.nc", "correlations.nc", "summary.json"])


def merge(options: argparse.Namespace) -> None:
    """Add up the shards of sparse statistics, of either pass."""
    from assocjax import results, shards

    folder = results.output_folder(options.out)
    with _status("merging"):
        dataset = shards.merge(options.files)
        name = f"{dataset.attrs['kind']}.nc"
        results.save(dataset, folder / name)
    _print_written(folder, [name])


def tokenize(options: argparse.Namespace) -> None:
    """Write a corpus as a token file, for statistics of what does not fit in memory."""
    from assocjax import results
    from assocjax.corpora import write_tokens

    if options.num_sequences is not None:
        raise InputError("--num-sequences: all sequences are written; give it when they are read")
    folder = results.output_folder(options.out)
    with _status("tokenizing"):
        file = write_tokens(
            options.corpus,
            folder,
            vocab_size=options.vocab_size,
            seq_len=options.seq_len,
            tokenizer=options.tokenizer,
            oov=options.oov,
            long=options.long,
            short=options.short,
            seed=options.corpus_seed,
            num_documents=options.num_documents,
            separator=options.separator,
            text_field=options.text_field,
        )
    _print_source(file)
    _print_written(folder, sorted(path.name for path in folder.glob("tokens.*")))


def associations(options: argparse.Namespace) -> None:
    """Print the top tokens of some tokens under each basis function and composed matrix."""
    from assocjax import associations as library
    from assocjax import results
    from assocjax.corpora.tokens import find_token

    check_integer("--top", options.top, minimum=1)
    folder = None if options.out is None else results.output_folder(options.out)
    _configure_jax(options)
    config = {
        "tokens": options.tokens,
        "top": options.top,
        "frequency_corrected": options.frequency_corrected,
    }
    if options.statistics is None:
        data = _source(options)
        name, vocabulary, attributes = data.name, data.vocabulary, results.provenance(data, config)
        for token in options.tokens:
            data.token_id(token)  # fails before the work
        with _status("counting"):
            found = _find(options, data)
    else:
        found, vocabulary, attributes = _read_statistics(options.statistics, config)
        name = attributes["corpus_name"]
        for token in options.tokens:
            find_token(token, vocabulary, name)
    listing = {
        token: {
            matrix: library.top_associations(getattr(found, matrix), vocabulary, token, options.top)
            for matrix in library.MATRICES
        }
        for token in options.tokens
    }
    for token, matrices in listing.items():
        _print(f"\n{token} in {name}")
        for matrix, best in matrices.items():
            _print(f"  {matrix}: {library.MATRICES[matrix]}")
            line = "  ".join(f"{other} {score:.2g}" for other, score in best)
            _print(textwrap.fill(line, 76, initial_indent="    ", subsequent_indent="    "))
    if folder is not None:
        scores = {
            token: {name: [a._asdict() for a in best] for name, best in matrices.items()}
            for token, matrices in listing.items()
        }
        content = {**results.decode(attributes), "associations": scores}
        results.save_json(content, folder / "associations.json")
        _print_written(folder, ["associations.json"])


def _read_statistics(
    folder: Path, config: dict[str, Any]
) -> tuple["SparseStatistics", list[str], dict[str, Any]]:
    """What `_sparse_statistics` or `merge` left in a folder, its vocabulary and its attributes."""
    from assocjax import results, shards

    if config["frequency_corrected"]:
        raise InputError("--frequency-corrected needs the corpus: it cannot go with --statistics")
    found = shards.load_statistics(folder / "counts.nc", folder / "correlations.nc")
    with results.open_dataset(folder / "counts.nc") as dataset:
        names = ("corpus", "corpus_name", "corpus_sha256", "versions", "device")
        attributes = {name: dataset.attrs[name] for name in names}
        vocabulary = dataset["token"].values.tolist()
    return found, vocabulary, attributes | {"config": json.dumps(config, sort_keys=True)}


def _find(options: argparse.Namespace, data: "TokenData | TokenFile"):
    """The statistics of a corpus, dense or sparse."""
    from assocjax.associations import frequency_corrected
    from assocjax.sparse import sparse_statistics
    from assocjax.statistics import corpus_statistics

    if _is_sparse(options, data):
        return sparse_statistics(data, frequency_corrected=options.frequency_corrected)
    tokens, mask = data.read(0, data.num_sequences)
    found = corpus_statistics(tokens, data.vocab_size, mask)
    return frequency_corrected(found, tokens, mask) if options.frequency_corrected else found


def _is_sparse(options: argparse.Namespace, data: "TokenData | TokenFile") -> bool:
    from assocjax.corpora import TokenFile

    if options.matrices != "auto":
        return options.matrices == "sparse"
    return data.vocab_size > DENSE_VOCAB_SIZE or isinstance(data, TokenFile)


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


def _join(options: argparse.Namespace) -> bool:
    """Joins the other processes of a sweep, if there are any; whether this one prints and draws."""
    by_hand = (options.coordinator, options.num_processes, options.process_id)
    if any(value is not None for value in by_hand) and None in by_hand:
        raise InputError("--coordinator, --num-processes and --process-id must be given together")
    if not options.distributed and options.coordinator is None:
        return True
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(*by_hand)
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"--distributed: the other processes cannot be joined: {error}; outside of a cluster "
            "that JAX knows give --coordinator, --num-processes and --process-id"
        ) from None
    if jax.process_index() == 0:
        return True
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    return False


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
    _print_source(data, f", {data.unk_fraction:.1%} unknown")
    return data


def _source(options: argparse.Namespace) -> "TokenData | TokenFile":
    """As `_load`, or a token file, whose sequences stay on disk."""
    from assocjax.corpora import open_tokens
    from assocjax.corpora.token_files import is_token_file

    if not is_token_file(options.corpus):
        return _load(options)
    file = open_tokens(options.corpus, options.seq_len, num_sequences=options.num_sequences)
    _print_source(file)
    return file


def _print_source(data: "TokenData | TokenFile", unknown: str = "") -> None:
    _print(
        f"{data.name}: {data.num_sequences} sequences of {data.seq_len} positions, vocabulary of "
        f"{data.vocab_size} tokens{unknown}"
    )


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
    columns = {name: value for row in reversed(rows) for name, value in row.items()}
    columns = {name: columns[name] for row in rows for name in row}
    for name, value in columns.items():
        table.add_column(name, justify="left" if isinstance(value, str) else "right")
    for row in rows:
        table.add_row(*(Text(_cell(row.get(name, ""))) for name in columns))
    _print(table)


def _cell(value: Any) -> str:
    if value is None or value != value:
        return "-"
    if not isinstance(value, float):
        return str(value)
    if value and not 1e-3 <= abs(value) < 1e4:
        return f"{value:.2e}"
    return f"{value:.4f}".rstrip("0").rstrip(".")


def _status(what: str):
    from rich.console import Console

    console = Console(stderr=True)
    return console.status(what) if console.is_terminal else contextlib.nullcontext()


@contextlib.contextmanager
def _at_once() -> Iterator[None]:
    """Ends the process where Ctrl-C is not to wait for the steps under way, as JAX would."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if str(interrupt):  # all is saved
            raise
        print("assocjax: interrupted", file=sys.stderr, flush=True)
        os._exit(130)


@contextlib.contextmanager
def _progress(what: str = "training", unit: str = "steps") -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr, fed with (units done, units in all). None where no one watches."""
    from rich import progress as rich_progress
    from rich.console import Console

    columns = (
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TextColumn(unit),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TextColumn("left"),
        rich_progress.TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    disable = not console.is_terminal
    with rich_progress.Progress(*columns, console=console, disable=disable) as bar:
        task = bar.add_task("starting", total=None)
        try:
            yield lambda done, total: bar.update(
                task, description=what, completed=done, total=total
            )
        except (InputError, InputTypeError):
            bar.remove_task(task)  # the error is all there is to say
            raise


if __name__ == "__main__":
    main()
