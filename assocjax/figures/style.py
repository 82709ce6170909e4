"""Shared by all figures: colours, lines, panels, titles, and writing of files.

Colours distinguish learning rates (from dark, small, to light, large) or weights; line styles
distinguish theories. A line is the mean and its shade the range over layers and seeds. Tokens and
names may be any text: `literal` prepares them, and `set_title`, which every figure calls last,
chooses fonts that have their characters. Matplotlib's object interface is used throughout: no
global state, no display.
"""

import contextlib
import contextvars
import functools
import io
import itertools
import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import xarray as xr
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import NullFormatter

from assocjax.arguments import (
    CLOCKS,
    DPI,
    FIGURE_FORMATS,
    LARGEST_DPI,
    check_choice,
    check_integer,
    check_is,
    check_names,
    check_path,
    check_sequence,
)
from assocjax.checks import check_dataset, check_positive
from assocjax.errors import InputError, InputTypeError
from assocjax.storage import SIGNATURE, Folder, whole_file

LABELS = {
    "query_key": r"query-key $W_\ell$",
    "position": r"position $P_\ell$",
    "value": r"value $V_\ell$",
    "output": r"output $W_O$",
}
"""The labels of the weights of the paper's model; others are labelled by their names."""

_COLORS = dict(zip(LABELS, ("#0072b2", "#e69f00", "#009e73", "#cc3311"), strict=True))
_THEORY_LINES = {"leading": "-", "effective": "--"}
_THEORY_NAMES = {"leading": "leading terms", "effective": "effective theory"}
_OTHER_LINES = ("-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))


class Look(NamedTuple):
    """How a weight or a theory is drawn: its name in words, and its colour or line style."""

    label: str
    style: Any


def look_of_weights(names: Iterable[str]) -> dict[str, Look]:
    """The label and colour of each weight, by name."""
    names = list(names)
    shades = matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, len(names)))
    return {
        name: Look(LABELS.get(name, literal(name)), _COLORS.get(name, shade))
        for name, shade in zip(names, shades, strict=True)
    }


def look_of_theories(names: Iterable[str]) -> dict[str, Look]:
    """The label and line style of each theory, by name."""
    others = itertools.cycle(_OTHER_LINES)
    return {
        name: Look(
            _THEORY_NAMES.get(name, f"{literal(name)} theory"),
            _THEORY_LINES.get(name) or next(others),
        )
        for name in names
    }


_METADATA = {
    "png": {"Software": SIGNATURE},
    # No date in the file: the same results draw the same bytes.
    "pdf": {"Creator": SIGNATURE, "CreationDate": None},
    "svg": {"Creator": SIGNATURE, "Date": None},
}
_files: contextvars.ContextVar[tuple[tuple[str, ...], int]] = contextvars.ContextVar(
    "files", default=(FIGURE_FORMATS, DPI)
)


@contextlib.contextmanager
def figure_files(formats: Sequence[str] = FIGURE_FORMATS, dpi: int = DPI) -> Iterator[None]:
    """Within the block, all figures are written in these formats, of png, pdf and svg, and with
    `dpi` dots per inch where they have pixels.

    Raises:
      InputError, InputTypeError: another format, or a number that is not from 1 to 1200.
    """
    formats = check_names("formats", formats, tuple(_METADATA))
    token = _files.set((formats, check_integer("dpi", dpi, minimum=1, maximum=LARGEST_DPI)))
    try:
        yield
    finally:
        _files.reset(token)


