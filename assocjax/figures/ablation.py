"""The loss after edits of trained weights, compared with random controls."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from assocjax.analysis.ablation import DIRECTIONS
from assocjax.errors import reading
from assocjax.figures.style import Size, checked, finish, literal, panels

_COLORS = {"random": "0.6", "shuffled": "#0072b2", "matched": "#e69f00"}
_NAMES = {
    "random": "random",
    "shuffled": "tokens shuffled",
    "matched": "tokens shuffled\namong similar frequencies",
}
_SMALLEST = 1e-4  # nats; smaller changes are drawn on a linear axis


@reading("ablate")
def plot_ablation(dataset: xr.Dataset, *, figsize: Size = None) -> Figure:
    """Change of the loss by each edit of each unit: a panel for each edit, a row for each unit.

    The diamond is the theory. Circles are controls of the same norm, crosses controls by
    projection, one for each draw.

    Args:
      dataset: from `ablate`.
      figsize: width and height of the figure in inches.

    Raises:
      InputError, InputTypeError: `dataset` is not from `ablate`.
    """
    dataset = checked(dataset, "ablate", ["loss"], "unit edit")
    dataset = checked(dataset, "ablate", ["trained_loss"], "")
    dataset = checked(dataset, "ablate", ["control_loss"], "unit edit control draw")
    units, edits = dataset["unit"].values, dataset["edit"].values
    size = 3.4 + 1.7 / len(edits), 0.32 * len(units) + 0.9
    figure, axes = panels(1, len(edits), size=size, share_x=False, figsize=figsize)
    rows = np.arange(len(units))
    for ax, edit in zip(axes[0], edits, strict=True):
        changes = dataset.sel(edit=edit) - dataset["trained_loss"]
        for control in changes["control"].values.tolist():
            direction, kind = control.split("_")
            values = changes["control_loss"].sel(control=control).values  # [unit, draw]
            if np.isnan(values).all():
                continue
            offset = 0.12 * (DIRECTIONS.index(direction) - 1)
            ax.plot(
                values.ravel(),
                np.repeat(rows + offset, values.shape[1]),
                "o" if kind == "norm" else "x",
                color=_COLORS[direction],
                ms=3,
                mew=0.8,
                mfc="none",
                label=f"{_NAMES[direction]}, {kind}",
            )
        ax.plot(  # hollow and beneath, so that controls at the same place are seen
            changes["loss"], rows, "D", color="#cc3311", ms=8, mew=1.4, mfc="none",
            label="theory", clip_on=False, zorder=1.5,
        )  # fmt: skip
        ax.axvline(0, color="0.8", lw=0.8, zorder=0)
        ax.set_xscale("symlog", linthresh=_SMALLEST)
        ax.xaxis.set_minor_locator(NullLocator())
        ax.tick_params(axis="x", rotation=45)
        ax.set_title(literal(edit), fontsize=9)
        ax.set_xlabel("change of the loss (nats)", fontsize=9)
    axes[0, 0].set_yticks(rows, [literal(unit).replace("_", "-") for unit in units])
    axes[0, 0].set_ylim(len(units) - 0.5, -0.5)
    trained = float(dataset["trained_loss"])
    finish(figure, axes, f"Loss after edits of trained weights (trained: {trained:.4f})", dataset)
    return figure
