"""The command `ablate`: trains, edits the weights, and tells the loss beside its controls."""

import argparse
import math
from functools import partial
from typing import TYPE_CHECKING, Any

from assocjax.arguments import check_choice, check_integer
from assocjax.commands.setup import configure_jax, load_corpus
from assocjax.commands.terminal import (
    progress_bar,
    show,
    show_complete,
    show_table,
    show_written,
    status,
)
from assocjax.errors import InputError
from assocjax.options.training import EDITS
from assocjax.storage import check_claimable, claim

if TYPE_CHECKING:
    import xarray as xr

    from assocjax.corpora import TokenData
    from assocjax.models.params import Params
    from assocjax.storage.results import Part

_FILE = "ablation.nc"


def ablate(options: argparse.Namespace) -> None:
    """Train, then remove from each weight what its theory says, beside random controls."""
    from assocjax import figures
    from assocjax.analysis import ablation
    from assocjax.storage import results
    from assocjax.training import optimizers

    check_claimable(options.out, "ablate")
    configure_jax(options)
    for name, value in (("steps", 0), ("num_layers", 1), ("draws", 2), ("seed", 0)):
        check_integer(name, getattr(options, name), minimum=value)
    for edit in options.edits:
        check_choice("every entry of edits", edit, EDITS)
    data = load_corpus(options)
    optimizers.check_optimizer(
        options.optimizer, (options.num_layers, data.vocab_size, data.seq_len)
    )
    names = ("learning_rate", "steps", "num_layers", "init_scale", "theory", "optimizer")
    names += ("batch_size", "edits", "draws", "seed", "precision")
    config = {name: getattr(options, name) for name in names}
    decides = results.identity(data, config)
    with claim(options.out, "ablate", decides, result=_FILE, overwrite=options.overwrite) as folder:
        if folder.complete:
            show_complete(folder)
            dataset = results.load(folder.path / _FILE)
        else:
            with results.stoppable(folder):
                dataset = _ablated(options, data, results.parts_kept_in(folder))
            dataset = dataset.assign_coords(token=list(data.vocabulary))
            dataset = dataset.assign_attrs(results.provenance(data, config))
            results.save_to(folder, _FILE, dataset)
            folder.finish()
        rows = ablation.summary(dataset)
        content = {**results.decode(dataset.attrs), "summary": rows}
        results.save_json_to(folder, "summary.json", content)
        with status("drawing"):
            paths = figures.save(figures.plot_ablation(dataset), "ablation", into=folder)
    show(
        f"Loss {float(dataset['trained_loss']):.4f} nats after {options.steps} steps (log V = "
        f"{math.log(data.vocab_size):.4f}). Below: its change when a weight is edited along its "
        f"{options.theory} theory, and along {options.draws} draws (mean±sd) of a random "
        "direction; of the theory with its tokens shuffled; and of the theory with tokens shuffled "
        "among those of similar frequency (matched). cosine: of the weight with the theory"
    )
    for edit in options.edits:
        of_edit = [row for row in rows if row["edit"] == edit]
        for size, what in (("norm", "of the same norm"), ("projection", "by projection")):
            if f"random_{size}" in of_edit[0]:
                show_table(f"{edit}, controls {what}", [_short(row, size) for row in of_edit])
    show_written(options.out, [_FILE, "summary.json", *(path.name for path in paths)])


