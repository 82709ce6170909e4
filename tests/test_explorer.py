"""The page of the explorer, in a browser where there is one, against the numbers it was given."""

import base64
import gzip
import html
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import assocjax as aj
from assocjax import cli
from assocjax.analysis.scorings import LAYERED, MATRICES, SCORINGS, SIDES
from assocjax.explorer._packing import pack
from assocjax.storage import results

V, K, S, L = 3000, 10, 4, 3
STEPS = [0, 1, 10, 100]
# What could break a page, a search or a string.
AWKWARD = [
    "</script>", "<unk>", "<!--", '"quoted"', "it's", "naïve", "日本語", "a b", "&amp;", "\n", "🐦",
    "[[META]]", "\\u003c", "constructor", "ĠĠ", " ", "a\0", "\ufeff", "\u202eb", "\u3000", "שלום",
]  # fmt: skip


@pytest.fixture(scope="module")
def dataset() -> xr.Dataset:
    """In the form of `track`, of random lists that change a little from step to step."""
    rng = np.random.default_rng(0)

    def lists(*shape):
        # Distinct ids, none of them the token's own.
        start = rng.integers(0, V - 2 * K, (*shape, V, 1))
        ids = (start + rng.permutation(2 * K)[:K]) % (V - 1)
        ids = ids + (ids >= np.arange(V)[:, None])
        scores = -np.sort(-rng.random((*shape, V, K)), axis=-1) * 10.0 ** rng.integers(-9, 2)
        # Most lists are full, some short, and some empty.
        length = np.where(rng.random((*shape, V)) < 0.6, K, rng.integers(0, K, (*shape, V)))
        length[..., 290:300] = K  # among which the test by keyboard finds its way
        ended = np.arange(K) >= length[..., None]
        ids = np.where(ended, 0, ids)
        return ids.astype(np.uint16), np.where(ended, np.nan, scores).astype(np.float32)

    variables = {}
    for name in [*MATRICES, "context"]:
        side = () if name == "interchangeability" else ("side",)
        dims = ("scoring", *side, "token", "rank")
        theory = lists(3, *[2 for _ in side])
        variables |= {
            f"{name}_theory_{w}": (dims, x) for w, x in zip(("id", "score"), theory, strict=True)
        }
        if name not in MATRICES:
            continue
        layer = ("layer",) * (name in LAYERED)
        shape = (S, *[L for _ in layer], 3, *[2 for _ in side])
        ids, scores = lists(*shape)
        keep = rng.random(shape) < 0.4
        ids = np.where(keep[..., None, None], theory[0], ids).astype(np.uint16)
        scores[0] = np.nan  # nothing at the start
        dims = ("step", *layer, *dims)
        cosine = rng.uniform(-1, 1, ids.shape[:-1]).astype(np.float32)
        cosine[0] = np.nan
        expected = np.where(np.isnan(theory[1]), -1, theory[0].astype(int))
        common = (ids[..., None] == expected[..., None, :]).any(-1) & ~np.isnan(scores)
        with np.errstate(invalid="ignore"):  # 0 / 0 of an empty list
            overlap = (common.sum(-1) / (expected >= 0).sum(-1)).astype(np.float32)
        overlap[0] = np.nan
        variables |= {f"{name}_id": (dims, ids), f"{name}_score": (dims, scores)}
        variables |= {
            f"{name}_overlap": (dims[:-1], overlap),
            f"{name}_cosine": (dims[:-1], cosine),
        }
    frequency = 1 / np.arange(1, V + 1)
    variables["input_frequency"] = "token", frequency / frequency.sum()
    variables["loss"] = "step", np.linspace(8, 5, S)
    words = [f"w{i}" for i in range(V - len(AWKWARD))] + AWKWARD
    coords = {
        "step": STEPS, "layer": range(1, L + 1), "scoring": list(SCORINGS), "side": list(SIDES),
        "token": np.array(words, object), "rank": range(1, K + 1),
    }  # fmt: skip
    attrs = {
        "config": '{"learning_rate": 0.5, "init_scale": 1e-05}',
        "corpus": '{"tokenizer": "<word>"}',
        "versions": '{"jax": "1.2.3"}',
        "corpus_name": "a <made-up> corpus",
        "corpus_sha256": "0" * 64,
    }
    return xr.Dataset(variables, coords, attrs)


