"""Every plot, drawn from a sweep's Dataset.

Colour tells learning rates apart (from dark, small, to light, large) or weights; the shaded range
is over layers and seeds, its line the mean. Matplotlib's object interface is used throughout: no
global state, no display.
"""

import os
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from assocjax.associations import MATRICES
from assocjax.errors import InputError
from assocjax.params import WEIGHTS

LABELS = {
    "query_key": r"query-key $W_\ell$",
    "position": r"position $P_\ell$",
    "value": r"value $V_\ell$",
    "output": r"output $W_O$",
}
_COLORS = dict(zip(WEIGHTS, ("#0072b2", "#e69f00", "#009e73", "#cc3311"), strict=True))


def plot_cosines(dataset: xr.Dataset, *, gradients: bool = False) -> Figure:
    """Cosine with the theory against step: a panel for each learning rate and starting scale.

    The paper's Figure 4, over a grid.

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
                _line_and_range(axes[i, j], cosine, _COLORS[weight], LABELS[weight])
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
    what = "Gradients" if gradients else "Weights"
    _finish(
        figure,
        axes,
        f"{what} against their leading terms (line: mean, shade: range over "
        f"layers{_and_seeds(dataset)})",
        dataset,
    )
    return figure


def plot_errors(dataset: xr.Dataset, *, init_scale: float | None = None) -> Figure:
    """Relative error of the weights against step and against learning rate, on log axes.

    Upper row: error against step, a line for each learning rate. Lower row: error against learning
    rate, a line for each of up to four steps. A column for each weight.

    Args:
      dataset: from `sweep`.
      init_scale: which starting scale to show; by default the smallest.
    """
    scale = dataset["init_scale"].values.min() if init_scale is None else init_scale
    if scale not in dataset["init_scale"].values:
        raise InputError(
            f"init_scale must be one of {dataset['init_scale'].values.tolist()}; got {scale}"
        )
    dataset = _sorted(dataset).sel(init_scale=scale)
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
            _line_and_range(top, line, color, rf"$\eta$ = {rate:g}")
        for step, color in zip(steps, _shades(len(steps)), strict=True):
            line = error.sel(step=step)
            _line_and_range(bottom, line, color, f"step {step}", over="learning_rate", marker="o")
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
        ax.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    _title(
        figure,
        f"Relative error of the leading terms, start sd {scale:g} (line: mean, shade: "
        f"range over layers{_and_seeds(dataset)}; grey: 10 %)",
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
    """Writes every figure of a sweep as PNG and PDF into a folder; returns the paths."""
    figures = {
        "cosine_weights": plot_cosines(dataset),
        "cosine_gradients": plot_cosines(dataset, gradients=True),
        "relative_error": plot_errors(dataset),
        "loss": plot_loss(dataset),
    }
    return [p for name, figure in figures.items() for p in save(figure, Path(folder) / name)]


def _sorted(dataset: xr.Dataset) -> xr.Dataset:
    """Small to large, whatever order the grid was given in: lines and shades go that way."""
    return dataset.sortby(["learning_rate", "init_scale"])


def _panels(rows: int, columns: int, *, size=(2.5, 2.2), share_x: bool | Literal["row"] = True):
    figure = Figure(
        figsize=(max(size[0] * columns, 5) + 1.3, size[1] * rows + 0.9), layout="constrained"
    )
    axes = figure.subplots(rows, columns, squeeze=False, sharex=share_x, sharey=True)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
    return figure, axes


def _line_and_range(
    ax: Axes, values: xr.DataArray, color, label: str, *, over: str = "step", marker=None
) -> None:
    others = [dim for dim in values.dims if dim != over]
    x = values[over].values
    mean = values.mean(others)
    if int(mean.count()) == 1:
        marker = "o"  # a line of one point cannot be seen
    ax.plot(x, mean, color=color, lw=1.4, label=label, marker=marker, ms=3)
    low, high = values.min(others), values.max(others)
    ax.fill_between(x, low, high, color=color, alpha=0.2, lw=0)


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
