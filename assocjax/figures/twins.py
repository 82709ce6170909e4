"""Statistics twins beside real runs: changes of weights, their shares, when associations form."""

import itertools
from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from assocjax.arguments import check_choice
from assocjax.errors import reading
from assocjax.experiments.prediction import prediction_scores
from assocjax.experiments.twins import OTHER, RUN
from assocjax.figures.style import (
    Size,
    checked,
    clock,
    few_ticks,
    finish,
    label_axes,
    literal,
    panels,
    set_title,
    shades,
)

_MEASURES = {"cosine": "cosine", "partial_cosine": "partial cosine"}
_NAMES = _MEASURES | {"norm_ratio": "norm, twin over run"}
_CONTROLS = ("twin-0", "shuffled")
_TICKS = 6  # at most, of an axis
_DIMS = "twin held_out weight layers step"


@reading("compare_twins")
def plot_twins(dataset: xr.Dataset, *, figsize: Size = None) -> Figure:
    """Cosine of weight changes with the mean change of real runs: the ceiling, twins and controls.

    Upper row: cosine. Lower row: partial cosine, without the change of the twin of order 0. A
    column for each step. A bar is a held-out real run, which is the ceiling; a point is a twin
    (crosses: controls). Values are means over the held-out runs, of all layers together.

    Args:
      dataset: from `compare_twins` or `compare_checkpoints`.
      figsize: width and height of the figure in inches.

    Raises:
      InputError, InputTypeError: `dataset` is not from these.
    """
    dataset = checked(dataset, "compare_twins", _MEASURES, _DIMS)
    weights, steps = dataset["weight"].values.tolist(), dataset["step"].values.tolist()
    twins = [name for name in dataset["twin"].values.tolist() if name not in (RUN, OTHER)]
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.88, len(twins)))
    figure, axes = panels(2, len(steps), size=(max(3.0, 0.3 * len(weights)), 3.0), figsize=figsize)
    at = np.arange(len(weights))
    for (i, (name, label)), (j, step) in itertools.product(
        enumerate(_MEASURES.items()), enumerate(steps)
    ):
        ax = axes[i, j]
        values = dataset[name].sel(layers="all", step=step).mean("held_out")
        for run, color in ((RUN, "0.8"), (OTHER, "#f0c0a0")):
            if run in dataset["twin"].values:
                height = values.sel(twin=run)
                ax.bar(at, height, width=0.9 if run == RUN else 0.6, color=color, label=run)
        for twin, color in zip(twins, colors, strict=True):
            control = any(part in twin for part in _CONTROLS)
            ax.plot(
                at,
                values.sel(twin=twin),
                "x" if control else "o",
                color="#cc3311" if control else color,
                alpha=1 if twin == twins[0] or not control else 0.5,
                ms=5,
                label=literal(twin, 30),
            )
        ax.set_xticks(at, [literal(weight, 20) for weight in weights], rotation=90, fontsize=8)
        ax.set_title(f"{label}, step {step}", fontsize=9)
        ax.set_ylim(-0.1, 1.05)
    label_axes(axes, "", "with the mean of real runs")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8, frameon=False)
    set_title(figure, "Changes of weights: statistics twins and real runs", dataset)
    return figure