def save(
    figure: Figure,
    path: str | os.PathLike,
    *,
    into: Folder | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Writes a figure as PNG and PDF, or as `figure_files` says; returns the paths.

    Args:
      figure: from a `plot_*` function.
      path: without a suffix.
      into: a claimed folder; `path` is then relative to it.
      overwrite: replace files of these names that assocjax wrote.

    Raises:
      InputError: a file of that name exists (see `overwrite`) or cannot be written.
      InputTypeError: figure or path has a wrong type.
    """
    if not isinstance(figure, Figure):
        raise InputTypeError(f"figure must be a matplotlib Figure; got {type(figure)}")
    path = check_path("path", path, "a path without a suffix")
    paths = []
    formats, dpi = _files.get()
    for kind in formats:
        name = f"{path}.{kind}"
        place = whole_file(name, overwrite=overwrite) if into is None else into.file(name)
        with place as part, warnings.catch_warnings(), matplotlib.rc_context():
            matplotlib.rcParams["svg.hashsalt"] = "assocjax"  # else names in the file are random
            # For marks combined with a character of another font; `literal` warned of others.
            warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from")
            figure.savefig(part, format=kind, dpi=dpi, metadata=_METADATA[kind])
        paths.append(Path(name) if into is None else into.path / name)
    return paths


def save_all(
    figures: Mapping[str, Figure], folder: str | os.PathLike | Folder, *, overwrite: bool
) -> list[Path]:
    """Writes figures, given by name, into a folder, which may be a claimed one."""
    if isinstance(folder, Folder):
        return [p for name, figure in figures.items() for p in save(figure, name, into=folder)]
    path = Path(check_path("folder", folder))
    paths = ((figure, path / name) for name, figure in figures.items())
    return [p for figure, path in paths for p in save(figure, path, overwrite=overwrite)]


_MOST = 80  # characters of a name; for a token, fewer fit


def literal(text: Any, most: int = _MOST) -> str:
    """Any token or name as text that Matplotlib can draw.

    Dollar signs do not start mathematics. Invisible characters (control characters, direction
    marks, white space other than the space) are escaped as in Python, characters that no installed
    font has become empty boxes, and text longer than `most` is cut.
    """
    text = str(text)[: most + 1]  # limits the time for very long tokens
    shown = "".join(
        (c if _font_of(c) else "□") if c.isprintable() else c.encode("unicode_escape").decode()
        for c in text
    )
    shown = shown if len(shown) <= most else shown[: most - 1] + "…"
    return shown.replace("$", r"\$")


@functools.cache
def _font_of(character: str) -> str | None:
    """The first font family that has a character: a default one, or any installed one."""
    for family in [*_default_fonts(), *_installed_fonts()]:
        if ord(character) in _characters(family):
            return family
    _tell_once()
    return None


def _default_fonts() -> list[str]:
    return font_manager.FontProperties().get_family()


@functools.cache
def _characters(family: str) -> frozenset[int]:
    """Code points of the font that matplotlib chooses for a family."""
    path = font_manager.findfont(font_manager.FontProperties(family=[family]))
    try:
        return frozenset(font_manager.get_font(path).get_charmap())
    except (OSError, RuntimeError):  # a damaged font
        return frozenset()


@functools.cache
def _installed_fonts() -> list[str]:
    """Families of all installed fonts, those with the most scripts first.

    Matplotlib keeps a list of fonts, in which those installed later are missing.
    """
    known = {entry.fname for entry in font_manager.fontManager.ttflist}
    for path in sorted({*font_manager.findSystemFonts()} - known):
        with contextlib.suppress(OSError, RuntimeError, NotImplementedError):
            font_manager.fontManager.addfont(path)
    # Matplotlib's "Last Resort" font has all characters, but draws only placeholders.
    names = {
        entry.name
        for entry in font_manager.fontManager.ttflist
        if entry.weight in (400, "normal", "regular")
        and entry.style == entry.variant == entry.stretch == "normal"
        and not entry.name.startswith("Last Resort")
    }
    return sorted(names, key=lambda name: ("Noto Sans" not in name, name))


@functools.cache
def _tell_once() -> None:
    logging.getLogger("assocjax").warning(
        "figures: no installed font has some of the characters, which are drawn as boxes: install "
        "one that has, such as Noto Sans CJK (Chinese, Japanese, Korean) or Noto Emoji"
    )


def _choose_fonts(figure: Figure) -> None:
    """Adds fonts to texts with characters that the default font lacks."""
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text)]
    characters = sorted({c for text in texts for c in text.get_text() if c.isprintable()})
    default = _default_fonts()
    others = [family for c in characters if (family := _font_of(c)) and family not in default]
    if others:
        families = list(dict.fromkeys([*default, *others]))
        for text in texts:
            text.set_fontfamily(families)
        for ax in figure.axes:  # for ticks that are not made yet
            ax.tick_params(which="both", labelfontfamily=families)


def in_order(dataset: xr.Dataset) -> xr.Dataset:
    """The Dataset with its grid sorted from small to large, as lines and shades need it."""
    return dataset.sortby(["learning_rate", "init_scale"])


class NotebookFigure(Figure):
    """A figure that Jupyter shows as an image, also where pyplot and its magic are not in use."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=DPI)
        return buffer.getvalue()


Size = tuple[float, float] | None
"""Width and height of a figure in inches; None chooses by its contents."""


def new_figure(figsize: Size, default: tuple[float, float]) -> Figure:
    """An empty figure on white, so that it can be read on a dark page, of `figsize` if given.

    Raises:
      InputError, InputTypeError: `figsize` is not two positive numbers.
    """
    if figsize is not None:
        sides = check_sequence("figsize", figsize, "a width and a height")
        if len(sides) != 2:
            raise InputError(f"figsize must be a width and a height in inches; got {figsize!r}")
        default = tuple(check_positive("every entry of figsize", side) for side in sides)  # type: ignore[assignment]
    return NotebookFigure(figsize=default, layout="constrained", facecolor="white")


def checked(dataset: Any, source: str, variables: Iterable[str], dims: str) -> Any:
    """As `check_dataset`; returns the Dataset, in which each of the variables has the dimensions.

    A dimension of which one value was selected, as in `dataset.sel(seed=0)`, has one value again.
    """
    variables = list(variables)
    for name in variables if isinstance(dataset, xr.Dataset) else ():
        if name not in dataset:
            continue
        for dim in set(dims.split()) - set(dataset[name].dims):
            if dim not in dataset.coords or dataset.coords[dim].size != 1:
                continue
            values = dataset.coords[dim].values.reshape(1)
            dataset = dataset.assign_coords({dim: values})
            dataset[name] = dataset[name].expand_dims({dim: values})
            if dim == "weight" and "has_layers" in dataset.coords:
                has_layers = dataset.coords["has_layers"].values.reshape(1)
                dataset = dataset.assign_coords(has_layers=("weight", has_layers))
        dataset[name] = dataset[name].transpose(*dims.split(), ..., missing_dims="ignore")
    check_dataset(dataset, source, variables, dims)
    return dataset


def clock(dataset: xr.Dataset, over: str) -> np.ndarray:
    """Values of the axis "step" or "summed_rate", one for each step or revision.

    Raises:
      InputError: `over` is neither, or the dataset has no such coordinate.
    """
    check_choice("over", over, CLOCKS)
    if over not in dataset.coords:
        how = " (llm.with_summed_rate gives it)" if over == "summed_rate" else ""
        raise InputError(f"dataset must have a coordinate {over!r}{how}; it has none")
    return np.atleast_1d(dataset[over].values)


def panels(
    rows: int,
    columns: int,
    *,
    size: tuple[float, float] = (2.5, 2.2),
    figsize: Size = None,
    ax: Axes | None = None,
    log: bool = False,
    share_x: Any = True,
    share_y: Any = True,
):
    """A figure with panels of `size` inches and space for a legend, and its axes [rows, columns].

    If `figsize` is given, it is the size of the figure instead. If `ax` is given, it is the panel,
    and there must be only one.

    `share_x` and `share_y` are `sharex` and `sharey` of matplotlib's `subplots`.
    """
    width, height = max(size[0] * columns, 5) + 1.3, size[1] * rows + 0.9
    if ax is not None:
        check_is("ax", ax, Axes)
        if rows * columns > 1:
            raise InputError(f"ax must be left out: there are {rows * columns} panels, not one")
        figure: Any = ax.get_figure(root=True)
        axes = np.array([[ax]], object)
    else:
        figure = new_figure(figsize, (width, height))
        axes = figure.subplots(rows, columns, squeeze=False, sharex=share_x, sharey=share_y)
    panel: Any
    for panel in axes.flat:
        if log:
            panel.set(xscale="log", yscale="log")
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8)
    return figure, axes


