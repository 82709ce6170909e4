"""Heat maps of the statistics."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from assocjax.analysis.associations import MATRICES
from assocjax.arguments import check_integer
from assocjax.checks import check_dataset
from assocjax.errors import reading
from assocjax.figures.style import literal, set_title

_ORDER = ("bigram", "context", "interchangeability", "value", "composed", "query_key")


@reading("statistics_dataset")
def plot_statistics(dataset: xr.Dataset, *, top: int = 40) -> Figure:
    """Heat maps of the matrices for the most frequent tokens (without `<unk>`).

    Colours saturate at the 99th percentile of the absolute entries shown.

    Args:
      dataset: from `datasets.statistics_dataset`.
      top: number of tokens to show.

    Raises:
      InputError, InputTypeError: the dataset is not from `statistics_dataset`, or `top` is not a
        positive integer.
    """
    check_integer("top", top, minimum=1)
    check_dataset(dataset, "statistics_dataset", _ORDER, "token other_token")
    check_dataset(dataset, "statistics_dataset", ["target_frequency"], "token")
    known = np.flatnonzero(dataset["token"].values.astype(str) != "<unk>")
    frequency = dataset["target_frequency"].values[known]
    shown = known[np.argsort(-frequency, kind="stable")[:top]]
    tokens = [literal(token, most=24) for token in dataset["token"].values[shown]]
    figure = Figure(figsize=(16, 10.5), layout="constrained")
    for ax, name in zip(figure.subplots(2, 3).flat, _ORDER, strict=True):
        matrix = dataset[name].values[np.ix_(shown, shown)]
        limit = np.nanquantile(np.abs(matrix), 0.99) if np.isfinite(matrix).any() else 0
        limit = float(limit) or 1.0
        image = ax.imshow(matrix, cmap="RdBu_r", vmin=-limit, vmax=limit)
        ax.set_title(f"{name}\n{MATRICES[name]}", fontsize=8)
        ax.set_xticks(range(len(tokens)), tokens, rotation=90, fontsize=6)
        ax.set_yticks(range(len(tokens)), tokens, fontsize=6)
        figure.colorbar(image, ax=ax, shrink=0.8, format="%.0e").ax.tick_params(labelsize=6)
    set_title(
        figure,
        f"Statistics of the {len(shown)} most frequent tokens (row: token, column: its associates, "
        "as described in the title; colours saturate)",
        dataset,
    )
    return figure
