"""Cosines with the theories and loss against epoch, for Tables 1 and 2, and Figure 4."""

import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from assocjax.figures.style import (
    ABOVE,
    BENEATH,
    line_and_range,
    look_of_weights,
    panels,
    set_title,
)
from assocjax.models.params import WEIGHTS

_LINES = {"corpus": "-", "first batch": ":", "effective": "--"}
_NAMES = {
    "corpus": "leading terms, corpus",
    "first batch": "leading terms, first batch",
    "effective": "effective theory",
    "matched": "control: tokens shuffled\namong similar frequencies",
    "shuffled": "control: tokens shuffled",
}
_GREYS = {"matched": "0.45", "shuffled": "0.75"}


def plot_epochs(
    dataset: xr.Dataset, title: str, *, marks: dict[int, float] | None = None
) -> Figure:
    """A panel for each kind of weight, and one for the loss. Lines are means, shades ranges over
    layers and seeds.

    Args:
      dataset: from `follow`, with or without `seed`.
      title: title of the figure.
      marks: epoch -> smallest cosine of any weight that the paper reports.
    """
    figure, ((*axes,),) = panels(1, 5, size=(2.64, 2.2), share_x=False, share_y=False)
    for ax, (weight, (label, color)) in zip(axes, look_of_weights(WEIGHTS).items(), strict=False):
        cosines = dataset["cosine"].sel(weight=weight)
        for theory, grey in _GREYS.items():
            _draw(ax, cosines.sel(theory=theory), grey, _NAMES[theory], "-")
        for theory, line in _LINES.items():
            _draw(ax, cosines.sel(theory=theory), color, _NAMES[theory], line)
        for epoch, least in (marks or {}).items():
            ax.plot(epoch, least, "k^", ms=4, clip_on=False, label="paper: at least")
        ax.set_title(label, fontsize=10)
        ax.axhline(1, color="0.8", lw=0.8, zorder=0)
        ax.set_ylim(min(-0.05, float(cosines.min())), 1.05)
    axes[0].set_ylabel("cosine with theory")
    line_and_range(axes[4], dataset["loss"], "black", "loss", over="epoch")
    axes[4].set_title("loss (nats)", fontsize=10)
    for ax in axes:
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    handles, labels = axes[3].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    for label, theory in ((_NAMES[name], name) for name in _LINES):  # in black
        if label in unique:
            look = BENEATH if theory == "corpus" else ABOVE
            unique[label] = Line2D([], [], color="black", ls=_LINES[theory], **look)
    figure.legend(
        list(unique.values()), list(unique), loc="outside right center", fontsize=8, frameon=False
    )
    set_title(figure, title, dataset)
    return figure


def _draw(ax, cosine: xr.DataArray, color, label: str, line: str) -> None:
    cosine = cosine.dropna("epoch", how="all")
    if cosine.size:
        marker = "o" if line == "--" else None
        beneath = label == _NAMES["corpus"]  # the effective theory often coincides with it
        line_and_range(
            ax, cosine, color, label, over="epoch", line=line, marker=marker, beneath=beneath
        )
