"""The loss of a model after the theory's terms are removed from its weights, and of controls.

With W a weight of one layer, a direction D of the same shape, and <.,.> the Frobenius product, the
component of W along D is C(D) = s D / ||D||, of size `s = <W, D> / ||D||`. Four edits, of one
weight or of several together, with Theta the theory's term of the weight:

    remove     W - C(Theta)                                    (the paper's Table 3)
    keep       C(Theta)
    replace    ||W|| Theta / ||Theta||
    swap       W - C(Theta) + s Theta' / ||Theta'||            s = <W, Theta> / ||Theta||

with Theta' the term of `other`, for example of another layer or weight. Any removal changes the
loss, and a larger one changes it more. So each edit is repeated with other directions instead of
Theta (for `swap`, instead of Theta'), drawn at random:

    random     normal entries
    shuffled   Theta with its tokens (for `position`, its distances) relabelled by one permutation
               of rows and columns: the same entries, singular values and norm
    matched    the same, but permuted only among tokens of similar frequency (similar distances);
               most of the few most frequent tokens, which have no equals, stay in place

each in two sizes:

    projection   the component of W along the other direction
    norm         the size s of the theory's component, so that a component of the same norm is
                 removed; any difference from the theory's effect is then due to the direction

For `replace` and `swap` the size is fixed, so that only the second applies.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray

from assocjax.arguments import DRAWS, EDITS, LARGEST_DRAWS, check_integer, check_is, check_names
from assocjax.checks import CorpusLike
from assocjax.errors import InputError
from assocjax.models.agreement import compare_params, normalise
from assocjax.models.attention_only import default_microbatch_size, logits, position_nll
from assocjax.models.microbatches import sum_microbatches
from assocjax.models.params import WEIGHTS, Params, check_batch
from assocjax.storage import results

DIRECTIONS = ("random", "shuffled", "matched")
CONTROLS = tuple(
    f"{direction}_{size}" for size in ("projection", "norm") for direction in DIRECTIONS
)
"""Directions and sizes of controls; those of `replace` and `swap` are the last three."""

_LOSSES = {
    "trained_loss": "loss of the trained weights",
    "loss": "loss after the edit",
    "control_loss": "loss after a random draw of the control",
    "token_change": "change of the mean loss where the token is the target",
    "control_token_change": "the same for the control, as a mean over draws",
}
_NAMES = {
    "cosine": "cosine of the weights with the theory",
    "edit": "what is done to the weights",
    "unit": "weights that are edited together",
    "control": "direction and size of the control",
}

RANK_NOISE = 0.3  # sd of log rank by which a `matched` permutation moves a token


class _Case(NamedTuple):
    """One edit of one unit: indices into EDITS and ("theory", *DIRECTIONS), a size and a key."""

    edit: Int[Array, ""]
    direction: Int[Array, ""]
    by_norm: Bool[Array, ""]
    key: PRNGKeyArray


def ablate(
    params: Params,
    theory: Params,
    data: CorpusLike,
    mask: ArrayLike | None = None,
    *,
    edits: Sequence[str] = ("remove",),
    other: Params | None = None,
    units: Mapping[str, Params] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """The loss after edits of single weights and of groups of weights, and of random controls.

    Args:
      params: trained weights.
      theory: terms as a tree of the same structure (only their directions matter); a single layer
        is used for all layers.
      data, mask: the corpus on which the loss is measured, as in `exact_gradient`.
      edits: names of `EDITS`.
      other: the terms Theta' for `swap`.
      units: the groups of weights that are edited together: a name -> a tree of booleans, [L] for
        the layered weights and [] for `output`; by default `default_units`.
      draws: number of random directions of each kind.
      seed: seed of the draws. All units are edited with the same draws.
      progress: called with (units done, units in total).

    Returns:
      `trained_loss`, in nats. Over `unit`: `cosine` with the theory, the smallest among the edited
      weights. Over (`edit`, `unit`): `loss`; also over `control` and `draw`: `control_loss`. Over
      target `token`: the mean change of its loss, NaN if it does not occur, as `token_change` and,
      averaged over draws, `control_token_change`.

    Raises:
      InputError, InputTypeError: an argument is invalid, or shapes do not match.

    Cost: 1 + 6 draws (for `replace` and `swap` 1 + 3 draws) losses for each unit and edit. Memory:
      a few copies of the weights, one microbatch, and [draws, V] numbers. At most two programs
      are compiled, for any number of units, edits and draws.
    Source: paper, Table 3, which has no controls.
    """
    edits = check_names("edits", edits, EDITS)
    draws = check_integer("draws", draws, minimum=2, maximum=LARGEST_DRAWS)
    seed = check_integer("seed", seed, minimum=0)
    tokens, mask = check_batch(params, data, mask)
    if ("swap" in edits) != (other is not None):
        raise InputError("other must be given with the edit 'swap', and only with it")
    theory = _fit(params, theory)
    other = theory if other is None else _fit(params, other)
    L, V = params.value.shape[:2]
    units = default_units(L) if units is None else units
    counts = np.bincount(np.asarray(tokens)[:, 1:][np.asarray(mask)], minlength=V)
    before = np.asarray(_losses_by_target(params, tokens, mask), np.float64)
    shape, with_controls = (len(edits), len(units)), ("edit", "unit", "control")
    loss, change = np.empty(shape), np.empty((*shape, V))
    control_loss = np.full((*shape, len(CONTROLS), draws), np.nan)
    control_change = np.full((*shape, len(CONTROLS), V), np.nan)
    with np.errstate(invalid="ignore"):  # 0 / 0 for a token that is never a target
        for i, edit in enumerate(edits):
            cases, used = _cases(edit, draws, seed), [c in _controls(edit) for c in CONTROLS]
            for j, selection in enumerate(units.values()):
                after = _measure(params, theory, other, tokens, mask, selection, cases)
                after = np.asarray(after, np.float64)
                drawn = after[1:].reshape(-1, draws, V)
                loss[i, j] = after[0].sum() / counts.sum()
                change[i, j] = (after[0] - before) / counts
                control_loss[i, j, used] = drawn.sum(axis=2) / counts.sum()
                control_change[i, j, used] = (drawn.mean(axis=1) - before) / counts
                if progress is not None:
                    progress(i * len(units) + j + 1, len(edits) * len(units))
    dataset = xr.Dataset(
        {
            "trained_loss": before.sum() / counts.sum(),
            "cosine": ("unit", _cosines(params, theory, units)),
            "loss": (("edit", "unit"), loss),
            "control_loss": ((*with_controls, "draw"), control_loss),
            "token_change": (("edit", "unit", "token"), change),
            "control_token_change": ((*with_controls, "token"), control_change),
        },
        {"edit": list(edits), "unit": list(units), "control": list(CONTROLS)},
    )
    return results.describe(results.describe(dataset, _LOSSES, "nat"), _NAMES)


def default_units(num_layers: int) -> dict[str, Params]:
    """Each weight of each layer, each kind of weight in all layers, and all weights."""
    layers, one = jnp.zeros(num_layers, bool), jnp.zeros((), bool)
    none = Params(query_key=layers, position=layers, value=layers, output=one)
    all_of = {name: jnp.ones_like(getattr(none, name)) for name in WEIGHTS}
    units = {}
    for name in WEIGHTS[:-1]:
        for layer in range(num_layers):
            chosen = jnp.arange(num_layers) == layer
            units[f"{name} {layer + 1}"] = none.replace(**{name: chosen})  # type: ignore[attr-defined]
        if num_layers > 1:
            units[f"{name} all"] = none.replace(**{name: all_of[name]})  # type: ignore[attr-defined]
    units["output"] = none.replace(output=all_of["output"])  # type: ignore[attr-defined]
    units["all"] = Params(**all_of)
    return units


def exchanged(theory: Params) -> Params:
    """Terms of the wrong weight, for `swap`: that of value for query_key, of output for value, of
    query_key for output, and that of `position` in reversed order of distances."""
    check_is("theory", theory, Params)
    L = len(theory.value)
    return Params(
        query_key=theory.value,
        position=theory.position[:, ::-1],
        value=jnp.broadcast_to(theory.output, (L, *theory.output.shape)),
        output=theory.query_key[0],
    )


def summary(dataset: xr.Dataset) -> list[dict[str, Any]]:
    """A row for each edit and unit: loss, its change, and mean and sd for each control."""
    trained = float(dataset["trained_loss"])
    rows = []
    for edit in dataset["edit"].values:
        for unit in dataset["unit"].values:
            cell = dataset.sel(edit=edit, unit=unit)
            row = {
                "edit": str(edit),
                "unit": str(unit),
                "cosine": float(cell["cosine"]),
                "loss": float(cell["loss"]),
                "theory": float(cell["loss"]) - trained,
            }
            for control in CONTROLS:
                change = cell["control_loss"].sel(control=control).values - trained
                if np.isnan(change).all():
                    continue
                row[control] = float(np.mean(change))
                row[f"{control}_sd"] = float(np.std(change, ddof=1))
            rows.append(row)
    return rows


def _fit(params: Params, theory: Params) -> Params:
    compare_params(params, theory)  # checks the shapes
    return jax.tree.map(lambda w, a: jnp.broadcast_to(a, w.shape).astype(w.dtype), params, theory)


def _cosines(params: Params, theory: Params, units: Mapping[str, Params]) -> np.ndarray:
    """The smallest cosine of weight and theory in each unit."""
    cosines = {name: np.asarray(a.cosine) for name, a in compare_params(params, theory).items()}

    def least(unit: Params) -> float:
        chosen = [cosines[name][np.asarray(getattr(unit, name))].ravel() for name in WEIGHTS]
        return float(np.min(np.concatenate(chosen)))

    return np.array([least(unit) for unit in units.values()])


def _controls(edit: str) -> tuple[str, ...]:
    return CONTROLS if edit in ("remove", "keep") else CONTROLS[len(DIRECTIONS) :]


def _cases(edit: str, draws: int, seed: int) -> _Case:
    """First the case of the theory itself, then every draw of every control."""
    controls = [name.split("_") for name in _controls(edit)]
    directions = [0, *(1 + DIRECTIONS.index(name) for name, _ in controls for _ in range(draws))]
    by_norm = [False, *(size == "norm" for _, size in controls for _ in range(draws))]
    # Both sizes of a control have the same draws.
    of_draws = jax.random.split(jax.random.key(seed), draws)
    nth = np.array([0, *(list(range(draws)) * len(controls))])
    count = len(directions)
    return _Case(
        jnp.full(count, EDITS.index(edit)), jnp.array(directions), jnp.array(by_norm), of_draws[nth]
    )


@jax.jit
def _measure(params, theory, other, tokens, mask, selection, cases: _Case):
    """Sums of losses by target after each case: [cases, V]."""
    V = params.output.shape[0]
    counts = jnp.zeros(V, jnp.int32).at[tokens[:, :-1]].add(mask.astype(jnp.int32))
    rank = jnp.argsort(jnp.argsort(-counts))

    def of_case(case: _Case):
        swapping = case.edit == EDITS.index("swap")
        source = jax.tree.map(lambda a, b: jnp.where(swapping, b, a), theory, other)
        direction = lax.switch(case.direction, _DRAWS, source, rank, case.key)
        edited = {}
        for name in WEIGHTS:
            edit = partial(_edit, case)
            if name != "output":
                edit = jax.vmap(edit)
            weight, chosen = getattr(params, name), getattr(selection, name)
            new = edit(weight, getattr(theory, name), getattr(direction, name))
            chosen = jnp.reshape(chosen, chosen.shape + (1,) * (new.ndim - chosen.ndim))
            edited[name] = jnp.where(chosen, new, weight)
        return _losses_by_target(Params(**edited), tokens, mask)

    return lax.map(of_case, cases)


def _edit(case: _Case, weight, theory, direction):
    """W' = w W + t Theta / ||Theta|| + d D / ||D|| for one weight of one layer."""
    (unit, norm, scale), theory, direction = map(normalise, (weight, theory, direction))
    theory, direction = (a / a_norm for a, a_norm, _ in (theory, direction))
    of_theory = scale * jnp.sum(unit * theory)
    size = jnp.where(case.by_norm, of_theory, scale * jnp.sum(unit * direction))
    zero, one = jnp.zeros_like(scale), jnp.ones_like(scale)
    whole = jnp.stack([one, zero, zero, one])[case.edit]
    taken = jnp.stack([zero, zero, zero, -of_theory])[case.edit]
    # For `swap`, the direction is that of `other`, and the size that of the theory.
    given = jnp.stack([-size, size, scale * norm, of_theory])[case.edit]
    return whole * weight + taken * theory + given * direction


