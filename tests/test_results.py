"""Results: what files say of where they came from, and that they are written whole."""

import json

import jax
import numpy as np
import pytest
import xarray as xr
from conftest import random_tokens, token_data

import assocjax as aj
from assocjax import results
from assocjax.storage import claim


@pytest.fixture(scope="module")
def data():
    return token_data(random_tokens(0, 20, 5, 6), 6)


@pytest.fixture(scope="module")
def statistics(data):
    return aj.corpus_statistics(data.tokens, data.vocab_size, data.mask)


@pytest.fixture
def dataset(data):
    values = np.array([[1.0, np.nan], [np.inf, -2.5]], np.float32)
    return xr.Dataset(
        {"loss": (("seed", "step"), values, {"units": "nat"}), "scalar": ((), 3)},
        {"seed": [0, 7], "step": [0, 1]},
        results.provenance(data, {"steps": 1, "seeds": [0, 7], "scale": 1e-4}) | {"diverged": ""},
    )


def test_provenance(data):
    attributes = results.provenance(data, {"steps": 3, "batch_size": None})
    # NetCDF knows no nested attributes and no null.
    assert all(isinstance(value, str) for value in attributes.values())
    assert attributes["corpus_name"] == data.name
    assert attributes["corpus_sha256"] == data.sha256
    decoded = results.decode(attributes)
    assert decoded["config"] == {"steps": 3, "batch_size": None}
    assert decoded["corpus"]["sha256"] == data.sha256
    assert decoded["corpus"]["vocab_size"] == 6
    assert decoded["corpus"]["num_sequences"] == 20
    assert decoded["versions"]["jax"] == jax.__version__
    assert decoded["versions"]["numpy"] == np.__version__
    assert decoded["versions"]["assocjax"]
    assert decoded["device"] == jax.devices()[0].device_kind


def test_provenance_depends_on_nothing_but_the_computation(data):
    assert results.provenance(data, {"a": 1, "b": 2}) == results.provenance(data, {"b": 2, "a": 1})


def test_save_and_load(dataset, tmp_path):
    path = tmp_path / "a.nc"
    results.save(dataset, path)
    loaded = results.load(path)
    xr.testing.assert_identical(loaded, dataset)
    assert loaded["loss"].dtype == np.float32
    assert loaded["loss"].attrs == {"units": "nat"}
    # Plain xarray reads it, and an open reader does not keep a new version from being written.
    with xr.open_dataset(path) as plain:
        results.save(dataset.isel(seed=[1]), path, overwrite=True)
        xr.testing.assert_equal(plain, dataset)
    assert results.load(path).sizes["seed"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.nc"]


def test_interrupted_save_leaves_the_old_file(dataset, tmp_path, monkeypatch):
    path = tmp_path / "a.nc"
    results.save(dataset, path)
    before = path.read_bytes()

    def fail(self, path, **options):
        path.write_bytes(before[: len(before) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(xr.Dataset, "to_netcdf", fail)
    with pytest.raises(KeyboardInterrupt):
        results.save(dataset * 2, path, overwrite=True)
    assert path.read_bytes() == before
    xr.testing.assert_identical(results.load(path), dataset)


def test_json_is_standard(tmp_path):
    content = {
        "rows": [{"nan": float("nan"), "inf": -float("inf")}, (1.5, 2)],
        "name": "é",
        "n": None,
    }

    def refuse(constant):
        raise AssertionError(f"{constant} is not standard JSON")

    with claim(tmp_path / "out", "test", {}) as folder:
        results.save_json_to(folder, "a.json", content)
        with pytest.raises(TypeError):
            results.save_json_to(folder, "a.json", {"no JSON": object()})
    text = (tmp_path / "out" / "a.json").read_text("utf-8")
    read = json.loads(text, parse_constant=refuse)
    assert read == {"rows": [{"nan": None, "inf": None}, [1.5, 2]], "name": "é", "n": None}


@pytest.mark.parametrize("content", [None, b"", b"no NetCDF at all", b"\x89HDF\r\n\x1a\n half"])
def test_load_errors_name_the_file(content, tmp_path):
    path = tmp_path / "bad.nc"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.nc") as caught:
        results.load(path)
    assert isinstance(caught.value, aj.InputError)


def test_load_of_a_folder(tmp_path):
    with pytest.raises(ValueError, match="cannot read results"):
        results.load(tmp_path)


def test_statistics_dataset(data, statistics, tmp_path):
    dataset = results.statistics_dataset(data, statistics)
    path = tmp_path / "statistics.nc"
    results.save(dataset, path)
    with xr.open_dataset(path) as read:
        assert read["token"].values.tolist() == list(data.vocabulary)
        assert read["lag"].values.tolist() == list(range(data.seq_len))
        for name in ("bigram", "context", "interchangeability", "value", "composed", "query_key"):
            assert read[name].dims == ("token", "other_token")
            np.testing.assert_array_equal(read[name], getattr(statistics, name))
        np.testing.assert_array_equal(read["position"].values, statistics.position)
        assert read["position"].dims == ("lag",)
        assert read["target_frequency"].dims == ("token",)
        assert int(read["num_positions"]) == data.mask.sum()
        # Rows and columns are told apart: what follows w1 is in its row.
        follows = float(statistics.bigram[1, 2])
        assert float(read["bigram"].sel(token="w1", other_token="w2")) == follows
        assert read.attrs["corpus_sha256"] == data.sha256


def test_statistics_dataset_of_as_many_positions_as_tokens():
    # Position and frequencies must not be mistaken for one another where T = V.
    data = token_data(random_tokens(0, 4, 6, 6), 6)
    found = aj.corpus_statistics(data.tokens, 6)
    dataset = results.statistics_dataset(data, found)
    assert dataset["position"].dims == ("lag",)
    assert dataset["input_frequency"].dims == ("token",)


def test_statistics_summary(data, statistics):
    rows = {
        row["matrix"]: row
        for row in results.statistics_summary(results.statistics_dataset(data, statistics))
    }
    assert list(rows) == [
        "bigram", "context", "interchangeability", "value", "composed", "query_key",
    ]  # fmt: skip
    for name, row in rows.items():
        matrix = np.asarray(getattr(statistics, name))
        assert row["norm"] == pytest.approx(np.sqrt((matrix**2).sum()), rel=1e-5)
        assert row["largest"] == matrix.max()
        i, j = data.vocabulary.index(row["row"]), data.vocabulary.index(row["column"])
        assert matrix[i, j] == matrix.max()


def test_parts_are_kept_until_all_are_there(tmp_path):
    out, computed = tmp_path / "out", []

    def compute(value):
        computed.append(value)
        return xr.Dataset({"x": value})

    def stop():
        raise KeyboardInterrupt

    with claim(out, "test", {"seed": 1}) as folder:
        part = results.parts_kept_in(folder)
        part("a part", lambda: compute(0.1))
        with (
            pytest.raises(KeyboardInterrupt, match="interrupted; what is finished is in"),
            results.stoppable(folder),
        ):
            part("another", stop)
    with claim(out, "test", {"seed": 1}) as folder:
        part = results.parts_kept_in(folder)
        found = [part("a part", lambda: compute(0.1)), part("another", lambda: compute(0.2))]
        folder.finish()
    assert [float(dataset["x"]) for dataset in found] == computed == [0.1, 0.2]
    assert [path.name for path in out.iterdir()] == [".assocjax.json"]
