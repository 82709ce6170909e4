"""Sweeps: a grid of runs, each trained exactly and compared with the theory at every step.

`run_comparison` is one run, a pure function of its learning rate, seed and starting scale that
can be jitted, vmapped and differentiated; `sweep` is its vmap over a grid, as an xarray Dataset.
"""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int32

from assocjax import checks, results
from assocjax.closed_forms import leading_weights, leading_weights_gradient
from assocjax.compare import Agreement, compare_params
from assocjax.corpora import TokenData
from assocjax.errors import InputError, InputTypeError
from assocjax.gradients import exact_loss_and_gradient, leading_gradient
from assocjax.model import loss
from assocjax.params import WEIGHTS, Params, init_params
from assocjax.statistics import Statistics, corpus_statistics
from assocjax.training import Snapshot, batch_indices, train

GRADIENTS = ("exact", "leading")
GRID = ("learning_rate", "seed", "init_scale")
Optimizer = str | Callable[[Any], optax.GradientTransformation]

_LONG_NAMES = {
    "relative_error": "||trained - theory|| / ||trained||",
    "cosine": "cosine of trained and theory",
    "norm_ratio": "||theory|| / ||trained||",
}


@struct.dataclass
class Corpus:
    """What a run reads: the tokens [N, T+1], their mask [N, T] and their statistics."""

    tokens: Int32[Array, "N T+1"]
    mask: Bool[Array, "N T"]
    statistics: Statistics

    @classmethod
    def of(cls, data: TokenData) -> "Corpus":
        tokens, mask = checks.token_batch(data.tokens, data.mask, data.vocab_size)
        return cls(tokens, mask, corpus_statistics(tokens, data.vocab_size, mask))


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything about a run that is fixed when it is compiled; the rest is traced.

    steps: number of updates.
    num_layers: L.
    gradient: what trains the weights, "exact" or "leading".
    optimizer: the name of an optax optimizer, or a function of the learning rate that makes one.
    batch_size: sequences in a minibatch (a new order every epoch); None is the full batch.
    microbatch_size: sequences differentiated at once; None fits their memory.
    """

    steps: int
    num_layers: int
    gradient: str = "exact"
    optimizer: Optimizer = "sgd"
    batch_size: int | None = None
    microbatch_size: int | None = None

    def __post_init__(self):
        checks.integer("steps", self.steps, at_least=0)
        checks.integer("num_layers", self.num_layers, at_least=1)
        checks.choice("gradient", self.gradient, GRADIENTS)
        make_optimizer(self.optimizer, 0.1)
        for name in ("batch_size", "microbatch_size"):
            if getattr(self, name) is not None:
                checks.integer(name, getattr(self, name), at_least=1)


def make_optimizer(optimizer: Optimizer, learning_rate) -> optax.GradientTransformation:
    """The optimizer for a (possibly traced) learning rate.

    Raises:
      InputError: no optimizer of that name in optax takes a learning rate.
      InputTypeError: neither a name nor a function that makes an optax transformation.
    """
    factory = optimizer
    if isinstance(optimizer, str):
        factory = getattr(optax, optimizer, None)
        parameters = list(inspect.signature(factory).parameters) if callable(factory) else []
        if optimizer.startswith("_") or parameters[:1] != ["learning_rate"]:
            raise InputError(
                f"optimizer must be the name of an optax optimizer with a learning rate, such as "
                f"sgd, adam, adamw, rmsprop or lion; got {optimizer!r}"
            )
    made = factory(learning_rate) if callable(factory) else None
    if not isinstance(made, optax.GradientTransformation):
        raise InputTypeError(
            "optimizer must be a name or a function from a learning rate to an optax "
            f"transformation; got {optimizer!r}"
        )
    return made


def run_comparison(
    config: RunConfig,
    corpus: Corpus,
    learning_rate: Float[Array, ""],
    seed: Int32[Array, ""],
    init_scale: Float[Array, ""],
    progress: Callable[[int], None] | None = None,
) -> dict[str, Array]:
    """Trains one run and compares its weights and gradients with the theory at every step.

    The theory starts from zero, sees the whole corpus and knows nothing of the seed. For "sgd" it
    is the closed form (`leading_weights`); for any other optimizer, whose updates need not be
    linear in the gradients, that optimizer follows the leading gradient from zero, beside the run.
    Gradients are compared where each side stands: the run's gradient at its own weights with the
    theory's at the theory's weights.

    Args:
      config: what is compiled in.
      corpus: what is trained on.
      learning_rate, seed, init_scale: scalars; may be traced.
      progress: as in `train`.

    Returns:
      A dict of arrays with a leading axis of steps + 1: `loss`, and for every weight w and
      measure m `w_m` and `w_gradient_m`, with a second axis of layers except for `output`.
      From the step at which loss, weights or gradient stop being finite, all are NaN.
      `diverged_step` (int32, no axes) is that step, or -1.

    Cost: steps + 1 gradients and comparisons; memory as `train`.
    """
    V, T = corpus.statistics.bigram.shape[0], corpus.mask.shape[1]
    init_key, batch_key = jax.random.split(jax.random.key(seed))
    params = init_params(
        init_key, vocab_size=V, seq_len=T, num_layers=config.num_layers, scale=init_scale
    )
    optimizer = make_optimizer(config.optimizer, learning_rate)
    run_gradient = _run_gradient(config, corpus, batch_key)

    if config.optimizer == "sgd":
        start, loss_and_gradient = params, run_gradient

        def sides(snapshot):
            arguments = corpus.statistics, 1, learning_rate, snapshot.step
            theory = leading_weights(*arguments), leading_weights_gradient(*arguments)
            return (snapshot.params, snapshot.gradient), theory

    else:
        # From zero all layers of the theory are alike: one stands for all. Each side has an
        # optimizer of its own, since some (clipping by the global norm) look at the whole tree.
        zero = init_params(init_key, vocab_size=V, seq_len=T, num_layers=1)
        start = {"run": params, "theory": zero}
        optimizer = optax.multi_transform(
            {"run": optimizer, "theory": optimizer}, {"run": "run", "theory": "theory"}
        )

        def loss_and_gradient(pair, step):
            value, gradient = run_gradient(pair["run"], step)
            theory = leading_gradient(
                pair["theory"], corpus.statistics, corpus.tokens, corpus.mask
            )
            return value, {"run": gradient, "theory": theory}

        def sides(snapshot):
            weights, gradient = snapshot.params, snapshot.gradient
            return (weights["run"], gradient["run"]), (weights["theory"], gradient["theory"])

    def observe(snapshot: Snapshot):
        run, theory = sides(snapshot)
        finite = jax.tree.reduce(
            lambda ok, leaf: ok & jnp.all(jnp.isfinite(leaf)), (run, snapshot.loss), True
        )
        record = {"loss": snapshot.loss}
        for suffix, exact, leading in zip(("", "_gradient"), run, theory, strict=True):
            for name, measures in compare_params(exact, leading).items():
                for measure, value in measures._asdict().items():
                    record[f"{name}{suffix}_{measure}"] = value
        return record, finite

    _, (record, finite) = train(
        start, loss_and_gradient, optimizer, config.steps, observe=observe, progress=progress
    )
    alive = lax.cummin(finite.astype(jnp.int32)).astype(bool)
    record = {
        name: jnp.where(alive.reshape(-1, *[1] * (value.ndim - 1)), value, jnp.nan)
        for name, value in record.items()
    }
    diverged_step = jnp.where(jnp.all(alive), -1, jnp.sum(alive, dtype=jnp.int32))
    return record | {"diverged_step": diverged_step}


def _run_gradient(config: RunConfig, corpus: Corpus, key) -> Callable:
    """(params, step) -> (loss, gradient) of the batch at that step."""

    def loss_and_gradient(params: Params, step):
        tokens, mask = corpus.tokens, corpus.mask
        if config.batch_size is not None:
            rows = batch_indices(key, step, len(tokens), config.batch_size)
            tokens, mask = tokens[rows], mask[rows]
        if config.gradient == "exact":
            return exact_loss_and_gradient(
                params, tokens, mask, microbatch_size=config.microbatch_size
            )
        # The leading gradient is that of the whole corpus: its B and Phi are.
        gradient = leading_gradient(params, corpus.statistics, corpus.tokens, corpus.mask)
        return loss(params, tokens, mask), gradient

    return loss_and_gradient


def sweep(
    data: TokenData,
    *,
    learning_rates: Sequence[float],
    seeds: Sequence[int] = (0,),
    init_scales: Sequence[float] = (0.0,),
    steps: int,
    num_layers: int,
    gradient: str = "exact",
    optimizer: Optimizer = "sgd",
    batch_size: int | None = None,
    microbatch_size: int | None = None,
    memory_limit: int = 4 << 30,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Trains the model over a grid of runs and compares every one with the closed forms.

    The runs are one `vmap` of `run_comparison`, compiled once: learning rate, seed and starting
    scale are traced. Runs that cannot differ (full batch and a zero start: the seed has no effect)
    are computed once.

    Args:
      data: a corpus from `load_tokens`.
      learning_rates: step sizes, positive and distinct.
      seeds: non-negative integers; each draws a start and, with `batch_size`, an order of batches.
      init_scales: standard deviations of the Gaussian start, in units of the weights; 0 is the
        zero start.
      steps: number of updates.
      num_layers: L.
      gradient: what trains the weights: "exact" or "leading".
      optimizer: name of an optax optimizer, or a function of the learning rate that makes one.
      batch_size: sequences in a minibatch; None is the full batch.
      microbatch_size: sequences differentiated at once; None fits their memory.
      memory_limit: bytes that the runs computed together may take (estimated).
      progress: called with (steps done, steps in all) as the work advances.

    Returns:
      A Dataset with dimensions `learning_rate`, `seed`, `init_scale`, `step` and `layer`. For
      every weight w of `query_key`, `position`, `value`, `output` (no layer dimension) and measure
      m of `relative_error`, `cosine`, `norm_ratio`: variables `w_m` and `w_gradient_m`; and `loss`
      in nats. A run that diverged is NaN from that step on, has it in `diverged_step` (-1
      otherwise) and is named in the attribute `diverged`. Attributes also hold the configuration,
      the versions and the corpus with its hash (see `results`).

    Raises:
      InputError, InputTypeError: an argument cannot be used.

    Cost: (steps + 1) gradients for each distinct run.
    """
    config = RunConfig(
        steps=steps,
        num_layers=num_layers,
        gradient=gradient,
        optimizer=optimizer,
        batch_size=batch_size,
        microbatch_size=microbatch_size,
    )
    if not isinstance(data, TokenData):
        raise InputTypeError(f"data must be a TokenData, from load_tokens; got {type(data)}")
    if batch_size is not None and batch_size > data.num_sequences:
        raise InputError(
            f"batch_size must be at most the number of sequences, {data.num_sequences}; "
            f"got {batch_size}"
        )
    checks.integer("memory_limit", memory_limit, at_least=1)
    grid = {
        "learning_rate": checks.number_list("learning_rates", learning_rates, at_least=0),
        "seed": checks.number_list("seeds", seeds, at_least=0),
        "init_scale": checks.number_list("init_scales", init_scales, at_least=0),
    }
    if not grid["learning_rate"].all():
        raise InputError("learning_rates must be positive; got 0")
    for seed in seeds:
        checks.integer("every entry of seeds", seed, at_least=0)
        if seed >= 2**31:
            raise InputError(f"every entry of seeds must be below 2^31; got {seed}")
    grid["seed"] = grid["seed"].astype(np.int32)

    runs, cell_to_run = _distinct_runs(grid, stochastic=batch_size is not None)
    corpus = Corpus.of(data)
    records = _run_all(config, corpus, runs, memory_limit, progress)
    cells = {name: value[cell_to_run] for name, value in records.items()}
    dataset = _to_dataset(cells, grid, config)
    dataset.attrs |= results.provenance(
        data,
        {
            **{f"{name}s": values.tolist() for name, values in grid.items()},
            **dataclasses.asdict(config),
            "optimizer": optimizer if isinstance(optimizer, str) else repr(optimizer),
        },
    )
    return dataset