def label_axes(axes, x: str, y: str) -> None:
    """Labels of panels that share their axes: below the last row, and at the first column."""
    for ax in axes[-1]:
        ax.set_xlabel(x)
    for ax in axes[:, 0]:
        ax.set_ylabel(y)


def few_ticks(ax: Axes, ticks) -> None:
    """Sets the only ticks of a logarithmic x axis."""
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.xaxis.set_minor_formatter(NullFormatter())


BENEATH: dict[str, Any] = {"lw": 3.6, "alpha": 0.45}
ABOVE: dict[str, Any] = {"lw": 1.4}
"""The lines of two theories that may coincide: one wide and pale, the other within it."""


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
    beneath: bool = False,
) -> None:
    """A line of means, and a shade of the range over all axes but `over`. A line `beneath` others
    is wide and pale, so that a thin one that coincides with it is seen within it."""
    others = [dim for dim in values.dims if dim != over]
    x = values[over].values
    mean = values.mean(others)
    if int(mean.count()) == 1:
        marker = "o"  # a line of one point would be invisible
    look = {**BENEATH, "zorder": 1.8} if beneath else ABOVE
    ax.plot(x, mean, color=color, ls=line, label=label, marker=marker, ms=3, **look)
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


def set_title(figure: Any, title: str, dataset: xr.Dataset, *, ax: Axes | None = None) -> None:
    name = literal(dataset.attrs.get("corpus_name", ""))
    title = f"{title}\n{name}" if name else title
    if ax is None:
        figure.suptitle(title, fontsize=10, wrap=True)
    else:  # the rest of the figure is the user's
        ax.set_title(title, fontsize=10)
    _choose_fonts(figure)
