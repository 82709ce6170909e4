"""Associations over training: one run, and at chosen steps the associations of every token.

Only lists are kept, no matrix per step: for each token up to k associations under every matrix of
`scorings`, and their overlap with the theory's list. They show when an association forms, and in
which weight first.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
import xarray as xr

from assocjax.analysis import scorings
from assocjax.analysis.formations import Truth, find_queries, precision
from assocjax.analysis.scorings import LAYERED, SCORINGS, SIDES, Frequencies
from assocjax.arguments import (
    MATRICES,
    TOP,
    TRACKED_INIT_SCALE,
    check_integer,
    check_integers,
    check_is,
)
from assocjax.checks import CorpusLike, check_number, check_positive
from assocjax.corpora.tokens import TokenData, as_token_data
from assocjax.errors import InputError
from assocjax.experiments.config import Corpus, RunConfig, check_run
from assocjax.experiments.record import record_run
from assocjax.models.model import Model
from assocjax.models.registry import MODEL, get_model
from assocjax.statistics.dense import corpus_statistics
from assocjax.statistics.occurrences import count_occurrences
from assocjax.storage import claim, results
from assocjax.storage.checkpoints import Checkpoints
from assocjax.training.optimizers import Optimizer, check_resumable

_FILE = "track.nc"

_LONG_NAMES = {
    "loss": "mean negative log-likelihood",
    "id": "index of the associated token",
    "score": "score of the associated token; NaN where the list has ended",
    "count": "occurrences of the pair in the text; 0 where the list has ended",
    "overlap": "share of the theory's list that is in the weights'; NaN where it is empty",
    "cosine": "cosine of the token's entries in weights and theory",
}


def track(
    data: CorpusLike,
    *,
    learning_rate: float,
    steps: int,
    num_layers: int,
    record_at: Sequence[int] | None = None,
    k: int = TOP,
    seed: int = 0,
    init_scale: float = TRACKED_INIT_SCALE,
    model: str | Model = MODEL,
    optimizer: Optimizer = "sgd",
    batch_size: int | None = None,
    microbatch_size: int | None = None,
    truth: Truth | None = None,
    checkpoint: str | os.PathLike | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Trains one run by exact gradients and records its associations beside the theory's.

    The theory's lists are those of the leading terms. Their matrices grow in size only
    (`closed_forms`), so the lists are the same at every step. This holds for optimizers that are
    linear in the gradients; with any other the lists describe the text, but are no theory of the
    run.

    Args:
      data: the corpus, `TokenData` or `TokenFile`, or an integer array [N, T+1].
      learning_rate: step size, positive.
      steps: number of updates.
      num_layers: L.
      record_at: steps at which to record; by default 0 and about twenty, evenly on a log scale.
      k: maximal length of the lists: tokens that are no association are not listed.
      seed: of the initial weights and of the minibatches.
      init_scale: scale of the start, as the model defines it; for the paper's model the standard
        deviation, of which 0 is the zero start.
      model: a `Model` or its name; it must have a reading in tokens (`Model.in_tokens`).
      optimizer: name of an optax optimizer, a `ScheduledOptimizer`, or another function of the
        learning rate that makes one.
      batch_size: sequences in a minibatch; None is the full batch.
      microbatch_size: sequences differentiated at once; None chooses by memory.
      truth: maps kinds of `formations.READ_AT` to mappings from a query token to its true
        associates, such as `fables.ground_truth()`.
      checkpoint: a folder, which is new, empty, or holds this run. A checkpoint is saved there at
        every recorded step, from which the same call resumes. At the end the folder holds
        `track.nc`, and the same call returns its content.
      overwrite: replace another run in the folder, or start this one again.
      progress: called with (steps done, total steps).

    Returns:
      A Dataset over `step`, `layer`, `scoring`, `side` (row, column), `token` and `rank`. For every
      matrix m of `scorings.MATRICES` it holds the weights' lists `m_id`, `m_score` and `m_count`,
      the theory's lists `m_theory_id`, `m_theory_score` and `m_theory_count`, and `m_overlap` and
      `m_cosine` (see `scorings.Reading`). Counts are occurrences of the pair in the text
      (`statistics.occurrences`), at least 1 in a list. Bigram and interchangeability have no
      `layer`; interchangeability, which is symmetric, has no `side`. After the end of a list,
      scores are NaN, counts 0 and ids have no meaning (`scorings.TopLists`). `context_theory_id`,
      `_score` and `_count` are those of Phi. Other variables are `loss` in nats, and
      `input_frequency` and `target_frequency` of tokens. With `truth`, there are `m_precision` and
      `m_theory_precision` for its kinds (`formations.precision`), and the attribute `truth` is its
      JSON. If loss or weights stop being finite, the Dataset ends before that step, and its
      attribute `incomplete` says so. `mean_overlap` weights all tokens equally. To weight them by
      their occurrences, where few tokens (the, full stop) dominate, use
      `dataset.value_overlap.weighted(dataset.input_frequency).mean("token")`.

    Raises:
      InputError, InputTypeError: an argument cannot be used.
      KeyboardInterrupt: Ctrl-C; with `checkpoint`, its text says how much was saved.

    Cost: steps + 1 gradients, and at each recorded step `scorings.read_weights` three times.
    Memory: that of `train`, about 10 matrices [V,V] to read weights and as many of occurrences, and
    120 (2 L + 1) V k bytes for each recorded step.
    """
    data = as_token_data(data)
    run = RunConfig(
        steps=steps,
        num_layers=num_layers,
        theories=(),
        model=get_model(model),
        optimizer=optimizer,
        batch_size=batch_size,
        microbatch_size=microbatch_size,
    )
    check_run(run, data)
    jax.eval_shape(run.model.in_tokens, run.model.shapes(run.sizes(data.vocab_size, data.seq_len)))
    k = min(check_integer("k", k, minimum=1), data.vocab_size - 1)
    record_at = steps_to_record(record_at, run.steps)
    if truth is not None:
        check_is("truth", truth, Mapping)
    queries = {kind: find_queries(kind, of, data.vocabulary) for kind, of in (truth or {}).items()}
    true = {kind: {q: sorted(of[q]) for q in of} for kind, of in (truth or {}).items()}
    settings = {
        "learning_rate": check_positive("learning_rate", learning_rate),
        **run.described(),
        "record_at": record_at,
        "k": k,
        "seed": check_integer("seed", seed, minimum=0),
        "init_scale": check_number("init_scale", init_scale, minimum=0),
    }
    attributes = results.provenance(data, settings) | {"truth": json.dumps(true)}
    compute = partial(_track, data, settings, attributes, queries, run, progress=progress)
    if checkpoint is None:
        return compute()
    check_resumable(optimizer)
    decides = results.identity(data, settings | {"truth": true})
    with claim(checkpoint, "track", decides, result=_FILE, overwrite=overwrite) as folder:
        if folder.complete:
            return results.load(folder.path / _FILE)
        checkpoints = Checkpoints(folder, decides | {"device": jax.devices()[0].device_kind})
        dataset = compute(checkpoints)
        checkpoints.close()
        results.save_to(folder, _FILE, dataset)
        folder.finish()
    return dataset


