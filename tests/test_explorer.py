"""The file of the explorer: what it holds, and what is refused. See test_explorer_page.py."""

import base64
import gzip
import html
import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from tracked_lists import AWKWARD, SCORING, K, L, S, random_lists, same_scores, with_text

import assocjax as aj
from assocjax import cli
from assocjax.explorer._packing import Lists, pack
from assocjax.storage import results

V = 1510
WORDS = [*(f"w{i}" for i in range(V - len(AWKWARD))), *AWKWARD]


@pytest.fixture(scope="module")
def dataset() -> xr.Dataset:
    return random_lists(WORDS)


@pytest.fixture(scope="module")
def path(dataset, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("explorer") / "page.html"
    aj.write_explorer(dataset, path, token="w7")
    return path


def unpack(block: bytes, layers: int, steps: int, tokens: int, k: int):
    """The inverse of `pack`, from what its module says."""
    data, at = gzip.decompress(block), 0

    def take(dtype, *shape):
        nonlocal at
        part = np.frombuffer(data, dtype, int(np.prod(shape)), at).reshape(shape)
        at += part.nbytes
        return part

    lists = layers, tokens, steps
    low, high = take("<f8", 2)
    counts = take("<u4", tokens, k), take("<u4", *lists, k)
    theory_sizes, theory_ids = take("<u2", tokens), take("<u2", tokens, k)
    sizes, ids = take("<u2", *lists), take("<u2", *lists, k)
    theory_codes, codes, cosines = take("i1", tokens, k), take("i1", *lists, k), take("i1", *lists)
    assert at == len(data)

    def scores(codes, size):
        real = np.where(size > 0, np.exp(low + (high - low) * (size - 1.0) / 65534), np.nan)
        return np.where(codes == -1, np.nan, codes / 127 * real[..., None])

    cosines = np.where(cosines == -128, np.nan, cosines / 127)
    of_weights = ids, scores(codes, sizes), counts[1], cosines
    of_weights = (np.swapaxes(of, 1, 2) for of in of_weights)
    return theory_ids, scores(theory_codes, theory_sizes), counts[0], *of_weights


def test_packing_is_undone(dataset):
    few = dataset.isel(token=slice(0, 30)).sel(scoring="raw", side="row")
    names = "id", "score", "count"
    arrays = [few[f"value_theory_{name}"].values for name in names]
    arrays += [np.moveaxis(few[f"value_{name}"].values, 1, 0) for name in (*names, "cosine")]
    arrays[1] = arrays[1].copy()
    arrays[1][3] = np.nan
    found = unpack(pack(Lists(*arrays[:3]), Lists(*arrays[3:6]), arrays[6]), L, S, 30, K)
    for exact in (0, 2, 3, 5):
        np.testing.assert_array_equal(found[exact], arrays[exact])
    same_scores(found[1], arrays[1])
    same_scores(found[4], arrays[4])
    np.testing.assert_allclose(found[6], arrays[6], atol=0.5 / 127 + 1e-6)


def test_packing_of_lists_that_are_all_empty():
    ids = np.tile(np.arange(2), (3, 1))
    scores = np.full((3, 2), np.nan)
    weights = Lists(*(of[None, None] for of in (ids, scores, ids)))
    block = pack(Lists(ids, scores, ids), weights, np.full((1, 1, 3), np.nan))
    found = unpack(block, 1, 1, 3, 2)
    np.testing.assert_array_equal(found[4][0, 0], scores)
    assert np.isnan(found[6]).all()


def text_of(path: Path) -> tuple[dict, list[tuple[int, list[int]]]]:
    """What the page says of its text, and the sequences in its block, with their indices."""
    page = path.read_text("utf-8")
    about = json.loads(re.search(r'id="meta">(.*?)</script>', page)[1])["text"]
    block = gzip.decompress(base64.b64decode(re.search(r'id="text">([^<]*)<', page)[1]))
    n = about["sequences"]
    numbers, lengths = np.frombuffer(block, "<u4", 2 * n).reshape(2, n)
    ids = np.split(np.frombuffer(block, "<u2", offset=8 * n), np.cumsum(lengths)[:-1])
    return about, list(zip(numbers.tolist(), [of.tolist() for of in ids], strict=True))


def test_the_text_is_in_the_page_whole_or_where_its_scores_are_highest(tmp_path):
    dataset, data = with_text()
    aj.write_explorer(dataset, tmp_path / "whole.html", data=data)
    about, found = text_of(tmp_path / "whole.html")
    sizes = [1 + int(of.sum()) for of in data.mask]
    expected = [of[:size].tolist() for of, size in zip(data.tokens, sizes, strict=True)]
    assert found == list(enumerate(expected))
    assert about["tokens"] == sum(sizes)

    aj.write_explorer(dataset, tmp_path / "part.html", data=data, max_text=100)
    about, part = text_of(tmp_path / "part.html")
    assert 100 - 13 < sum(len(ids) for _, ids in part) == about["tokens"] <= 100
    assert about["all_sequences"] == 60
    lists = dataset.sel(scoring=SCORING, side="row")
    listed = {
        (token, int(id)): float(score)
        for token in range(40)
        for id, score in zip(
            lists["bigram_theory_id"][token], lists["bigram_theory_score"][token], strict=True
        )
        if np.isfinite(score)
    }
    sums = [sum(listed.get(pair, 0) for pair in pairwise(ids)) for ids in expected]
    kept = [number for number, _ in part]
    assert min(sums[i] for i in kept) >= max(sums[i] for i in range(60) if i not in kept)


def test_another_text_and_one_padded_before_its_end_are_refused(tmp_path):
    dataset, data = with_text()
    with pytest.raises(ValueError, match="data is not the corpus of the results: its"):
        aj.write_explorer(dataset, tmp_path / "page.html", data=data.tokens)
    mask = data.mask.copy()
    mask[3, 4] = False
    holed = aj.TokenData(data.tokens, mask, data.vocabulary, "text", "1" * 64)
    dataset.attrs["corpus"] = json.dumps(holed.describe())
    with pytest.raises(ValueError, match="whose padding is at their end only"):
        aj.write_explorer(dataset, tmp_path / "page.html", data=holed)
    assert not list(tmp_path.iterdir())


def test_the_page_is_one_file_that_needs_no_other(path):
    text = path.read_text("utf-8")
    assert "[[STYLE]]" not in text
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!#|data:)""", text)
    assert "@import" not in text
    assert re.search(r"Content-Security-Policy[^>]*default-src 'none'", text)
    # A token cannot end the element that holds it.
    assert len(re.findall(r"<script", text)) == len(re.findall(r"</script>", text))
    assert len(re.findall(r"<script", text)) == 2 + 3 * (2 * 5 + 1)
    assert path.stat().st_size < 40e6


def test_the_same_results_give_the_same_bytes(dataset, tmp_path):
    few = dataset.isel(token=slice(0, 20))
    for name in ("a", "b"):
        aj.write_explorer(few, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_many_steps_are_thinned_evenly(dataset, tmp_path):
    few = dataset.isel(token=slice(0, 20))
    aj.write_explorer(few, tmp_path / "page.html", max_steps=2)
    assert '"steps":[0,100]' in (tmp_path / "page.html").read_text("utf-8")


def test_the_command_leaves_the_number_of_steps_to_the_size_of_the_vocabulary(tmp_path, dataset):
    """Of over 1,500 tokens 12 steps are kept, unless more are asked for."""
    many = dataset.isel(step=[i % S for i in range(30)]).assign_coords(step=np.arange(30))
    few = [name for name in many if "_theory_" not in str(name) and "step" in many[name].dims]
    many = many.assign({name: many[name].isel(layer=[0]) for name in few if "layer" in many[name]})
    results.save(many.isel(layer=[0], rank=[0]), tmp_path / "track.nc")
    for options, expected in (([], 12), (["--max-steps", "13"], 13)):
        cli.main(["explore", str(tmp_path / "track.nc"), "--overwrite", *options])
        steps = re.search(r'"steps":\[([\d,]*)\]', (tmp_path / "track.html").read_text("utf-8"))
        assert steps is not None
        assert len(steps[1].split(",")) == expected


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda d: d.drop_vars("composed_theory_id"), {}, "must be from track"),
        (lambda d: d.drop_vars("composed_theory_count"), {}, "must be from track"),
        (lambda d: d, {"token": "nosuch"}, "'nosuch' is not among"),
        (lambda d: d, {"max_steps": 1}, "max_steps must be at least 2"),
        (lambda d: d, {"max_text": 0}, "max_text must be at least 1"),
    ],
)
def test_bad_arguments(dataset, tmp_path, change, options, message):
    with pytest.raises(ValueError, match=message):
        aj.write_explorer(change(dataset), tmp_path / "page.html", **options)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there(dataset, tmp_path):
    with pytest.raises(ValueError, match="cannot write"):
        aj.write_explorer(dataset.isel(token=slice(0, 20)), tmp_path / "none" / "page.html")


