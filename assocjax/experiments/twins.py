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
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jax import lax
from jaxtyping import Array, ArrayLike, Float

from assocjax.arguments import check_integer, check_integers, check_is, check_sequence
from assocjax.checks import CorpusLike, Sequences, check_corpus
from assocjax.corpora.tokens import TokenData, as_token_data
from assocjax.errors import InputError
from assocjax.models.decoder import DecoderModel
from assocjax.models.model import Sizes
from assocjax.statistics.contexts import ContextStatistics, context_statistics
from assocjax.storage import results
from assocjax.theories.theory import Batch
from assocjax.theories.twin_losses import ORDERS
from assocjax.theories.twins import ROWS, StatisticsTwin
from assocjax.training.train import batch_indices

RUN = "run"
"""Name of the held-out real run among the twins of `compare_twins`."""

OTHER = "other run"
"""Name of the real run on another text."""

BASELINE = "twin-0"
"""Name of the twin whose change is projected out of both in `partial_cosine`."""

_LEFT = 1e-5  # of a squared norm after a projection: what is less is rounding, in float32


def all_twins(rows: int = ROWS) -> tuple[StatisticsTwin, ...]:
    """Twins of all orders with drawn pairs, that of order 2 with its mean loss, and the control
    whose rows are shuffled."""
    drawn = [StatisticsTwin(order, rows) for order in ORDERS]
    return *drawn, StatisticsTwin(2, None), StatisticsTwin(2, rows, shuffle_seed=0)


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
      twins: which ones; by default `all_twins` with as many drawn pairs as a batch has positions.
        Without "twin-0" there is no partial cosine.
      seed: determines the start, the orders of batches, and what twins draw.
      init_scale: as in `Model.init`.
      progress: called with a name and the number of updates after each part of the training.

    Returns:
      A Dataset with `cosine`, `partial_cosine` and `norm_ratio`, float64 of dimensions (twin,
      held_out, weight, layers, step). `twin` has "run", the held-out run, and "other run", if there
      is one, before the twins. `layers` is "all", all layers together, "1", "2", ...; weights
      without layers are NaN at the numbers. `plot_twins` draws it. Attributes hold the
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
    whole = Batch(tokens, mask, V)
    of_twins = whole
    if other is not None:
        of_twins = Batch(*check_corpus(other, V, None))
        if of_twins.mask.shape[1] != mask.shape[1] or len(of_twins.mask) < batch_size:
            raise InputError(
                f"other must have at least {batch_size} sequences of {mask.shape[1]} positions; "
                f"got shape {of_twins.mask.shape}"
            )
    if statistics is None:
        statistics = context_statistics(of_twins.tokens, V, of_twins.mask)
    sizes = Sizes(V, mask.shape[1], model.config.num_layers)
    if twins is None:
        twins = all_twins(batch_size * sizes.seq_len)
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

    def real(params, step, key, batch):
        chosen = batch_indices(key, step, len(batch.tokens), batch_size)
        found = model.loss_and_gradient(params, batch.tokens[chosen], batch.mask[chosen])
        return found[1]

    def of_twin(twin, params, step, key, prepared, batch):
        batch = batch.replace(key=jax.random.fold_in(key, step))
        return twin.gradient(model, params, prepared, batch)

    run_keys = jax.random.split(key_runs, num_runs)
    begin = start, optimizer.init(start)
    runs = jax.tree.map(lambda a: jnp.stack([a] * num_runs), begin)
    advance_runs = jax.jit(jax.vmap(_advance(real, optimizer), (0, None, None, 0, None)))
    # What is compared with the runs: a function that trains it, and all but its state and steps.
    compared = {}
    if other is not None:
        compared[OTHER] = real, (jax.random.fold_in(key_runs, num_runs), of_twins)
    for i, twin in enumerate(every):
        statistics_of_it = prepared[twin.shuffle_seed, twin.backoff, twin.entries]
        key = jax.random.fold_in(key_twins, i)
        compared[twin.name] = partial(of_twin, twin), (key, statistics_of_it, of_twins)
    advances = {name: jax.jit(_advance(f, optimizer)) for name, (f, _) in compared.items()}
    states = dict.fromkeys(compared, begin)
    products = jax.jit(partial(_products, model, num_runs))
    names, weights = [RUN, *compared], list(model.weights(start))
    found, done = [], 0
    for last in recorded:
        runs = jax.block_until_ready(advance_runs(runs, done, last, run_keys, whole))
        if progress is not None:
            progress(f"{num_runs} runs", last)
        for name, (_, arguments) in compared.items():
            state = advances[name](states[name], done, last, *arguments)
            states[name] = jax.block_until_ready(state)
            if progress is not None:
                progress(name, last)
        each = products(start, runs[0], [params for params, _ in states.values()])
        found.append(_measures([each[name] for name in weights], num_runs, names))
        done = last
    dims = ("twin", "held_out", "weight", "layers", "step")
    coords = {
        "twin": names,
        "held_out": range(num_runs),
        "weight": weights,
        "layers": ["all", *(str(layer + 1) for layer in range(sizes.num_layers))],
        "step": recorded,
    }
    measures = {
        name: (dims, np.stack([each[name] for each in found], axis=-1)) for name in found[0]
    }
    config = {
        "model": model.name,
        "architecture": dataclasses.asdict(model.config) | sizes._asdict(),
        "twins": [dataclasses.asdict(twin) for twin in every],
        "batch_size": batch_size,
        "num_runs": num_runs,
        "seed": seed,
        "init_scale": init_scale,
    }
    named = as_token_data(data) if isinstance(data, Sequences) else _unnamed(tokens, mask, V)
    return xr.Dataset(measures, coords, results.provenance(named, config))