def _track(
    data: TokenData,
    settings: dict[str, Any],
    attributes: dict[str, Any],
    queries: dict[str, tuple[np.ndarray, np.ndarray]],
    run: RunConfig,
    checkpoints: Checkpoints | None = None,
    *,
    progress: Callable[[int, int], None] | None,
) -> xr.Dataset:
    """The Dataset that `track` returns, from checked arguments; `queries` are from its truth."""
    rate, seed, scale, record_at, k = (
        settings[name] for name in ("learning_rate", "seed", "init_scale", "record_at", "k")
    )
    statistics = corpus_statistics(data)
    theory = scorings.theory_weights(statistics)
    frequencies = Frequencies.of(statistics)
    counts = _counts(data)
    support = scorings.support_of(counts, data.vocabulary)
    lists = {
        scoring: scorings.theory_lists(theory, frequencies, support, scoring=scoring, k=k)
        for scoring in SCORINGS
    }

    def read(step: int, params: dict[str, Any]) -> dict[str, np.ndarray]:
        weights = run.model.in_tokens(params["run"])
        readings = {
            scoring: scorings.read_weights(
                weights, theory, lists[scoring], frequencies, support, scoring=scoring, k=k
            )
            for scoring in SCORINGS
        }
        return _with_counts(_by_variable(readings), counts)

    found = record_run(
        run,
        Corpus.of(data, run),
        rate,
        seed,
        scale,
        record_at=record_at,
        read=read,
        checkpoints=checkpoints,
        progress=progress,
    )
    end = found.diverged_step
    incomplete = "" if end is None else f"diverged at step {end}"
    if not found.records:
        raise InputError(f"learning_rate {rate:g} and this start: {incomplete}")

    Phi = partial(scorings.context_lists, statistics.context, frequencies, support, k=k)
    for scoring in SCORINGS:
        lists[scoring] |= {"context": Phi(scoring=scoring)}
    variables = _with_counts(_by_variable(lists, suffix="_theory"), counts) | found.records
    recorded = [step for step in record_at if end is None or step < end]
    variables["loss"] = found.loss[recorded]
    dataset = _to_dataset(variables, recorded, data, frequencies, run.num_layers, k)
    for kind, (tokens, associates) in queries.items():
        for of in ("", "_theory"):
            dataset[f"{kind}{of}_precision"] = precision(dataset, kind, of, tokens, associates)
    dataset.attrs = attributes | ({"incomplete": incomplete} if incomplete else {})
    return dataset


