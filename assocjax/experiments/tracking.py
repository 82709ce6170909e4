"""Associations over training: one run, and at chosen steps what its weights say of every token.

Only lists are kept, never a matrix a step: of each token up to k associations under every matrix
of `scorings`, with their overlap with the theory's. So a user sees when an association forms, and
in which weight first.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from assocjax.analysis import scorings
from assocjax.analysis.formations import Truth, find_queries, precision
from assocjax.analysis.scorings import LAYERED, SCORINGS, SIDES, Frequencies
from assocjax.arguments import LARGEST_DEPTH, LARGEST_STEPS, check_integer, check_integers, check_is
from assocjax.checks import check_number, check_positive
from assocjax.corpora import TokenData
from assocjax.defaults import TOP, TRACKED_INIT_SCALE
from assocjax.errors import InputError, InputTypeError
from assocjax.experiments.runs import Corpus
from assocjax.models.params import init_params
from assocjax.storage import claim, results
from assocjax.storage.checkpoints import Checkpoints
from assocjax.training.exact import exact_loss_and_gradient
from assocjax.training.optimizers import (
    Optimizer,
    check_optimizer,
    check_resumable,
    make_optimizer,
    optimizer_name,
)
from assocjax.training.train import batch_indices, train_segment

_FILE = "track.nc"

_LONG_NAMES = {
    "loss": "mean negative log-likelihood",
    "id": "index of the associated token",
    "score": "score of the associated token; NaN where the list has ended",
    "overlap": "share of the theory's list that is in the weights'; NaN where it is empty",
    "cosine": "cosine of the token's entries in weights and theory",
}


def track(
    data: TokenData,
    *,
    learning_rate: float,
    steps: int,
    num_layers: int,
    record_at: Sequence[int] | None = None,
    k: int = TOP,
    seed: int = 0,
    init_scale: float = TRACKED_INIT_SCALE,
    optimizer: Optimizer = "sgd",
    batch_size: int | None = None,
    microbatch_size: int | None = None,
    truth: Truth | None = None,
    checkpoint: str | os.PathLike | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Trains one run by exact gradients and records its associations beside the theory's.

    The theory's lists are those of the leading terms: its matrices, and so its lists, are the same
    at every step, and only their size grows (`closed_forms`). That holds for optimizers that are
    linear in the gradients; beside another, they are what the text says and no theory of the run.

    Args:
      data: a corpus from `load_tokens`.
      learning_rate: step size, positive.
      steps: number of updates.
      num_layers: L.
      record_at: steps at which to record; by default 0 and about twenty, evenly on a log scale.
      k: length of the lists, at most: tokens that are no association are not listed.
      seed: of the start and of the order of batches.
      init_scale: standard deviation of the Gaussian start; 0 is the zero start.
      optimizer: name of an optax optimizer, or a function of the learning rate that makes one.
      batch_size: sequences in a minibatch; None is the full batch.
      microbatch_size: sequences differentiated at once; None fits their memory.
      truth: for kinds of `READ_AT`, query token -> its true associates, such as
        `fables.ground_truth()`.
      checkpoint: a folder, new or empty or with this run. All is saved there at every recorded
        step, and the same call goes on from it. At the end it holds `track.nc`; the same call
        then returns what that holds.
      overwrite: replace another run in the folder, or begin this one anew.
      progress: called with (steps done, steps in all).

    Returns:
      A Dataset over `step`, `layer`, `scoring`, `side` (row, column), `token` and `rank`. For every
      matrix m of `scorings.MATRICES`: the lists of the weights `m_id` and `m_score`, those of the
      theory `m_theory_id` and `m_theory_score`, `m_overlap` and `m_cosine` (see
      `scorings.Reading`); bigram and interchangeability have no layers, and the latter, symmetric,
      no sides. Where a list has ended, scores are NaN and ids mean nothing (`scorings.TopLists`).
      `context_theory_id` and `_score` are of Phi. `loss` in nats, `input_frequency` and
      `target_frequency` of tokens. With `truth`, `m_precision` and `m_theory_precision` for its
      kinds (`formations.precision`). Where loss or weights stop being finite the Dataset ends, and
      its attribute `incomplete` says so. Means over tokens are left to the reader: in
      `mean_overlap` every token is one list, since by its occurrences a few (the, full stop) would
      decide; those are `dataset.value_overlap.weighted(dataset.input_frequency).mean("token")`.

    Raises:
      InputError, InputTypeError: an argument cannot be used.
      KeyboardInterrupt: Ctrl-C; with `checkpoint`, its text says how much was saved.

    Cost: steps + 1 gradients, and at each recorded step `scorings.read_weights` thrice. Memory: as
    `train`, some 10 [V,V] to read weights, and 72 (2 L + 1) V k bytes for each recorded step.
    """
    if not isinstance(data, TokenData):
        raise InputTypeError(f"data must be a TokenData, from load_tokens; got {type(data)}")
    steps = check_integer("steps", steps, minimum=0, maximum=LARGEST_STEPS)
    num_layers = check_integer("num_layers", num_layers, minimum=1, maximum=LARGEST_DEPTH)
    seed = check_integer("seed", seed, minimum=0)
    learning_rate = check_positive("learning_rate", learning_rate)
    init_scale = check_number("init_scale", init_scale, minimum=0)
    check_optimizer(optimizer, (num_layers, data.vocab_size, data.seq_len))
    if batch_size is not None:
        batch_size = check_integer("batch_size", batch_size, minimum=1)
        if batch_size > data.num_sequences:
            raise InputError(
                f"batch_size must be at most the number of sequences, {data.num_sequences}; "
                f"got {batch_size}"
            )
    if microbatch_size is not None:
        microbatch_size = check_integer("microbatch_size", microbatch_size, minimum=1)
    k = min(check_integer("k", k, minimum=1), data.vocab_size - 1)
    record = steps_to_record(record_at, steps)
    if truth is not None:
        check_is("truth", truth, Mapping)
    queries = {kind: find_queries(kind, of, data.vocabulary) for kind, of in (truth or {}).items()}
    config = {
        "learning_rate": learning_rate,
        "steps": steps,
        "num_layers": num_layers,
        "record_at": record,
        "k": k,
        "seed": seed,
        "init_scale": init_scale,
        "optimizer": optimizer_name(optimizer),
        "batch_size": batch_size,
        "microbatch_size": microbatch_size,
    }
    compute = partial(
        _track, data, config, queries, optimizer, microbatch_size=microbatch_size, progress=progress
    )
    if checkpoint is None:
        return compute()
    check_resumable(optimizer)
    true = {kind: {q: sorted(of[q]) for q in of} for kind, of in (truth or {}).items()}
    decides = results.identity(data, config | {"truth": true})
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
    config: dict[str, Any],
    queries: dict[str, tuple[np.ndarray, np.ndarray]],
    optimizer: Optimizer,
    checkpoints: Checkpoints | None = None,
    *,
    microbatch_size: int | None,
    progress: Callable[[int, int], None] | None,
) -> xr.Dataset:
    """What `track` returns, from checked arguments; `queries` are those of its truth."""
    learning_rate, steps, num_layers = (
        config[name] for name in ("learning_rate", "steps", "num_layers")
    )
    record, k, batch_size = (config[name] for name in ("record_at", "k", "batch_size"))
    attributes = results.provenance(data, config)
    corpus = Corpus.of(data)
    theory = scorings.theory_weights(corpus.statistics)
    frequencies = Frequencies.of(corpus.statistics)
    init_key, batch_key = jax.random.split(jax.random.key(config["seed"]))
    rate = jnp.asarray(learning_rate, theory.output.dtype)
    advance = partial(
        _advance, optimizer=optimizer, batch_size=batch_size, microbatch_size=microbatch_size
    )
    lists = {
        scoring: scorings.theory_lists(theory, frequencies, scoring=scoring, k=k)
        for scoring in SCORINGS
    }

    def read(params) -> dict[str, np.ndarray]:
        readings = {
            scoring: scorings.read_weights(
                params, theory, lists[scoring], frequencies, scoring=scoring, k=k
            )
            for scoring in SCORINGS
        }
        return _by_variable(readings)

    params = init_params(
        init_key,
        vocab_size=data.vocab_size,
        seq_len=data.seq_len,
        num_layers=num_layers,
        scale=config["init_scale"],
    )
    carry = params, make_optimizer(optimizer, rate).init(params)  # type: ignore[arg-type]
    carry, records = _load(checkpoints, carry)
    incomplete = ""
    try:
        for step in range(record[len(records) - 1] + 1 if records else 0, steps + 1):
            seen = read(carry[0]) if step in record else None
            carry, loss, finite = advance(carry, step, steps, rate, batch_key, corpus)
            if not finite:  # waits for the step
                incomplete = f"diverged at step {step}"
                break
            if seen is not None:
                records.append(seen | {"loss": np.asarray(loss)})
                if checkpoints is not None and step < steps:
                    checkpoints.save(len(records), carry, _stack(records))
            if progress is not None:
                progress(step + 1, steps + 1)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_saved_so_far(checkpoints, record)) from None
    if not records:
        raise InputError(f"learning_rate {learning_rate:g} and this start: {incomplete}")

    Phi = partial(scorings.context_lists, corpus.statistics.context, frequencies, k=k)
    for scoring in SCORINGS:
        lists[scoring] |= {"context": Phi(scoring=scoring)}
    variables = _by_variable(lists, suffix="_theory")
    variables |= _stack(records)
    dataset = _to_dataset(variables, record[: len(records)], data, frequencies, num_layers, k)
    for kind, (tokens, associates) in queries.items():
        for of in ("", "_theory"):
            dataset[f"{kind}{of}_precision"] = precision(dataset, kind, of, tokens, associates)
    dataset.attrs = attributes | {"incomplete": incomplete}
    return dataset


