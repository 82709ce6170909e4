"""The layout of a sweep's Dataset: the numbers, tables of them, and files of the one before."""

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from conftest import random_mask, random_tokens, token_data

import assocjax as aj
from assocjax.models.params import WEIGHTS
from assocjax.storage import results

N, T, V, L = 8, 5, 6, 2
COMMON = {
    "learning_rates": [0.3],
    "steps": 3,
    "num_layers": L,
    "theories": ("leading", "effective"),
}
CASES = {
    "full batch": {},
    "minibatches": {"seeds": [3], "init_scales": [0.05], "batch_size": 3},
}


@pytest.fixture
def data():
    return token_data(random_tokens(0, N, T, V), V, random_mask(1, N, T))


@pytest.mark.parametrize("case", CASES)
def test_numbers_are_those_of_a_variable_for_each_weight(x64, promote, data, case):
    """`golden/sweeps.json` has the variables of these sweeps as lists, by the names that they had
    at commit ec32b93, such as `value_gradient_cosine`; layers were the last axis."""
    saved = json.loads((Path(__file__).parent / "golden" / "sweeps.json").read_text("utf-8"))
    dataset = aj.sweep(data, **COMMON, **CASES[case])
    seen = 0
    for name, old in saved["sweeps"][case].items():
        new = dataset[name] if name in dataset else by_old_name(dataset, name)
        np.testing.assert_allclose(new, np.array(old, float), rtol=1e-6, atol=1e-12)
        seen += new.size
    # All but what `output` lacks: layers before the last one.
    variables = dataset.data_vars.values()
    padding = [of.sel(weight="output", layer=1).size for of in variables if "layer" in of.dims]
    assert seen == sum(of.size for of in variables) - sum(padding)


def by_old_name(dataset: xr.Dataset, name: str) -> xr.DataArray:
    weight = next(weight for weight in WEIGHTS if name.startswith(f"{weight}_"))
    measure = name.removeprefix(f"{weight}_")
    quantity = "gradients" if measure.startswith("gradient_") else "weights"
    values = dataset[measure.removeprefix("gradient_")].sel(weight=weight)
    values = values.sel(quantity=quantity) if "quantity" in values.dims else values
    values = values.transpose(..., "step", "layer")
    if weight != "output":
        return values
    assert values.isel(layer=slice(-1)).isnull().all()
    return values.isel(layer=-1)


def test_a_dataset_becomes_a_tidy_table():
    """Of made-up numbers: every row is that of its coordinates."""
    shape = {"learning_rate": [0.1, 1.0], "weight": list(WEIGHTS), "layer": [1, 2], "step": [0, 1]}
    values = np.arange(32.0).reshape(2, 4, 2, 2)
    values[:, -1, 0] = np.nan  # output, at the layer that is not its own
    values[1, ..., 1] = np.nan  # a run that diverged
    dataset = xr.Dataset(
        {
            "cosine": (tuple(shape), values),
            "loss": (("learning_rate", "step"), [[3.0, 2.0], [3.0, np.nan]]),
        },
        shape | {"has_layers": ("weight", [True, True, True, False])},
    )
    table = aj.to_dataframe(dataset)
    assert set(table) == {*shape, "cosine", "loss"}
    assert len(table) == 2 * (3 * 2 + 1) * 2
    assert table.index.tolist() == list(range(len(table)))
    for row in table.to_dict("records"):
        at = {name: row[name] for name in shape}
        np.testing.assert_array_equal(row["cosine"], dataset["cosine"].sel(at))
        np.testing.assert_array_equal(
            row["loss"], dataset["loss"].sel(learning_rate=row["learning_rate"], step=row["step"])
        )
    diverged = table[(table["learning_rate"] == 1.0) & (table["step"] == 1)]
    assert len(diverged) == 7
    assert np.isnan(diverged["cosine"]).all()
    of_output = aj.to_dataframe(dataset.sel(weight="output"))
    assert of_output["layer"].tolist() == [2] * 4
    alone = aj.to_dataframe(dataset[["cosine"]].isel(learning_rate=0, weight=0, layer=0, step=1))
    assert alone.to_dict("records") == [
        {"learning_rate": 0.1, "weight": "query_key", "layer": 1, "step": 1, "cosine": 1.0}
    ]


