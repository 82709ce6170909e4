"""Results: what files say of where they came from, and that they are written whole."""

import json

import jax
import numpy as np
import pytest
import xarray as xr
from conftest import random_tokens, token_data
from hypothesis import given, settings
from hypothesis import strategies as st

import assocjax as aj
from assocjax.statistics import datasets
from assocjax.storage import claim, results


@pytest.fixture(scope="module")
def data():
    return token_data(random_tokens(0, 20, 5, 6), 6)


@pytest.fixture(scope="module")
def statistics(data):
    return aj.corpus_statistics(data)


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


# Any text, with NUL, which no NetCDF string can hold. Nor can it lone surrogates, which stand for
# bytes in file names that are no UTF-8; pandas refuses them in a coordinate or variable.
word = st.text(max_size=5) | st.sampled_from(["", "\0", "a\0b", "\0\0", "\\0", "\\", "\ufeffa"])
name = st.text(st.characters(exclude_categories=()), max_size=5) | st.just("a\udcff.txt") | word


@settings(max_examples=60)
@given(words=st.lists(word, min_size=4, max_size=4, unique=True), attribute=name)
def test_text_comes_back_as_it_was(words, attribute, tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "a.nc"
    of = np.array(words, object)
    dataset = xr.Dataset(
        {
            "x": ("token", np.arange(4.0), {"long_name": attribute}),
            "lists": (("entry", "rank"), of.reshape(2, 2)),
            "one": of[1],  # NumPy drops NULs at its end at once
        },
        {"token": of, "other": ("token", of[::-1], {"about": attribute})},
        {"corpus_name": attribute, "names": words, "count": 3},
    )
    for _ in range(2):  # what is read is written again
        results.save(dataset, path)
        read = results.load(path)
        assert read["token"].values.tolist() == words
        assert read["other"].values.tolist() == words[::-1]
        assert read["lists"].values.ravel().tolist() == words
        assert read["one"].item() == dataset["one"].item()
        assert read.coords.keys() == {"token", "other"}
        assert read.attrs == dataset.attrs
        assert read["x"].attrs == {"long_name": attribute}
        assert read["other"].attrs == {"about": attribute}
        assert read.xindexes.keys() == {"token"}
        dataset = read


def test_strings_may_grow_after_they_are_read(tmp_path):
    """How long the strings of a file were is not kept: of joined results none is cut."""
    for name, words in (("a", ["b", "c"]), ("b", ["longer than b", "日本語"])):
        results.save(xr.Dataset({"x": ("token", [1, 2])}, {"token": words}), tmp_path / name)
    parts = [results.load(tmp_path / name) for name in ("a", "b")]
    results.save(xr.concat(parts, "token"), tmp_path / "joined")
    joined = results.load(tmp_path / "joined")
    assert joined["token"].values.tolist() == ["b", "c", "longer than b", "日本語"]
    # Nor of what plain xarray has read.
    with xr.open_dataset(tmp_path / "a") as plain:
        results.save(plain.assign_coords(token=["longer than b", "c"]), tmp_path / "again")
        results.save(xr.concat([plain, parts[1]], "token"), tmp_path / "joined")
    assert results.load(tmp_path / "again")["token"].values.tolist() == ["longer than b", "c"]
    assert results.load(tmp_path / "joined")["token"].values[2] == "longer than b"


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
    dataset = datasets.statistics_dataset(data, statistics)
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
    dataset = datasets.statistics_dataset(data, found)
    assert dataset["position"].dims == ("lag",)
    assert dataset["input_frequency"].dims == ("token",)


def test_statistics_summary(data, statistics):
    rows = {
        row["matrix"]: row
        for row in datasets.statistics_summary(datasets.statistics_dataset(data, statistics))
    }
    assert list(rows) == [
        "bigram", "context", "interchangeability", "substitutability", "value", "composed",
        "query_key",
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
            pytest.raises(KeyboardInterrupt, match="interrupted; finished parts are kept in"),
            results.stoppable(folder),
        ):
            part("another", stop)
    with claim(out, "test", {"seed": 1}) as folder:
        part = results.parts_kept_in(folder)
        found = [part("a part", lambda: compute(0.1)), part("another", lambda: compute(0.2))]
        folder.finish()
    assert [float(dataset["x"]) for dataset in found] == computed == [0.1, 0.2]
    assert [path.name for path in out.iterdir()] == [".assocjax.json"]
