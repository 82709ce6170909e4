"""Associations over training: one run, and at chosen steps what its weights say of every token.

Only lists are kept, never a matrix a step: of each token the k best tokens under every matrix of
`scorings`, with their overlap with the theory's. So a user sees when an association forms, and in
which weight first.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from assocjax import results, scorings
from assocjax.arguments import check_integer
from assocjax.checkpoints import Checkpoints
from assocjax.checks import check_number
from assocjax.corpora import TokenData
from assocjax.errors import InputError, InputTypeError
from assocjax.gradients import exact_loss_and_gradient
from assocjax.optimizers import Optimizer, check_optimizer, make_optimizer
from assocjax.params import init_params
from assocjax.runs import Corpus
from assocjax.scorings import LAYERED, MATRICES, SCORINGS, SIDES, Frequencies
from assocjax.training import batch_indices, train_segment

Truth = Mapping[str, Mapping[str, Collection[str]]]

READ_AT = {name: (name, "row") for name in MATRICES} | {"context": ("composed", "column")}
"""Where the true associates of a kind are looked for. No weight learns Phi: its kind, what stands
before a token, is looked for in the columns of the composed matrix, of theory and weights alike."""

_ATTRIBUTES = {
    "id": "index of the associated token",
    "score": "score of the associated token; NaN where the token's entries are all alike",
    "overlap": "share of the weights' list that is in the theory's",
    "cosine": "cosine of the token's entries in weights and theory",
    "precision": "share of true associates among the best of a list, mean over tokens",
}


def track(
    data: TokenData,
    *,
    learning_rate: float,
    steps: int,
    num_layers: int,
    record_at: Sequence[int] | None = None,
    k: int = 10,
    seed: int = 0,
    init_scale: float = 0.0,
    optimizer: Optimizer = "sgd",
    batch_size: int | None = None,
    microbatch_size: int | None = None,
    truth: Truth | None = None,
    checkpoint: str | Path | None = None,
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
      k: length of the lists; of a small vocabulary all other tokens.
      seed: of the start and of the order of batches.
      init_scale: standard deviation of the Gaussian start; 0 is the zero start.
      optimizer: name of an optax optimizer, or a function of the learning rate that makes one.
      batch_size: sequences in a minibatch; None is the full batch.
      microbatch_size: sequences differentiated at once; None fits their memory.
      truth: for kinds of `READ_AT`, query token -> its true associates, such as
        `fables.ground_truth()`.
      checkpoint: a folder; all is saved there at every recorded step, the same call goes on from
        it, and it is removed at the end.
      progress: called with (steps done, steps in all).

    Returns:
      A Dataset over `step`, `layer`, `scoring`, `side` (row, column), `token` and `rank`. For every
      matrix m of `scorings.MATRICES`: the lists of the weights `m_id` and `m_score`, those of the
      theory `m_theory_id` and `m_theory_score`, `m_overlap` and `m_cosine` (see
      `scorings.Reading`); bigram and interchangeability have no layers, and the latter, symmetric,
      no sides. `context_theory_id` and `_score` are of Phi. `loss` in nats, `input_frequency` and
      `target_frequency` of tokens. With `truth`, `m_precision` and `m_theory_precision` for its
      kinds, see `precision`. Where loss or weights stop being finite the Dataset ends, and its
      attribute `incomplete` says so. Means over tokens are left to the reader: unweighted, as in
      `formation`, every token is one list; `dataset.value_overlap.weighted(
      dataset.input_frequency).mean("token")` is by its occurrences.

    Raises:
      InputError, InputTypeError: an argument cannot be used.
      KeyboardInterrupt: Ctrl-C; with `checkpoint`, its text says how much was saved.

    Cost: steps + 1 gradients, and at each recorded step `scorings.read_weights` thrice. Memory: as
    `train`, some 10 [V,V] to read weights, and 24 (3 L + 2) V k bytes for each recorded step.
    """
    if not isinstance(data, TokenData):
        raise InputTypeError(f"data must be a TokenData, from load_tokens; got {type(data)}")
    check_integer("steps", steps, minimum=0)
    check_integer("num_layers", num_layers, minimum=1)
    check_integer("seed", seed, minimum=0)
    check_number("learning_rate", learning_rate, minimum=0)
    check_number("init_scale", init_scale, minimum=0)
    check_optimizer(optimizer)
    if learning_rate == 0:
        raise InputError("learning_rate must be positive; got 0")
    k = min(check_integer("k", k, minimum=1), data.vocab_size - 1)
    record = _steps_to_record(record_at, steps)
    queries = _queries(truth or {}, data.vocabulary, k)
    attributes = results.provenance(
        data,
        {
            "learning_rate": learning_rate,
            "steps": steps,
            "num_layers": num_layers,
            "record_at": record,
            "k": k,
            "seed": seed,
            "init_scale": init_scale,
            "optimizer": optimizer if isinstance(optimizer, str) else repr(optimizer),
            "batch_size": batch_size,
            "microbatch_size": microbatch_size,
        },
    )

    corpus = Corpus.of(data)
    theory = scorings.theory_weights(corpus.statistics)
    frequencies = Frequencies.of(corpus.statistics)
    transformation = make_optimizer(optimizer, learning_rate)
    init_key, batch_key = jax.random.split(jax.random.key(seed))

    def loss_and_gradient(params, step, tokens, mask):
        if batch_size is not None:
            rows = batch_indices(batch_key, step, len(tokens), batch_size)
            tokens, mask = tokens[rows], mask[rows]
        return exact_loss_and_gradient(params, tokens, mask, microbatch_size=microbatch_size)

    @partial(jax.jit, donate_argnums=0)
    def advance(carry, step, tokens, mask):
        gradient = partial(loss_and_gradient, tokens=tokens, mask=mask)
        carry, losses = train_segment(carry, gradient, transformation, steps, first=step, length=1)
        return carry, losses[0]

    params = init_params(
        init_key,
        vocab_size=data.vocab_size,
        seq_len=data.seq_len,
        num_layers=num_layers,
        scale=init_scale,
    )
    carry = params, transformation.init(params)
    records, first = [], 0
    checkpoints = None
    if checkpoint is not None:
        identity = results.decode(attributes) | {"precision": str(params.output.dtype)}
        checkpoints = Checkpoints(Path(checkpoint), identity)
        if done := checkpoints.done():
            carry, observed = checkpoints.load(carry)
            records = [{name: value[i] for name, value in observed.items()} for i in range(done)]
            first = record[done]
    incomplete = ""
    try:
        for step in range(first, steps + 1):
            if step in record:
                if checkpoints is not None and 0 < len(records) and step != first:
                    checkpoints.save(len(records), carry, _stacked(records))
                seen = {
                    scoring: scorings.read_weights(
                        carry[0], theory, frequencies, scoring=scoring, k=k
                    )
                    for scoring in SCORINGS
                }
                finite = all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(carry[0]))
                record_of_step = _flat(seen)
            carry, loss = advance(carry, jnp.int32(step), corpus.tokens, corpus.mask)
            if step in record:
                if not finite or not bool(jnp.isfinite(loss)):
                    incomplete = f"diverged by step {step}"
                    break
                records.append(record_of_step | {"loss": np.asarray(loss)})
            if progress is not None:
                jax.block_until_ready(loss)
                progress(step + 1, steps + 1)
    except KeyboardInterrupt:
        saved = 0 if checkpoints is None else checkpoints.done()
        raise KeyboardInterrupt(
            f"interrupted at step {step} of {steps}; "
            + (f"{saved} of {len(record)} records are saved, and the same command goes on" * (saved > 0))
        ) from None
    raise NotImplementedError
