"""Every plot, drawn from a sweep's Dataset or a study's table.

Colour tells learning rates apart (from dark, small, to light, large) or weights, and the kind of
line theories; the shaded range is over layers and seeds, its line the mean. Matplotlib's object
interface is used throughout: no global state, no display.
"""

import itertools
import os
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from assocjax.associations import MATRICES
from assocjax.errors import InputError
from assocjax.horizons import SETTINGS
from assocjax.params import WEIGHTS

LABELS = {
    "query_key": r"query-key $W_\ell$",
    "position": r"position $P_\ell$",
    "value": r"value $V_\ell$",
    "output": r"output $W_O$",
}
_COLORS = dict(zip(WEIGHTS, ("#0072b2", "#e69f00", "#009e73", "#cc3311"), strict=True))
_THEORY_LINES = {"leading": "-", "effective": "--"}
_THEORY_NAMES = {"leading": "leading terms", "effective": "effective theory"}
_DISAGREEMENT_LINES = {"truncation": "-", "sampling": ":"}
_THEORY_COLORS = ("#332288", "#ee7733", "#117733")


def plot_cosines(dataset: xr.Dataset, *, gradients: bool = False) -> Figure:
    """Cosine with every theory against step: a panel for each learning rate and starting scale.

    The paper's Figure 4, over a grid and with more than its leading terms.

    Args:
      dataset: from `sweep`.
      gradients: compare gradients instead of weights.
    """
    dataset = _sorted(dataset)
    rates, scales = dataset["learning_rate"].values, dataset["init_scale"].values
    suffix = "_gradient" if gradients else ""
    figure, axes = _panels(len(scales), len(rates))
    last = int(dataset["step"][-1])
    margin = 0.03 * max(1, last)
    low = 0.0
    for i, scale in enumerate(scales):
        for j, rate in enumerate(rates):
            cell = dataset.sel(learning_rate=rate, init_scale=scale)
            for weight in WEIGHTS:
                cosine = cell[f"{weight}{suffix}_cosine"]
                _theory_lines(axes[i, j], cosine, _COLORS[weight], LABELS[weight])
                low = min(low, float(cosine.min().fillna(0)))
            axes[i, j].set_title(rf"$\eta$ = {rate:g},  start sd {scale:g}", fontsize=9)
            axes[i, j].axhline(1, color="0.8", lw=0.8, zorder=0)
    for ax in axes[:, 0]:
        ax.set_ylabel("cosine with theory")
    for ax in axes[-1, :]:
        ax.set_xlabel("step")
    for ax in axes.flat:
        ax.set_xlim(-margin, last + margin)  # also where the cosine is undefined
        ax.set_ylim(low - 0.03, 1.03)
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    _theory_key(axes[0, 0], dataset)
    what = "Gradients" if gradients else "Weights"
    _finish(
        figure,
        axes,
        f"{what} against their {_theory_names(dataset)} (line: mean, shade: range over "
        f"layers{_and_seeds(dataset)})",
        dataset,
    )
    return figure