def _random(source: Params, rank, key) -> Params:
    leaves, structure = jax.tree.flatten(source)
    keys = jax.random.split(key, len(leaves))
    normal = [
        jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, normal)


def shuffled(source: Params, rank, key, *, noise: float = jnp.inf) -> Params:
    """The same tree with tokens and lags permuted; `noise` is the sd added to their log rank."""

    def permutation(rank, key):
        if noise == jnp.inf:
            return jax.random.permutation(key, len(rank))
        moved = jnp.log1p(rank.astype(jnp.float32))
        moved += noise * jax.random.normal(key, rank.shape, jnp.float32)
        return jnp.zeros_like(rank).at[jnp.argsort(rank)].set(jnp.argsort(moved))

    of_tokens, of_lags = jax.random.split(key)
    tokens = permutation(rank, of_tokens)
    lags = permutation(jnp.arange(source.position.shape[1]), of_lags)

    def relabel(matrices):
        return matrices[..., tokens[:, None], tokens[None, :]]

    return Params(
        query_key=relabel(source.query_key),
        position=source.position[:, lags],
        value=relabel(source.value),
        output=relabel(source.output),
    )


_DRAWS = (
    lambda source, rank, key: source,
    _random,
    shuffled,
    partial(shuffled, noise=RANK_NOISE),
)


@jax.jit
def _losses_by_target(params: Params, tokens, mask) -> Float[Array, " V"]:
    """The sum of the loss in nats over valid positions, for each target token."""
    zeros = jnp.zeros(params.output.shape[0], params.output.dtype)

    def microbatch(tokens, mask):
        def nll(tokens, mask):
            return position_nll(logits(params, tokens[:-1], mask), tokens[1:], mask)

        return zeros.at[tokens[:, 1:]].add(jax.vmap(nll)(tokens, mask))

    size = default_microbatch_size(params, mask.shape[1])
    return sum_microbatches(microbatch, tokens, mask, size)
