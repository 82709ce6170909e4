"""When associations form: overlaps and precisions of recorded lists, step by step."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from assocjax.analysis.associations import check_truth
from assocjax.analysis.scorings import LAYERED, MATRICES, SCORINGS, SIDES
from assocjax.arguments import check_choice
from assocjax.checks import check_dataset, check_number
from assocjax.errors import InputError, reading

Truth = Mapping[str, Mapping[str, Collection[str]]]

READ_AT = {name: (name, "row") for name in MATRICES} | {"context": ("composed", "column")}
"""The matrix and side in which the true associates of a kind are looked up. No weight learns Phi:
the kind `context`, tokens before a token, is looked up in the columns of the composed matrix, for
theory and weights."""

_PRECISION = "share of true associates among the best of a list, mean over tokens"


@reading("track")
def formation(dataset: xr.Dataset, threshold: float = 0.5) -> list[dict[str, Any]]:
    """When associations form: a row for each scoring, matrix and layer of a `track` Dataset.

    Overlaps are those of rows, as unweighted means over the tokens that have one (`mean_overlap`).

    Args:
      dataset: from `track`.
      threshold: of an overlap or a precision.

    Returns:
      Dicts with `scoring`, `matrix`, `weights` and `layer` (None for matrices without layers). For
      the overlap with the theory: `formed`, the first recorded step at which it reaches the
      threshold (None: never), its maximum `best` and its last value `end`. Step 0 does not count:
      the share of the theory's tokens in a list of random weights is large where few pairs occur,
      which alone are listed. With a truth:
      `precision_formed`, `precision_best` and `precision_end` for the weights, and
      `precision_theory`. The kind `context`, which is not a matrix of weights, has no overlap.

    Raises:
      InputError, InputTypeError: the Dataset is not from `track`; the threshold is not a number.
    """
    names = [f"{matrix}_overlap" for matrix in MATRICES]
    check_dataset(dataset, "track", names, "step scoring token")
    threshold = check_number("threshold", threshold)
    kinds = [*MATRICES, *(kind for kind in READ_AT if kind not in MATRICES)]
    rows = []
    for scoring in SCORINGS:
        of_scoring = dataset.sel(scoring=scoring)
        for kind in kinds:
            known = f"{kind}_precision" in dataset
            if kind not in MATRICES and not known:
                continue
            matrix, _ = READ_AT[kind]
            layers = dataset["layer"].values.tolist() if matrix in LAYERED else [None]
            for layer in layers:
                at = of_scoring if layer is None else of_scoring.sel(layer=layer)
                row = {"scoring": scoring, "matrix": kind, "weights": MATRICES[matrix]}
                row |= {"layer": layer}
                if kind in MATRICES:
                    row |= _formed(mean_overlap(at, kind), threshold, "")
                if known:
                    row |= _formed(at[f"{kind}_precision"], threshold, "precision_")
                    row["precision_theory"] = float(at[f"{kind}_theory_precision"])
                rows.append(row)
    return rows


@reading("track")
def mean_overlap(dataset: xr.Dataset, matrix: str, side: str = "row") -> xr.DataArray:
    """Unweighted mean over the tokens whose overlap is defined (`scorings.Reading`): tokens for
    which the theory lists an association. NaN if there is no such token.

    Args:
      dataset: from `track`.
      matrix: a name of `scorings.MATRICES`.
      side: "row" or "column"; ignored for `interchangeability`, which is symmetric.

    Raises:
      InputError, InputTypeError: the Dataset has no such overlap.
    """
    check_choice("matrix", matrix, tuple(MATRICES))
    check_choice("side", side, SIDES)
    check_dataset(dataset, "track", [f"{matrix}_overlap"], "token")
    overlap = dataset[f"{matrix}_overlap"]
    overlap = overlap.sel(side=side) if "side" in overlap.dims else overlap
    count = overlap.notnull().sum("token")
    return overlap.sum("token") / count.where(count > 0)


def _formed(values: xr.DataArray, threshold: float, prefix: str) -> dict[str, Any]:
    step = values["step"].values
    reached = step[(values.values >= threshold) & (step > 0)]
    return {
        f"{prefix}formed": int(reached[0]) if len(reached) else None,
        f"{prefix}best": float(values.max()),
        f"{prefix}end": float(values[-1]),
    }


def find_queries(kind: str, truth, vocabulary: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Ids of the query tokens of a truth, and which tokens are their associates [queries, V].

    Raises:
      InputError: `kind` is not in `READ_AT`, or none of its tokens are in the vocabulary.
    """
    check_choice("every key of truth", kind, tuple(READ_AT))
    check_truth(f"truth[{kind!r}]", truth)
    ids = {token: i for i, token in enumerate(vocabulary)}
    known = {
        ids[query]: found
        for query, associates in truth.items()
        if query in ids and (found := [ids[token] for token in associates if token in ids])
    }
    if not known:
        raise InputError(f"truth[{kind!r}] has no query token with an associate in the vocabulary")
    associates = np.zeros((len(known), len(vocabulary)), bool)
    for row, found in zip(associates, known.values(), strict=True):
        row[found] = True
    return np.array(list(known)), associates


def precision(dataset: xr.Dataset, kind: str, of: str, tokens, associates) -> xr.DataArray:
    """Share of the true associates among the n best of a list, mean over query tokens.

    n is the length of the lists, or the number of associates if it is smaller, so that 1 is always
    possible. Missing entries of a shorter list count as wrong; an empty list has precision 0.

    Args:
      dataset: with lists, as from `track`.
      kind: a key of `READ_AT`.
      of: "" for the weights, "_theory" for the theory.
      tokens, associates: from `find_queries`.
    """
    matrix, side = READ_AT[kind]
    names = [f"{matrix}{of}_{what}" for what in ("id", "score")]
    ids, scores = (dataset[name].isel(token=tokens) for name in names)
    if "side" in ids.dims:
        ids, scores = ids.sel(side=side), scores.sel(side=side)
    depth = np.minimum(associates.sum(1), dataset.sizes["rank"])
    rows = np.arange(len(tokens))[:, None]
    hits = associates[rows, ids.values] & (dataset["rank"].values <= depth[:, None])
    share = (hits & np.isfinite(scores.values)).sum(-1) / depth
    template = ids.isel(token=0, rank=0, drop=True)
    attrs = {"units": "1", "long_name": _PRECISION}
    return template.copy(data=share.mean(-1)).drop_vars("side", errors="ignore").assign_attrs(attrs)