def plot_errors(dataset: xr.Dataset, *, init_scale: float | None = None) -> Figure:
    """Relative error of every theory against step and against learning rate, on log axes.

    Upper row: error against step, a line for each learning rate. Lower row: error against learning
    rate, a line for each of up to four steps. A column for each weight.

    Args:
      dataset: from `sweep`.
      init_scale: which starting scale to show; by default the smallest.
    """
    scale, dataset = _at_scale(dataset, init_scale)
    rates, last = dataset["learning_rate"].values, int(dataset["step"][-1])
    steps = sorted({max(1, last // 8), max(1, last // 4), max(1, last // 2), max(1, last)})
    steps = [step for step in steps if step <= last]
    figure, axes = _panels(2, len(WEIGHTS), share_x="row")
    for j, weight in enumerate(WEIGHTS):
        error = dataset[f"{weight}_relative_error"]
        top, bottom = axes[:, j]
        for ax in (top, bottom):
            ax.set_xscale("log")
            ax.set_yscale("log")
            ax.axhline(0.1, color="0.8", lw=0.8, zorder=0)
        for rate, color in zip(rates, _shades(len(rates)), strict=True):
            line = error.sel(learning_rate=rate).isel(step=slice(1, None))
            _theory_lines(top, line, color, rf"$\eta$ = {rate:g}")
        for step, color in zip(steps, _shades(len(steps)), strict=True):
            line = error.sel(step=step)
            _theory_lines(bottom, line, color, f"step {step}", over="learning_rate", marker="o")
        top.set_title(LABELS[weight], fontsize=10)
        top.set_xlabel("step")
        bottom.set_xlabel(r"learning rate $\eta$")
        # Few, so that their labels do not meet.
        for ax, ticks in (
            (top, sorted({1, *steps[::-2]})),
            (bottom, rates[:: -(-len(rates) // 5)]),
        ):
            ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            ax.xaxis.set_minor_formatter(NullFormatter())
    for ax in axes[:, 0]:
        ax.set_ylabel("relative error")
    for ax in axes[:, -1] if steps else ():
        _theory_key(ax, dataset)
        ax.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    _title(
        figure,
        f"Relative error of the {_theory_names(dataset)}, start sd {scale:g} (line: mean, shade: "
        f"range over layers{_and_seeds(dataset)}; grey: 10 %)",
        dataset,
    )
    return figure


def plot_disagreement(dataset: xr.Dataset, *, init_scale: float | None = None) -> Figure:
    """Sampling and truncation error against step, on log axes: what parts training from a theory.

    A row for each theory, a column for each weight, a colour for each learning rate.

    Args:
      dataset: from `sweep` with a `batch_size`.
      init_scale: which starting scale to show; by default the smallest.
    """
    if "output_sampling_error" not in dataset:
        raise InputError("dataset must be from a sweep with a batch_size; this one has none")
    scale, dataset = _at_scale(dataset, init_scale)
    rates, theories = dataset["learning_rate"].values, dataset["theory"].values
    dataset = dataset.isel(step=slice(1, None))  # step 0 has no place on a log axis
    figure, axes = _log_panels(len(theories), len(WEIGHTS), share_y=True)
    for (i, theory), (j, weight) in itertools.product(enumerate(theories), enumerate(WEIGHTS)):
        ax, cell = axes[i, j], dataset.sel(theory=theory)
        for rate, color in zip(rates, _shades(len(rates)), strict=True):
            for error, line in _DISAGREEMENT_LINES.items():
                values = cell[f"{weight}_{error}_error"].sel(learning_rate=rate)
                _line_and_range(ax, values, color, "", line=line)
        ax.set_title(f"{LABELS[weight]},  {_THEORY_NAMES[theory]}", fontsize=9)
    for rate, color in zip(rates, _shades(len(rates)), strict=True):
        axes[0, 0].plot([], [], color=color, label=rf"$\eta$ = {rate:g}")
    for error, line in _DISAGREEMENT_LINES.items():
        axes[0, 0].plot([], [], color="0.3", ls=line, lw=1.4, label=f"{error} error")
    for ax in axes[:, 0]:
        ax.set_ylabel("relative to the weight")
    for ax in axes[-1, :]:
        ax.set_xlabel("step")
    _finish(
        figure,
        axes,
        f"Sampling and truncation error, start sd {scale:g} (line: mean, shade: range over "
        f"layers{_and_seeds(dataset)})",
        dataset,
    )
    return figure


def plot_loss(dataset: xr.Dataset) -> Figure:
    """Loss in nats against step, a line for each learning rate, a panel for each starting scale."""
    dataset = _sorted(dataset)
    rates, scales = dataset["learning_rate"].values, dataset["init_scale"].values
    figure, axes = _panels(1, len(scales), size=(4.2, 3.2))
    for ax, scale in zip(axes[0], scales, strict=True):
        for rate, color in zip(rates, _shades(len(rates)), strict=True):
            loss = dataset["loss"].sel(learning_rate=rate, init_scale=scale)
            _line_and_range(ax, loss, color, rf"$\eta$ = {rate:g}")
        ax.set_title(f"start sd {scale:g}", fontsize=9)
        ax.set_xlabel("step")
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes[0, 0].set_ylabel("loss (nats per token)")
    loss, limit = dataset["loss"], 1.5 * float(dataset["loss"].isel(step=0).max())
    if float(loss.max()) > limit:  # a diverging run must not flatten the others
        shown = loss.where(loss <= limit)
        low, high = float(shown.min()), float(shown.max())
        margin = 0.05 * max(high - low, 0.1)
        axes[0, 0].set_ylim(low - margin, high + margin)
    axes[0, -1].legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    _title(figure, "Training loss", dataset)
    return figure


def plot_statistics(dataset: xr.Dataset, *, top: int = 40) -> Figure:
    """Heat maps of the matrices, among the most frequent tokens (not counting `<unk>`).

    Colours saturate at the 99th percentile of the absolute entries shown.

    Args:
      dataset: from `results.statistics_dataset`.
      top: how many tokens to show.
    """
    names = [n for n, v in dataset.data_vars.items() if v.dims == ("token", "other_token")]
    known = np.flatnonzero(dataset["token"].values != "<unk>")
    frequency = dataset["target_frequency"].values[known]
    shown = known[np.argsort(-frequency, kind="stable")[:top]]
    tokens = [str(token).replace("$", r"\$") for token in dataset["token"].values[shown]]
    figure = Figure(figsize=(16, 10.5), layout="constrained")
    for ax, name in zip(figure.subplots(2, 3).flat, names, strict=True):
        matrix = dataset[name].values[np.ix_(shown, shown)]
        limit = np.quantile(np.abs(matrix), 0.99) or 1.0
        image = ax.imshow(matrix, cmap="RdBu_r", vmin=-limit, vmax=limit)
        ax.set_title(f"{name}\n{MATRICES[str(name)]}", fontsize=8)
        ax.set_xticks(range(len(tokens)), tokens, rotation=90, fontsize=6)
        ax.set_yticks(range(len(tokens)), tokens, fontsize=6)
        figure.colorbar(image, ax=ax, shrink=0.8, format="%.0e").ax.tick_params(labelsize=6)
    _title(
        figure,
        f"Statistics among the {len(shown)} most frequent tokens (row: token, column: what the "
        "title says of it; colours saturate)",
        dataset,
    )
    return figure


def plot_horizons(horizons: xr.Dataset) -> Figure:
    """Validity horizon, in training time, against learning rate: a panel for each weight and start.

    A line for each theory: the least over layers and seeds, as in `horizon_table`. The shade is the
    range, up to the end of the sweep where some do not end within it; those stand as an open
    triangle there, and those that never held as one at the first step, pointing down.

    Args:
      horizons: from `validity_horizon`.
    """
    horizons = _sorted(horizons)
    rates, scales = horizons["learning_rate"].values, horizons["init_scale"].values
    last = max(1, horizons.attrs["steps"])
    figure, axes = _log_panels(len(scales), len(WEIGHTS), share_y=True)
    for (i, scale), (j, weight) in itertools.product(enumerate(scales), enumerate(WEIGHTS)):
        ax = axes[i, j]
        for k, theory in enumerate(horizons["theory"].values):
            horizon = horizons[weight].sel(init_scale=scale, theory=theory)
            _horizon_line(ax, horizon, last, k, str(theory))
        ax.plot(rates, rates * last, color="0.8", lw=0.8, zorder=0, label="end of the sweep")
        for marker, label in (("^", "not ended by then"), ("v", "never held")):
            ax.plot([], [], marker, color="0.3", mfc="none", ms=6, label=label)
        ax.set_title(f"{LABELS[weight]},  start sd {scale:g}", fontsize=9)
        ticks = rates[:: -(-len(rates) // 4)]
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.xaxis.set_minor_formatter(NullFormatter())
    for ax in axes[:, 0]:
        ax.set_ylabel(r"horizon $s\,\eta$")
    for ax in axes[-1, :]:
        ax.set_xlabel(r"learning rate $\eta$")
    _finish(
        figure,
        axes,
        f"Training time up to a relative error of {horizons.attrs['threshold']:g} (line: least, "
        f"shade: range over layers{_and_seeds(horizons)})",
        horizons,
    )
    return figure


def plot_bounds(bounds: xr.Dataset) -> Figure:
    """Measured distance to the leading terms and its bound against step, on log axes.

    A row for each starting scale, a column for each weight, a colour for each of up to three
    learning rates: the smallest, a middle one and the largest. The bound is dashed, and broad where
    all conditions of the theorem hold.

    Args:
      bounds: from `theorem_bounds`.
    """
    bounds = _sorted(bounds).isel(step=slice(1, None))  # step 0 has no place on a log axis
    rates, scales = bounds["learning_rate"].values, bounds["init_scale"].values
    shown = rates[sorted({0, len(rates) // 2, len(rates) - 1})]
    figure, axes = _log_panels(len(scales), len(WEIGHTS), share_y="col")
    for (i, scale), (j, weight) in itertools.product(enumerate(scales), enumerate(WEIGHTS)):
        ax = axes[i, j]
        for rate, color in zip(shown, _shades(len(shown)), strict=True):
            cell = bounds.sel(learning_rate=rate, init_scale=scale)
            distance, bound = cell[f"{weight}_distance"], cell[f"{weight}_bound"]
            # Nor has a distance that is still exactly zero.
            _line_and_range(ax, distance.where(distance > 0), color, rf"$\eta$ = {rate:g}")
            ax.plot(cell["step"], bound, color=color, lw=1, ls="--")
            met = bound.where(cell["conditions_met"])
            # Pale rather than transparent, where the marker of a lone step would show through.
            pale = 1 - 0.35 * (1 - color[:3])
            ax.plot(cell["step"], met, color=pale, lw=6, marker="o", ms=6, mew=0, zorder=0)
        ax.plot([], [], color="0.3", lw=1, ls="--", label="bound")
        ax.plot([], [], color="0.75", lw=6, label="conditions hold")
        ax.set_title(f"{LABELS[weight]},  start sd {scale:g}", fontsize=9)
    for ax in axes[:, 0]:
        ax.set_ylabel("distance and its bound")
    for ax in axes[-1, :]:
        ax.set_xlabel("step")
    _finish(
        figure,
        axes,
        "Distance to the leading terms (line: mean, shade: range over "
        f"layers{_and_seeds(bounds)}) and the theorem's bound",
        bounds,
    )
    return figure


def plot_horizon_study(rows: Sequence[Mapping[str, Any]], *, corpus_name: str = "") -> Figure:
    """Horizons as training time s eta against each quantity that was varied, on log axes.

    A colour for each weight, a line style for each theory. Settings at which a theory did not end,
    or never held, have no point.

    Args:
      rows: from `horizon_study`.
      corpus_name: for the title.
    """
    base = rows[0]
    varied = [name for name in SETTINGS if any(row[name] != base[name] for row in rows)]
    varied = varied or ["num_layers"]
    theories = list(dict.fromkeys(row["theory"] for row in rows))
    figure, axes = _log_panels(1, len(varied), share_x=False, share_y=True)
    for ax, name in zip(axes[0], varied, strict=True):
        others = [other for other in SETTINGS if other != name]
        line = [row for row in rows if all(row[other] == base[other] for other in others)]
        line = sorted(line, key=itemgetter(name))
        for theory, weight in itertools.product(theories, WEIGHTS):
            points = [(row[name], row[f"{weight}*eta"]) for row in line if row["theory"] == theory]
            x, y = np.array(points, float).T
            y[y == 0] = np.nan  # never held: zero has no place on a log axis
            ax.plot(x, y, color=_COLORS[weight], ls=_THEORY_LINES[theory], marker="o", ms=3, lw=1.4)
        ticks = sorted({row[name] for row in line})
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.tick_params(which="minor", labelsize=8)  # where an axis of less than a decade has them
        ax.set_xlabel(name.replace("_", " "))
    axes[0, 0].set_ylabel(r"horizon $s\,\eta$")
    for weight in WEIGHTS:
        axes[0, 0].plot([], [], color=_COLORS[weight], label=LABELS[weight])
    for theory in theories:
        label = _THEORY_NAMES[theory]
        axes[0, 0].plot([], [], color="0.3", ls=_THEORY_LINES[theory], lw=1.4, label=label)
    symbols = zip((r"$\eta$", "V", "T", "L"), SETTINGS, strict=True)
    setting = ", ".join(f"{symbol} = {base[name]:g}" for symbol, name in symbols)
    named = xr.Dataset(attrs={"corpus_name": corpus_name})
    # Two lines, as a figure may have a single panel.
    title = f"Horizons around {setting}\n(no point: not within the study, or never held)"
    _finish(figure, axes, title, named)
    return figure


def save(figure: Figure, path: str | os.PathLike) -> list[Path]:
    """Writes a figure as PNG and PDF beside each other; returns both paths.

    Args:
      figure: from a `plot_*` function.
      path: without a suffix.
    """
    paths = [Path(f"{os.fspath(path)}.{kind}") for kind in ("png", "pdf")]
    for path in paths:
        # No date in the file: the same results draw the same bytes.
        metadata = {"CreationDate": None} if path.suffix == ".pdf" else None
        figure.savefig(path, dpi=150, metadata=metadata)
    return paths


def save_sweep(dataset: xr.Dataset, folder: str | os.PathLike) -> list[Path]:
    """Writes every figure of a sweep as PNG and PDF into a folder; returns the paths.

    With minibatches `disagreement` is among them.
    """
    figures = {
        "cosine_weights": plot_cosines(dataset),
        "cosine_gradients": plot_cosines(dataset, gradients=True),
        "relative_error": plot_errors(dataset),
        "loss": plot_loss(dataset),
    }
    if "output_sampling_error" in dataset:
        figures["disagreement"] = plot_disagreement(dataset)
    return [p for name, figure in figures.items() for p in save(figure, Path(folder) / name)]


def _sorted(dataset: xr.Dataset) -> xr.Dataset:
    """Small to large, whatever order the grid was given in: lines and shades go that way."""
    return dataset.sortby(["learning_rate", "init_scale"])


def _at_scale(dataset: xr.Dataset, init_scale: float | None) -> tuple[float, xr.Dataset]:
    scales = dataset["init_scale"].values
    scale = scales.min() if init_scale is None else init_scale
    if scale not in scales:
        raise InputError(f"init_scale must be one of {scales.tolist()}; got {scale}")
    return scale, _sorted(dataset).sel(init_scale=scale)


def _panels(rows: int, columns: int, *, size=(2.5, 2.2), share_x: bool | Literal["row"] = True):
    figure = Figure(
        figsize=(max(size[0] * columns, 5) + 1.3, size[1] * rows + 0.9), layout="constrained"
    )
    axes = figure.subplots(rows, columns, squeeze=False, sharex=share_x, sharey=True)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
    return figure, axes


def _log_panels(rows: int, columns: int, *, share_x=True, share_y: bool | Literal["col"]):
    figure = Figure(figsize=(2.5 * columns + 1.3, 2.2 * rows + 0.9), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=share_x, sharey=share_y)
    for ax in axes.flat:
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
    return figure, axes


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
    size = 8 - 2.5 * index  # markers of two theories may fall on one point
    for marker, at, step in (("^", horizon.isnull(), last), ("v", horizon == 0, 1)):
        some = rates[at.any(others).values]
        ax.plot(some, some * step, marker, color=color, mfc="none", ms=size)


def _line_and_range(
    ax: Axes,
    values: xr.DataArray,
    color,
    label: str,
    *,
    over: str = "step",
    marker=None,
    line: str = "-",
    alpha: float = 0.2,
) -> None:
    others = [dim for dim in values.dims if dim != over]
    x = values[over].values
    mean = values.mean(others)
    if int(mean.count()) == 1:
        marker = "o"  # a line of one point cannot be seen
    ax.plot(x, mean, color=color, lw=1.4, ls=line, label=label, marker=marker, ms=3)
    low, high = values.min(others), values.max(others)
    ax.fill_between(x, low, high, color=color, alpha=alpha, lw=0)


def _theory_lines(ax: Axes, values: xr.DataArray, color, label: str, **options) -> None:
    """A line for each theory, all of one colour: the first has the label."""
    options["alpha"] = 0.2 / values.sizes["theory"]  # of shades that may lie on one another
    for theory in values["theory"].values:
        line = _THEORY_LINES[theory]
        _line_and_range(ax, values.sel(theory=theory), color, label, line=line, **options)
        label = "_"


def _theory_key(ax: Axes, dataset: xr.Dataset) -> None:
    """Adds to the legend of a panel what kind of line each theory has."""
    if dataset.sizes["theory"] > 1:
        for theory in dataset["theory"].values:
            line, name = _THEORY_LINES[theory], _THEORY_NAMES[theory]
            ax.plot([], [], color="0.3", lw=1.4, ls=line, label=name)


def _theory_names(dataset: xr.Dataset) -> str:
    return " and the ".join(_THEORY_NAMES[theory] for theory in dataset["theory"].values)


def _shades(count: int):
    return matplotlib.colormaps["viridis"](np.linspace(0, 0.88, count))


def _and_seeds(dataset: xr.Dataset) -> str:
    return " and seeds" if dataset.sizes["seed"] > 1 else ""


def _finish(figure: Figure, axes, title: str, dataset: xr.Dataset) -> None:
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8, frameon=False)
    _title(figure, title, dataset)


def _title(figure: Figure, title: str, dataset: xr.Dataset) -> None:
    name = dataset.attrs.get("corpus_name", "")
    figure.suptitle(f"{title}\n{name}" if name else title, fontsize=10)
