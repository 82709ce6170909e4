"""Heat maps of the statistics."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from assocjax.analysis.associations import MATRICES
from assocjax.arguments import MIN_COUNT, UNKNOWN, check_integer
from assocjax.errors import reading
from assocjax.figures.style import Size, checked, literal, new_figure, set_title
from assocjax.statistics.occurrences import observed

_ORDER = ("bigram", "context", "interchangeability", "value", "composed", "query_key")


@reading("statistics_dataset")
def plot_statistics(dataset: xr.Dataset, *, top: int = 40, figsize: Size = None) -> Figure:
    """Heat maps of the matrices for the most associated tokens (without `<unk>`).

    These are the tokens of the pairs with the largest corrected scores: Pearson residuals of
    bigrams, as in `frequency_corrected`, first of pairs that occur at least 10 times in the text
    and then of rarer ones. If there are not enough, the most frequent tokens follow. Colours
    saturate at the 99th percentile of the absolute entries shown.

    Args:
      dataset: from `datasets.statistics_dataset`.
      top: number of tokens to show.
      figsize: width and height of the figure in inches.

    Raises:
      InputError, InputTypeError: the dataset is not from `statistics_dataset`, or `top` is not a
        positive integer.
    """
    check_integer("top", top, minimum=1)
    dataset = checked(dataset, "statistics_dataset", _ORDER, "token other_token")
    frequencies = [f"{name}_frequency" for name in ("input", "target", "context")]
    dataset = checked(dataset, "statistics_dataset", frequencies, "token")
    dataset = checked(dataset, "statistics_dataset", ["position", "num_positions"], "")
    shown = _associated(dataset)[:top]
    tokens = [literal(token, most=24) for token in dataset["token"].values[shown]]
    figure = new_figure(figsize, (16, 10.5))
    for ax, name in zip(figure.subplots(2, 3).flat, _ORDER, strict=True):
        matrix = dataset[name].values[np.ix_(shown, shown)]
        limit = np.nanquantile(np.abs(matrix), 0.99) if np.isfinite(matrix).any() else 0
        limit = float(limit) or 1.0
        image = ax.imshow(matrix, cmap="RdBu_r", vmin=-limit, vmax=limit)
        meaning = MATRICES[name].replace("^T", r"$^\top$").replace("Phi", "Φ").replace("Sigma", "Σ")
        ax.set_title(f"{name.replace('_', '-')}\n{meaning}", fontsize=8)
        ax.set_xticks(range(len(tokens)), tokens, rotation=90, fontsize=6)
        ax.set_yticks(range(len(tokens)), tokens, fontsize=6)
        figure.colorbar(image, ax=ax, shrink=0.8, format="%.0e").ax.tick_params(labelsize=6)
    set_title(
        figure,
        f"Statistics of the {len(shown)} most associated tokens (row: token, column: its "
        "associates, as described in the title; colours saturate)",
        dataset,
    )
    return figure


def _associated(dataset: xr.Dataset) -> np.ndarray:
    """Ids of tokens without `<unk>`: those of the most associated pairs first, pair by pair."""
    known = dataset["token"].values.astype(str) != UNKNOWN
    f, g = (dataset[f"{name}_frequency"].values for name in ("input", "target"))
    pairs = observed(dataset).follows.tocoo()
    first, then = pairs.coords
    expected = int(dataset["num_positions"]) * f[first] * g[then]
    kept = known[first] & known[then] & (first != then) & (pairs.data > expected)
    first, then, count, expected = (of[kept] for of in (first, then, pairs.data, expected))
    score = (count - expected) / np.sqrt(expected)
    order = np.lexsort((-score, count < MIN_COUNT))
    associated = np.stack([first[order], then[order]], axis=1).ravel()
    frequent = np.argsort(-g, kind="stable")
    tokens, place = np.unique(
        np.concatenate([associated, frequent[known[frequent]]]), return_index=True
    )
    return tokens[np.argsort(place)]