def _ablated(options: argparse.Namespace, data: "TokenData", part: "Part") -> "xr.Dataset":
    """`ablation.ablate` of what is trained; `part` keeps the weights and finished units."""
    import jax.numpy as jnp
    import numpy as np
    import xarray as xr

    from assocjax.analysis import ablation
    from assocjax.models.params import WEIGHTS, Params

    def trained() -> xr.Dataset:
        weights = _trained(options, data)
        arrays = {name: np.asarray(getattr(weights, name)) for name in WEIGHTS}
        return xr.Dataset(
            {
                name: ([f"{name}_{axis}" for axis in range(array.ndim)], array)
                for name, array in arrays.items()
            }
        )

    theory = _theory(options, data)
    weights = part("trained", trained)
    params = Params(**{name: jnp.asarray(weights[name].values) for name in WEIGHTS})
    edit = partial(
        ablation.ablate,
        params,
        theory,
        data.tokens,
        data.mask,
        edits=options.edits,
        other=ablation.exchanged(theory) if "swap" in options.edits else None,
        draws=options.draws,
        seed=options.seed,
    )
    units = ablation.default_units(options.num_layers)
    found: list[xr.Dataset] = []
    with progress_bar("editing", "units") as progress:
        for unit, selection in units.items():
            progress(len(found), len(units))
            found.append(part(unit, partial(edit, units={unit: selection})))
    return xr.concat(
        found, "unit", data_vars="minimal", coords="minimal", compat="override", join="exact"
    )


def _short(row: dict[str, Any], size: str) -> dict[str, Any]:
    from assocjax.analysis.ablation import DIRECTIONS

    of_controls = {
        direction: f"{row[f'{direction}_{size}']:+.2g}±{row[f'{direction}_{size}_sd']:.1g}"
        for direction in DIRECTIONS
    }
    short = {"weight": row["unit"], "cosine": row["cosine"], "loss": f"{row['loss']:.4f}"}
    return short | {"theory": f"{row['theory']:+.2g}"} | of_controls


def _theory(options: argparse.Namespace, data: "TokenData") -> "Params":
    """The theory's terms; of the leading one the size does not matter, nor does the optimizer."""
    from assocjax.statistics.dense import corpus_statistics
    from assocjax.statistics.moments import effective_statistics
    from assocjax.theories.closed_forms import Coefficients, weights_from_coefficients
    from assocjax.theories.quadrature import effective_weights

    if options.theory == "leading":
        with status("counting"):
            statistics = corpus_statistics(data.tokens, data.vocab_size, data.mask)
        return weights_from_coefficients(statistics, 1, Coefficients(*[1.0] * 3))  # type: ignore[arg-type]
    if options.optimizer != "sgd":
        raise InputError(f"--theory effective: only for --optimizer sgd; got {options.optimizer!r}")
    with status("following the effective theory"):
        moments = effective_statistics(data, depth=options.num_layers)
        return effective_weights(
            moments,
            data.tokens,
            data.mask,
            num_layers=options.num_layers,
            learning_rate=options.learning_rate,
            steps=options.steps,
        ).params


def _trained(options: argparse.Namespace, data: "TokenData") -> "Params":
    import jax
    import jax.numpy as jnp

    from assocjax.models.params import init_params
    from assocjax.training.exact import exact_loss_and_gradient
    from assocjax.training.optimizers import make_optimizer
    from assocjax.training.train import batch_indices, train

    optimizer = make_optimizer(options.optimizer, options.learning_rate)
    start_key, batch_key = jax.random.split(jax.random.key(options.seed))
    start = init_params(
        start_key,
        vocab_size=data.vocab_size,
        seq_len=data.seq_len,
        num_layers=options.num_layers,
        scale=options.init_scale,
    )

    @jax.jit
    def run(params, tokens, mask):
        def loss_and_gradient(params, step):
            if options.batch_size is None:
                return exact_loss_and_gradient(params, tokens, mask)
            rows = batch_indices(batch_key, step, len(tokens), options.batch_size)
            return exact_loss_and_gradient(params, tokens[rows], mask[rows])

        def report(step):
            progress(int(step), options.steps)

        return train(params, loss_and_gradient, optimizer, options.steps, progress=report)

    with progress_bar() as progress:
        params, losses = run(start, jnp.asarray(data.tokens), jnp.asarray(data.mask))
        jax.block_until_ready(losses)
    if not bool(jnp.all(jnp.isfinite(losses))):
        raise InputError(
            f"--learning-rate {options.learning_rate:g}: training diverges at step "
            f"{int(jnp.argmin(jnp.isfinite(losses)))}; give a smaller one"
        )
    return params
