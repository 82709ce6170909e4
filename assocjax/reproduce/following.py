"""One run from zero, compared at the end of each epoch with every theory that an artefact asks of.

Beside the theories of `run_comparison` these are the paper's own, of the first batch, and two
controls: the theory with its tokens shuffled, and shuffled among tokens of similar frequency. Only
the direction of a leading term enters a cosine, so that one matrix serves all steps.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from assocjax.analysis.ablation import RANK_NOISE, shuffled
from assocjax.analysis.scorings import theory_weights
from assocjax.corpora import TokenData
from assocjax.errors import InputError
from assocjax.experiments.runs import (
    Corpus,
    RunConfig,
    advance_run,
    of_batches,
    split_disagreement,
    start_run,
)
from assocjax.models.agreement import compare_params
from assocjax.models.attention_only import loss
from assocjax.models.params import WEIGHTS, Params
from assocjax.reproduce.scales import Run
from assocjax.statistics.dense import corpus_statistics
from assocjax.statistics.moments import effective_statistics
from assocjax.storage import results
from assocjax.storage.checkpoints import Checkpoints
from assocjax.theories.closed_forms import leading_weights
from assocjax.theories.quadrature import effective_weights
from assocjax.training.train import batch_indices

CONTROLS = ("shuffled", "matched")
THEORIES = ("corpus", "first batch", *CONTROLS, "effective")
"""What a run is compared with; NaN where it is not, as `first batch` with full batches."""

_SAVES = 10  # checkpoints of a run


def follow(
    data: TokenData,
    run: Run,
    seed: int,
    *,
    checkpoints: Callable[[dict[str, Any]], Checkpoints] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Trains a run and compares it at the end of each epoch.

    Args:
      data: the corpus.
      run: what to train, and how.
      seed: of the order of batches.
      checkpoints: makes those that the run is to be saved in, of all that decides it.
      progress: called with (epochs done, epochs in all).

    Returns:
      Over `epoch` from 0: `loss` of the whole corpus in nats; for every weight w, by `theory` of
      `THEORIES` and but for `output` by layer, `w_cosine` (NaN at epoch 0, where weights are zero);
      with minibatches `w_sampling_error` and `w_truncation_error` as of `run_comparison`. The
      weights at the end under their own names.

    Raises:
      InputError: the batch is larger than the corpus, training diverges, or the checkpoint is of
        another run.

    Cost: the steps of `run_comparison`, and a loss of the corpus an epoch; for each epoch of the
    effective theory `effective_weights`. Memory: as `run_comparison`, and four copies of one layer.
    """
    N, size = data.num_sequences, run.batch_size
    if size is not None and size > N:
        raise InputError(f"batch_size: {data.name} gives {N} sequences, fewer than {size}")
    length = 1 if size is None else N // size
    config = RunConfig(steps=length * run.epochs, num_layers=run.num_layers, batch_size=size)
    corpus = Corpus.of(data)
    dtype = corpus.statistics.bigram.dtype
    rate, scale = jnp.asarray(run.learning_rate, dtype), jnp.zeros((), dtype)
    carry = start_run(config, corpus, rate, jnp.int32(seed), scale)
    theories = _theories(corpus, data, size, seed)
    effective = _effective(data, run, length)
    measure = partial(_measure, corpus, theories, rate)

    saved = None
    records: list[dict[str, np.ndarray]] = []
    if checkpoints is not None:
        decides = dataclasses.asdict(run) | {"seed": seed}
        saved = checkpoints(results.identity(data, decides))
        if done := saved.done():
            carry, found = saved.load(carry)
            records = [{name: of[i] for name, of in found.items()} for i in range(done)]
    every = -(-run.epochs // _SAVES)
    for epoch in range(len(records), run.epochs + 1):
        if epoch:
            first = jnp.int32((epoch - 1) * length)
            carry = _advance(config, length, corpus, rate, jnp.int32(seed), carry, first)
        record = jax.tree.map(np.asarray, measure(carry.sides, jnp.int32(epoch * length)))
        if not np.isfinite(record["loss"]):
            raise InputError(
                f"learning_rate: training on {data.name} with steps of {run.learning_rate:g} "
                f"diverges in epoch {epoch}"
            )
        by_effective = effective(epoch)
        for name, cosine in _cosines(carry.sides["run"], by_effective).items():
            record[name] = np.concatenate([record[name], cosine[None]])
        records.append(record)
        if saved is not None and epoch % every == 0 and 0 < epoch < run.epochs:
            stacked = {name: np.stack([r[name] for r in records]) for name in record}
            saved.save(len(records), carry, stacked)
        if progress is not None:
            progress(epoch, run.epochs)
    if saved is not None:
        saved.close()
    return _to_dataset(records, carry.sides["run"], data, run, seed)


@partial(jax.jit, static_argnames=("config", "length"))
def _advance(config, length, corpus, rate, seed, carry, first):
    return advance_run(config, corpus, rate, seed, carry, first=first, length=length)[0]


@jax.jit
def _measure(corpus: Corpus, theories: dict[str, Params], rate, sides: dict[str, Params], step):
    """What is recorded of an epoch, but for the effective theory."""
    run = sides["run"]
    compared = [compare_params(run, theories[name]) for name in THEORIES[:-1]]
    record = {f"{w}_cosine": jnp.stack([each[w].cosine for each in compared]) for w in WEIGHTS}
    record["loss"] = loss(run, corpus.tokens, corpus.mask)
    if of_batches("leading") in sides:
        of_corpus = leading_weights(corpus.statistics, 1, rate, step)
        record |= split_disagreement(run, sides[of_batches("leading")], of_corpus)
    return record


def _theories(corpus: Corpus, data: TokenData, size: int | None, seed: int) -> dict[str, Params]:
    """One layer of leading terms each, of any size."""
    whole = theory_weights(corpus.statistics)
    nothing = jax.tree.map(jnp.zeros_like, whole)
    counts = np.bincount(data.tokens[:, :-1][data.mask], minlength=data.vocab_size)
    rank = jnp.argsort(jnp.argsort(-jnp.asarray(counts)))
    controls = {
        name: shuffled(whole, rank, jax.random.key(seed), noise=noise)
        for name, noise in zip(CONTROLS, (jnp.inf, RANK_NOISE), strict=True)
    }
    if size is None:
        return {"corpus": whole, "first batch": nothing, **controls}
    _, batch_key = jax.random.split(jax.random.key(seed))  # as `run_comparison` does
    rows = batch_indices(batch_key, jnp.int32(0), data.num_sequences, size)
    batch = corpus_statistics(corpus.tokens[rows], data.vocab_size, corpus.mask[rows])
    return {"corpus": whole, "first batch": theory_weights(batch), **controls}


def _effective(data: TokenData, run: Run, length: int) -> Callable[[int], Params | None]:
    """Epoch -> the weights of the effective theory, or None where it is not followed or ended."""
    if not run.effective_epochs:
        return lambda epoch: None
    moments = effective_statistics(data, depth=run.num_layers)

    def at(epoch: int) -> Params | None:
        if epoch not in run.effective_epochs:
            return None
        try:
            return effective_weights(
                moments,
                data.tokens,
                data.mask,
                num_layers=run.num_layers,
                learning_rate=run.learning_rate,
                steps=epoch * length,
                tolerance=1e-2,  # of a cosine the square
            ).params
        except InputError:  # its weights diverge
            return None

    return at


def _cosines(run: Params, theory: Params | None) -> dict[str, np.ndarray]:
    if theory is None:
        shapes = {
            name: getattr(run, name).shape[: -1 if name == "position" else -2] for name in WEIGHTS
        }
        return {f"{name}_cosine": np.full(shapes[name], np.nan) for name in WEIGHTS}
    found = compare_params(run, theory)
    return {f"{name}_cosine": np.asarray(found[name].cosine) for name in WEIGHTS}


def _to_dataset(records, params: Params, data: TokenData, run: Run, seed: int) -> xr.Dataset:
    variables = {}
    for name in records[0]:
        values = np.stack([record[name] for record in records])
        dims = ("epoch", *["theory"] * name.endswith("_cosine"), "layer")[: values.ndim]
        units = "nat" if name == "loss" else "1"
        variables[name] = (dims, values.astype(np.float64), {"units": units})
    dims = {"position": ("layer", "lag"), "output": ("row", "column")}
    for name in WEIGHTS:
        of = dims.get(name, ("layer", "row", "column"))
        variables[name] = (of, np.asarray(getattr(params, name)))
    coords = {
        "epoch": np.arange(run.epochs + 1),
        "theory": list(THEORIES),
        "layer": np.arange(1, run.num_layers + 1),
    }
    config = dataclasses.asdict(run) | {"seed": seed}
    return xr.Dataset(variables, coords, results.provenance(data, config))


def weights(dataset: xr.Dataset) -> Params:
    """The weights at the end of a run."""
    return Params(**{name: jnp.asarray(dataset[name].values) for name in WEIGHTS})
