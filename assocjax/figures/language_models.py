"""Similarity of language models with the theory, layer by layer, each score with its control.

Panels are those of the paper's Figures 6 to 8: attention with the theory's query-key matrix, and
the residual stream after attention ("embedding without MLP") and after the layer ("embedding") with
another matrix of the theory. Layer 0 in the last panel is the input of the first layer: the
embedding.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.colors import Normalize, SymLogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from assocjax.arguments import check_choice
from assocjax.errors import InputError, reading
from assocjax.figures.style import Size, checked, clock, literal, new_figure, set_title
from assocjax.figures.style import panels as make_panels

PANELS = ("attention", "embedding without MLP", "embedding")
_SCORES = ("similarity", "null_mean", "null_sd", "z")
_STREAMS, _ATTENTION = _SCORES, tuple(f"attention_{name}" for name in _SCORES)
_CHANCE = 3.0  # |z| up to which the colour scale is linear
_MOST = 24  # characters of a revision
_FEW_LAYERS = 3  # the paper's Figure 7 shows three


@reading("compare_revisions")
def plot_layers_by_step(
    dataset: xr.Dataset,
    *,
    theory: str = "value",
    residual: str = "uniform",
    null: str = "all",
    over: str = "step",
    figsize: Size = None,
) -> Figure:
    """Heat maps of layer against revision: the paper's and the token-centred score, with controls.

    Five rows: the paper's form and its mean over shuffled tokens, on a colour scale from 0 to 1;
    the token-centred form and its mean over shuffled tokens, on a scale from 0 to the largest; and
    the difference of these two in standard deviations over the shuffles.

    Args:
      dataset: from `compare_revisions`, with the centerings "feature" and "token".
      theory: matrix of the theory for the two panels of embeddings.
      residual: "uniform" (the paper's) or "unigram".
      null: tokens are shuffled among "all", or within bins of "frequency".
      over: "step" labels columns by their steps, or by their names if these have none;
        "summed_rate" by their summed learning rates, if the dataset has them.
      figsize: width and height of the figure in inches.

    Raises:
      InputError, InputTypeError: the dataset is not from `compare_revisions`, or has no such
        theory, residual or null.
    """
    dataset = _checked(dataset, _ATTENTION, "layer head revision", residual=residual, null=null)
    dataset = _checked(
        dataset, _STREAMS, "layer stream revision", residual=residual, null=null, theory=theory
    )
    panels = _panels(dataset.sel(residual=residual, null=null), theory)
    rows = _maps([*panels.values()])
    names = _ticks(dataset, "revision", over)
    height = 0.16 * max(panel.sizes["layer"] for panel in panels.values()) + 0.6
    figure = new_figure(
        figsize,
        (
            2.6 + 2.5 * len(PANELS),
            len(rows) * min(max(height, 1.4), 3.2) + 1.0 + _room_below(names),
        ),
    )
    axes = figure.subplots(len(rows), len(PANELS), squeeze=False)
    for row, (label, variable, centering, norm, colours) in enumerate(rows):
        image = None
        for ax, (title, panel) in zip(axes[row], panels.items(), strict=True):
            values = panel[variable].sel(centering=centering).transpose("layer", "revision")
            image = _heat_map(ax, values, norm, colours)
            ax.set_xticks(range(len(names)), names, rotation=90 if _are_many(names) else 0)
            if row == 0:
                ax.set_title(title, fontsize=9)
            if row < len(rows) - 1:
                ax.tick_params(labelbottom=False)
        axes[row, 0].set_ylabel(f"{label}\nlayer", fontsize=8)
        _colour_bar(figure, image, norm, ax=list(axes[row]), shrink=0.9)
    for ax in axes[-1]:
        ax.set_xlabel(_axis(dataset, over), fontsize=8)
    what = f"{literal(theory)} and query-key, residual {literal(residual)}"
    _title(figure, f"Similarity with the theory ({what}), beside shuffled tokens", dataset)
    return figure


@reading("compare_revisions")
def plot_heads(
    dataset: xr.Dataset,
    *,
    residual: str = "uniform",
    null: str = "all",
    over: str = "step",
    figsize: Size = None,
) -> Figure:
    """Heat maps of every head and its control: layer against head, or head against revision.

    For several revisions, the first, a middle and the last layer are shown, as in the paper's
    Figure 7. Columns are the rows of `plot_layers_by_step`: the paper's form and its shuffled mean,
    the token-centred form and its shuffled mean, and z of the latter.

    Args:
      dataset: from `compare_revisions`, with the centerings "feature" and "token".
      residual, null, over: as in `plot_layers_by_step`.
      figsize: width and height of the figure in inches.

    Raises:
      InputError, InputTypeError: the dataset is not from `compare_revisions`, or has no such
        residual or null.
    """
    dataset = _checked(dataset, _ATTENTION, "layer head revision", residual=residual, null=null)
    chosen = _attention(dataset.sel(residual=residual, null=null))
    heads = chosen.sel(head=[name for name in chosen["head"].values if name != "mean"])
    if heads.sizes["revision"] == 1:
        maps = {"layer": heads.isel(revision=0)}
        across, down = "head", "layer"
    else:
        L = heads.sizes["layer"]
        which = sorted({0, L // 2, L - 1}) if L > _FEW_LAYERS else range(L)
        maps = {f"layer {int(heads['layer'][i])}, head": heads.isel(layer=i) for i in which}
        across, down = "revision", "head"
    columns = _maps([heads])
    height = 0.16 * heads.sizes[down] + 0.5
    names = _ticks(dataset, across, over)
    room = _room_below(names) if across == "revision" else 0
    figure = new_figure(
        figsize,
        (2.1 * len(columns) + 1.5, len(maps) * min(max(height, 1.3), 5.0) + 1.0 + room),
    )
    axes = figure.subplots(len(maps), len(columns), squeeze=False)
    for column, (title, variable, centering, norm, colours) in enumerate(columns):
        image = None
        for ax, (label, of_map) in zip(axes[:, column], maps.items(), strict=True):
            values = of_map[variable].sel(centering=centering)
            image = _heat_map(ax, values.transpose(down, across), norm, colours)
            ax.set_xticks(range(values.sizes[across]), names)
            ax.tick_params(axis="x", rotation=90 if across == "revision" else 0)
            ax.tick_params(labelbottom=ax is axes[-1, column])
            if column == 0:
                ax.set_ylabel(label, fontsize=8)
        axes[0, column].set_title(title, fontsize=9)
        label = _axis(dataset, over) if across == "revision" else across
        axes[-1, column].set_xlabel(label, fontsize=8)
        _colour_bar(
            figure, image, norm, ax=list(axes[:, column]), location="top", shrink=0.9, aspect=15
        )
    _title(
        figure, f"Attention heads and the theory's query-key, residual {literal(residual)}", dataset
    )
    return figure


@reading("compare_revisions")
def plot_by_layer(
    dataset: xr.Dataset,
    *,
    theory: str = "value",
    residual: str = "uniform",
    null: str = "all",
    figsize: Size = None,
) -> Figure:
    """Similarity against layer of one revision, real and shuffled (mean and two sd of shuffles).

    Two rows: the paper's form, token-centred.

    Args:
      dataset: one revision of a Dataset from `compare_revisions` (`isel(revision=-1)`).
      theory, residual, null: as in `plot_layers_by_step`.
      figsize: width and height of the figure in inches.

    Raises:
      InputError, InputTypeError: the dataset is not from `compare_revisions`, or has no such
        theory, residual or null.
    """
    dataset = _checked(dataset, _ATTENTION, "layer head", residual=residual, null=null)
    dataset = _checked(
        dataset, _STREAMS, "layer stream", residual=residual, null=null, theory=theory
    )
    if dataset.sizes.get("revision") == 1:
        dataset = dataset.isel(revision=0)
    if "revision" in dataset.dims or "revision" not in dataset:
        raise InputError("dataset must be of one revision, as of isel(revision=-1)")
    panels = _panels(dataset.sel(residual=residual, null=null), theory)
    rows = {"feature": "paper's form", "token": "token-centred"}
    figure, axes = make_panels(
        len(rows), len(PANELS), size=(2.7, 2.05), share_x=False, share_y="row", figsize=figsize
    )
    for across, (centering, label) in zip(axes, rows.items(), strict=True):
        for ax, (title, panel) in zip(across, panels.items(), strict=True):
            values = panel.sel(centering=centering)
            layer, mean, sd = values["layer"], values["null_mean"], values["null_sd"]
            ax.plot(layer, values["similarity"], "o-", color="#cc3311", ms=3, lw=1.2, label="model")
            ax.plot(layer, mean, "s--", color="0.4", ms=2.5, lw=1.0, label="tokens shuffled")
            ax.fill_between(layer, mean - 2 * sd, mean + 2 * sd, color="0.4", alpha=0.3, lw=0)
            if centering == "feature":
                ax.set_title(title, fontsize=9)
            else:
                ax.set_xlabel("layer", fontsize=8)
            ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        across[0].set_ylim(bottom=0)  # for all panels of the row, after all are drawn
        across[0].set_ylabel(f"similarity, {label}", fontsize=8)
    axes[0, 0].legend(fontsize=8, frameon=False)
    what = f"{literal(theory)} and query-key, residual {literal(residual)}"
    revision = literal(dataset["revision"].item())
    of_revision = "" if revision == "main" else f" at {revision}"
    _title(figure, f"Similarity with the theory ({what}) by layer{of_revision}", dataset)
    return figure


def _checked(dataset: xr.Dataset, names: Sequence[str], dims: str, **chosen: str) -> xr.Dataset:
    source = "compare_revisions"
    for name in names:
        null = () if name.endswith("similarity") else ("null",)
        of = [dim for dim in chosen if dim != "null"]
        dataset = checked(dataset, source, [name], " ".join([dims, "centering", *of, *null]))
    for dim, label in chosen.items():
        check_choice(dim, label, [str(known) for known in dataset[dim].values])
    return dataset


def _panels(dataset: xr.Dataset, theory: str) -> dict[str, xr.Dataset]:
    """The three panels; with layer 0, the embedding, in the last."""
    attention = _attention(dataset).sel(head="mean")
    streams = dataset[list(_STREAMS)].sel(theory=theory)
    start = streams.sel(stream="before").isel(layer=[0])
    start = start.assign_coords(layer=start["layer"] - 1)
    after = streams.sel(stream="after_layer")
    whole = xr.concat([start, after], dim="layer", coords="minimal", compat="override")
    without = streams.sel(stream="after_attention")
    return dict(zip(PANELS, (attention, without, whole), strict=True))


def _attention(dataset: xr.Dataset) -> xr.Dataset:
    """Scores of attention, with the variable names of those of streams."""
    return dataset[list(_ATTENTION)].rename(dict(zip(_ATTENTION, _SCORES, strict=True)))


def _maps(panels: Sequence[xr.Dataset]) -> list[tuple[str, str, str, Normalize, str]]:
    """Title, variable, centering, scale and colours of each kind of map, shared by all panels."""
    centred = [panel.sel(centering="token") for panel in panels]
    largest = max(float(p[v].max()) for p in centred for v in ("similarity", "null_mean")) or 1.0
    limit = max(10 * _CHANCE, *(float(abs(panel["z"]).max()) for panel in centred))
    of_paper, of_tokens = Normalize(0, 1), Normalize(0, largest)
    return [
        ("paper's form", "similarity", "feature", of_paper, "viridis"),
        ("paper's form,\ntokens shuffled", "null_mean", "feature", of_paper, "viridis"),
        ("token-centred", "similarity", "token", of_tokens, "viridis"),
        ("token-centred,\ntokens shuffled", "null_mean", "token", of_tokens, "viridis"),
        ("token-centred, z", "z", "token", SymLogNorm(_CHANCE, vmin=-limit, vmax=limit), "RdBu_r"),
    ]


def _heat_map(ax, values: xr.DataArray, norm: Any, colours: str):
    image = ax.imshow(values.values, norm=norm, cmap=colours, aspect="auto", origin="lower")
    down = values.dims[0]
    labels = [literal(name, most=_MOST) for name in values[down].values]
    every = -(-len(labels) // 10)
    ax.set_yticks(np.arange(len(labels))[::every], labels[::every])
    ax.tick_params(labelsize=7)
    return image


def _colour_bar(figure: Figure, image, norm: Normalize, **where: Any) -> None:
    bar = figure.colorbar(image, **where)
    bar.ax.tick_params(labelsize=7)
    if isinstance(norm, SymLogNorm):
        sizes = [_CHANCE * 10**k for k in range(4) if _CHANCE * 10**k <= float(norm.vmax or 0)]
        ticks = [*(-size for size in reversed(sizes)), 0, *sizes]
        bar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
        bar.minorticks_off()
    else:
        bar.locator = MaxNLocator(4)


def _axis(dataset: xr.Dataset, over: str) -> str:
    """What columns of revisions are labelled by."""
    if over == "step" and "step" not in dataset.coords:
        return "revision"
    return {"step": "step", "summed_rate": "summed learning rate"}[over]


def _ticks(dataset: xr.Dataset, dim: str, over: str) -> list[str]:
    if dim == "revision" and (over != "step" or "step" in dataset.coords):
        return [f"{value:.3g}" if over != "step" else str(value) for value in clock(dataset, over)]
    return [literal(name, most=_MOST) for name in dataset[dim].values if name != "mean"]


def _are_many(names: list[str]) -> bool:
    """Whether names are too many or too long to be written horizontally."""
    return len(names) > 4 or max(map(len, names)) > 8


def _room_below(names: list[str]) -> float:
    """Height in inches of vertical labels."""
    return 0.06 * max(map(len, names)) if _are_many(names) else 0


def _title(figure: Figure, title: str, dataset: xr.Dataset) -> None:
    model = literal(dataset.attrs.get("model", ""))
    set_title(figure, f"{model}: {title}" if model else title, dataset)