@partial(
    jax.jit,
    static_argnames=("optimizer", "batch_size", "microbatch_size"),
    donate_argnames="carry",
)
def _advance(
    carry, step, steps, rate, batch_key, corpus, *, optimizer, batch_size, microbatch_size
):
    """The carry of `train_segment` a step later, the loss at its start, and whether all that is
    there is finite; at the last step nothing is updated."""

    def loss_and_gradient(params, step):
        tokens, mask = corpus.tokens, corpus.mask
        if batch_size is not None:
            rows = batch_indices(batch_key, step, len(tokens), batch_size)
            tokens, mask = tokens[rows], mask[rows]
        return exact_loss_and_gradient(params, tokens, mask, microbatch_size=microbatch_size)

    finite = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(carry)]
    transformation = make_optimizer(optimizer, rate)
    carry, losses = train_segment(
        carry, loss_and_gradient, transformation, steps, first=step, length=1
    )
    return carry, losses[0], jnp.stack([*finite, jnp.isfinite(losses[0])]).all()


def _stack(records: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([record[name] for record in records]) for name in records[0]}


def _load(checkpoints: Checkpoints | None, carry) -> tuple[Any, list[dict[str, np.ndarray]]]:
    """What the run goes on from, and the records so far."""
    done = 0 if checkpoints is None else checkpoints.done()
    if checkpoints is None or not done:
        return carry, []
    carry, records = checkpoints.load(carry)
    return carry, [{name: of[i] for name, of in records.items()} for i in range(done)]


def _saved_so_far(checkpoints: Checkpoints | None, record: list[int]) -> str:
    done = 0 if checkpoints is None else checkpoints.done()
    if not done:
        return ""
    return (
        f"interrupted; {done} of {len(record)} recorded steps, up to step {record[done - 1]}, "
        "are saved: the same command goes on from there"
    )


def steps_to_record(record_at: Sequence[int] | None, steps: int) -> list[int]:
    """The steps that `track` records, in order; refuses those beyond `steps`."""
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
        dims += ("rank",) * (what in ("id", "score"))
        value = value.astype(id_type) if what == "id" else value
        attrs = {"units": "nat" if name == "loss" else "1", "long_name": _LONG_NAMES[what]}
        found[name] = (dims, value, attrs)
    for name in ("input", "target"):
        attrs = {"units": "1", "long_name": f"share of the token among {name}s"}
        found[f"{name}_frequency"] = ("token", np.asarray(getattr(frequencies, name)), attrs)
    return xr.Dataset(
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