def summary(dataset: xr.Dataset) -> list[dict[str, Any]]:
    """The end of a sweep in numbers: one row for each starting scale and learning rate.

    Losses are means over seeds; cosines and the relative error are those of the worst layer and
    seed. NaN where no run was left or the theory is zero.
    """
    first, last = dataset.isel(step=0), dataset.isel(step=-1)
    rows = []
    for scale in dataset["init_scale"].values:
        for rate in dataset["learning_rate"].values:
            cell = {"learning_rate": rate, "init_scale": scale}
            start, end = first.sel(cell), last.sel(cell)
            rows.append(
                {
                    "init_scale": float(scale),
                    "learning_rate": float(rate),
                    "s eta": float(rate * int(dataset["step"][-1])),
                    "first loss": float(start["loss"].mean()),
                    "last loss": float(end["loss"].mean()),
                    **{name: float(end[f"{name}_cosine"].min()) for name in WEIGHTS},
                    "output error": float(end["output_relative_error"].max()),
                }
            )
    return rows


def _distinct_runs(grid, stochastic: bool) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The runs that can differ, as flat vectors, and for each cell of the grid its run."""
    rates, seeds, scales = np.meshgrid(*(grid[name] for name in GRID), indexing="ij")
    first_seed = np.full_like(seeds, seeds.flat[0])
    effective = seeds if stochastic else np.where(scales == 0, first_seed, seeds)
    flat = np.stack([rates.ravel(), effective.ravel(), scales.ravel()], axis=1)
    runs, cell_to_run = np.unique(flat, axis=0, return_inverse=True)
    columns = (runs[:, 0], runs[:, 1].astype(np.int32), runs[:, 2])
    return dict(zip(GRID, columns, strict=True)), cell_to_run.reshape(rates.shape)


@functools.partial(jax.jit, static_argnames=("config", "progress"))
def _run_chunk(config, corpus, runs, progress):
    def run(learning_rate, seed, init_scale):
        return run_comparison(config, corpus, learning_rate, seed, init_scale, progress)

    return jax.vmap(run)(*(runs[name] for name in GRID))


def _run_all(config, corpus, runs, memory_limit, progress) -> dict[str, np.ndarray]:
    """Computes the runs in equal chunks that fit the memory, with one compiled program."""
    num_runs = len(runs["seed"])
    dtype = corpus.statistics.bigram.dtype
    largest = max(1, int(memory_limit // run_bytes(config, corpus)))
    chunks = math.ceil(num_runs / largest)
    size = math.ceil(num_runs / chunks)
    done = 0

    def report(step):
        progress(done * (config.steps + 1) + int(step) + 1, chunks * (config.steps + 1))

    parts = []
    for chunk in range(chunks):
        done = chunk
        rows = np.minimum(np.arange(chunk * size, (chunk + 1) * size), num_runs - 1)
        arrays = {
            name: jnp.asarray(values[rows], jnp.int32 if name == "seed" else dtype)
            for name, values in runs.items()
        }
        part = _run_chunk(config, corpus, arrays, report if progress else None)
        parts.append(jax.tree.map(np.asarray, part))
        jax.effects_barrier()
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return {name: value[:num_runs] for name, value in joined.items()}


def run_bytes(config: RunConfig, corpus: Corpus) -> int:
    """Estimated peak memory of one run: copies of the weights, and one microbatch."""
    itemsize = corpus.statistics.bigram.dtype.itemsize
    V, T, L = corpus.statistics.bigram.shape[0], corpus.mask.shape[1], config.num_layers
    weights = itemsize * ((2 * L + 1) * V * V + L * T)
    # Weights and gradient and their successors, two optimizer moments, comparison temporaries.
    activations = 1 << 26
    if config.microbatch_size is not None:
        activations = config.microbatch_size * itemsize * 4 * (L + 1) * T * (V + T)
    return 8 * weights + 2 * activations


def _to_dataset(cells: dict[str, np.ndarray], grid, config: RunConfig) -> xr.Dataset:
    variables = {}
    for name, value in cells.items():
        dims = (*GRID, "step", "layer")[: value.ndim]
        variables[name] = xr.Variable(dims, value, {"units": "1"})
    variables["loss"].attrs = {"units": "nat", "long_name": "mean negative log-likelihood"}
    variables["diverged_step"].attrs = {"long_name": "first step that is not finite, or -1"}
    for weight in WEIGHTS:
        for measure in Agreement._fields:
            for suffix, of in (("", "weights"), ("_gradient", "gradients")):
                text = f"{weight} {of}: {_LONG_NAMES[measure]}"
                variables[f"{weight}{suffix}_{measure}"].attrs["long_name"] = text
    dataset = xr.Dataset(
        variables,
        coords={
            **{name: (name, values, {"units": "1"}) for name, values in grid.items()},
            "step": ("step", np.arange(config.steps + 1, dtype=np.int32), {"units": "updates"}),
            "layer": ("layer", np.arange(1, config.num_layers + 1, dtype=np.int32)),
        },
    )
    diverged = dataset["diverged_step"]
    dataset.attrs["diverged"] = "; ".join(
        f"learning_rate={cell.learning_rate.item():g} seed={cell.seed.item()} "
        f"init_scale={cell.init_scale.item():g} at step {cell.item()}"
        for cell in diverged.stack(run=GRID).transpose("run", ...)
        if cell.item() >= 0
    )
    return dataset
