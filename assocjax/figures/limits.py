"""Limits of a theory: figures of validity horizons and of the theorem's bounds."""

import itertools
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from assocjax.errors import InputError, InputTypeError, reading
from assocjax.experiments.horizons import SETTINGS
from assocjax.experiments.tables import weights_and_layers
from assocjax.figures.style import (
    Size,
    and_seeds,
    checked,
    few_ticks,
    finish,
    in_order,
    label_axes,
    line_and_range,
    look_of_theories,
    look_of_weights,
    panels,
    shades,
)

_SETTING_LABELS = {
    "learning_rate": r"learning rate $\eta$",
    "vocab_size": "vocabulary size $V$",
    "seq_len": "sequence length $T$",
    "num_layers": "number of layers $L$",
}
_THEORY_COLORS = ("#332288", "#ee7733", "#117733")


@reading("validity_horizon")
def plot_horizons(horizons: xr.Dataset, *, figsize: Size = None) -> Figure:
    """Validity horizon, as training time, against learning rate.

    A panel for each weight and initialization scale, a line for each theory: the minimum over
    layers and seeds, as in `horizon_table`. The shade is the range. Horizons beyond the sweep are
    drawn at its end, as an open triangle, and theories that never held at the first step, as a
    triangle pointing down.

    Args:
      horizons: from `validity_horizon`.
      figsize: width and height of the figure in inches.

    Raises:
      InputError, InputTypeError: `horizons` is not from `validity_horizon`.
    """
    dims = "learning_rate seed init_scale theory weight layer"
    horizons = checked(horizons, "validity_horizon", ["horizon"], dims)
    horizons, exists = in_order(horizons), weights_and_layers(horizons)
    rates, scales = horizons["learning_rate"].values, horizons["init_scale"].values
    last = max(1, horizons.attrs["steps"])
    weights = look_of_weights(horizons["weight"].values)
    figure, axes = panels(len(scales), len(weights), log=True, figsize=figsize)
    for (i, scale), (j, weight) in itertools.product(enumerate(scales), enumerate(weights)):
        ax = axes[i, j]
        for k, theory in enumerate(horizons["theory"].values):
            horizon = horizons["horizon"].sel(init_scale=scale, theory=theory, weight=weight)
            horizon = horizon.sel(layer=exists.sel(weight=weight))
            _horizon_line(ax, horizon, last, k, str(theory))
        ax.plot(rates, rates * last, color="0.8", lw=0.8, zorder=0, label="end of the sweep")
        for marker, label in (("^", "not ended by then"), ("v", "never held")):
            ax.plot([], [], marker, color="0.3", mfc="none", ms=6, label=label)
        ax.set_title(f"{weights[weight].label},  start sd {scale:g}", fontsize=9)
        few_ticks(ax, rates[:: -(-len(rates) // 4)])
    label_axes(axes, r"learning rate $\eta$", r"horizon $s\,\eta$")
    finish(
        figure,
        axes,
        f"Training time up to a relative error of {horizons.attrs['threshold']:g} (line: least, "
        f"shade: range over layers{and_seeds(horizons)})",
        horizons,
    )
    return figure


@reading("horizon_study")
def plot_horizon_study(
    rows: Sequence[Mapping[str, Any]], *, corpus_name: str = "", figsize: Size = None
) -> Figure:
    """Horizons as training time s eta against each quantity that was varied, on log axes.

    A colour for each weight, a line style for each theory. There is no point for settings at which
    a theory did not end, or never held.

    Args:
      rows: from `horizon_study`.
      corpus_name: for the title.
      figsize: width and height of the figure in inches.

    Raises:
      InputError: `rows` is empty or incomplete.
      InputTypeError: `rows` is not a list of dicts.
    """
    if not isinstance(rows, Sequence) or not all(isinstance(row, Mapping) for row in rows):
        raise InputTypeError(f"rows must be a list of dicts, from horizon_study; got {rows!r}")
    if not rows:
        raise InputError("rows must be those of horizon_study; got none")
    if unnamed := [row["theory"] for row in rows if not isinstance(row["theory"], str)]:
        raise InputError(f"rows must name a theory each; got {unnamed[0]!r}")
    base = rows[0]
    varied = [name for name in SETTINGS if any(row[name] != base[name] for row in rows)]
    varied = varied or ["num_layers"]
    theories = look_of_theories(dict.fromkeys(row["theory"] for row in rows))
    weights = look_of_weights(name.removesuffix("*eta") for name in base if name.endswith("*eta"))
    figure, axes = panels(1, len(varied), log=True, share_x=False, figsize=figsize)
    for ax, name in zip(axes[0], varied, strict=True):
        others = [other for other in SETTINGS if other != name]
        line = [row for row in rows if all(row[other] == base[other] for other in others)]
        line = sorted(line, key=itemgetter(name))
        for theory, weight in itertools.product(theories, weights):
            points = [(row[name], row[f"{weight}*eta"]) for row in line if row["theory"] == theory]
            x, y = np.array(points, float).T
            y[y == 0] = np.nan  # never held: a log axis has no zero
            color, line_style = weights[weight].style, theories[theory].style
            ax.plot(x, y, color=color, ls=line_style, marker="o", ms=3, lw=1.4)
        few_ticks(ax, sorted({row[name] for row in line}))
        ax.tick_params(which="minor", labelsize=8)  # where an axis of less than a decade has them
        ax.set_xlabel(_SETTING_LABELS[name])
    axes[0, 0].set_ylabel(r"horizon $s\,\eta$")
    for label, color in weights.values():
        axes[0, 0].plot([], [], color=color, label=label)
    for label, line_style in theories.values():
        axes[0, 0].plot([], [], color="0.3", ls=line_style, lw=1.4, label=label)
    symbols = zip((r"$\eta$", "V", "T", "L"), SETTINGS, strict=True)
    setting = ", ".join(f"{symbol} = {base[name]:g}" for symbol, name in symbols)
    named = xr.Dataset(attrs={"corpus_name": corpus_name})
    # Two lines, since a figure may have a single panel.
    title = f"Horizons around {setting}\n(no point: not within the study, or never held)"
    finish(figure, axes, title, named)
    return figure


@reading("theorem_bounds")
def plot_bounds(bounds: xr.Dataset, *, figsize: Size = None) -> Figure:
    """Measured distance to the leading terms and its bound against step, on log axes.

    A row for each initialization scale, a column for each weight, a colour for each of up to three
    learning rates: the smallest, a middle one and the largest. The bound is dashed, and broad where
    all conditions of the theorem hold.

    Args:
      bounds: from `theorem_bounds`.
      figsize: width and height of the figure in inches.

    Raises:
      InputError, InputTypeError: `bounds` is not from `theorem_bounds`.
    """
    for names, dims in (
        (["distance"], "learning_rate seed init_scale weight layer step"),
        (["bound"], "learning_rate weight step"),
        (["conditions_met"], "learning_rate init_scale step"),
    ):
        bounds = checked(bounds, "theorem_bounds", names, dims)
    bounds = in_order(bounds).sel(step=bounds["step"] > 0)  # a log axis has no step 0
    rates, scales = bounds["learning_rate"].values, bounds["init_scale"].values
    shown = rates[sorted({0, len(rates) // 2, len(rates) - 1})]
    weights = look_of_weights(bounds["weight"].values)
    figure, axes = panels(len(scales), len(weights), log=True, share_y="col", figsize=figsize)
    for (i, scale), (j, weight) in itertools.product(enumerate(scales), enumerate(weights)):
        ax = axes[i, j]
        for rate, color in zip(shown, shades(len(shown)), strict=True):
            cell = bounds.sel(learning_rate=rate, init_scale=scale, weight=weight)
            distance, bound = cell["distance"], cell["bound"]
            # Distances that are still exactly zero are left out too.
            line_and_range(ax, distance.where(distance > 0), color, rf"$\eta$ = {rate:g}")
            ax.plot(cell["step"], bound, color=color, lw=1, ls="--")
            met = bound.where(cell["conditions_met"])
            # Pale rather than transparent, so that the marker of a single step does not show.
            pale = 1 - 0.35 * (1 - color[:3])
            ax.plot(cell["step"], met, color=pale, lw=6, marker="o", ms=6, mew=0, zorder=0)
        ax.plot([], [], color="0.3", lw=1, ls="--", label="bound")
        ax.plot([], [], color="0.75", lw=6, label="conditions hold")
        ax.set_title(f"{weights[weight].label},  start sd {scale:g}", fontsize=9)
    label_axes(axes, "step", "distance and its bound")
    finish(
        figure,
        axes,
        "Distance to the leading terms (line: mean, shade: range over "
        f"layers{and_seeds(bounds)}) and the theorem's bound",
        bounds,
    )
    return figure


def _horizon_line(ax: Axes, horizon: xr.DataArray, last: int, index: int, label: str) -> None:
    others = [dim for dim in horizon.dims if dim != "learning_rate"]
    rates = horizon["learning_rate"].values
    index %= len(_THEORY_COLORS)
    color = _THEORY_COLORS[index]
    shown = horizon.fillna(last).clip(min=1) * horizon["learning_rate"]
    ax.fill_between(rates, shown.min(others), shown.max(others), color=color, alpha=0.2, lw=0)
    least = horizon.min(others)
    line = least.where(least > 0) * rates
    ax.plot(rates, line, color=color, lw=1.4, marker="o", ms=3, label=label)
    size = 8 - 2.5 * index  # markers of two theories may coincide
    for marker, at, step in (("^", horizon.isnull(), last), ("v", horizon == 0, 1)):
        some = rates[at.any(others).values]
        ax.plot(some, some * step, marker, color=color, mfc="none", ms=size)
