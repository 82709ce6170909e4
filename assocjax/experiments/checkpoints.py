"""Statistics twins beside checkpoints of a model that somebody else has trained.

A model's checkpoints and their first, the start, are all that is known of its training beside the
recipe. Twins are trained from that very start by that recipe, on statistics of a text, which may be
another than the model was trained on: what a twin then has in common with the model is what texts
of that kind have in common. Several twins of each kind differ in what they draw; their mean is

    cosine           <r, m> / (|r| |m|)    r: change of the model, m: mean change of the twins
    partial cosine   the same after the mean change of the twins of order 0, which know frequencies
                     only, has been projected out of r and of m
    norm ratio       root mean square of the twins' |change| / |r|

Other runs from the same start, with other orders of batches, are a ceiling: m is then their mean.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr

from assocjax.arguments import check_integer, check_integers, check_is, check_sequence
from assocjax.errors import InputError, InputTypeError
from assocjax.experiments.changes import NAMES, by_layer, inner_products, measures
from assocjax.experiments.together import of_theory, repeat, train_together
from assocjax.experiments.twins import BASELINE, RUN
from assocjax.models.decoder import DecoderModel
from assocjax.statistics.contexts import ContextStatistics
from assocjax.storage import results
from assocjax.theories.theory import Batch
from assocjax.theories.twins import ROWS, StatisticsTwin

LARGE = 4096
"""Size of a vocabulary from which on twins have sparse contexts and compute layers twice."""

_ENTRIES = 256  # of a row of a sparse context


def checkpoint_twins(
    orders: Sequence[int] = (2, 4), *, rows: int = ROWS, vocab_size: int = 0
) -> tuple[StatisticsTwin, ...]:
    """Twins of some orders, and the controls: order 0, and order 2 with shuffled rows.

    Args:
      orders: see `assocjax.theories.twins`.
      rows: drawn pairs of a step, as many as a batch has positions.
      vocab_size: V; from 4096 on, contexts have their 256 largest entries in each row, and layers
        are computed twice.

    Raises:
      InputError, InputTypeError: as `StatisticsTwin`; `orders` repeats one.
    """
    large: dict[str, Any] = {"entries": _ENTRIES, "rematerialize": True}
    large = large if check_integer("vocab_size", vocab_size, minimum=0) >= LARGE else {}
    orders = check_integers("orders", orders, minimum=0)
    if len(set(orders)) < len(orders):
        raise InputError(f"orders must differ; got {orders}")
    twins = [StatisticsTwin(order, rows, **large) for order in sorted({0, *orders})]
    return *twins, StatisticsTwin(2, rows, shuffle_seed=0, **large)


def compare_checkpoints(
    model: DecoderModel,
    start: Any,
    runs: Sequence[Mapping[int, Any]],
    statistics: ContextStatistics,
    *,
    optimizer: optax.GradientTransformation,
    twins: Iterable[StatisticsTwin] | None = None,
    num_draws: int = 4,
    seed: int = 0,
    progress: Callable[[str, int], None] | None = None,
) -> xr.Dataset:
    """Compares changes of a model's weights, checkpoint by checkpoint, with those of twins.

    Args:
      model: the architecture.
      start: its weights at step 0; twins start from them.
      runs: for each run from this start a mapping from numbers of updates, at least 1, to weights,
        the model's own run first. All have the same steps. A mapping is read once for each step,
        in ascending order, so that it may load weights when it is asked for them.
      statistics: of a text, in the tokens of the model.
      optimizer: the recipe of the runs, an optax transformation that counts its own updates.
      twins: which ones; `checkpoint_twins()` by default. Without "twin-0" there is no partial
        cosine.
      num_draws: twins of each kind. Draw d of the i-th kind has the random key
        `fold_in(fold_in(key(seed), i), d)`.
      seed: determines what twins draw.
      progress: called with a name and the number of updates after each part of the training.

    Returns:
      A Dataset with `cosine`, `partial_cosine` and `norm_ratio`, float64 of dimensions (twin,
      held_out, weight, layers, step), as those of `compare_twins`, so that `plot_twins` draws it.
      `held_out` is the number of the run that is compared; `twin` has the twins, and if there are
      several runs first "run", the mean of the other runs. `draw_cosine` (twin, draw, held_out,
      weight, layers, step) is the cosine of each twin alone. `visible` (held_out, weight, layers,
      step) is the share of the weights that differ from the start at all: in weights that are
      stored in 16 bits, a change of less than half the spacing of numbers is not visible, and a
      cosine of few visible changes is mostly rounding. `products` holds the inner products of the
      changes of all runs and the means of the twins. Cosines are NaN where nothing changes.

    Raises:
      InputError, InputTypeError: an argument cannot be used, or weights of a run are not of the
        same shapes as `start`.

    Cost: the training of `num_draws` twins of each kind; memory of all their weights and optimizer
      states, and of one checkpoint of each run.
    """
    check_is("model", model, DecoderModel)
    check_is("statistics", statistics, ContextStatistics)
    check_is("optimizer", optimizer, optax.GradientTransformation)
    num_draws = check_integer("num_draws", num_draws, minimum=1)
    seed = check_integer("seed", seed, minimum=0)
    runs = check_sequence("runs", runs, "mappings")
    for run in runs:
        check_is("each of runs", run, Mapping)
    steps = check_integers("steps of runs", sorted(runs[0]), minimum=1)
    if any(sorted(run) != steps for run in runs):
        raise InputError("runs must all have the same steps; some differ")
    every = check_sequence("twins", list(checkpoint_twins() if twins is None else twins), "twins")
    for twin in every:
        check_is("each of twins", twin, StatisticsTwin)
    names = [twin.name for twin in every]
    if len(set(names)) < len(names):
        raise InputError(f"twins must have different names; got {names}")
    check_shapes("start", start, start)
    V, T = statistics.bigram.indptr.size - 1, statistics.positions.size
    if len(start["embedding"]) != V:
        raise InputError(
            f"statistics must be of the {len(start['embedding'])} tokens of start; got {V}"
        )
    if model.decoder(start).config.seq_len < T:
        raise InputError(
            f"statistics must be of at most {model.decoder(start).config.seq_len} positions, those "
            f"of the model; got {T}"
        )
    start = jax.tree.map(jnp.asarray, start)
    weights = list(model.weights(start))
    nothing = Batch(jnp.zeros((0, T + 1), jnp.int32), jnp.zeros((0, T), bool), V)
    prepared, groups = {}, {}
    for i, twin in enumerate(every):
        options = twin.shuffle_seed, twin.backoff, twin.entries
        if options not in prepared:
            prepared[options] = twin.prepare_from(statistics)
        key = jax.random.fold_in(jax.random.key(seed), i)
        keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(num_draws))
        starts, own = repeat(start, num_draws), prepared[options]
        groups[twin.name] = of_theory(model, twin, starts, keys, nothing, prepared=own)
    products, differs = jax.jit(partial(inner_products, model)), jax.jit(partial(_differs, model))
    n, found = len(runs), []
    for step, states in train_together(optimizer, groups, steps, progress):
        of_runs = []
        for i, run in enumerate(runs):
            params = run[step]
            check_shapes(f"step {step} of run {i}", params, start)
            of_runs.append(jax.tree.map(jnp.asarray, params))
        joined = jax.tree.map(lambda *leaves: jnp.stack(leaves), *of_runs)
        each = products(start, [joined, *states.values()])
        seen = differs(start, joined)
        grams = by_layer([each[name] for name in weights])
        visible = by_layer([seen[name] for name in weights], "mean")
        found.append(_measured(grams, n, num_draws, names) | {"visible": visible})
    return _dataset(found, runs, steps, weights, names, num_draws).assign_attrs(
        config=json.dumps(
            {
                "model": model.name,
                "architecture": dataclasses.asdict(model.decoder(start).config),
                "twins": [dataclasses.asdict(twin) for twin in every],
                "num_draws": num_draws,
                "seed": seed,
            },
            sort_keys=True,
        )
    )


def check_shapes(name: str, params: Any, like: Any) -> None:
    """Checks that weights of a decoder have the names and shapes of others.

    Raises:
      InputError, InputTypeError: they do not.
    """
    if not isinstance(params, dict) or "embedding" not in params:
        raise InputTypeError(f"{name} must be the weights of a decoder; got {type(params)}")
    found, expected = (jax.tree_util.tree_leaves_with_path(each) for each in (params, like))
    shapes = [
        {jax.tree_util.keystr(path): np.shape(a) for path, a in of} for of in (found, expected)
    ]
    if shapes[0] != shapes[1]:
        different = sorted(dict(shapes[0].items() ^ shapes[1].items()))
        raise InputError(f"{name} must have the shapes of start; those of {different[0]} differ")


def _differs(model, start, runs) -> dict[str, jax.Array]:
    """Share of the weights that differ from the start, [layers, runs]."""
    origin, moved = model.weights(start), jax.vmap(model.weights)(runs)

    def share(name):
        differs = moved[name] != origin[name][None]
        return jnp.mean(differs, axis=range(2, differs.ndim)).T

    return {name: share(name) for name in origin}


def _measured(
    grams: np.ndarray, num_runs: int, num_draws: int, names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Arrays [..., held out, weight, layer], from inner products of runs and draws of twins."""
    n, K = num_runs, grams.shape[-1]
    one = np.eye(K)
    held = one[:n]
    means = one[n:].reshape(len(names), num_draws, K).mean(axis=1)
    compared = np.repeat(means[:, None], n, axis=1)
    if n > 1:
        others = np.where(np.arange(K) < n, 1 - held, 0) / (n - 1)
        compared = np.concatenate([others[None], compared])
    baseline = means[names.index(BASELINE)] if BASELINE in names else None
    found = measures(grams, compared, held, held, baseline)
    each = np.repeat(one[n:, None], n, axis=1)
    draws = measures(grams, each, held, held, None)["cosine"]
    draws = draws.reshape(len(names), num_draws, *draws.shape[1:])
    if n > 1:
        draws = np.concatenate([np.full_like(draws[:1], np.nan), draws])
    combined = np.concatenate([held, means])
    products = np.einsum("ak,wlkj,bj->wlab", combined, grams, combined)
    return found | {"draw_cosine": draws, "products": products}


def _dataset(found, runs, steps, weights, names, num_draws) -> xr.Dataset:
    n = len(runs)
    dims = ("twin", "held_out", "weight", "layers")
    of: dict[str, tuple[str, ...]] = {}
    of |= dict.fromkeys(("cosine", "partial_cosine", "norm_ratio"), dims)
    of["draw_cosine"] = ("twin", "draw", *dims[1:])
    of["visible"] = dims[2:] + dims[1:2]
    of["products"] = ("weight", "layers", "change", "other_change")
    changes = [*(f"{RUN} {i}" for i in range(n)), *names]
    layers = found[0]["cosine"].shape[-1] - 1
    coords = {
        "twin": [*[RUN] * (n > 1), *names],
        "held_out": range(n),
        "weight": weights,
        "layers": ["all", *(str(layer + 1) for layer in range(layers))],
        "step": steps,
        "draw": range(num_draws),
        "change": changes,
        "other_change": changes,
    }
    variables = {
        name: ((*of_name, "step"), np.stack([each[name] for each in found], axis=-1))
        for name, of_name in of.items()
    }
    dataset = xr.Dataset(variables, coords)
    dataset = dataset.assign(visible=dataset["visible"].transpose("held_out", ...))
    return results.describe(dataset, NAMES)
