"""When will an association form? Statistics twins predict the step, and real runs measure it.

Twins of several starts are trained by the recipe of a model, on statistics of a text alone. At each
recorded step the strength of chosen associations is read in them (`assocjax.analysis.strengths`).
Real runs of other starts, read on the text, show how good the prediction is. One half of them is
predicted; the other half is the ceiling, how well real runs predict real runs, and what a fit on
frequencies is fitted on.
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

from assocjax.analysis.strengths import (
    KINDS,
    Associations,
    Probes,
    formed_at,
    model_strengths,
    strong_associations,
    sum_positions,
)
from assocjax.arguments import check_integer, check_integers, check_is
from assocjax.checks import CorpusLike, check_corpus, check_dataset
from assocjax.corpora.tokens import UNKNOWN
from assocjax.errors import InputError, reading
from assocjax.experiments.config import as_named
from assocjax.experiments.together import of_theory, real_runs, train_together
from assocjax.models.decoder import DecoderModel
from assocjax.models.model import Sizes
from assocjax.statistics.contexts import ContextStatistics, context_statistics
from assocjax.storage import results
from assocjax.theories.theory import Batch
from assocjax.theories.twin_rows import twin_rows
from assocjax.theories.twins import StatisticsTwin

GROUPS: tuple[str, ...] = ("twin", "shuffled", "run", "other run")
"""Trajectories: twins, the control of shuffled rows, real runs that are predicted, and others."""

_OTHERS = ("other_runs", "frequencies", "shuffled")
_COLUMNS = {
    "kind": "kind of association: of neighbours, or with the context",
    "first": "the token a",
    "second": "the token b",
    "occurrences": "number of occurrences of b after a; of a context, a sum of shares",
    "base": "share of b among all targets",
}
_STRENGTHS = {
    "strength": "log(P(b | a) / P(b)) in the text",
    "twin": "log(P(b | a) / P(b)) by a twin",
    "shuffled": "log(P(b | a) / P(b)) by a twin with shuffled rows",
    "run": "log(P(b | a) / P(b)) in a real run",
    "other_run": "log(P(b | a) / P(b)) in another real run",
}
_STEPS = {
    "predicted": "step of formation, by the mean of twins",
    "earliest": "step of formation, by the earliest twin",
    "latest": "step of formation, by the latest twin",
    "measured": "step of formation in real runs",
    "other_runs": "step of formation in other real runs",
    "shuffled": "step of formation, by twins with shuffled rows",
    "frequencies": "step of formation, by a fit on frequencies",
}
_READ_ROWS = 1 << 14  # drawn rows at which a twin is read


def predict_formation(
    model: DecoderModel,
    data: CorpusLike,
    *,
    optimizer: optax.GradientTransformation,
    steps: int | Iterable[int],
    batch_size: int,
    order: int = 2,
    num_twins: int = 8,
    num_runs: int = 0,
    associations: Associations | None = None,
    statistics: ContextStatistics | None = None,
    read_sequences: int = 256,
    vocab_size: int | None = None,
    mask: ArrayLike | None = None,
    seed: int = 0,
    init_scale: float = 1.0,
    progress: Callable[[str, int], None] | None = None,
) -> xr.Dataset:
    """Strengths of associations over training: predicted by statistics twins, and in real runs.

    Args:
      model: a decoder; V and T of its configuration are replaced by those of the data.
      data, vocab_size, mask: the text, as in `corpus_statistics`.
      optimizer: the recipe, an optax transformation whose schedule counts its own updates.
      steps: numbers of updates at which strengths are read; a single number is the last, with
        twenty more before it, evenly on a logarithmic scale.
      batch_size: sequences in a minibatch.
      order: of the twins, see `assocjax.theories.twins`.
      num_twins: each has its own start. Beside them are as many with shuffled rows, if there are
        real runs.
      num_runs: real runs that are predicted, and as many others; 0 only predicts.
      associations: by default those of `strong_associations`, without the unknown token.
      statistics: of the text; computed if left out.
      read_sequences: sequences of the text at which real runs are read.
      seed: determines all starts, orders of batches, and what twins draw.
      init_scale: as in `Model.init`.
      progress: called with the name of a group and the number of updates after each part.

    Returns:
      A Dataset over `association` and `step`: `twin`, `shuffled`, `run` and `other_run`, the
      strengths, with a dimension for the members of the group, and of every association `kind`,
      `first`, `second`, `occurrences`, `base` and `strength` (of the text). `formation_steps`
      makes steps of it, and `plot_predictions` a figure.

    Raises:
      InputError, InputTypeError: an argument cannot be used, or no association is strong enough.

    Cost: trainings of all twins and runs, and at each recorded step a forward pass over
      `read_sequences` sequences for each run.
    """
    check_is("model", model, DecoderModel)
    check_is("optimizer", optimizer, optax.GradientTransformation)
    num_twins = check_integer("num_twins", num_twins, minimum=1)
    num_runs = check_integer("num_runs", num_runs, minimum=0)
    batch_size = check_integer("batch_size", batch_size, minimum=1)
    read_sequences = check_integer("read_sequences", read_sequences, minimum=1)
    seed = check_integer("seed", seed, minimum=0)
    recorded = _recorded(steps)
    named = as_named(data, vocab_size, mask)
    tokens, mask, V = check_corpus(named, None, None)
    if batch_size > len(tokens):
        raise InputError(f"batch_size must be at most {len(tokens)} sequences; got {batch_size}")
    whole, sizes = Batch(tokens, mask, V), Sizes(V, mask.shape[1], model.config.num_layers)
    if statistics is None:
        statistics = context_statistics(tokens, V, mask)
    if associations is None:
        unknown = [i for i, token in enumerate(named.vocabulary) if token == UNKNOWN]
        associations = strong_associations(statistics, leave_out=tuple(unknown))
    check_is("associations", associations, Associations)
    if not len(associations.kind):
        raise InputError("associations must hold at least one; the text has none strong enough")
    probes = Probes.of(associations, V)

    rows = batch_size * sizes.seq_len
    twin = StatisticsTwin(order, rows)
    shuffled = dataclasses.replace(twin, shuffle_seed=seed)
    keys = dict(zip(GROUPS, jax.random.split(jax.random.key(seed), len(GROUPS)), strict=True))
    counts: dict[str, int] = {"twin": num_twins, "shuffled": num_twins * bool(num_runs)}
    counts |= {"run": num_runs, "other run": num_runs}
    groups, read = {}, {}
    chosen = np.linspace(0, len(tokens) - 1, min(read_sequences, len(tokens))).astype(int)
    for name in (name for name in GROUPS if counts[name]):
        of_start, of_training = (
            jax.random.split(jax.random.fold_in(keys[name], i), counts[name]) for i in range(2)
        )
        starts = jax.jit(jax.vmap(lambda key: model.init(key, sizes, init_scale)))(of_start)
        if name in ("run", "other run"):
            groups[name] = real_runs(model, starts, of_training, whole, batch_size)
            of_text = probes, tokens[chosen], mask[chosen]
            read[name] = jax.jit(partial(read_runs, model)), of_text
        else:
            theory = twin if name == "twin" else shuffled
            prepared = theory.prepare_from(statistics)
            groups[name] = of_theory(model, theory, starts, of_training, whole, prepared=prepared)
            of_statistics = probes, prepared, keys[name]
            read[name] = jax.jit(partial(read_twins, model, theory)), of_statistics
    found = {name: [] for name in groups}
    for step, params in train_together(optimizer, groups, recorded, progress):
        for name in groups:
            function, others = read[name]
            found[name].append(np.asarray(function(params[name], step, *others), np.float64))
    variables = {
        name.replace(" ", "_"): ((_member(name), "association", "step"), np.stack(of, axis=-1))
        for name, of in found.items()
    }
    vocabulary = np.array(named.vocabulary, object)
    columns = {
        "kind": associations.kind.astype(object),
        "first": vocabulary[associations.first],
        "second": vocabulary[associations.second],
        "occurrences": associations.occurrences,
        "base": associations.base,
        "strength": associations.strength,
    }
    config = {
        "model": model.name,
        "architecture": dataclasses.asdict(model.config) | sizes._asdict(),
        "order": order,
        "batch_size": batch_size,
        "read_sequences": len(chosen),
        "seed": seed,
        "init_scale": init_scale,
    }
    dataset = xr.Dataset(
        variables,
        {"step": recorded, **{name: ("association", values) for name, values in columns.items()}},
        results.provenance(named, config),
    )
    return results.describe(results.describe(dataset, _COLUMNS), _STRENGTHS, "nat")


def _recorded(steps: int | Iterable[int]) -> list[int]:
    if isinstance(steps, Iterable) and getattr(steps, "ndim", 1):  # no array of a single number
        return sorted({0, *check_integers("steps", list(steps), minimum=1)})
    last = check_integer("steps", steps, minimum=1)
    return sorted({0, *np.geomspace(1, last, 21).round().astype(int).tolist()})


def _member(name: str) -> str:
    return f"{name.replace(' ', '_')}_member"


def read_runs(model, params, step, probes, tokens, mask):
    """Strengths in real runs, [runs, K], at positions of a text."""
    return jax.lax.map(lambda run: model_strengths(model, run, tokens, mask, probes), params)


def read_twins(model, twin, params, step, probes, prepared, key):
    """Strengths in twins, [twins, K], at draws that are the same for all of them."""
    draws = jax.random.fold_in(key, step)

    def of_one(params):
        decoder = model.decoder(params)
        tokens = probes.first, probes.second
        options = {"order": twin.order, "rows": _READ_ROWS}
        rows = twin_rows(decoder, params, prepared, draws, *tokens, **options)
        return sum_positions(probes, *rows).strength(probes)

    return jax.lax.map(of_one, params)


@reading("predict_formation")
def formation_steps(dataset: xr.Dataset, fraction: float = 0.5) -> xr.Dataset:
    """The steps at which associations form (`strengths.formed_at`), predicted and measured.

    Args:
      dataset: from `predict_formation`.
      fraction: of the strength in the text.

    Returns:
      A Dataset over `association`: `predicted`, that of the mean of all twins' strengths,
      and `earliest` and `latest`, of single twins. With real runs `measured`, that of their mean,
      and what else might predict it: `other_runs`, `shuffled`, and `frequencies`, a linear
      fit of log step on log occurrences, base, strength and P(a), made on the other runs. NaN where
      an association does not form.

    Raises:
      InputError, InputTypeError: `dataset` is not from `predict_formation`.
    """
    names = ["kind", "first", "second", "occurrences", "base", "strength"]
    check_dataset(dataset, "predict_formation", ["twin"], "association step")
    steps, in_text = dataset["step"].values, dataset["strength"].values

    def mean_step(name):
        mean = dataset[name].mean(_member(name)).transpose("association", "step")
        return formed_at(steps, mean.values, in_text, fraction)

    single = dataset["twin"].transpose("twin_member", "association", "step").values
    each = formed_at(steps, single, in_text, fraction)
    formed = ~np.isnan(each)
    found = {
        "predicted": mean_step("twin"),
        "earliest": np.where(formed.any(0), np.where(formed, each, np.inf).min(0), np.nan),
        "latest": np.where(formed.all(0), each.max(0), np.nan),
    }
    if "run" in dataset:
        found |= {"measured": mean_step("run"), "other_runs": mean_step("other_run")}
        found |= {
            "shuffled": mean_step("shuffled"),
            "frequencies": _fit(dataset, found["other_runs"]),
        }
    variables = {name: ("association", values) for name, values in found.items()}
    coords = {name: dataset[name] for name in names}
    described = xr.Dataset(variables, coords, dataset.attrs | {"fraction": fraction})
    return results.describe(described, _STEPS, "updates")


def _fit(dataset: xr.Dataset, steps: np.ndarray) -> np.ndarray:
    """The steps of a linear fit of log step on frequencies and strength, for each kind by itself;
    P(a) is a combination of these."""
    logs = [np.log(dataset["occurrences"]), np.log(dataset["base"]), dataset["strength"]]
    features = np.stack([np.ones(steps.size), *logs])
    found = np.full(steps.shape, np.nan)
    for kind in KINDS:
        mine = dataset["kind"].values == kind
        known = mine & (steps > 0)
        if known.sum() > len(features):
            weights, *_ = np.linalg.lstsq(features[:, known].T, np.log(steps[known]), rcond=None)
            found[mine] = np.exp(weights @ features[:, mine])
    return found


@reading("formation_steps")
def prediction_scores(steps: xr.Dataset) -> list[dict[str, Any]]:
    """How well the measured steps are predicted: a row for each kind and source of predictions.

    Over the associations that form in the real runs: Spearman's rank correlation, where those that
    are predicted not to form are the last; and of those that are predicted to form, the median of
    predicted over measured, and the share that is within 20 percent.

    Raises:
      InputError, InputTypeError: `steps` is not from `formation_steps`, or has no real runs.
    """
    from scipy.stats import spearmanr  # takes about half a second to import

    needed = ["measured", "predicted", *_OTHERS]
    check_dataset(steps, "formation_steps", needed, "association")
    rows = []
    for kind in KINDS:
        of = steps.isel(association=steps["kind"].values == kind)
        of = of.isel(association=np.isfinite(of["measured"].values))
        for source in ("other_runs", "predicted", *_OTHERS[1:]):
            measured, predicted = of["measured"].values, of[source].values
            forms = np.isfinite(predicted)
            ratio = predicted[forms] / np.maximum(measured[forms], 1e-9)
            order = np.where(forms, predicted, np.inf)
            varies = len(set(order)) > 1 and len(set(measured)) > 1
            rows.append(
                {
                    "kind": kind,
                    "source": source,
                    "associations": measured.size,
                    "formed": int(forms.sum()),
                    "rank_correlation": float(spearmanr(order, measured)[0])  # type: ignore[arg-type]
                    if varies
                    else np.nan,
                    "median_ratio": float(np.median(ratio)) if forms.any() else np.nan,
                    "within_20_percent": float(np.mean((ratio >= 0.8) & (ratio <= 1.25)))
                    if forms.any()
                    else np.nan,
                }
            )
    return rows
