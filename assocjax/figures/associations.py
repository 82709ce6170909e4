"""Associations over training, from a Dataset of `track`: when they form, and a token's context."""

import json
import math
import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from assocjax.analysis.formations import READ_AT, mean_overlap
from assocjax.analysis.scorings import (
    MATRICES,
    SCORINGS,
    Frequencies,
    context_lists,
    support_of,
)
from assocjax.arguments import check_choice, check_integer
from assocjax.corpora.tokens import find_token
from assocjax.errors import InputError, InputTypeError, reading
from assocjax.figures.style import (
    Size,
    checked,
    finish,
    label_axes,
    line_and_range,
    literal,
    panels,
    save_all,
    set_title,
)
from assocjax.statistics.occurrences import observed
from assocjax.storage import Folder

_COLORS = {
    "bigram": "#cc3311",
    "interchangeability": "#aa4499",
    "value": "#009e73",
    "composed": "#56b4e9",
    "query_key": "#0072b2",
    "context": "#e69f00",
}
_MOST = 24  # characters of a token
_LABELS = {
    "bigram": r"$W_O$ (bigram)",
    "interchangeability": r"$W_O^\top W_O$ (interchangeability)",
    "value": r"$V_\ell$ (value)",
    "composed": r"$V_\ell W_O$ (composed)",
    "query_key": r"$W_\ell$ (query-key)",
    "context": r"$V_\ell W_O$, columns (context)",
}


@reading("track")
def plot_overlap(dataset: xr.Dataset, *, figsize: Size = None) -> Figure:
    """Overlap of weights' lists with the theory's against step: a panel for each scoring and side.

    Args:
      dataset: from `track`.
      figsize: width and height of the figure in inches.

    Raises:
      InputError, InputTypeError: `dataset` is not from `track`.
    """
    for matrix in MATRICES:
        side = "" if matrix == "interchangeability" else "side"  # which is symmetric
        dataset = checked(dataset, "track", [f"{matrix}_overlap"], f"step scoring {side} token")
    sides, scorings = dataset["side"].values, dataset["scoring"].values
    figure, axes = _panels(dataset, len(sides), "overlap with theory", figsize)
    for row, side in zip(axes, sides, strict=True):
        for ax, scoring in zip(row, scorings, strict=True):
            of_scoring = dataset.sel(scoring=scoring)
            for matrix in MATRICES:
                overlap = mean_overlap(of_scoring, matrix, side)
                line_and_range(ax, overlap, _COLORS[matrix], _LABELS[matrix])
            ax.set_title(f"{side}s, {scoring}", fontsize=9)
    finish(
        figure,
        axes,
        f"Share of the theory's list, of up to {dataset.sizes['rank']} tokens, that is in the "
        "weights' list (line: mean, shade: range over layers; step 0 of a random start: chance)",
        dataset,
    )
    return figure


@reading("track")
def plot_precision(dataset: xr.Dataset, *, figsize: Size = None) -> Figure:
    """Share of the true associates in the weights' lists, against step: a panel for each scoring.

    Args:
      dataset: from `track` with a truth.
      figsize: width and height of the figure in inches.

    Raises:
      InputError: `dataset` has no precisions.
      InputTypeError: `dataset` is not a Dataset.
    """
    dataset = checked(dataset, "track", [], "")
    kinds = [kind for kind in READ_AT if f"{kind}_precision" in dataset]
    if not kinds:
        raise InputError("dataset must have precisions: track(..., truth=fables.ground_truth())")
    dataset = checked(dataset, "track", (f"{kind}_precision" for kind in kinds), "step scoring")
    dataset = checked(dataset, "track", (f"{kind}_theory_precision" for kind in kinds), "scoring")
    figure, axes = _panels(dataset, 1, "true associates found", figsize)
    for ax, scoring in zip(axes[0], dataset["scoring"].values, strict=True):
        of_scoring = dataset.sel(scoring=scoring)
        for kind in kinds:
            found = of_scoring[f"{kind}_precision"]
            line_and_range(ax, found, _COLORS[kind], _LABELS[kind])
            level = float(of_scoring[f"{kind}_theory_precision"])
            ax.plot([1, 1.04], [level] * 2, color=_COLORS[kind], lw=3, **_at_right(ax))
        ax.set_title(scoring, fontsize=9)
    finish(
        figure,
        axes,
        "Share of planted associates among the best (line: mean, shade: range over layers; mark at "
        "the right: in the theory's matrices)",
        dataset,
    )
    return figure