@pytest.fixture(scope="module")
def path(dataset, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("explorer") / "page.html"
    aj.write_explorer(dataset, path, token="w7")
    return path


# The file


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
    theory_sizes, theory_ids = take("<u2", tokens), take("<u2", tokens, k)
    sizes, ids = take("<u2", *lists), take("<u2", *lists, k)
    theory_codes, codes, cosines = take("i1", tokens, k), take("i1", *lists, k), take("i1", *lists)
    assert at == len(data)

    def scores(codes, size):
        real = np.where(size > 0, np.exp(low + (high - low) * (size - 1.0) / 65534), np.nan)
        return np.where(codes == -1, np.nan, codes / 127 * real[..., None])

    cosines = np.where(cosines == -128, np.nan, cosines / 127)
    of_weights = (np.swapaxes(of, 1, 2) for of in (ids, scores(codes, sizes), cosines))
    return theory_ids, scores(theory_codes, theory_sizes), *of_weights


def same_scores(found, expected):
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    # Rounded to 127ths of the largest, whose logarithm is rounded in 65534 steps of at most 30.
    errors = np.abs(found - expected) / expected[..., :1]
    assert (errors[~np.isnan(errors)] < 0.5 / 127 + 5e-4).all()


def test_packing_is_undone(dataset):
    few = dataset.isel(token=slice(0, 30)).sel(scoring="raw", side="row")
    arrays = [np.moveaxis(few[f"value_{w}"].values, 1, 0) for w in ("id", "score", "cosine")]
    arrays = [few["value_theory_id"].values, few["value_theory_score"].values, *arrays]
    arrays[1] = arrays[1].copy()
    arrays[1][3] = np.nan
    found = unpack(pack(*arrays), L, S, 30, K)
    np.testing.assert_array_equal(found[0], arrays[0])
    np.testing.assert_array_equal(found[2], arrays[2])
    same_scores(found[1], arrays[1])
    same_scores(found[3], arrays[3])
    np.testing.assert_allclose(found[4], arrays[4], atol=0.5 / 127 + 1e-6)


def test_packing_of_lists_that_are_all_empty():
    ids = np.tile(np.arange(2), (3, 1))
    scores = np.full((3, 2), np.nan)
    block = pack(ids, scores, ids[None, None], scores[None, None], np.full((1, 1, 3), np.nan))
    found = unpack(block, 1, 1, 3, 2)
    np.testing.assert_array_equal(found[3][0, 0], scores)
    assert np.isnan(found[4]).all()


def test_the_page_is_one_file_that_needs_no_other(path):
    text = path.read_text("utf-8")
    assert "[[STYLE]]" not in text
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!#|data:)""", text)
    assert "@import" not in text
    assert re.search(r"Content-Security-Policy[^>]*default-src 'none'", text)
    # A token cannot end the element that holds it.
    assert len(re.findall(r"<script", text)) == len(re.findall(r"</script>", text))
    assert len(re.findall(r"<script", text)) == 2 + 3 * (2 * 5 + 1)
    assert path.stat().st_size < 60e6


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
        (lambda d: d, {"token": "nosuch"}, "'nosuch' is not among"),
        (lambda d: d, {"max_steps": 1}, "max_steps must be at least 2"),
    ],
)
def test_bad_arguments(dataset, tmp_path, change, options, message):
    with pytest.raises(ValueError, match=message):
        aj.write_explorer(change(dataset), tmp_path / "page.html", **options)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there(dataset, tmp_path):
    with pytest.raises(ValueError, match="cannot write"):
        aj.write_explorer(dataset.isel(token=slice(0, 20)), tmp_path / "none" / "page.html")


# The page in a browser


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    executable = next(filter(None, map(shutil.which, names)), None)
    with playwright.sync_playwright() as runner:
        try:
            found = runner.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no browser: {str(error).splitlines()[0]}")
        yield found
        found.close()