@reading("compare_checkpoints")
def plot_twins_by_step(
    dataset: xr.Dataset,
    *,
    measure: str = "cosine",
    over: str = "step",
    layers: str = "all",
    figsize: Size = None,
) -> Figure:
    """How much changes of weights have in common with those of twins, checkpoint by checkpoint.

    A panel for each weight. Lines are means over the held-out runs, on a logarithmic axis: the
    other runs, which are the ceiling, in gray; twins; and controls, dashed.

    Args:
      dataset: from `compare_checkpoints` or `compare_twins`.
      measure: "cosine", "partial_cosine" or "norm_ratio".
      over: "step", or "summed_rate" if the dataset has it: the summed learning rate, by which
        trainings of different recipes are compared.
      layers: "all" layers together, or the number of one, as text.
      figsize: width and height of the figure in inches.

    Raises:
      InputError, InputTypeError: `dataset` is not from these, or has no such measure, axis or
        layer.
    """
    check_choice("measure", measure, (*_MEASURES, "norm_ratio"))
    dataset = checked(dataset, "compare_checkpoints", [measure], _DIMS)
    at = clock(dataset, over)
    check_choice("layers", layers, dataset["layers"].values.tolist())
    values = dataset[measure].sel(layers=layers).mean("held_out")
    weights = [w for w in dataset["weight"].values.tolist() if values.sel(weight=w).notnull().any()]
    columns = min(4, max(1, len(weights)))
    figure, axes = panels(-(-len(weights) // columns) or 1, columns, figsize=figsize)
    looks = _looks(dataset["twin"].values.tolist())
    for ax, weight in zip(axes.flat, weights, strict=False):
        for twin, look in looks.items():
            ax.plot(at, values.sel(weight=weight, twin=twin), marker="o", ms=3, **look)
        ax.set_title(literal(weight, 20), fontsize=9)
        ax.set_xscale("log")
        ticks = [float(f"{each:.2g}") for each in at if each > 0]
        few_ticks(ax, ticks[:: -(-len(ticks) // _TICKS) or 1])
    label_axes(axes, "", _NAMES[measure])
    for i, ax in enumerate(axes.flat):
        if i >= len(weights):
            ax.set_axis_off()
        elif i + columns >= len(weights):  # nothing is below
            ax.set_xlabel({"step": "step", "summed_rate": "summed learning rate"}[over])
            ax.tick_params(labelbottom=True)
    finish(figure, axes, "Changes of weights beside those of statistics twins", dataset)
    return figure


def _looks(twins: list[str]) -> dict[str, dict[str, Any]]:
    """Colour, line and label of runs, twins and controls."""
    shade = dict(zip(twins, shades(len(twins)), strict=True))
    found = {}
    for twin in twins:
        control = any(part in twin for part in _CONTROLS)
        line = {"color": "0.6", "lw": 2.5} if twin in (RUN, OTHER) else {"color": shade[twin]}
        line = {"color": "#cc3311", "ls": ":" if "0" in twin else "--"} if control else line
        name = "other runs" if twin == RUN else twin
        found[twin] = {"lw": 1.2, **line, "label": literal(name, 30)}
    return found


@reading("twin_shares")
def plot_shares(dataset: xr.Dataset, *, figsize: Size = None) -> Figure:
    """What each statistic of the text explains of the change of every weight, as stacked bars.

    A row for all layers together and for each layer, a column for each step.

    Args:
      dataset: from `twin_shares`.
      figsize: width and height of the figure in inches.

    Raises:
      InputError, InputTypeError: `dataset` is not from `twin_shares`.
    """
    dataset = checked(dataset, "twin_shares", ["share"], "part weight layers step")
    weights, parts = dataset["weight"].values.tolist(), dataset["part"].values.tolist()
    layers, steps = dataset["layers"].values.tolist(), dataset["step"].values.tolist()
    colors = dict(
        zip(parts, matplotlib.colormaps["viridis"](np.linspace(0, 1, len(parts) - 2)), strict=False)
    )
    colors |= {"rest": "#cc3311", "chance": "0.85"}
    figure, axes = panels(
        len(layers), len(steps), size=(max(3.0, 0.3 * len(weights)), 1.8), figsize=figsize
    )
    at = np.arange(len(weights))
    for (i, layer), (j, step) in itertools.product(enumerate(layers), enumerate(steps)):
        ax, below = axes[i, j], np.zeros(len(weights))
        for part in parts:
            height = dataset["share"].sel(part=part, layers=layer, step=step).values
            height = np.clip(np.nan_to_num(height), 0, None)
            ax.bar(at, height, bottom=below, width=0.8, color=colors[part], label=literal(part, 30))
            below = below + height
        ax.set_xticks(at, [literal(weight, 20) for weight in weights], rotation=90, fontsize=8)
        name = "all layers" if layer == "all" else f"layer {layer}"
        ax.set_title(f"{name}, step {step}", fontsize=9)
        ax.set_ylim(0, 1.05)
    label_axes(axes, "", "share")
    finish(figure, axes, "What each statistic explains of the change of every weight", dataset)
    return figure


_SOURCES = {
    "other_runs": "other real runs (ceiling)",
    "predicted": "statistics twins",
    "frequencies": "fit on frequencies",
    "shuffled": "twins, rows shuffled",
}


@reading("formation_steps")
def plot_predictions(dataset: xr.Dataset, *, figsize: Size = None) -> Figure:
    """Steps at which associations form: predicted against measured in real runs.

    A row for each kind of association; a column for statistics twins, with bars from the earliest
    to the latest twin, and one for each of what else might predict: other real runs, which are the
    ceiling, a fit on frequencies, and twins whose rows are shuffled. Titles have the rank
    correlation, and how many of those that form in real runs are predicted to form.

    Args:
      dataset: from `formation_steps`, with real runs.
      figsize: width and height of the figure in inches.

    Raises:
      InputError, InputTypeError: `dataset` is not from `formation_steps`, or has no real runs.
    """
    scores = prediction_scores(dataset)
    kinds = [kind for kind in dict.fromkeys(dataset["kind"].values.tolist())]
    figure, axes = panels(len(kinds), len(_SOURCES), size=(2.6, 2.6), log=True, figsize=figsize)
    for (i, kind), (j, (source, label)) in itertools.product(
        enumerate(kinds), enumerate(_SOURCES.items())
    ):
        ax, of = axes[i, j], dataset.isel(association=dataset["kind"].values == kind)
        known = np.isfinite(of["measured"].values)
        measured, predicted = (of[name].values[known] for name in ("measured", source))
        if source == "predicted":
            ends = [of[name].values[known] for name in ("earliest", "latest")]
            low, high = (np.where(np.isfinite(end), end, predicted) for end in ends)
            spread = np.maximum(0, [predicted - low, high - predicted])
            ax.errorbar(measured, predicted, spread, fmt="none", ecolor="0.8", lw=0.7, zorder=1)
        ax.plot(measured, predicted, ".", ms=3, color="#0072b2", alpha=0.6, zorder=2)
        if measured.size:
            ends = [max(1.0, measured.min()), measured.max()]
            ax.plot(ends, ends, color="0.4", lw=0.8, ls="--", zorder=3)
        (row,) = [row for row in scores if row["kind"] == kind and row["source"] == source]
        correlation = f"{row['rank_correlation']:.2f}".replace("nan", "-")
        title = f"{label}\n{correlation}; {row['formed']} of {row['associations']}"
        ax.set_title(title, fontsize=8)
        ax.set_ylabel(f"{kind}: predicted step" if j == 0 else "", fontsize=9)
    for ax in axes[-1]:
        ax.set_xlabel("step in real runs")
    set_title(figure, "When associations form (title: rank correlation; how many form)", dataset)
    return figure
