"""Statistics twins beside real runs: how much of what real runs share a twin has, weight by weight.

Several real runs have one start and different orders of batches. The mean of their changes since
the start is what they have in common. A held-out run is compared with the mean of the others, which
is the ceiling, and so is each twin (`assocjax.theories.twins`):

    cosine           <a, m> / (|a| |m|)    a: change of the twin or run, m: mean of the other runs
    partial cosine   the same after the change of the twin of order 0, which knows frequencies
                     only, has been projected out of a and of m
    norm ratio       |a| / |change of the held-out run|

All are trained side by side; only their current states are in memory.
"""

import dataclasses
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
import xarray as xr
from jaxtyping import ArrayLike

from assocjax.arguments import check_integer, check_integers, check_is, check_sequence
from assocjax.checks import CorpusLike, check_corpus, check_dataset
from assocjax.errors import InputError, reading
from assocjax.experiments.changes import NAMES, by_layer, inner_products, measures
from assocjax.experiments.config import as_named
from assocjax.experiments.together import of_theory, real_runs, repeat, train_together
from assocjax.models.decoder import DecoderModel
from assocjax.models.model import Sizes
from assocjax.statistics.contexts import ContextStatistics, context_statistics
from assocjax.storage import results
from assocjax.theories.theory import Batch
from assocjax.theories.twin_losses import ORDERS
from assocjax.theories.twins import StatisticsTwin

RUN = "run"
"""Name of the held-out real run among the twins of `compare_twins`."""

_RUNS = "runs"

OTHER = "other run"
"""Name of the real run on another text."""

BASELINE = "twin-0"
"""Name of the twin whose change is projected out of both in `partial_cosine`."""


def all_twins(last: int = 5) -> tuple[StatisticsTwin, ...]:
    """Twins of all orders up to the last with drawn pairs, that of order 2 with its mean loss, and
    the control whose rows are shuffled. Orders 6 and 7 take several times as long as the others.

    Raises:
      InputError, InputTypeError: `last` is not an order.
    """
    last = check_integer("last", last, minimum=0, maximum=max(ORDERS))
    drawn = [StatisticsTwin(order) for order in ORDERS[: last + 1]]
    return *drawn, StatisticsTwin(2, None), StatisticsTwin(2, shuffle_seed=0)


