"""What all figures share: colours, lines, panels, titles, and the files they are written to.

Colour tells learning rates apart (from dark, small, to light, large) or weights, and the kind of
line theories; the shaded range is over layers and seeds, its line the mean. Matplotlib's object
interface is used throughout: no global state, no display.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from assocjax.params import WEIGHTS
from assocjax.storage import SIGNATURE, Folder, whole_file

LABELS = {
    "query_key": r"query-key $W_\ell$",
    "position": r"position $P_\ell$",
    "value": r"value $V_\ell$",
    "output": r"output $W_O$",
}
COLORS = dict(zip(WEIGHTS, ("#0072b2", "#e69f00", "#009e73", "#cc3311"), strict=True))
THEORY_LINES = {"leading": "-", "effective": "--"}
THEORY_NAMES = {"leading": "leading terms", "effective": "effective theory"}


_METADATA = {
    "png": {"Software": SIGNATURE},
    # No date in the file: the same results draw the same bytes.
    "pdf": {"Creator": SIGNATURE, "CreationDate": None},
}


def save(
    figure: Figure,
    path: str | os.PathLike,
    *,
    into: Folder | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Writes a figure as PNG and PDF beside each other; returns both paths.

    Args:
      figure: from a `plot_*` function.
      path: without a suffix.
      into: a claimed folder, within which `path` then is.
      overwrite: replace files of these names that assocjax wrote.

    Raises:
      InputError: a file of that name is there (see `overwrite`) or cannot be written.
    """
    paths = []
    for kind, metadata in _METADATA.items():
        name = f"{os.fspath(path)}.{kind}"
        place = whole_file(name, overwrite=overwrite) if into is None else into.file(name)
        with place as part:
            figure.savefig(part, format=kind, dpi=150, metadata=metadata)
        paths.append(Path(name) if into is None else into.path / name)
    return paths


def save_all(
    figures: Mapping[str, Figure], folder: str | os.PathLike | Folder, *, overwrite: bool
) -> list[Path]:
    """Writes figures by their names into a folder, which may be a claimed one."""
    if isinstance(folder, Folder):
        return [p for name, figure in figures.items() for p in save(figure, name, into=folder)]
    paths = ((figure, Path(folder) / name) for name, figure in figures.items())
    return [p for figure, path in paths for p in save(figure, path, overwrite=overwrite)]


def in_order(dataset: xr.Dataset) -> xr.Dataset:
    """Small to large, whatever order the grid was given in: lines and shades go that way."""
    return dataset.sortby(["learning_rate", "init_scale"])


def log_panels(rows: int, columns: int, *, share_x=True, share_y: bool | Literal["col"]):
    figure = Figure(figsize=(2.5 * columns + 1.3, 2.2 * rows + 0.9), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=share_x, sharey=share_y)
    for ax in axes.flat:
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
    return figure, axes


def line_and_range(
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


def shades(count: int):
    return matplotlib.colormaps["viridis"](np.linspace(0, 0.88, count))


def and_seeds(dataset: xr.Dataset) -> str:
    return " and seeds" if dataset.sizes["seed"] > 1 else ""


def finish(figure: Figure, axes, title: str, dataset: xr.Dataset) -> None:
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8, frameon=False)
    set_title(figure, title, dataset)


def set_title(figure: Figure, title: str, dataset: xr.Dataset) -> None:
    name = dataset.attrs.get("corpus_name", "")
    figure.suptitle(f"{title}\n{name}" if name else title, fontsize=10, wrap=True)
