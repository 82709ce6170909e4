"""Results as tables, for pandas and seaborn."""

from typing import TYPE_CHECKING, Any

import xarray as xr

from assocjax.checks import check_dataset
from assocjax.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


def to_dataframe(dataset: xr.Dataset) -> "pd.DataFrame":
    """A Dataset as a tidy table: a column for each coordinate and variable.

    There is one row for each combination of the coordinates of all variables. A variable that does
    not depend on some coordinate, such as the loss on the theory, is repeated. A weight without
    layers is stored at the last layer of the Dataset; its rows at earlier layers are left out.
    Rows of runs that diverged are kept, with NaN.

    Args:
      dataset: from `sweep`, `validity_horizon`, `theorem_bounds`, `track` or any other function.
        If its variables have different dimensions, select those you need, for example with
        `dataset[["cosine"]]`, to get a smaller table.

    Returns:
      A `pandas.DataFrame` with rows numbered from 0, in the form that `seaborn.relplot` expects:

          sns.relplot(to_dataframe(dataset), kind="line", x="step", y="cosine", hue="weight")

    Raises:
      InputError, InputTypeError: `dataset` is not a Dataset, or has no variables.

    Cost: 8 bytes per row and column; the number of rows is the product of all dimensions.
    """
    check_dataset(dataset, "a function of assocjax", [], "")
    if not dataset.data_vars:
        raise InputError("dataset must have variables; got none")
    # One more axis, since xarray cannot make a table of scalars.
    table = dataset.expand_dims("_").to_dataframe().reset_index().drop(columns="_")
    if "has_layers" in table:
        if "layer" in table:
            table = table.loc[weights_and_layers(table)]
        table = table.drop(columns="has_layers")
    return table.reset_index(drop=True)


def weights_and_layers(of: Any) -> Any:
    """True at every layer for weights with layers, and at the last layer for those without."""
    return of["has_layers"].astype(bool) | (of["layer"] == of["layer"].max())