@pytest.fixture
def page(browser, path):
    """The page, which must end without an error and without a request beyond its own file."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    errors, requests = [], []
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_selector(".card")
    yield page
    context.close()
    assert errors == []
    # The page itself, and its data: icon.
    assert [url for url in requests if not url.startswith("data:")] == [path.as_uri()]


def lists_shown(page, matrix):
    """kind -> [(id, score)], and what the card says of them."""
    script = """card => [...card.querySelectorAll("ol")].map(list => [list.dataset.kind,
        [...list.querySelectorAll("button")].map(b => [+b.dataset.id, +b.dataset.score,
            b.querySelector(".mark").textContent])])"""
    card = page.locator(f"[data-matrix={matrix}]")
    return dict(card.evaluate(script)), card.locator(".score").inner_text()


def check_card(page, dataset, matrix, *, token, step, layer=L, scoring="corrected", side="row"):
    def values(what, **where):
        found = dataset[f"{matrix}_{what}"].isel(token=token).sel(scoring=scoring, **where)
        return (found.sel(side=side) if "side" in found.dims else found).values

    shown, says = lists_shown(page, matrix)
    where = {"step": step} | ({"layer": layer} if matrix in LAYERED else {})
    expected = {"theory": (values("theory_id"), values("theory_score"))}
    if matrix in MATRICES:
        expected["weights"] = values("id", **where), values("score", **where)
    # A list ends where its scores do, and one without an entry is not shown.
    expected = {
        kind: (ids[np.isfinite(scores)], scores[np.isfinite(scores)])
        for kind, (ids, scores) in expected.items()
    }
    if matrix in MATRICES:
        length, overlap = len(expected["theory"][0]), float(values("overlap", **where))
        if np.isnan(overlap):
            assert says == ("not comparable at this step" if length else "no list in theory")
        else:
            assert says.startswith(f"{round(overlap * length)} of {length} in common, cosine ")
            assert float(says.split()[-1]) == pytest.approx(
                float(values("cosine", **where)), abs=0.01
            )
    assert shown.keys() == {kind for kind, (ids, _) in expected.items() if len(ids)}
    both = set.intersection(*(set(ids.tolist()) for ids, _ in expected.values()))
    for kind, entries in shown.items():
        ids, scores = expected[kind]
        assert [entry[0] for entry in entries] == ids.tolist()
        same_scores(np.array([entry[1] for entry in entries]), scores)
        if matrix in MATRICES:
            assert [entry[2] == "●" for entry in entries] == [i in both for i in ids.tolist()]


def settled(page, action):
    """Acts, and waits until the page shows what it brings."""
    before = page.evaluate("document.body.dataset.shown")
    action()
    page.wait_for_function("before => document.body.dataset.shown !== before", arg=before)


def test_a_token_is_found_and_its_lists_follow_the_slider(page, dataset):
    assert page.locator("#token").input_value() == "w7"
    for matrix in [*MATRICES, "context"]:
        check_card(page, dataset, matrix, token=7, step=100)
    page.locator("#token").fill("w123")
    assert page.locator("#options li").first.inner_text().startswith("w123")
    settled(page, lambda: page.keyboard.press("Enter"))
    check_card(page, dataset, "composed", token=123, step=100)
    page.locator("#step").focus()
    for step in (10, 1, 0):
        settled(page, lambda: page.keyboard.press("ArrowLeft"))
        assert page.locator("#step-text").inner_text() == f"{step} of 100"
        assert page.locator("#step").get_attribute("aria-valuetext") == f"step {step}"
        for matrix in MATRICES:
            check_card(page, dataset, matrix, token=123, step=step)
    settled(page, lambda: page.keyboard.press("End"))
    check_card(page, dataset, "value", token=123, step=100)
    # When: a cell for every step, with the counts of the Dataset.
    title = page.locator("#when .strip").nth(3).locator(".cell").nth(2).get_attribute("title")
    at = dataset.sel(step=10, layer=L, scoring="corrected", side="row").isel(token=123)
    length = int(at["value_theory_score"].notnull().sum())
    assert title == f"step 10: {round(float(at['value_overlap']) * length)} of {length} in common"


def test_lists_of_every_length_are_shown(page, dataset):
    """Full and short beside one another, and empty on either side."""
    at = dataset.sel(step=100, layer=L, scoring="corrected", side="row")
    theory, weights = (at[f"value_{w}"].notnull().sum("rank") for w in ("theory_score", "score"))
    for kind in (theory == 0, weights == 0, (theory > 0) & (theory < K) & (weights == K)):
        token = int(kind.argmax("token"))
        page.locator("#token").fill(f"w{token}")
        settled(page, lambda: page.keyboard.press("Enter"))
        for matrix in [*MATRICES, "context"]:
            check_card(page, dataset, matrix, token=token, step=100)
        formed = page.locator("#when .formed").nth(3).inner_text()
        assert (formed == "no list in theory") == (int(theory[token]) == 0)


def test_layers_scores_and_sides(page, dataset):
    for name, value, where in (
        ("layer", "0", {"layer": 1}),
        ("scoring", "raw", {"layer": 1, "scoring": "raw"}),
        ("side", "column", {"layer": 1, "scoring": "raw", "side": "column"}),
        ("scoring", "independence", {"layer": 1, "scoring": "independence", "side": "column"}),
    ):
        label = page.locator(f"label:has(input[name={name}][value='{value}'])")
        settled(page, label.click)
        for matrix in [*MATRICES, "context"]:
            check_card(page, dataset, matrix, token=7, step=100, **where)


def test_by_keyboard_alone(page, dataset):
    def tab_to(selector):
        for _ in range(30):
            page.keyboard.press("Tab")
            if page.evaluate("s => document.activeElement.matches(s)", selector):
                return
        raise AssertionError(f"no way to {selector}")

    tab_to(".skip")
    tab_to("#token")
    page.keyboard.type("w29")
    assert page.locator("#token").get_attribute("aria-expanded") == "true"
    chosen = page.locator("#options li[aria-selected=true]")
    assert chosen.get_attribute("id") == page.locator("#token").get_attribute(
        "aria-activedescendant"
    )
    assert chosen.inner_text().split()[0] == "w29"  # what is typed, before the more frequent
    page.keyboard.press("ArrowDown")
    word = chosen.inner_text().split()[0]
    settled(page, lambda: page.keyboard.press("Enter"))
    token = dataset["token"].values.tolist().index(word)
    check_card(page, dataset, "bigram", token=token, step=100)
    tab_to("#play")
    tab_to("#step")
    settled(page, lambda: page.keyboard.press("ArrowLeft"))
    tab_to("input[name=layer]")
    settled(page, lambda: page.keyboard.press("ArrowLeft"))
    tab_to("input[name=scoring]")
    tab_to("input[name=side]")
    settled(page, lambda: page.keyboard.press("ArrowRight"))
    where = {"step": 10, "layer": 2, "side": "column"}
    for matrix in MATRICES:
        check_card(page, dataset, matrix, token=token, **where)
    page.wait_for_function(
        "w => document.getElementById('live').textContent.startsWith(w)", arg=word
    )
    assert "step 10" in page.locator("#live").inner_text()
    # Into a list, down it, and on to a token of it.
    tab_to("[data-matrix=value] [data-kind=weights] button")
    page.keyboard.press("ArrowDown")
    third = dataset["value_id"].sel(scoring="corrected", **where)[token, 1].item()
    assert page.evaluate("+document.activeElement.dataset.id") == third
    settled(page, lambda: page.keyboard.press("Enter"))
    check_card(page, dataset, "value", token=third, **where)
    assert page.evaluate("document.activeElement.closest('.card').dataset.matrix") == "value"
    tab_to("summary")


def test_awkward_tokens_are_shown_as_they_are(page, dataset):
    first = V - len(AWKWARD)
    for i, word in enumerate(AWKWARD):
        if word in ("\n", " "):
            continue
        # What cannot be seen is shown, and looked for, as Python writes it.
        visible = "".join(
            c if c.isprintable() else c.encode("unicode_escape").decode() for c in word
        )
        page.locator("#token").fill(visible)
        settled(page, lambda: page.locator("#token").press("Enter"))
        check_card(page, dataset, "bigram", token=first + i, step=100)
        shown = page.locator("#lists-title b").inner_text()
        assert shown == visible.replace(" ", "␣")
    page.locator("#token").fill("nothing like it")
    assert page.locator("#token-hint").inner_text() == "no such token in the vocabulary"
    assert page.locator("#options").is_hidden()
    page.locator("#token").press("Escape")


def test_the_address_leads_to_what_was_shown(page, path, dataset):
    page.goto(path.as_uri() + "#token=it%27s&step=10&layer=2&scoring=raw&side=column")
    token = dataset["token"].values.tolist().index("it's")
    page.wait_for_function("() => document.getElementById('token').value === \"it's\"")
    where = {"step": 10, "layer": 2, "scoring": "raw", "side": "column"}
    check_card(page, dataset, "query_key", token=token, **where)


def test_provenance_is_told(page):
    page.locator("summary", has_text="Where this comes from").click()
    text = page.locator("#provenance").inner_text()
    for part in ("a <made-up> corpus", "0" * 64, '"<word>"', "learning_rate: 0.5", '"1.2.3"'):
        assert part in text
    assert "3000 tokens" in page.locator("#summary").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_overflows_and_text_contrasts(page, width, scheme):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    contrasts = page.evaluate(
        """() => {
        const light = color => {
            const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map(x => x / 255)
                .map(x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const names = [["--ink", "--ground"], ["--soft", "--ground"], ["--soft", "--panel"],
            ["--both", "--both-fill"], ["--theory", "--theory-fill"],
            ["--weights", "--weights-fill"], ["--soft", "--both-fill"], ["--soft", "--theory-fill"],
            ["--soft", "--weights-fill"], ["--ground", "--both"]];
        const probe = document.body.appendChild(document.createElement("i"));
        const value = name => { probe.style.color = `var(${name})`;
            return light(getComputedStyle(probe).color); };
        return names.map(([a, b]) => {
            const [x, y] = [value(a), value(b)].sort((p, q) => q - p);
            return [a, b, (x + 0.05) / (y + 0.05)];
        });
    }"""
    )
    assert all(ratio >= 4.5 for *_, ratio in contrasts), contrasts  # WCAG 2, level AA


def test_blocks_are_those_of_the_file(path):
    """What the browser unpacks is what `pack` wrote: base64 of gzip."""
    text = path.read_text("utf-8")
    found = re.search(r'id="context\.raw\.column">([^<]*)<', text)
    assert gzip.decompress(base64.b64decode(html.unescape(found[1])))
