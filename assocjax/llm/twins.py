"""Statistics twins beside the checkpoints of a language model (`experiments.checkpoints`).

From a model's folder or repository, a recipe and a text. What matters beside the learning rate:

* Where a recipe's first update has rate 0, as Pythia's, step 1 has the weights of step 0, and its
  cosines are NaN; Adam's moments have the first gradient nonetheless.
* Weights that are stored in 16 bits are rounded. Twins start from the rounded start and are not
  rounded themselves: in a model's change, rounding is noise, which lowers its cosine with anything
  and raises its norm. `visible` says in how many weights there is a change at all.
* Weight decay is decoupled and moves what the recipe says; gradients are clipped together.
* A twin that draws fewer pairs than a batch has positions has more noise than the model had.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import xarray as xr
from jaxtyping import Bool, Int32

from assocjax.arguments import check_integer, check_is
from assocjax.checks import Sequences
from assocjax.corpora import TokenData, TokenFile
from assocjax.errors import InputError
from assocjax.experiments.changes import NAMES
from assocjax.experiments.checkpoints import check_shapes, checkpoint_twins, compare_checkpoints
from assocjax.llm.decoders import load_decoder
from assocjax.llm.files import check_list
from assocjax.llm.published import find_recipe
from assocjax.llm.recipe import Recipe
from assocjax.llm.revisions import steps_of
from assocjax.models.decoder import DecoderModel
from assocjax.statistics.contexts import bigram_counts, context_statistics
from assocjax.storage import results

MOST_ROWS = 1 << 15
"""Most pairs that a twin draws in a step by default."""

_STORED: tuple[str, ...] = ("float16", "bfloat16")


def compare_with_twins(
    name_or_path: str | os.PathLike[str],
    revisions: Sequence[str],
    source: TokenData | TokenFile,
    recipe: str | os.PathLike[str] | Recipe,
    *,
    other_runs: Sequence[str | os.PathLike[str]] = (),
    orders: Sequence[int] = (2, 4),
    num_twins: int = 4,
    rows: int | None = None,
    top_tokens: int | None = None,
    seed: int = 0,
    progress: Callable[[str, int], None] | None = None,
) -> xr.Dataset:
    """Compares changes of a language model's weights with those of twins, checkpoint by checkpoint.

    Args:
        name_or_path: A model that `load_decoder` reads.
        revisions: Checkpoints whose names have their steps, with that of step 0.
        source: A text in the model's tokens (`tokens_of_model`), which may be another one than the
            model was trained on. Its sequences may be shorter than those of the training.
        recipe: As in `find_recipe`.
        other_runs: Models with the same revisions from the same start, which differ in the order of
            batches, such as EleutherAI/pythia-160m-data-seed1 to 3: the ceiling.
        orders: Of the twins, see `assocjax.theories.twins`; the controls are twins of order 0 and
            twins of order 2 whose rows are shuffled.
        num_twins: Twins of each kind, which differ in what they draw.
        rows: Pairs that a twin draws in a step; by default as many as a batch of the recipe has
            positions, at most 32,768.
        top_tokens: n, to compare with twins of a model whose vocabulary is the n most frequent
            tokens of the text; all by default. Positions whose input or target is another token are
            left out of the statistics, as input, target and context. The softmax of the twin is
            over n tokens, so that other tokens have neither probability nor gradient. Only the n
            rows of the embedding and columns of the unembedding are compared. Two things are
            approximated: the other tokens, which have (V - n) / V of the probability at the start,
            make gradients of the n tokens' logits smaller than they are here; and positions that
            are left out, 1 - `token_share` of the text, move all other weights of the model too.
        seed: Determines what twins draw.
        progress: Called with a name and the number of updates after each part of the training.

    Returns:
        The Dataset of `compare_checkpoints`, with the coordinates `revision` and `summed_rate` of
        each step, `run_name` of each held-out run, and the variable `token_share`, the share of the
        text's positions in the statistics. Attributes besides provenance: `model`, and `stored_as`,
        the 16-bit type that holds all weights that were read exactly, or "float32".

    Raises:
        InputError: If a revision is missing, has no step, or none has step 0; the recipe lacks a
            part of its optimizer; the text is in other tokens than the model or its sequences are
            longer; a run starts from other weights; and as `load_decoder`.
        InputTypeError: If an argument has another type.

    Cost: as `compare_checkpoints`: a gradient of V rows and of `rows` drawn ones for each update of
    each twin, up to the last step. Memory: about 5 times all weights for each twin.
    """
    recipe = find_recipe(recipe)
    optimizer = recipe.optimizer()
    check_is("source", source, Sequences)
    check_list(revisions)
    by_step = revisions_by_step(revisions)
    names = [name_or_path, *other_runs]
    if rows is None:
        rows = min((recipe.batch_size or MOST_ROWS) * (recipe.seq_len or 1), MOST_ROWS)
    rows = check_integer("rows", rows, minimum=1)
    num_twins = check_integer("num_twins", num_twins, minimum=1)
    first = by_step.pop(0)
    model, start = load_decoder(name_or_path, first)
    V = len(start["embedding"])
    if source.vocab_size > V:
        raise InputError(
            f"source must be in the {V} tokens of model {os.fspath(name_or_path)!r}; its "
            f"vocabulary has {source.vocab_size}"
        )
    counts = np.asarray(bigram_counts(source).sum(axis=1))
    ids = _chosen(counts, V, top_tokens)
    restricted = _Restricted(source, ids, V)
    statistics = context_statistics(restricted)
    exact: dict[str, bool] = dict.fromkeys(_STORED, True)
    start = _rows(start, ids, exact)
    for name in other_runs:
        _, theirs = load_decoder(name, first)
        theirs = _rows(theirs, ids, exact)
        check_shapes(f"other_runs: step 0 of {os.fspath(name)!r}", theirs, start)
        same = jax.tree.map(np.array_equal, theirs, start)
        if not all(jax.tree.leaves(same)):
            raise InputError(
                f"other_runs: {os.fspath(name)!r} starts from other weights than "
                f"{os.fspath(name_or_path)!r}; only runs of one start can be compared"
            )
    twins = checkpoint_twins(orders, rows=rows, vocab_size=ids.size)
    dataset = compare_checkpoints(
        model,
        start,
        [_Checkpoints(name, by_step, model, ids, exact) for name in names],
        statistics,
        optimizer=optimizer,
        twins=twins,
        num_draws=num_twins,
        seed=seed,
        progress=progress,
    )
    config = json.loads(dataset.attrs["config"]) | {
        "recipe": dataclasses.asdict(recipe),
        "top_tokens": top_tokens,
        "rows": rows,
    }
    stored = next((name for name, holds in exact.items() if holds), "float32")
    dataset = dataset.assign_coords(
        revision=("step", list(by_step.values())),
        run_name=("held_out", [os.fspath(name) for name in names]),
    )
    dataset["token_share"] = int(statistics.bigram.sum()) / max(int(counts.sum()), 1)
    results.describe(dataset, NAMES)
    dataset = dataset.assign_attrs(
        results.provenance(source, config), model=os.fspath(name_or_path), stored_as=stored
    )
    return with_summed_rate(dataset, recipe)


def with_summed_rate(dataset: xr.Dataset, recipe: str | os.PathLike[str] | Recipe) -> xr.Dataset:
    """A Dataset with the coordinate `summed_rate`, the summed learning rate of each of its steps.

    Args:
        dataset: With a coordinate `step`, the number of updates, of any dimension.
        recipe: As in `find_recipe`.

    Raises:
        InputError, InputTypeError: If it has no steps, or there is no such recipe.
    """
    check_is("dataset", dataset, xr.Dataset)
    if "step" not in dataset.coords or dataset["step"].dtype.kind not in "iu":
        raise InputError("dataset must have a coordinate 'step' of integers")
    found = find_recipe(recipe)
    step = dataset["step"]
    about = {"long_name": f"summed learning rate of {found.name}", "units": "1"}
    return dataset.assign_coords(summed_rate=(step.dims, found.summed_rate(step.values), about))


def revisions_by_step(revisions: Sequence[str]) -> dict[int, str]:
    """Revisions by their numbers of updates, in ascending order, with that of step 0.

    Raises:
        InputError: If a name has no step, two have the same, or there are fewer than two.
    """
    steps = steps_of(revisions)
    if steps is None:
        raise InputError(
            f"revisions must have names with different steps, such as step16; got {revisions}"
        )
    found = dict(sorted(zip(steps, revisions, strict=True)))
    if 0 not in found or len(found) < 2:
        raise InputError(f"revisions must be that of step 0 and others; got {revisions}")
    return found


class _Checkpoints(Mapping[int, Any]):
    """Weights by step, loaded when they are asked for."""

    def __init__(self, name, by_step, model: DecoderModel, ids: np.ndarray, exact: dict[str, bool]):
        self.name, self.by_step, self.model = name, by_step, model
        self.ids, self.exact = ids, exact

    def __getitem__(self, step: int) -> dict[str, Any]:
        model, params = load_decoder(self.name, self.by_step[step])
        if model != self.model:
            raise InputError(
                f"revisions must be of one architecture; {os.fspath(self.name)!r} "
                f"{self.by_step[step]!r} has another"
            )
        return _rows(params, self.ids, self.exact)

    def __iter__(self) -> Iterator[int]:
        return iter(self.by_step)

    def __len__(self) -> int:
        return len(self.by_step)


def _rows(params: dict[str, Any], ids: np.ndarray, exact: dict[str, bool]) -> dict[str, Any]:
    """Weights of a model with fewer tokens. Notes which of the types do not hold all weights."""
    for name in [name for name, holds in exact.items() if holds]:
        with np.errstate(over="ignore"):
            held = (
                np.array_equal(weight, weight.astype(jax.numpy.dtype(name)).astype(np.float32))
                for weight in jax.tree.leaves(params)
            )
            exact[name] = all(held)
    if ids.size == len(params["embedding"]):
        return params
    params = params | {"embedding": params["embedding"][ids]}
    if "unembedding" in params:
        params["unembedding"] = params["unembedding"][:, ids]
    return params


def _chosen(counts: np.ndarray, vocab_size: int, top_tokens: int | None) -> np.ndarray:
    """Ids of the tokens that are compared, ascending."""
    if top_tokens is None:
        return np.arange(vocab_size)
    n = check_integer("top_tokens", top_tokens, minimum=2)
    occur = int(np.count_nonzero(counts))
    if n > occur:
        raise InputError(f"top_tokens must be at most {occur}, those that occur; got {n}")
    return np.sort(np.argsort(-counts, kind="stable")[:n])


@dataclasses.dataclass
class _Restricted:
    """A text in which only positions with these inputs and targets count, in new ids."""

    source: Sequences
    ids: np.ndarray
    of_model: int

    def __post_init__(self):
        self.new = np.full(self.of_model, -1, np.int32)
        self.new[self.ids] = np.arange(self.ids.size)

    @property
    def vocab_size(self) -> int:
        return self.ids.size

    @property
    def num_sequences(self) -> int:
        return self.source.num_sequences

    @property
    def seq_len(self) -> int:
        return self.source.seq_len

    def read(
        self, start: int, stop: int
    ) -> tuple[Int32[np.ndarray, "N T+1"], Bool[np.ndarray, "N T"]]:
        tokens, mask = self.source.read(start, stop)
        new = self.new[tokens]
        known = new >= 0
        return np.maximum(new, 0), mask & known[:, :-1] & known[:, 1:]
