"""Agreement of training with the theories, step by step: figures of a sweep's Dataset."""

import itertools
import os
from pathlib import Path

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from assocjax.arguments import check_flag
from assocjax.checks import check_number
from assocjax.errors import InputError, reading
from assocjax.experiments.sweeps import compared
from assocjax.figures.style import (
    ABOVE,
    BENEATH,
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
    save_all,
    set_title,
    shades,
)
from assocjax.storage import Folder

_GRID = "learning_rate seed init_scale step"
_OF = {"weights": "Weights", "gradients": "Gradients", "changes": "Changes of weights"}
_BY_LAYER = f"{_GRID} theory weight layer"
_DISAGREEMENT_LINES = {"truncation_error": "-", "sampling_error": ":"}


@reading("sweep")
def plot_cosines(dataset: xr.Dataset, *, gradients: bool = False, figsize: Size = None) -> Figure:
    """Cosine with every theory against step: a panel for each learning rate and init_scale.

    As the paper's Figure 4, but over a grid and for all theories of the sweep.

    Args:
      dataset: from `sweep`.
      gradients: compare gradients instead of weights.
      figsize: width and height of the figure in inches.

    Raises:
      InputError, InputTypeError: `dataset` is not from `sweep`.
    """
    gradients = check_flag("gradients", gradients)
    dataset = checked(dataset, "sweep", ["cosine"], f"{_BY_LAYER} quantity")
    dataset = in_order(dataset)
    quantity = "gradients" if gradients else compared(dataset)
    dataset = dataset.sel(quantity=quantity)
    rates, scales = dataset["learning_rate"].values, dataset["init_scale"].values
    figure, axes = panels(len(scales), len(rates), figsize=figsize)
    weights = look_of_weights(dataset["weight"].values)
    last = int(dataset["step"][-1])
    margin = 0.03 * max(1, last)
    low = 0.0
    for i, scale in enumerate(scales):
        for j, rate in enumerate(rates):
            cosine = dataset["cosine"].sel(learning_rate=rate, init_scale=scale)
            for weight, (label, color) in weights.items():
                _theory_lines(axes[i, j], cosine.sel(weight=weight), color, label)
            low = min(low, float(cosine.min().fillna(0)))
            axes[i, j].set_title(rf"$\eta$ = {rate:g},  start sd {scale:g}", fontsize=9)
            axes[i, j].axhline(1, color="0.8", lw=0.8, zorder=0)
    label_axes(axes, "step", "cosine with theory")
    for ax in axes.flat:
        ax.set_xlim(-margin, last + margin)  # also where the cosine is undefined
        ax.set_ylim(low - 0.03, 1.03)
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    _theory_key(axes[0, 0], dataset)
    finish(
        figure,
        axes,
        f"{_OF[quantity]} against their {_theory_names(dataset)} (line: mean, shade: range over "
        f"layers{and_seeds(dataset)})",
        dataset,
    )
    return figure