def compare_twins(
    model: DecoderModel,
    data: CorpusLike,
    *,
    optimizer: optax.GradientTransformation,
    steps: Iterable[int],
    batch_size: int,
    vocab_size: int | None = None,
    mask: ArrayLike | None = None,
    other: CorpusLike | None = None,
    statistics: ContextStatistics | None = None,
    num_runs: int = 5,
    twins: Iterable[StatisticsTwin] | None = None,
    seed: int = 0,
    init_scale: float = 1.0,
    progress: Callable[[str, int], None] | None = None,
    observe: Callable[[int, dict[str, Any]], None] | None = None,
) -> xr.Dataset:
    """Trains real runs and twins from one start by one recipe, and compares their changes.

    Args:
      model: a decoder; V and T of its configuration are replaced by those of the data.
      data, vocab_size, mask: the text of the real runs, as in `corpus_statistics`.
      optimizer: the recipe, an optax transformation whose schedule counts its own updates.
      steps: numbers of updates after which changes are compared.
      batch_size: sequences in a batch.
      other: another text with the same vocabulary and T, such as the other half of a text. The
        twins have its statistics, and a real run on it, "other run", is their ceiling: what they
        have beyond this is memory of single occurrences.
      statistics: of the text of the twins; those of `other` or `data` if left out.
      num_runs: real runs, at least 2; each is held out once.
      twins: which ones; by default `all_twins`.
        Without "twin-0" there is no partial cosine.
      seed: determines the start, the orders of batches, and what twins draw.
      init_scale: as in `Model.init`.
      progress: called with a name and the number of updates after each part of the training.
      observe: called with 0 and each of `steps`, and the weights then: of the real runs, by the
        name "runs", and of each twin, by its own; each with a leading axis for the trajectories.

    Returns:
      A Dataset with `cosine`, `partial_cosine` and `norm_ratio`, float64 of dimensions (twin,
      held_out, weight, layers, step). `twin` has "run", the held-out run, and "other run", if there
      is one, before the twins. `layers` is "all", all layers together, "1", "2", ...; weights
      without layers are NaN at the numbers. `plot_twins` draws it. `products` holds
      the inner products of the changes of all runs and twins, from which `twin_shares` tells what
      each statistic explains. Attributes hold the
      configuration, except for the optimizer, versions and the corpus (see `results`).

    Raises:
      InputError, InputTypeError: an argument cannot be used.

    Cost: `num_runs` trainings and those of the twins; memory of all their weights and optimizer
      states, and of all runs' activations of a batch, since runs are one program.
    """
    check_is("model", model, DecoderModel)
    check_is("optimizer", optimizer, optax.GradientTransformation)
    num_runs = check_integer("num_runs", num_runs, minimum=2)
    batch_size = check_integer("batch_size", batch_size, minimum=1)
    seed = check_integer("seed", seed, minimum=0)
    recorded = sorted(set(check_integers("steps", list(steps), minimum=1)))
    tokens, mask, V = check_corpus(data, vocab_size, mask)
    if batch_size > len(tokens):
        raise InputError(f"batch_size must be at most {len(tokens)} sequences; got {batch_size}")
    whole = Batch(tokens, mask, V, size=batch_size)
    of_twins = whole
    if other is not None:
        of_twins = Batch(*check_corpus(other, V, None), size=batch_size)
        if of_twins.mask.shape[1] != mask.shape[1] or len(of_twins.mask) < batch_size:
            raise InputError(
                f"other must have at least {batch_size} sequences of {mask.shape[1]} positions; "
                f"got shape {of_twins.mask.shape}"
            )
    if statistics is None:
        statistics = context_statistics(of_twins.tokens, V, of_twins.mask)
    sizes = Sizes(V, mask.shape[1], model.config.num_layers)
    if twins is None:
        twins = all_twins()
    every = check_sequence("twins", list(twins), "StatisticsTwin")
    for twin in every:
        check_is("each of twins", twin, StatisticsTwin)
    if len({twin.name for twin in every}) < len(every):
        raise InputError("twins must have different names; some have the same")
    prepared = {}
    for twin in every:
        options = twin.shuffle_seed, twin.backoff, twin.entries
        if options not in prepared:
            prepared[options] = twin.prepare_from(statistics)

    key_start, key_runs, key_twins = jax.random.split(jax.random.key(seed), 3)
    start = model.init(key_start, sizes, init_scale)
    one = repeat(start, 1)
    run_keys = jax.random.split(key_runs, num_runs)
    groups = {_RUNS: real_runs(model, repeat(start, num_runs), run_keys, whole, batch_size)}
    if other is not None:
        key = jax.random.fold_in(key_runs, num_runs)[None]
        groups[OTHER] = real_runs(model, one, key, of_twins, batch_size)
    for i, twin in enumerate(every):
        statistics_of_it = prepared[twin.shuffle_seed, twin.backoff, twin.entries]
        key = jax.random.fold_in(key_twins, i)[None]
        groups[twin.name] = of_theory(model, twin, one, key, of_twins, prepared=statistics_of_it)
    names = [RUN if name == _RUNS else name for name in groups]
    weights = list(model.weights(start))
    products = jax.jit(partial(inner_products, model))
    found = []
    if observe is not None:
        observe(0, {name: group.starts for name, group in groups.items()})
    for step, states in train_together(optimizer, groups, recorded, progress):
        if observe is not None:
            observe(step, states)
        each = products(start, list(states.values()))
        found.append(by_layer([each[name] for name in weights]))
    dims = ("twin", "held_out", "weight", "layers", "step")
    coords = {
        "twin": names,
        "held_out": range(num_runs),
        "weight": weights,
        "layers": ["all", *(str(layer + 1) for layer in range(sizes.num_layers))],
        "step": recorded,
    }
    measured = [_measures(each, num_runs, names) for each in found]
    variables = {
        name: (dims, np.stack([each[name] for each in measured], axis=-1)) for name in measured[0]
    }
    changes = [*(f"{RUN} {i}" for i in range(num_runs)), *names[1:]]
    products = np.moveaxis(np.stack(found), 0, -1)
    coords |= {"change": changes, "other_change": changes}
    by_change = xr.DataArray(products, dims=("weight", "layers", "change", "other_change", "step"))
    config = {
        "model": model.name,
        "architecture": dataclasses.asdict(model.config) | sizes._asdict(),
        "twins": [dataclasses.asdict(twin) for twin in every],
        "batch_size": batch_size,
        "num_runs": num_runs,
        "seed": seed,
        "init_scale": init_scale,
    }
    named = as_named(data, vocab_size, mask)
    dataset = xr.Dataset(variables, coords, results.provenance(named, config))
    return results.describe(dataset.assign(products=by_change), NAMES)


