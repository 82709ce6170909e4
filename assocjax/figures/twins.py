"""Statistics twins beside real runs: a figure of the Dataset of `compare_twins`."""

import itertools

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from assocjax.checks import check_dataset
from assocjax.errors import reading
from assocjax.experiments.twins import OTHER, RUN
from assocjax.figures.style import label_axes, literal, panels, set_title

_MEASURES = {"cosine": "cosine", "partial_cosine": "partial cosine"}
_CONTROLS = ("twin-0", "shuffled")


@reading("compare_twins")
def plot_twins(dataset: xr.Dataset) -> Figure:
    """Cosine of weight changes with the mean change of real runs: the ceiling, twins and controls.

    Upper row: cosine. Lower row: partial cosine, without the change of the twin of order 0. A
    column for each step. A bar is a held-out real run, which is the ceiling; a point is a twin
    (crosses: controls). Values are means over the held-out runs, of all layers together.

    Args:
      dataset: from `compare_twins`.

    Raises:
      InputError, InputTypeError: `dataset` is not from `compare_twins`.
    """
    check_dataset(dataset, "compare_twins", _MEASURES, "twin held_out weight layers step")
    weights, steps = dataset["weight"].values.tolist(), dataset["step"].values.tolist()
    twins = [name for name in dataset["twin"].values.tolist() if name not in (RUN, OTHER)]
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.88, len(twins)))
    figure, axes = panels(2, len(steps), size=(max(3.0, 0.3 * len(weights)), 3.0))
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