def _counts(data: TokenData) -> dict[str, np.ndarray]:
    """Matrix -> numbers of occurrences of its pairs, int32 [V,V]."""
    occurrences = count_occurrences(data)
    most = np.iinfo(np.int32).max
    return {name: occurrences.rows(name).clip(max=most).astype(np.int32) for name in MATRICES}


def _with_counts(
    variables: dict[str, np.ndarray], counts: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Adds the numbers of occurrences of listed pairs, `m_count` beside `m_id` and `m_score`."""
    found = {}
    for name in variables:
        of, _, what = name.rpartition("_")
        if what == "id":
            pairs = counts[matrix := of.removesuffix("_theory")]
            sided = matrix != "interchangeability"
            found[f"{of}_count"] = scorings.count_listed(
                pairs, variables[name], variables[f"{of}_score"], sided=sided
            )
    return variables | found


def steps_to_record(record_at: Sequence[int] | None, steps: int) -> list[int]:
    """The steps that `track` records, in order; raises InputError if one is beyond `steps`."""
    if record_at is None:
        return sorted(
            {0, *np.rint(np.geomspace(1, steps, 24)).astype(int).tolist()} if steps else {0}
        )
    return sorted(set(check_integers("record_at", record_at, minimum=0, maximum=steps)))


def _by_variable(lists: dict[str, Any], suffix: str = "") -> dict[str, np.ndarray]:
    """Arrays of Dataset variables from lists or readings by scoring and matrix."""
    variables = {}
    for name in lists[SCORINGS[0]]:
        of = [lists[scoring][name] for scoring in SCORINGS]
        axis = int(name in LAYERED and not suffix)
        trees = [one._asdict() for one in of]
        if not suffix:
            trees = [tree.pop("lists")._asdict() | tree for tree in trees]
        for what in trees[0]:
            key = {"ids": "id", "scores": "score"}.get(what, what)
            stacked = np.stack([np.asarray(tree[what]) for tree in trees], axis=axis)
            variables[f"{name}{suffix}_{key}"] = stacked
    return variables


def _to_dataset(variables, steps, data, frequencies, num_layers: int, k: int) -> xr.Dataset:
    id_type = np.uint16 if data.vocab_size <= 1 << 16 else np.int32
    found = {}
    for name, value in variables.items():
        what = name.rsplit("_", 1)[-1]
        matrix = name.removesuffix(f"_{what}").removesuffix("_theory")
        dims = () if "_theory" in name else ("step", *["layer"] * (matrix in LAYERED))
        if name != "loss":
            dims += ("scoring", *["side"] * (matrix != "interchangeability"), "token")
        dims += ("rank",) * (what in ("id", "score", "count"))
        value = value.astype(id_type) if what == "id" else value
        attrs = {"units": "nat" if name == "loss" else "1", "long_name": _LONG_NAMES[what]}
        found[name] = (dims, value, attrs)
    for name in ("input", "target"):
        attrs = {"units": "1", "long_name": f"share of the token among {name}s"}
        found[f"{name}_frequency"] = ("token", np.asarray(getattr(frequencies, name)), attrs)
    dataset = xr.Dataset(
        found,
        {
            "step": ("step", np.array(steps, np.int32), {"units": "updates"}),
            "layer": np.arange(1, num_layers + 1, dtype=np.int32),
            "scoring": list(SCORINGS),
            "side": list(SIDES),
            "token": np.array(data.vocabulary, dtype=object),
            "rank": np.arange(1, k + 1, dtype=np.int32),
        },
    )
    return results.describe(dataset)