def _measures(grams: np.ndarray, num_runs: int, names: list[str]) -> dict[str, np.ndarray]:
    """Arrays [twin, held out, weight, layer], from inner products of changes."""
    K = grams.shape[-1]
    one = np.eye(K)
    run = one[:num_runs]
    mean = np.where(np.arange(K) < num_runs, 1 - run, 0) / (num_runs - 1)
    other = np.broadcast_to(one[num_runs:, None], (K - num_runs, num_runs, K))
    compared = np.concatenate([run[None], other])
    baseline = one[num_runs + names.index(BASELINE) - 1] if BASELINE in names else None
    return measures(grams, compared, mean, run, baseline)


@reading("compare_twins")
def twin_shares(dataset: xr.Dataset) -> xr.Dataset:
    """What each statistic of the text explains of the change of every weight.

    The mean change m of the real runs is projected onto the changes of the twins of order 0, of
    orders 0 and 1, and so on. Each order's share is what it adds to the squared norm of the
    projection, over the squared norm of m. Beside them are what real runs do not have in common,

        chance    1 - mean of <r_i, r_j> over pairs of different runs / |m|^2

    which is that of their orders of batches, and the rest. All add up to 1. The rest
    may be below zero: what runs have in common is estimated from their products, with much error
    where the runs are few or the step is early.

    Args:
      dataset: from `compare_twins`, or from `compare_checkpoints` with several runs. Twins with a
        mean loss or with shuffled rows take no part.

    Returns:
      A Dataset with `share` [part, weight, layers, step], where `part` is the names of the twins in
      ascending order, "rest" and "chance".

    Raises:
      InputError, InputTypeError: `dataset` is not from `compare_twins`, or has no drawn twin or
        only one run, which does not tell what is chance.
    """
    check_dataset(dataset, "compare_twins", ["products"], "weight layers change other_change step")
    changes = dataset["change"].values.tolist()
    twins = [f"twin-{order}" for order in ORDERS if f"twin-{order}" in changes]
    if not twins:
        raise InputError("dataset must have drawn twins, such as 'twin-2'; it has none")
    runs = np.flatnonzero([name.startswith(f"{RUN} ") for name in changes])
    if runs.size < 2:
        raise InputError(f"dataset must have at least 2 runs; it has {runs.size}")
    order = ("weight", "layers", "step", "change", "other_change")
    grams = np.asarray(dataset["products"].transpose(*order).values)
    of_runs = grams[..., runs, :][..., runs]
    whole = of_runs.mean((-2, -1))
    n = runs.size
    common = (of_runs.sum((-2, -1)) - np.trace(of_runs, axis1=-2, axis2=-1)) / (n * (n - 1))
    explained = [np.zeros(whole.shape)]
    for last in range(1, len(twins) + 1):
        at = [changes.index(name) for name in twins[:last]]
        among = grams[..., at, :][..., at]
        scale = np.sqrt(np.diagonal(among, axis1=-2, axis2=-1))
        scale = np.where(scale > 0, scale, np.inf)  # a change that is zero explains nothing
        with_mean = grams[..., at, :][..., runs].mean(-1) / scale
        cosines = among / (scale[..., :, None] * scale[..., None, :])
        valid = np.isfinite(cosines).all(axis=(-2, -1), keepdims=True)
        inverse = np.linalg.pinv(np.where(valid, cosines, 0.0), hermitian=True)
        squares = np.einsum("...i,...ij,...j->...", with_mean, inverse, with_mean)
        explained.append(np.where(np.squeeze(valid, (-2, -1)), squares, np.nan))
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = np.diff(explained, axis=0) / whole
        chance = 1 - common / whole
    parts = np.stack([*shares, 1 - chance - shares.sum(axis=0), chance])
    coords = {name: dataset[name] for name in ("weight", "layers", "step")}
    attrs = {"units": "1", "long_name": "share of the squared norm of the mean change"}
    share = (("part", "weight", "layers", "step"), parts, attrs)
    coords = {"part": [*twins, "rest", "chance"], **coords}
    return results.describe(xr.Dataset({"share": share}, coords, dataset.attrs), NAMES)
