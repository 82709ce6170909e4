"""Shards of sparse statistics: stopped, resumed and merged, to the bit."""

import dataclasses

import numpy as np
import pytest
import xarray as xr
from conftest import random_mask, random_tokens, token_data

import assocjax as aj
from assocjax.statistics import counting, shards
from assocjax.storage import results

N, T, V = 40, 6, 9


@pytest.fixture(autouse=True, params=[8192, 0], ids=["held", "sparse"])
def small_blocks(request, monkeypatch):
    """Of two sequences, with sums in matrices [V,V] or in sparse ones."""
    monkeypatch.setattr(counting, "_BLOCK_PAIRS", 2 * T * (T + 1) // 2)
    monkeypatch.setattr(counting, "_DENSE_VOCAB_SIZE", request.param)


@pytest.fixture(scope="module")
def data():
    return token_data(random_tokens(0, N, T, V), V, random_mask(1, N, T))


class Stopped(Exception):
    pass


def run_with_stops(data, path, rng, **arguments):
    """Stops at random, between any two blocks, until the shard is through."""
    stops = 0
    while True:
        left = int(rng.integers(2, 5))

        def stop(done, total):
            nonlocal left
            left -= 1
            if not left:
                raise Stopped

        try:
            return shards.run_shard(data, path, checkpoint_blocks=1, progress=stop, **arguments)
        except Stopped:
            stops += 1
            assert stops < 100


def run_all(data, folder, num_shards, rng=None):
    """Both passes: merged counts and correlations."""
    files = {}
    for kind in ("counts", "correlations"):
        parts = []
        for shard in range(1, num_shards + 1):
            parts.append(folder / f"{kind}-{shard}-of-{num_shards}.nc")
            arguments = {"shard": shard, "shards": num_shards, "counts": files.get("counts")}
            if rng is None:
                shards.run_shard(data, parts[-1], **arguments)
            else:
                run_with_stops(data, parts[-1], rng, **arguments)
        files[kind] = folder / f"{kind}.nc"
        results.save(shards.merge(parts[::-1]), files[kind])
    return files


def test_any_shards_stopped_and_resumed_give_the_bits_of_one_run(data, tmp_path):
    (tmp_path / "one").mkdir()
    whole = run_all(data, tmp_path / "one", 1)
    rng = np.random.default_rng(0)
    for num_shards in (2, 7):
        folder = tmp_path / str(num_shards)
        folder.mkdir()
        again = run_all(data, folder, num_shards, rng)
        for kind in whole:
            assert aj.load(again[kind]).identical(aj.load(whole[kind]))
    direct = aj.sparse_statistics(data)
    found = aj.load_statistics(**whole)
    X = np.eye(V)
    for name in ("bigram", "context", "value", "composed", "interchangeability", "query_key"):
        np.testing.assert_array_equal(getattr(found, name) @ X, getattr(direct, name) @ X)
    np.testing.assert_array_equal(found.position, direct.position)
    assert aj.load(whole["counts"])["token"].values.tolist() == list(data.vocabulary)


def test_a_stopped_shard_goes_on_and_a_finished_one_is_left(data, tmp_path):
    path = tmp_path / "part.nc"
    with pytest.raises(Stopped):
        shards.run_shard(
            data, path, shard=2, shards=2, checkpoint_blocks=2, progress=raise_after(5)
        )
    assert aj.load(path).attrs["next"] == 20 + 2 * 4  # the last whole checkpoint
    seen = []
    shards.run_shard(data, path, shard=2, shards=2, progress=lambda *p: seen.append(p))
    assert seen[0] == (2 * 5, 20)
    assert seen[-1] == (20, 20)
    before = path.stat().st_mtime_ns
    shards.run_shard(data, path, shard=2, shards=2, progress=raise_after(1))
    assert path.stat().st_mtime_ns == before
    assert [p.name for p in tmp_path.iterdir()] == ["part.nc"]


def raise_after(blocks):
    def stop(done, total):
        nonlocal blocks
        blocks -= 1
        if not blocks:
            raise Stopped

    return stop


def test_merge_names_what_does_not_fit(data, tmp_path):
    other = dataclasses.replace(data, sha256="1" * 64)
    parts = [tmp_path / f"{i}.nc" for i in range(6)]
    for i in (1, 2, 3):
        shards.run_shard(data, parts[i], shard=i, shards=3)
    shards.run_shard(other, parts[4], shard=1, shards=1)
    shards.run_shard(data, parts[5], shard=1, shards=2)
    counts = tmp_path / "counts.nc"
    results.save(shards.merge(parts[1:4]), counts)
    second = tmp_path / "second.nc"
    shards.run_shard(data, second, shard=1, shards=1, counts=counts)
    with pytest.raises(Stopped):
        shards.run_shard(
            data, parts[0], shard=1, shards=3, checkpoint_blocks=1, progress=raise_after(3)
        )
    for paths, message in (
        ([], "at least one file"),
        (parts[1:3], "end at sequence 26 of 40; some are missing"),
        (parts[2:4], "leave out sequences: expected one from sequence 0, got .*2.nc from 13"),
        ([*parts[1:4], parts[2]], "overlap: expected one from sequence 26, got .*2.nc from 13"),
        ([*parts[1:4], parts[5]], "overlap"),
        ([parts[0], *parts[2:4]], "0.nc is not finished: it holds sequences 0 to 6 of 0 to 13"),
        ([parts[1], second], "different kind: counts and correlations"),
        ([parts[1], parts[4]], "1.nc and .*4.nc are of different corpus.sha256: 0+ and 1+"),
        ([tmp_path / "no.nc"], "cannot read results from"),
    ):
        with pytest.raises(aj.InputError, match=message):
            shards.merge(paths)
    for file, message in (
        (parts[1], "expected merged counts; it holds a shard of counts"),
        (second, "expected merged counts; it holds a shard of correlations"),
    ):
        with pytest.raises(aj.InputError, match=message):
            shards.run_shard(data, tmp_path / "new.nc", shard=1, shards=1, counts=file)
    small = token_data(data.tokens[:10].copy(), V)
    with pytest.raises(aj.InputError, match=r"1\.nc and this shard are of different corpus"):
        shards.run_shard(small, parts[1], shard=1, shards=3)
    with pytest.raises(aj.InputError, match=r"counts\.nc and the corpus are of different corpus"):
        shards.run_shard(small, tmp_path / "new.nc", shard=1, shards=1, counts=counts)
    with pytest.raises(aj.InputError, match="different start: 13 and 26"):
        shards.run_shard(data, parts[2], shard=3, shards=3)
    with pytest.raises(aj.InputError, match="at most the number of sequences, 40; got 41"):
        shards.run_shard(data, tmp_path / "new.nc", shard=1, shards=41)
    with pytest.raises(aj.InputError, match="shards must be at least 3; got 2"):
        shards.run_shard(data, tmp_path / "new.nc", shard=3, shards=2)


def test_correlations_belong_to_their_counts(data, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = run_all(data, tmp_path / "a", 1)
    other = run_all(token_data(data.tokens, V), tmp_path / "b", 1)
    with pytest.raises(aj.InputError, match="different counts_sha256"):
        aj.load_statistics(one["counts"], other["correlations"])


def test_shards_of_other_versions_of_other_packages_are_added(data, tmp_path, monkeypatch):
    """Integers do not depend on them; they do on ours."""
    parts = [tmp_path / f"{i}.nc" for i in (1, 2)]
    for i, path in enumerate(parts, start=1):
        shards.run_shard(data, path, shard=i, shards=2)
    expected = shards.merge(parts)
    parts[1].unlink()
    now = results.versions()
    other = {name: "0.0.1" for name in now} | {"assocjax": now["assocjax"]}
    monkeypatch.setattr(results, "versions", lambda: other)
    shards.run_shard(data, parts[1], shard=2, shards=2)
    xr.testing.assert_equal(shards.merge(parts), expected)
    monkeypatch.setattr(results, "versions", lambda: other | {"assocjax": "0.0.1"})
    with pytest.raises(aj.InputError, match="are of different assocjax"):
        shards.run_shard(data, parts[0], shard=1, shards=2)