@reading("sweep")
def plot_errors(
    dataset: xr.Dataset, *, init_scale: float | None = None, figsize: Size = None
) -> Figure:
    """Relative error of every theory against step and against learning rate, on log axes.

    Upper row: error against step, a line for each learning rate. Lower row: error against learning
    rate, a line for each of up to four steps. A column for each weight.

    Args:
      dataset: from `sweep`.
      init_scale: the initialization scale to show; by default the smallest.
      figsize: width and height of the figure in inches.

    Raises:
      InputError, InputTypeError: the dataset is not from `sweep`, or has no such scale.
    """
    dataset = checked(dataset, "sweep", ["relative_error"], f"{_BY_LAYER} quantity")
    scale, dataset = _at_scale(dataset, init_scale)
    rates, last = dataset["learning_rate"].values, int(dataset["step"][-1])
    steps = sorted({max(1, last // 8), max(1, last // 4), max(1, last // 2), max(1, last)})
    steps = [step for step in steps if step in dataset["step"].values]
    weights = look_of_weights(dataset["weight"].values)
    figure, axes = panels(2, len(weights), log=True, share_x="row", figsize=figsize)
    for j, (weight, (label, _)) in enumerate(weights.items()):
        error = dataset["relative_error"].sel(weight=weight, quantity=compared(dataset))
        top, bottom = axes[:, j]
        for ax in (top, bottom):
            ax.axhline(0.1, color="0.8", lw=0.8, zorder=0)
        for rate, color in zip(rates, shades(len(rates)), strict=True):
            line = error.sel(learning_rate=rate).sel(step=dataset["step"] > 0)
            _theory_lines(top, line, color, rf"$\eta$ = {rate:g}")
        for step, color in zip(steps, shades(len(steps)), strict=True):
            line = error.sel(step=step)
            _theory_lines(bottom, line, color, f"step {step}", over="learning_rate", marker="o")
        top.set_title(label, fontsize=10)
        top.set_xlabel("step")
        bottom.set_xlabel(r"learning rate $\eta$")
        # Few ticks, so that their labels do not overlap.
        few_ticks(top, sorted({1, *steps[::-2]}))
        few_ticks(bottom, rates[:: -(-len(rates) // 5)])
    for ax in axes[:, 0]:
        ax.set_ylabel("relative error")
    for ax in axes[:, -1] if steps else ():
        _theory_key(ax, dataset)
        ax.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    set_title(
        figure,
        f"Relative error of the {_theory_names(dataset)}, start sd {scale:g} (line: mean, shade: "
        f"range over layers{and_seeds(dataset)}; grey: 10 %)",
        dataset,
    )
    return figure


@reading("sweep")
def plot_disagreement(
    dataset: xr.Dataset, *, init_scale: float | None = None, figsize: Size = None
) -> Figure:
    """Sampling and truncation error, the two parts of disagreement, against step on log axes.

    A row for each theory, a column for each weight, a colour for each learning rate.

    Args:
      dataset: from `sweep` with a `batch_size`.
      init_scale: the initialization scale to show; by default the smallest.
      figsize: width and height of the figure in inches.

    Raises:
      InputError, InputTypeError: the dataset is not from such a `sweep`, or has no such scale.
    """
    dataset = checked(dataset, "sweep", [], "")
    if "sampling_error" not in dataset:
        raise InputError("dataset must be from a sweep with a batch_size; this one has none")
    dataset = checked(dataset, "sweep", _DISAGREEMENT_LINES, _BY_LAYER)
    scale, dataset = _at_scale(dataset, init_scale)
    rates = dataset["learning_rate"].values
    theories = look_of_theories(dataset["theory"].values)
    weights = look_of_weights(dataset["weight"].values)
    dataset = dataset.sel(step=dataset["step"] > 0)  # a log axis has no step 0
    figure, axes = panels(len(theories), len(weights), log=True, figsize=figsize)
    for (i, theory), (j, weight) in itertools.product(enumerate(theories), enumerate(weights)):
        ax, cell = axes[i, j], dataset.sel(theory=theory, weight=weight)
        for rate, color in zip(rates, shades(len(rates)), strict=True):
            for error, line in _DISAGREEMENT_LINES.items():
                line_and_range(ax, cell[error].sel(learning_rate=rate), color, "", line=line)
        ax.set_title(f"{weights[weight].label},  {theories[theory].label}", fontsize=9)
    for rate, color in zip(rates, shades(len(rates)), strict=True):
        axes[0, 0].plot([], [], color=color, label=rf"$\eta$ = {rate:g}")
    for error, line in _DISAGREEMENT_LINES.items():
        label = error.replace("_", " ")
        axes[0, 0].plot([], [], color="0.3", ls=line, lw=1.4, label=label)
    label_axes(axes, "step", "relative to the weight")
    finish(
        figure,
        axes,
        f"Sampling and truncation error, start sd {scale:g} (line: mean, shade: range over "
        f"layers{and_seeds(dataset)})",
        dataset,
    )
    return figure


@reading("sweep")
def plot_loss(dataset: xr.Dataset, *, figsize: Size = None, ax: Axes | None = None) -> Figure:
    """Loss in nats against step, a line for each learning rate, a panel for each init_scale.

    Args:
      dataset: from `sweep`.
      figsize: width and height of the figure in inches.
      ax: axes to draw into, instead of a new figure; of one init_scale.

    Raises:
      InputError, InputTypeError: `dataset` is not from `sweep`.
    """
    dataset = checked(dataset, "sweep", ["loss"], _GRID)
    dataset = in_order(dataset)
    rates, scales = dataset["learning_rate"].values, dataset["init_scale"].values
    figure, axes = panels(1, len(scales), size=(4.2, 3.2), figsize=figsize, ax=ax)
    for panel, scale in zip(axes[0], scales, strict=True):
        for rate, color in zip(rates, shades(len(rates)), strict=True):
            loss = dataset["loss"].sel(learning_rate=rate, init_scale=scale)
            line_and_range(panel, loss, color, rf"$\eta$ = {rate:g}")
        panel.set_title(f"start sd {scale:g}", fontsize=9)
        panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    label_axes(axes, "step", "loss (nats per token)")
    loss, limit = dataset["loss"], 1.5 * float(dataset["loss"].isel(step=0).max())
    if float(loss.max()) > limit:  # otherwise a diverging run would flatten the other curves
        shown = loss.where(loss <= limit)
        low, high = float(shown.min()), float(shown.max())
        margin = 0.05 * max(high - low, 0.1)
        axes[0, 0].set_ylim(low - margin, high + margin)
    axes[0, -1].legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    set_title(figure, "Training loss", dataset, ax=ax)
    return figure


def save_sweep(
    dataset: xr.Dataset, folder: str | os.PathLike | Folder, *, overwrite: bool = False
) -> list[Path]:
    """Writes every figure of a sweep as PNG and PDF into a folder; returns the paths.

    With minibatches `disagreement` is one of them. Raises InputError if figures of other results
    exist, unless assocjax wrote them and `overwrite` is true.
    """
    figures = {"loss": plot_loss(dataset)}
    if dataset.sizes.get("theory"):
        figures |= {
            "cosine_weights": plot_cosines(dataset),
            "cosine_gradients": plot_cosines(dataset, gradients=True),
            "relative_error": plot_errors(dataset),
        }
    if "sampling_error" in dataset and dataset["sampling_error"].notnull().any():
        figures["disagreement"] = plot_disagreement(dataset)
    return save_all(figures, folder, overwrite=overwrite)


def _at_scale(dataset: xr.Dataset, init_scale: float | None) -> tuple[float, xr.Dataset]:
    scales = dataset["init_scale"].values
    scale = scales.min() if init_scale is None else check_number("init_scale", init_scale)
    if scale not in scales:
        raise InputError(f"init_scale must be one of {scales.tolist()}; got {scale}")
    return scale, in_order(dataset).sel(init_scale=scale)


def _theory_lines(ax: Axes, values: xr.DataArray, color, label: str, **options) -> None:
    """A line for each theory, all in one colour; the first has the label."""
    options["alpha"] = 0.2 / values.sizes["theory"]  # for shades that may overlap
    for theory, (_, line) in look_of_theories(values["theory"].values).items():
        of_theory = values.sel(theory=theory)
        beneath = line == "-" and values.sizes["theory"] > 1
        line_and_range(ax, of_theory, color, label, line=line, beneath=beneath, **options)
        label = "_"


def _theory_key(ax: Axes, dataset: xr.Dataset) -> None:
    """Adds the line style of each theory to the legend of a panel."""
    if dataset.sizes["theory"] > 1:
        for label, line in look_of_theories(dataset["theory"].values).values():
            look = BENEATH if line == "-" else ABOVE
            ax.plot([], [], color="0.3", ls=line, label=label, **look)


def _theory_names(dataset: xr.Dataset) -> str:
    looks = look_of_theories(dataset["theory"].values)
    return " and the ".join(label for label, _ in looks.values())