def test_a_table_needs_a_dataset_with_variables():
    with pytest.raises(aj.InputTypeError, match="dataset must be a Dataset"):
        aj.to_dataframe(None)  # type: ignore[arg-type]
    with pytest.raises(aj.InputError, match="dataset must have variables"):
        aj.to_dataframe(xr.Dataset(coords={"x": [1]}))


def test_a_part_of_a_sweep_is_refused_in_a_line():
    dims = ("learning_rate", "seed", "init_scale", "theory", "quantity", "weight", "layer", "step")
    coords = {key: [0] for key in dims} | {"theory": ["leading"], "weight": list(WEIGHTS)}
    coords |= {"quantity": ["weights", "gradients"]}
    coords["has_layers"] = ("weight", [True, True, True, False])
    values = np.ones([len(coords[dim]) for dim in dims])
    ends = {"diverged_step": (dims[:3], np.full((1, 1, 1), -1))}
    ends |= {"theory_diverged_step": (dims[:4], np.full((1, 1, 1, 1), -1))}
    measures = dict.fromkeys(("cosine", "relative_error"), (dims, values))
    whole = xr.Dataset(
        measures | ends | {"loss": (dims[:3] + dims[-1:], values[:, :, :, 0, 0, 0, 0])}, coords
    )
    for read in (aj.summary, lambda of: aj.horizon_table(aj.validity_horizon(of))):
        assert read(whole)
        with pytest.raises(aj.InputError, match="dataset must be as from") as caught:
            read(whole.sel(quantity=["gradients"]))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["output_cosine", "output_distance", "output_onset"])
def test_a_file_of_the_layout_before_is_refused_in_a_line(tmp_path, name):
    path = tmp_path / "sweep.nc"
    xr.Dataset({name: ("step", [0.0])}).to_netcdf(path)
    with pytest.raises(aj.InputError, match=f"earlier layout, with a variable '{name}'") as caught:
        aj.load(path)
    assert "\n" not in str(caught.value)
    assert "--overwrite" in str(caught.value)


def test_a_folder_of_the_layout_before_is_not_taken_for_this_one(tmp_path, data, monkeypatch):
    grid = {"learning_rates": [0.3], "steps": 1, "num_layers": 1}
    monkeypatch.setattr(results, "LAYOUT", 1)
    aj.sweep(data, **grid, checkpoint=tmp_path)
    xr.Dataset({"output_cosine": 1.0}).to_netcdf(tmp_path / "sweep.nc")
    monkeypatch.undo()
    with pytest.raises(aj.InputError, match="layout of files is 1, here it is 4"):
        aj.sweep(data, **grid, checkpoint=tmp_path)
    assert (tmp_path / "sweep.nc").exists()
    replaced = aj.sweep(data, **grid, checkpoint=tmp_path, overwrite=True)
    xr.testing.assert_identical(aj.load(tmp_path / "sweep.nc"), replaced)


def test_a_kept_part_of_the_layout_before_is_computed_again(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "LAYOUT", 1)
    before = results.identity(None, {"seed": 1})
    monkeypatch.undo()
    decided = {"decided_by": json.dumps(before)}
    xr.Dataset({"output_cosine": 1.0}, attrs=decided).to_netcdf(tmp_path / "run.nc")
    now = results.identity(None, {"seed": 1})
    with pytest.raises(aj.InputError, match="layout of files is 1, here it is 4"):
        results.reuse(tmp_path / "run.nc", now)
    assert results.reuse(tmp_path / "run.nc", now, overwrite=True) is None