def test_blocks_are_those_of_the_file(path):
    """What the browser unpacks is what `pack` wrote: base64 of gzip."""
    text = path.read_text("utf-8")
    found = re.search(r'id="context\.raw\.column">([^<]*)<', text)
    assert gzip.decompress(base64.b64decode(html.unescape(found[1])))


def test_the_command_reads_the_text_as_it_was_recorded(tmp_path, capsys):
    words = [a + b for a in "bcdfghk" for b in "aeiouyz"]
    rng = np.random.default_rng(0)
    documents = [" ".join(rng.choice(words, 20)) for _ in range(30)]
    for name in ("text", "other"):
        (tmp_path / f"{name}.txt").write_text("|".join(documents), "utf-8")
        documents[3] += " ba"
    sizes = {"seq_len": 8, "num_sequences": 20, "vocab_size": 40}
    data = aj.load_tokens(tmp_path / "text.txt", separator="|", **sizes)
    dataset = random_lists(list(data.vocabulary))
    dataset.attrs["corpus"] = json.dumps(data.describe())
    results.save(dataset, tmp_path / "track.nc")
    explore = ["explore", str(tmp_path / "track.nc"), "--overwrite"]
    cli.main(explore)
    assert "--corpus names the text" in capsys.readouterr().out
    cli.main([*explore, "--corpus", str(tmp_path / "text.txt"), "--separator", "|"])
    assert [ids for _, ids in text_of(tmp_path / "track.html")[1]] == data.tokens.tolist()
    with pytest.raises(SystemExit):
        cli.main([*explore, "--corpus", str(tmp_path / "other.txt"), "--separator", "|"])
    assert "is not the corpus of the results: its sha256 is" in capsys.readouterr().err
