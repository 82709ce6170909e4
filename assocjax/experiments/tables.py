"""Results as tables, for pandas and seaborn."""

from typing import TYPE_CHECKING, Any

import xarray as xr

from assocjax.checks import check_dataset
from assocjax.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


def to_dataframe(dataset: xr.Dataset) -> "pd.DataFrame":
    """A Dataset as a tidy table: a column for each coordinate and variable.

    There is a row for each combination of the coordinates of all variables, in which a variable
    that does not depend on one of them, as the loss does not on the theory, is repeated. Rows of
    `output` at layers before the last one of the Dataset are left out: it has no layers, and stands
    at the last one. Rows of runs that diverged stay, with NaN.

    Args:
      dataset: from `sweep`, `validity_horizon`, `theorem_bounds`, `track` or any other function.
        Where its variables are over different dimensions, choose those that are wanted, as by
        `dataset[["cosine"]]`: the table is then smaller.

    Returns:
      A `pandas.DataFrame` with rows numbered from 0, as `seaborn.relplot` takes it:

          sns.relplot(to_dataframe(dataset), kind="line", x="step", y="cosine", hue="weight")

    Raises:
      InputError, InputTypeError: it is no Dataset, or has no variables.

    Cost: 8 bytes a row and column; the product of all dimensions is the number of rows.
    """
    check_dataset(dataset, "a function of assocjax", [], "")
    if not dataset.data_vars:
        raise InputError("dataset must have variables; got none")
    # One more axis, since xarray makes no table of numbers without any.
    table = dataset.expand_dims("_").to_dataframe().reset_index().drop(columns="_")
    if {"weight", "layer"} <= set(table):
        table = table.loc[weights_and_layers(table)]
    return table.reset_index(drop=True)


def weights_and_layers(of: Any) -> Any:
    """Where there is something: every weight at every layer, but `output` at the last one only."""
    return (of["weight"] != "output") | (of["layer"] == of["layer"].max())
