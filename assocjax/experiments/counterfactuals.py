"""Edit the text, predict the model: what training without an association would have changed.

Removing a bigram from the counts of a text takes no text, and a statistics twin that is trained on
what is left says what the model would have learned. Real runs whose loss leaves out the positions
of the bigram, with all else unchanged, show whether that is so.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import ArrayLike

from assocjax.analysis.strengths import Associations, Probes
from assocjax.arguments import check_integer, check_is, check_sequence
from assocjax.checks import CorpusLike, check_corpus, check_dataset
from assocjax.errors import InputError, reading
from assocjax.experiments.config import as_named
from assocjax.experiments.prediction import read_runs, read_twins
from assocjax.experiments.together import of_theory, real_runs, repeat, train_together
from assocjax.models.decoder import DecoderModel
from assocjax.models.model import Sizes
from assocjax.statistics.contexts import ContextStatistics, context_statistics, without_bigrams
from assocjax.storage import results
from assocjax.theories.theory import Batch
from assocjax.theories.twin_losses import MEAN_ORDERS
from assocjax.theories.twins import StatisticsTwin

_NAMES = {
    "removed": "bigram that is removed from the text",
    "association": "bigram whose strength is measured",
    "occurrences": "number of occurrences of the bigram",
}


def remove_bigrams(
    model: DecoderModel,
    data: CorpusLike,
    pairs: Sequence[tuple[int, int]],
    *,
    optimizer: optax.GradientTransformation,
    steps: int,
    batch_size: int,
    order: int = 2,
    num_starts: int = 1,
    real: bool = True,
    statistics: ContextStatistics | None = None,
    read_sequences: int = 256,
    vocab_size: int | None = None,
    mask: ArrayLike | None = None,
    seed: int = 0,
    init_scale: float = 1.0,
    progress: Callable[[str, int], None] | None = None,
) -> xr.Dataset:
    """Trains without each of some bigrams, and compares strengths with training on all of the text.

    Every training has the start, the order of batches and the draws of that on the whole text, so
    that what differs is due to the removal.

    Args:
      model, data, vocab_size, mask, optimizer, batch_size, statistics, read_sequences, seed,
        init_scale: as in `predict_formation`.
      pairs: ids (a, b) of tokens that follow each other; each is removed by itself.
      steps: number of updates.
      order: of the twins, at most 2: higher ones would need a copy of all contexts for each pair.
      num_starts: trainings of each, from other starts.
      real: whether real runs are trained too.
      progress: called with a name and the number of updates.

    Returns:
      A Dataset with `predicted`, and with real runs `measured` [start, removed, association]: the
      difference in the strength of each association (see `assocjax.analysis.strengths`), in nats,
      between training without a bigram and on the whole text; read on the whole text, where the
      bigram is. Both dimensions are of `pairs`, with the coordinate `occurrences`, so that the
      diagonal is what removal does to the bigram itself, and the rest is what removal of another
      one does: the control.

    Raises:
      InputError, InputTypeError: an argument cannot be used, or a pair does not occur.

    Cost: (1 + pairs) trainings of twins and of real runs for each start. Memory: weights and
      optimizer states of them all, and a matrix [V,V] for each pair.
    """
    check_is("model", model, DecoderModel)
    check_is("optimizer", optimizer, optax.GradientTransformation)
    order = check_integer("order", order, minimum=0, maximum=max(MEAN_ORDERS))
    steps = check_integer("steps", steps, minimum=1)
    num_starts = check_integer("num_starts", num_starts, minimum=1)
    batch_size = check_integer("batch_size", batch_size, minimum=1)
    seed = check_integer("seed", seed, minimum=0)
    named = as_named(data, vocab_size, mask)
    tokens, mask, V = check_corpus(named, None, None)
    whole, sizes = Batch(tokens, mask, V), Sizes(V, mask.shape[1], model.config.num_layers)
    ids = np.array(check_sequence("pairs", list(pairs), "(a, b)"))
    if ids.ndim != 2 or ids.shape[1] != 2 or ids.dtype.kind not in "iu":
        raise InputError(f"pairs must be pairs of ids of tokens; got {pairs!r}")
    statistics = context_statistics(tokens, V, mask) if statistics is None else statistics
    edited = [statistics, *(without_bigrams(statistics, [pair]) for pair in ids.tolist())]
    counts = statistics.bigram
    occurrences = np.asarray(counts[ids[:, 0], ids[:, 1]], float)
    nan = np.full(len(ids), np.nan)
    kind = np.full(len(ids), "bigram", object)
    probes = Probes.of(Associations(kind, ids[:, 0], ids[:, 1], occurrences, nan, nan), V)

    twin = StatisticsTwin(order, batch_size * sizes.seq_len)
    # Contexts are not drawn in these orders, and would be most of the memory.
    each = [twin.prepare_from(of).replace(contexts=None) for of in edited]  # type: ignore[attr-defined]
    of_text, each = each[0], jax.tree.map(lambda *of: jnp.stack(of), *each)
    chosen = np.linspace(0, len(tokens) - 1, min(read_sequences, len(tokens))).astype(int)
    x, y = (tokens[None, :, at] for at in (slice(None, -1), slice(1, None)))
    a, b = (jnp.asarray(ids[:, i, None, None], jnp.int32) for i in range(2))
    counted = jnp.concatenate([jnp.ones((1, *mask.shape), bool), (x != a) | (y != b)])
    of_twins = jax.jit(partial(read_twins, model, twin))
    of_runs = jax.jit(partial(read_runs, model))
    found: dict[str, list[np.ndarray]] = {"predicted": [], "measured": []}
    for key in jax.random.split(jax.random.key(seed), num_starts):
        of_start, of_run, of_twin = jax.random.split(key, 3)
        starts = repeat(model.init(of_start, sizes, init_scale), len(edited))
        same = partial(jnp.broadcast_to, shape=(len(edited),))
        groups = {
            "predicted": of_theory(model, twin, starts, same(of_twin), whole, each=each),
            "measured": real_runs(model, starts, same(of_run), whole, batch_size, counted),
        }
        if not real:
            del groups["measured"]
        for _, params in train_together(optimizer, groups, [steps], progress):
            strength = of_twins(params["predicted"], steps, probes, of_text, of_twin)
            found["predicted"].append(np.asarray(strength - strength[:1], np.float64)[1:])
            if real:
                strength = of_runs(params["measured"], steps, probes, tokens[chosen], mask[chosen])
                found["measured"].append(np.asarray(strength - strength[:1], np.float64)[1:])
    names = [f"{named.vocabulary[a]} {named.vocabulary[b]}" for a, b in ids.tolist()]
    config = {
        "model": model.name,
        "architecture": dataclasses.asdict(model.config) | sizes._asdict(),
        "order": order,
        "steps": steps,
        "batch_size": batch_size,
        "read_sequences": len(chosen),
        "seed": seed,
        "init_scale": init_scale,
    }
    attrs = {"units": "nat", "long_name": "strength without the bigram less that with it"}
    dataset = xr.Dataset(
        {
            name: (("start", "removed", "association"), np.stack(of), attrs)
            for name, of in found.items()
            if of
        },
        {"removed": names, "association": names, "occurrences": ("association", occurrences)},
        results.provenance(named, config),
    )
    return results.describe(dataset, _NAMES)


@reading("remove_bigrams")
def removal_scores(dataset: xr.Dataset) -> dict[str, float]:
    """How well twins predict what removing a bigram does, as means over starts.

    Returns:
      `correlation`: Pearson's, of predicted and measured differences in the bigrams removed.
      `control`: the same where, in place of what is predicted of a bigram, stands what is predicted
        for it when the one of the most similar number of occurrences is removed.
      `predicted`, `measured`: mean differences in the bigrams removed, in nats.
      `predicted_elsewhere`, `measured_elsewhere`: the same in all others, by absolute value.

    Raises:
      InputError, InputTypeError: `dataset` is not from `remove_bigrams`, has no real runs, or fewer
        than 3 bigrams.
    """
    check_dataset(dataset, "remove_bigrams", ["predicted", "measured"], "removed association")
    order = ("start", "removed", "association")
    predicted, measured = (
        dataset[name].transpose(*order).values.mean(0) for name in ("predicted", "measured")
    )
    K = len(predicted)
    if K < 3:
        raise InputError(f"dataset must have at least 3 bigrams; got {K}")
    logs = np.log(dataset["occurrences"].values)
    distance = np.abs(logs[:, None] - logs[None]) + np.where(np.eye(K), np.inf, 0)
    own, other = np.diagonal(measured), predicted[distance.argmin(1), np.arange(K)]
    elsewhere = ~np.eye(K, dtype=bool)
    return {
        "correlation": float(np.corrcoef(np.diagonal(predicted), own)[0, 1]),
        "control": float(np.corrcoef(other, own)[0, 1]),
        "predicted": float(np.diagonal(predicted).mean()),
        "measured": float(own.mean()),
        "predicted_elsewhere": float(np.abs(predicted[elsewhere]).mean()),
        "measured_elsewhere": float(np.abs(measured[elsewhere]).mean()),
    }