def _unnamed(tokens: Array, mask: Array, vocab_size: int) -> TokenData:
    """Arrays as `TokenData`, with ids for names."""
    vocabulary = tuple(map(str, range(vocab_size)))
    return TokenData(np.asarray(tokens), np.asarray(mask), vocabulary, "array", "")


def _advance(gradient: Callable[..., Any], optimizer: optax.GradientTransformation) -> Callable:
    """A function (state, first, last, *arguments) -> state after `last` updates, from `first`."""

    def advance(state, first, last, *arguments):
        def step(step, state):
            params, optimizer_state = state
            updates, optimizer_state = optimizer.update(
                gradient(params, step, *arguments), optimizer_state, params
            )
            return optax.apply_updates(params, updates), optimizer_state

        return lax.fori_loop(first, last, step, state)

    return advance


def _products(model, num_runs, start, runs, twins) -> dict[str, Float[Array, "layers K K"]]:
    """Inner products of the changes of all runs and twins, in every layer of every weight."""
    states = [jax.tree.map(lambda a, i=i: a[i], runs) for i in range(num_runs)] + list(twins)
    origin = model.weights(start)
    moved = [model.weights(state) for state in states]

    def gram(name):
        layers = len(origin[name])
        change = jnp.stack([(each[name] - origin[name]).reshape(layers, -1) for each in moved], 1)
        return jnp.einsum("lkn,ljn->lkj", change, change, precision=lax.Precision.HIGHEST)

    return {name: gram(name) for name in origin}


def _measures(
    products: list[Float[Array, "layers K K"]], num_runs: int, names: list[str]
) -> dict[str, np.ndarray]:
    """Arrays [twin, held out, weight, layer], from inner products of changes."""
    L = max(map(len, products))
    grams = np.full((len(products), L + 1, *products[0].shape[1:]), np.nan)
    for of_weight, each in zip(grams, products, strict=True):
        each = np.asarray(each, np.float64)
        of_weight[0] = each.sum(axis=0)
        if len(each) == L:
            of_weight[1:] = each
    # Every change compared is a combination of the changes of runs and twins.
    K = grams.shape[-1]
    run, one = np.eye(K)[:num_runs], np.eye(K)
    mean = np.where(np.arange(K) < num_runs, 1 - run, 0) / (num_runs - 1)
    other = np.broadcast_to(one[num_runs:, None], (K - num_runs, num_runs, K))
    twin = np.concatenate([run[None], other])

    def product(a, b):
        return np.einsum("...k,wlkj,...j->...wl", a, grams, b)

    def cosine(a, b):
        return product(a, b) / np.sqrt(product(a, a) * product(b, b))

    def cosine_without(a, b, c):
        ac, bc, cc = product(a, c), product(b, c), product(c, c)
        cc = np.where(cc > 0, cc, np.inf)  # nothing is projected out where c did not move
        aa, bb = rest(product(a, a), ac**2 / cc), rest(product(b, b), bc**2 / cc)
        return (product(a, b) - ac * bc / cc) / np.sqrt(aa * bb)

    def rest(squares, projected):
        """NaN if nothing is left but rounding, as of weights that only weight decay moves."""
        return np.where(squares - projected > _LEFT * squares, squares - projected, np.nan)

    mean = np.broadcast_to(mean[None], twin.shape)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = {
            "cosine": cosine(twin, mean),
            "norm_ratio": np.sqrt(product(twin, twin) / product(run, run)[None]),
        }
        found["partial_cosine"] = np.full_like(found["cosine"], np.nan)
        if BASELINE in names:
            baseline = np.broadcast_to(one[num_runs + names.index(BASELINE) - 1], twin.shape)
            found["partial_cosine"] = cosine_without(twin, mean, baseline)
    return found
