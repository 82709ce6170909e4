"""One run from zero initialization, compared at the end of each epoch with several theories.

In addition to the theories of `run_comparison` these are the paper's own, of the first batch, and
two controls: the theory with its tokens shuffled, and shuffled among tokens of similar frequency.
Only the direction of a leading term enters a cosine, so that one matrix is enough for all steps.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from assocjax.analysis.ablation import RANK_NOISE, shuffled
from assocjax.analysis.scorings import theory_weights
from assocjax.corpora import TokenData
from assocjax.errors import InputError
from assocjax.experiments.config import Corpus, RunConfig, batches_of, run_keys
from assocjax.experiments.record import record_run
from assocjax.experiments.runs import split_disagreement
from assocjax.models.agreement import by_layer, compare_weights
from assocjax.models.attention_only import loss
from assocjax.models.params import WEIGHTS, Params
from assocjax.reproduce.scales import Run
from assocjax.statistics.dense import corpus_statistics
from assocjax.statistics.moments import EffectiveStatistics, effective_statistics
from assocjax.storage import results
from assocjax.storage.checkpoints import Checkpoints
from assocjax.theories.quadrature import effective_weights
from assocjax.training.train import batch_indices

CONTROLS = ("shuffled", "matched")
THEORIES = ("corpus", "first batch", *CONTROLS, "effective")
"""Theories that a run is compared with; NaN where one does not apply, such as `first batch` with
full batches."""

_NAMES = {
    "cosine": "cosine of the weight with the theory",
    "sampling_error": "disagreement with the theory of the batches drawn, from sampling them",
    "truncation_error": "disagreement with the theory of the batches drawn",
}

_SAVES = 10  # number of checkpoints of a run


def follow(
    data: TokenData,
    run: Run,
    seed: int,
    *,
    checkpoints: Checkpoints | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Trains a run and compares it at the end of each epoch.

    Args:
      data: the corpus.
      run: settings of the training.
      seed: seed of the order of batches.
      checkpoints: where the run is saved, or None.
      progress: called with (steps done, steps in total).

    Returns:
      Over `epoch` from 0: `loss` of the whole corpus in nats; `cosine` by `theory` of `THEORIES`,
      `weight` and `layer`, as in `sweep` (NaN at epoch 0, where weights are zero); with minibatches
      `sampling_error` and `truncation_error` by weight and layer. The final weights under their own
      names.

    Raises:
      InputError: the batch is larger than the corpus, training diverges, or the checkpoint belongs
        to another run.

    Cost: the steps of `run_comparison`, and one loss of the corpus for each epoch; one
    `effective_weights` for each epoch with the effective theory. Memory: as `run_comparison`, and
    four copies of one layer.
    """
    N, size = data.num_sequences, run.batch_size
    if size is not None and size > N:
        raise InputError(f"batch_size: {data.name} gives {N} sequences, fewer than {size}")
    length = 1 if size is None else N // size
    config = RunConfig(
        steps=length * run.epochs,
        num_layers=run.num_layers,
        theories=("leading",),  # type: ignore[arg-type]
        batch_size=size,
    )
    corpus = Corpus.of(data, config)
    theories = _theories(corpus, data, size, seed)
    moments = None
    if run.effective_epochs:
        moments = effective_statistics(data, depth=run.num_layers)

    def read(step: int, params: dict[str, Params]) -> dict[str, np.ndarray]:
        compared = theories
        if moments is not None and step // length in run.effective_epochs:
            compared = theories | _effective(moments, data, run, step)
        found = _measure(corpus, compared, params)
        return jax.tree.map(np.asarray, found)

    found = record_run(
        config,
        corpus,
        run.learning_rate,
        seed,
        0.0,
        record_at=range(0, config.steps + 1, length),
        read=read,
        checkpoints=checkpoints,
        save_every=-(-run.epochs // _SAVES),
        progress=progress,
    )
    if found.diverged_step is not None:
        raise InputError(
            f"learning_rate: training on {data.name} with steps of {run.learning_rate:g} "
            f"diverges in epoch {-(-found.diverged_step // length)}"
        )
    return _to_dataset(found.records, found.params["run"], data, run, seed)


@jax.jit
def _measure(corpus: Corpus, theories: dict[str, Params], params: dict[str, Params]):
    """The measures recorded at the end of an epoch."""
    run = params["run"]
    compared = [
        by_layer(compare_weights(run.by_name(), theories[name].by_name())) for name in THEORIES
    ]
    record = {"cosine": jnp.stack([each.cosine for each in compared])}
    record["loss"] = loss(run, corpus.tokens, corpus.mask)
    if (batches := batches_of("leading")) in params:
        parts = run, params[batches], params["leading"]
        record |= split_disagreement(*(part.by_name() for part in parts))
    return record


def _theories(corpus: Corpus, data: TokenData, size: int | None, seed: int) -> dict[str, Params]:
    """One layer of leading terms for each theory, at any scale; zeros where one does not apply."""
    whole = theory_weights(corpus.prepared["leading"])
    nothing = jax.tree.map(jnp.zeros_like, whole)
    counts = np.bincount(data.tokens[:, :-1][data.mask], minlength=data.vocab_size)
    rank = jnp.argsort(jnp.argsort(-jnp.asarray(counts)))
    controls = {
        name: shuffled(whole, rank, jax.random.key(seed), noise=noise)
        for name, noise in zip(CONTROLS, (jnp.inf, RANK_NOISE), strict=True)
    }
    theories = {"corpus": whole, "first batch": nothing, "effective": nothing, **controls}
    if size is not None:
        _, batch_key = run_keys(seed)
        rows = batch_indices(batch_key, jnp.int32(0), data.num_sequences, size)
        batch = corpus_statistics(corpus.tokens[rows], data.vocab_size, corpus.mask[rows])
        theories["first batch"] = theory_weights(batch)
    return theories


def _effective(
    moments: EffectiveStatistics, data: TokenData, run: Run, steps: int
) -> dict[str, Params]:
    """The effective theory under its name, or an empty dict if its weights diverge."""
    try:
        theory = effective_weights(
            moments,
            data,
            num_layers=run.num_layers,
            learning_rate=run.learning_rate,
            steps=steps,
            tolerance=1e-2,  # an error of a cosine is of the order of its square
        )
    except InputError:
        return {}
    return {"effective": theory.params}


def _to_dataset(records, params: Params, data: TokenData, run: Run, seed: int) -> xr.Dataset:
    variables = {}
    for name, values in records.items():
        dims = ("epoch", *["theory"] * (name == "cosine"), "weight", "layer")[: values.ndim]
        variables[name] = (dims, values.astype(np.float64))
    dims = {"position": ("layer", "lag"), "output": ("row", "column")}
    for name in WEIGHTS:
        of = dims.get(name, ("layer", "row", "column"))
        variables[name] = (of, np.asarray(getattr(params, name)))
    coords = {
        "epoch": np.arange(run.epochs + 1),
        "theory": list(THEORIES),
        "weight": list(WEIGHTS),
        "has_layers": ("weight", [name != "output" for name in WEIGHTS]),
        "layer": np.arange(1, run.num_layers + 1),
    }
    config = dataclasses.asdict(run) | {"seed": seed}
    dataset = xr.Dataset(variables, coords, results.provenance(data, config))
    names = _NAMES | {name: f"{name} of the run after the last epoch" for name in WEIGHTS}
    return results.describe(results.describe(dataset, {"loss": "loss of the corpus"}, "nat"), names)


def weights(dataset: xr.Dataset) -> Params:
    """The final weights of a run."""
    return Params(**{name: jnp.asarray(dataset[name].values) for name in WEIGHTS})
