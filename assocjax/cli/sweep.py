"""Commands that train: `sweep` and `horizon`."""

import argparse
import contextlib
import json
import math
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from assocjax.cli._corpus import configure_jax, load_corpus
from assocjax.cli._options.training import FABLES_INIT_SCALES
from assocjax.cli._terminal import (
    progress_bar,
    show,
    show_complete,
    show_table,
    show_written,
    status,
)
from assocjax.errors import InputError
from assocjax.storage import Folder, check_claimable, claim, hold

if TYPE_CHECKING:
    from assocjax.corpora import TokenData

_HORIZONS = "horizons.json"


def sweep(options: argparse.Namespace) -> None:
    """Train over a grid of runs and compare every one with the theories."""
    from assocjax import figures
    from assocjax.experiments import sweeps
    from assocjax.storage import results

    check_claimable(options.out, "sweep")
    configure_jax(options)
    first_process = _join(options)
    data = load_corpus(options)
    if options.matmul_precision != "highest":
        _show_matmul_error(data, options)
    # One writer from the first checkpoint to the last figure; of several processes, the first.
    with hold(options.out) if first_process else contextlib.nullcontext():
        with _at_once(), progress_bar() as progress:
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
                checkpoint=options.out,
                checkpoint_every=options.checkpoint_every,
                overwrite=options.overwrite,
                progress=progress,
                announce=show,
            )
        if not first_process:
            return
        rows = sweeps.summary(dataset)
        content = {**results.decode(dataset.attrs), "summary": rows}
        with claim(options.out, "sweep", None) as folder:
            results.save_json_to(folder, "summary.json", content)
            with status("drawing"):
                paths = figures.save_sweep(dataset, folder)
    show(
        f"After {options.steps} steps of size eta: loss in nats (at the start log V = "
        f"{math.log(data.vocab_size):.4f}); cosine of each weight with a theory, worst layer and "
        "seed; relative error of the output matrix"
    )
    for scale in dataset["init_scale"].values.tolist():
        of_scale = [_short(row) for row in rows if row["init_scale"] == scale]
        for row in of_scale:
            del row["init_scale"]
        show_table(f"start sd {scale:g}", of_scale)
    if dataset.attrs["diverged"]:
        show(f"diverged: {dataset.attrs['diverged']}")
    show_written(options.out, ["sweep.nc", "summary.json", *(path.name for path in paths)])


def _show_matmul_error(data: "TokenData", options: argparse.Namespace) -> None:
    """Prints what less precise products do to the exact gradient at random weights."""
    import jax

    from assocjax.models.agreement import compare_params
    from assocjax.models.params import init_params
    from assocjax.training.exact import exact_gradient

    params = init_params(
        jax.random.key(0),
        vocab_size=data.vocab_size,
        seq_len=data.seq_len,
        num_layers=options.num_layers,
        scale=1 / data.vocab_size,
    )
    rounded = exact_gradient(params, data.tokens, data.mask)
    with jax.default_matmul_precision("highest"):
        full = exact_gradient(params, data.tokens, data.mask)
    errors = compare_params(full, rounded)
    worst = ", ".join(f"{name} {errors[name].relative_error.max():.1e}" for name in errors)
    show(
        f"relative error of exact gradients with products in {options.matmul_precision}, at random "
        f"weights of sd 1/V: {worst}"
    )


def horizon(options: argparse.Namespace) -> None:
    """Measure at which step each theory ends, and how that depends on the setting."""
    from assocjax import figures
    from assocjax.storage import results

    check_claimable(options.out, "horizon")
    configure_jax(options)
    V, T = options.vocab_sizes[0], options.seq_lens[0]

    def load(vocab_size: int, seq_len: int):
        # As many positions at every length.
        sequences = max(1, round(options.num_sequences * T / max(1, seq_len)))
        sizes = {"vocab_size": vocab_size, "seq_len": seq_len, "num_sequences": sequences}
        return load_corpus(argparse.Namespace(**(vars(options) | sizes)))

    # All of them first: a size that the corpus does not allow fails before the work.
    sizes = [(size, T) for size in options.vocab_sizes] + [(V, size) for size in options.seq_lens]
    data = {size: load(*size) for size in dict.fromkeys(sizes)}
    names = ("vocab_sizes", "seq_lens", "num_layers", "learning_rates")
    names = (*names, "duration", "threshold", "theories", "precision")
    config = {name: getattr(options, name) for name in names}
    corpora = {"corpora": [of.describe() for of in data.values()]}
    decides = results.identity(data[V, T], config | corpora)
    with claim(
        options.out, "horizon", decides, result=_HORIZONS, overwrite=options.overwrite
    ) as folder:
        if folder.complete:
            show_complete(folder)
        else:
            _study(options, data, config, folder)
        content = json.loads((folder.path / _HORIZONS).read_text("utf-8"))
        rows, laws = content["horizons"], content["laws"]
        with status("drawing"):
            figure = figures.plot_horizon_study(rows, corpus_name=data[V, T].name)
            paths = figures.save(figure, "horizons", into=folder)
    show_table(
        f"Steps until a weight's relative error passes {options.threshold:g}, first layer to do so "
        f"(-: not within training time {options.duration:g}; 0: the theory never held)",
        [_horizon_row(row) for row in rows],
    )
    show_table(
        "Laws: horizon, as training time, = prefactor * product of quantity^exponent",
        [_law_row(law) for law in laws],
    )
    show_written(options.out, [_HORIZONS, *(path.name for path in paths)])


def _study(
    options: argparse.Namespace,
    data: dict[tuple[int, int], "TokenData"],
    config: dict[str, Any],
    folder: Folder,
) -> None:
    """Computes `horizons.json`; the sweeps that it is made of are kept until it is there."""
    from assocjax.experiments import horizons
    from assocjax.storage import results

    with results.stoppable(folder), progress_bar() as progress:
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
            part=results.parts_kept_in(folder),
        )
    of_base = data[options.vocab_sizes[0], options.seq_lens[0]]
    attributes = results.provenance(of_base, config)
    content = {**results.decode(attributes), "horizons": rows, "laws": _laws(rows)}
    results.save_json_to(folder, _HORIZONS, content)
    folder.finish()


def _laws(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A power law for each theory and weight, or the reason why there is none."""
    from assocjax.experiments import horizons
    from assocjax.models.params import WEIGHTS

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