@reading("track or statistics_dataset")
def plot_context_graph(
    dataset: xr.Dataset,
    token: str,
    *,
    k: int = 8,
    scoring: str = "z-score",
    figsize: Size = None,
    ax: Axes | None = None,
) -> Figure:
    """A token and the tokens that stand before it, by the basis function Phi: paper, Figure 3.

    The width of a line to the token is the score, which is written on it, for a `track` with the
    number of occurrences in parentheses. Other lines join two associates if one of them is in the
    list of the other. The names of planted associates are in a thick frame.

    Args:
      dataset: from `track`, or from `datasets.statistics_dataset`.
      token: a token of the vocabulary.
      k: largest number of associates to show; for a `track` at most the number recorded.
      scoring: one of `scorings.SCORINGS`.
      figsize: width and height of the figure in inches.
      ax: axes to draw into, instead of a new figure.

    Raises:
      InputError: the token or the scoring is unknown, nothing stands before the token more often
        than by chance, or the dataset has no contexts.
      InputTypeError: `dataset` is not a Dataset, `token` not a string, or `k` not an integer.
    """
    check_choice("scoring", scoring, SCORINGS)
    k = check_integer("k", k, minimum=1)
    if not isinstance(token, str):
        raise InputTypeError(f"token must be a text; got {token!r}")
    dataset = checked(dataset, "track or statistics_dataset", ["target_frequency"], "token")
    vocabulary = [str(word) for word in dataset["token"].values]
    own = find_token(token, vocabulary, dataset.attrs.get("corpus_name", "the dataset"))
    ids, scores, counts = _context_lists(dataset, k, scoring)
    listed = [row[found].tolist() for row, found in zip(ids, np.isfinite(scores), strict=True)]
    if not listed[own]:
        raise InputError(
            f"token {token!r} has no context: in these sequences, nothing stands before it more "
            "often than by chance"
        )
    angles = 2 * np.pi * np.arange(len(listed[own])) / len(listed[own]) + np.pi / 2
    places = dict(zip(listed[own], np.stack([np.cos(angles), np.sin(angles)], 1), strict=True))
    figure, ((panel,),) = panels(1, 1, size=(3.9, 4.3), figsize=figsize, ax=ax)
    for i, start in places.items():
        for j in set(listed[i]) & places.keys():
            panel.plot(*zip(start, places[j], strict=True), color="0.85", lw=1, zorder=0)
    scores = scores[own][: len(places)]
    labels = [f"{score:.2g}" for score in scores]
    if counts is not None:
        labels = [f"{label} ({n})" for label, n in zip(labels, counts[own], strict=False)]
    widths = 1 + 5 * scores / scores[0]
    planted = json.loads(dataset.attrs.get("truth", "{}")).get("context", {}).get(token, ())
    for (i, place), width, label in zip(places.items(), widths, labels, strict=True):
        panel.plot([0, place[0]], [0, place[1]], color=_COLORS["context"], lw=width, zorder=1)
        _node(panel, place, vocabulary[i], "#fdf3df", 2 if vocabulary[i] in planted else 1)
        panel.annotate(
            label, 0.55 * place, fontsize=7, color="0.3", ha="center", va="center",
            bbox={"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.8},
        )  # fmt: skip
    _node(panel, (0, 0), vocabulary[own], "#ffffff")
    panel.set_xlim(-1.35, 1.35)
    panel.set_ylim(-1.25, 1.25)
    panel.set_aspect("equal")
    panel.axis("off")
    set_title(figure, f"What stands before it: context, {scoring}", dataset, ax=ax)
    return figure


def _context_lists(
    dataset: xr.Dataset, k: int, scoring: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Ids, scores and counts [V, k] in the rows of Phi: recorded, or computed from the matrix,
    which does not have the counts."""
    source = "track or statistics_dataset"
    if "context" not in dataset:
        names = [f"context_theory_{what}" for what in ("id", "score", "count")]
        dataset = checked(dataset, source, names, "scoring side token rank")
        lists = dataset.sel(scoring=scoring, side="row")
        ids, scores, counts = (lists[name].values[:, :k] for name in names)
        return ids.astype(int), scores, counts
    dataset = checked(dataset, source, ["context", "bigram", "query_key"], "token other_token")
    names = [f"{name}_frequency" for name in Frequencies._fields]
    dataset = checked(dataset, source, names, "token")
    frequencies = Frequencies(*(jnp.asarray(dataset[name].values) for name in names))
    support = support_of(
        {"context": observed(dataset).rows("context")}, dataset["token"].values.tolist()
    )
    matrix = jnp.asarray(dataset["context"].values)
    k = min(k, dataset.sizes["token"] - 1)
    lists = context_lists(matrix, frequencies, support, scoring=scoring, k=k)
    return np.asarray(lists.ids[0]), np.asarray(lists.scores[0]), None


def save_track(
    dataset: xr.Dataset, folder: str | os.PathLike | Folder, *, overwrite: bool = False
) -> list[Path]:
    """Writes `overlap`, and with a truth `precision`, as PNG and PDF; returns the paths.

    Raises InputError if figures of other results exist, unless assocjax wrote them and `overwrite`
    is true.
    """
    figures = {"overlap": plot_overlap(dataset)}
    if any(f"{kind}_precision" in dataset for kind in READ_AT):
        figures["precision"] = plot_precision(dataset)
    return save_all(figures, folder, overwrite=overwrite)


def _panels(dataset: xr.Dataset, rows: int, y: str, figsize: Size):
    figure, axes = panels(rows, dataset.sizes["scoring"], size=(3.1, 2.2), figsize=figsize)
    label_axes(axes, "step", y)
    last = int(dataset["step"][-1])
    for ax in axes.flat:
        ax.set_ylim(-0.03, 1.03)
        # Step 0 is at a separate position, and the others are evenly spaced as recorded.
        ax.set_xscale("symlog", linthresh=1, linscale=0.4)
        powers = range(1 + int(math.log2(max(1, last))))
        ticks = [0, *(2**power for power in powers)]
        ax.set_xticks(ticks[:: 1 + len(ticks) // 9], labels=ticks[:: 1 + len(ticks) // 9])
        ax.set_xticks([], minor=True)
    return figure, axes


def _at_right(ax: Axes) -> dict:
    """Beside the right edge, at the height of the data."""
    return {"transform": ax.get_yaxis_transform(), "clip_on": False, "solid_capstyle": "butt"}


def _node(ax: Axes, place, token: str, color: str, width: float = 1) -> None:
    ax.annotate(
        literal(token, most=_MOST), place, fontsize=10, ha="center", va="center", zorder=3,
        bbox={"boxstyle": "round,pad=0.35", "fc": color, "ec": "0.4", "lw": width},
    )  # fmt: skip
