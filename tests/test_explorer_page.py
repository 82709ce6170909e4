"""The page of the explorer in a browser, against the numbers and the text that it was given."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from browsers import check_accessibility, settled
from tracked_lists import AWKWARD, SCORING, K, L, random_lists, same_scores, with_text

import assocjax as aj
from assocjax.analysis.passages import find_passages
from assocjax.analysis.scorings import LAYERED, MATRICES
from assocjax.statistics.occurrences import count_occurrences

V = 320
WORDS = [*(f"w{i}" for i in range(V - len(AWKWARD))), *AWKWARD]


@pytest.fixture(scope="module")
def dataset() -> xr.Dataset:
    return random_lists(WORDS)


@pytest.fixture(scope="module")
def path(dataset, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("explorer") / "page.html"
    aj.write_explorer(dataset, path, token="w7")
    return path


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> tuple[xr.Dataset, aj.TokenData, Path]:
    """A Dataset, its text, and the page of both."""
    dataset, data = with_text()
    path = tmp_path_factory.mktemp("explorer") / "text.html"
    aj.write_explorer(dataset, path, data=data)
    return dataset, data, path


@pytest.fixture
def page(opened, path):
    return opened(path)


@pytest.fixture
def text_page(opened, texts):
    return opened(texts[2])


def lists_shown(page, matrix):
    """kind -> [(id, score, count, mark)], and what the card says of them."""
    script = """card => [...card.querySelectorAll("ol")].map(list => [list.dataset.kind,
        [...list.querySelectorAll("button")].map(b => [+b.dataset.id, +b.dataset.score,
            b.querySelector(".times").textContent, b.querySelector(".mark").textContent])])"""
    card = page.locator(f"[data-matrix={matrix}]")
    return dict(card.evaluate(script)), card.locator(".score").inner_text()


def check_card(page, dataset, matrix, *, token, step, layer=L, scoring=SCORING, side="row"):
    def values(what, **where):
        found = dataset[f"{matrix}_{what}"].isel(token=token).sel(scoring=scoring, **where)
        return (found.sel(side=side) if "side" in found.dims else found).values

    shown, says = lists_shown(page, matrix)
    where = {"step": step} | ({"layer": layer} if matrix in LAYERED else {})
    names = ("id", "score", "count")
    expected = {"theory": [values(f"theory_{name}") for name in names]}
    if matrix in MATRICES:
        expected["weights"] = [values(name, **where) for name in names]
    # A list ends where its scores do, and one without an entry is not shown.
    expected = {
        kind: [of[np.isfinite(lists[1])] for of in lists] for kind, lists in expected.items()
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
    assert shown.keys() == {kind for kind, (ids, *_) in expected.items() if len(ids)}
    both = set.intersection(*(set(ids.tolist()) for ids, *_ in expected.values()))
    for kind, entries in shown.items():
        ids, scores, counts = expected[kind]
        assert [entry[0] for entry in entries] == ids.tolist()
        same_scores(np.array([entry[1] for entry in entries]), scores)
        sign = (
            "via {:,}"
            if matrix in ("value", "interchangeability")
            else "{:,}\N{MULTIPLICATION SIGN}"
        )
        assert [entry[2] for entry in entries] == [sign.format(count) for count in counts]
        if matrix in MATRICES:
            assert [entry[3] == "●" for entry in entries] == [i in both for i in ids.tolist()]


def test_a_token_is_found_and_its_lists_follow_the_slider(page, dataset):
    assert page.locator("#token").input_value() == "w7"
    for matrix in [*MATRICES, "context"]:
        check_card(page, dataset, matrix, token=7, step=100)
    page.locator("#token").fill("w123")
    assert page.locator("#token-options li").first.inner_text().startswith("w123")
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
    at = dataset.sel(step=10, layer=L, scoring=SCORING, side="row").isel(token=123)
    length = int(at["value_theory_score"].notnull().sum())
    assert title == f"step 10: {round(float(at['value_overlap']) * length)} of {length} in common"


def test_lists_of_every_length_are_shown(page, dataset):
    """Full and short beside one another, and empty on either side."""
    at = dataset.sel(step=100, layer=L, scoring=SCORING, side="row")
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
    chosen = page.locator("#token-options li[aria-selected=true]")
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
    # Into a list, down it, and on to a token of it, through the dialog of its passages.
    tab_to("[data-matrix=value] [data-kind=weights] button")
    page.keyboard.press("ArrowDown")
    third = dataset["value_id"].sel(scoring=SCORING, **where)[token, 1].item()
    assert page.evaluate("+document.activeElement.dataset.id") == third
    settled(page, lambda: page.keyboard.press("Enter"))
    assert "holds no text" in page.locator("dialog").inner_text()
    settled(page, lambda: page.keyboard.press("Escape"))
    assert page.evaluate("+document.activeElement.dataset.id") == third
    settled(page, lambda: page.keyboard.press("Enter"))
    assert page.evaluate("document.activeElement.id") == "look-up"
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
    assert page.locator("#token-options").is_hidden()
    page.locator("#token").press("Escape")


def test_the_address_leads_to_what_was_shown(opened, path, dataset):
    page = opened(path, "#token=it%27s&step=10&layer=2&scoring=raw&side=column")
    token = dataset["token"].values.tolist().index("it's")
    page.wait_for_function("() => document.getElementById('token').value === \"it's\"")
    where = {"step": 10, "layer": 2, "scoring": "raw", "side": "column"}
    check_card(page, dataset, "query_key", token=token, **where)


def test_provenance_is_told(page):
    page.locator("summary", has_text="Where this comes from").click()
    text = page.locator("#provenance").inner_text()
    for part in ("a <made-up> corpus", "0" * 64, '"<word>"', "learning_rate: 0.5", '"1.2.3"'):
        assert part in text
    assert f"{V} tokens" in page.locator("#summary").inner_text()


def test_back_and_forward(page, dataset):
    """Each change is a step in the history, except that a slider's movement is one."""

    def back(n=1, way="back"):
        settled(page, lambda: page.evaluate(f"history.{way}()"))

    page.locator("#token").fill("w11")
    settled(page, lambda: page.keyboard.press("Enter"))
    settled(page, page.locator("label:has(input[name=layer][value='0'])").click)
    page.locator("#step").focus()
    settled(page, lambda: page.keyboard.press("ArrowLeft"))
    settled(page, lambda: page.keyboard.press("ArrowLeft"))
    settled(page, page.locator("[data-matrix=bigram] li button").first.click)
    assert page.locator("dialog").is_visible()
    back()
    assert page.locator("dialog").is_hidden()
    check_card(page, dataset, "value", token=11, step=1, layer=1)
    back()
    check_card(page, dataset, "value", token=11, step=100, layer=3)
    back()
    check_card(page, dataset, "value", token=7, step=100, layer=3)
    back(way="forward")
    check_card(page, dataset, "value", token=11, step=100, layer=3)


def test_an_unknown_token_is_told(opened, path):
    page = opened(path, "#token=nosuch&compare=w2x")
    text = page.locator("#notice").inner_text()
    assert "“nosuch” is not among the 320 tokens of this page." in text
    assert "“w2x” is not among the 320 tokens of this page. Close to it: w2" in text
    assert page.locator("#token").input_value() == "w7"
    page.locator("#token").fill("naïver")
    page.keyboard.press("Enter")
    assert "“naïver” is not among" in page.locator("#notice").inner_text()
    assert "Close to it: naïve." in page.locator("#notice").inner_text()
    page.locator("#token").fill("w8")
    settled(page, lambda: page.keyboard.press("Enter"))
    assert page.locator("#notice").inner_text() == ""


def test_two_tokens_side_by_side_in_all_layers(page, dataset):
    page.locator("#compare").fill("w9")
    settled(page, lambda: page.keyboard.press("Enter"))
    settled(page, page.locator("label:has(input[name=layer][value=all])").click)
    assert "compare=w9" in page.url
    assert "layer=all" in page.url
    assert page.locator(".card").count() == 2 * (2 + 3 * L + 1)
    assert page.locator("#when .strip").count() == 2 * (2 + 3 * L) + 1
    for token in (7, 9):
        for layer in range(1, L + 1):
            card = f".card[data-token='{token}'][data-layer='{layer - 1}']"
            box = page.locator(f"{card}[data-matrix=value]").bounding_box()
            assert (box["x"] > 640) == (token == 9)
    at = dataset.sel(step=100, scoring=SCORING, side="row", layer=2)
    both = [
        {int(i) for i, score in zip(at["value_id"][t], at["value_score"][t], strict=True)
         if np.isfinite(score)} for t in (7, 9)
    ]  # fmt: skip
    said = page.locator(
        "[data-token='7'][data-layer='1'][data-matrix=value] .planting"
    ).inner_text()
    names = said.rpartition(": ")[2]
    shared = [WORDS[i] for i in both[0] & both[1]]
    assert sorted(names.split(", ")) == (sorted(shared) or ["none"])
    page.locator("#compare").fill("")
    page.wait_for_function("() => !location.hash.includes('compare')")
    assert page.locator(".card").count() == 2 + 3 * L + 1


def test_negative_cosines_are_drawn_below_zero(page, dataset):
    """The curve is at the height of each cosine between the lines of -1 and 1."""
    token = 7
    values = dataset["value_cosine"].sel(layer=L, scoring=SCORING, side="row")[:, token].values
    assert (values < 0).any()
    card = page.locator("[data-matrix=value]")
    drawn = card.locator("path.cosine").get_attribute("d")
    points = [float(point.split()[1]) for point in drawn.replace("M", "L").split("L")[1:]]
    labels = card.locator(".curve line.axis")
    low, _, high = (float(labels.nth(i).get_attribute("y1")) for i in range(3))
    found = -1 + 2 * (np.array(points) - low) / (high - low)
    np.testing.assert_allclose(found, values[~np.isnan(values)], atol=0.02)
    title = card.locator(".curve").get_attribute("aria-label")
    assert float(title.split()[-1]) == pytest.approx(values[-1], abs=0.01)


# Passages


def words_of(data):
    """The tokens of each sequence, without padding, as a list of lists."""
    sizes = [1 + int(of.sum()) for of in data.mask]
    return [of[:size].tolist() for of, size in zip(data.tokens, sizes, strict=True)]


def dialog(page):
    """The heading, and for each passage its sequence and the tokens that are marked by kind."""
    script = """dialog => [...dialog.querySelectorAll("[data-sequence]")].map(p => [
        +p.dataset.sequence, Object.fromEntries([...p.querySelectorAll("mark")].map(
            mark => [mark.className, mark.textContent]))])"""
    return page.locator("#passages-about").inner_text(), page.locator("dialog").evaluate(script)


PLACES = {  # matrix and side -> pairs (token, other) of positions k < t in a sequence that occur
    ("bigram", "row"): lambda ids, a, b: [
        (k, k + 1) for k in range(len(ids) - 1) if (ids[k], ids[k + 1]) == (a, b)
    ],
    ("composed", "row"): lambda ids, a, b: [
        (k, t) for t in range(len(ids)) for k in range(t) if (ids[k], ids[t]) == (a, b)
    ],
    ("context", "row"): lambda ids, a, b: [
        (k, t) for t in range(len(ids)) for k in range(t) if (ids[k], ids[t]) == (b, a)
    ],
    ("query_key", "row"): lambda ids, a, b: [  # both are inputs
        (k, t) for t in range(len(ids) - 1) for k in range(t) if (ids[k], ids[t]) == (b, a)
    ],
}


@pytest.mark.parametrize(("matrix", "side"), PLACES)
def test_passages_are_those_of_the_text(opened, texts, matrix, side):
    _, data, path = texts
    page = opened(path, f"#token=bird&passages=flew&about=bird&of={matrix}&side={side}")
    about, found = dialog(page)
    where = {n: PLACES[matrix, side](ids, 0, 1) for n, ids in enumerate(words_of(data))}
    where = {n: places for n, places in where.items() if places}
    assert len(where) > 10
    total = sum(map(len, where.values()))
    assert total == count_occurrences(data).rows(matrix, [0])[0, 1]
    assert f"{total} times, in {len(where)} sequences" in about
    assert [marks for _, marks in found] == [{"token": "bird", "other": "flew"}] * 10
    while page.locator("#passages-more").is_visible():
        page.locator("#passages-more").click()
    order = list(where)
    if matrix != "bigram":
        order.sort(key=lambda n: min(t for _, t in where[n]))
    assert [n for n, _ in dialog(page)[1]] == order


def test_passages_are_where_find_passages_has_them(opened, texts):
    """In each sequence the same target of Φ, the one with the largest share, is marked."""
    _, data, path = texts
    found = find_passages(data, "flew", "bird", matrices=["context"], top=5).sel(matrix="context")
    page = opened(path, "#token=flew&passages=bird&about=flew&of=context")
    while page.locator("#passages-more").is_visible():
        page.locator("#passages-more").click()
    for document, passage in zip(
        found["listed_document"].values, found["passage"].values, strict=True
    ):
        shown = page.locator(f"[data-sequence='{document}']")
        shown.locator("mark.token").evaluate(
            "mark => { mark.textContent = `«${mark.textContent}»`; }"
        )
        target = next(part for part in passage.split("…") if "«flew»" in part)
        target = target.replace("«bird»", "bird").replace(" ", "")
        assert target in shown.inner_text().replace(" ", "")


def test_third_tokens_and_their_summands(opened, texts):
    """The tokens between two, in the order of what they add to the entry of the statistics."""
    _, data, path = texts
    statistics = aj.corpus_statistics(data)
    B, Phi = (np.asarray(of, float) for of in (statistics.bigram, statistics.context))
    ids = words_of(data)
    pairs = Counter(pair for of in ids for pair in pairwise(of))
    before = {(k, t) for of in ids for i, t in enumerate(of) for k in of[:i]}
    a, b = 0, 2
    for matrix, side, terms, connects in (
        ("interchangeability", "row", B[:, a] * B[:, b], lambda k: pairs[k, a] and pairs[k, b]),
        ("value", "row", Phi[:, a] * B[b], lambda y: (a, y) in before and pairs[b, y]),
        ("value", "column", Phi[:, b] * B[a], lambda y: (b, y) in before and pairs[a, y]),
    ):
        page = opened(path, f"#token=bird&passages=w2&about=bird&of={matrix}&side={side}")
        expected = [k for k in range(40) if connects(k)]
        pair = (a, b) if side == "row" else (b, a)
        assert len(expected) == count_occurrences(data).rows(matrix)[pair]
        assert f"{len(expected)} third tokens connect the two" in dialog(page)[0]
        while page.locator("#passages-more").is_visible():
            page.locator("#passages-more").click()
        shown = page.locator("#passages-list h3 b").all_inner_texts()
        found = [data.vocabulary.index(word) for word in shown]
        assert sorted(found) == expected
        assert (np.diff(terms[found]) <= 1e-6 * abs(terms).max()).all()


def test_planted_associations_are_marked(opened, texts):
    dataset, _, path = texts
    page = opened(path, "#token=bird")
    at = dataset.sel(scoring=SCORING, side="row")["composed_theory_id"][0].values
    listed = [int(id) for id in at]
    marked = page.locator("[data-matrix=composed] [data-kind=theory] li:has(.planted) button")
    marks = marked.evaluate_all("all => all.map(b => +b.dataset.id)")
    assert marks == [id for id in listed if id == 1]
    assert "1 planted in the text" in page.locator("[data-matrix=composed]").inner_text()
    # The truth of Φ shows in the columns of the composed matrix.
    page = opened(path, "#token=flew&side=column")
    assert "2 planted in the text" in page.locator("[data-matrix=composed]").inner_text()


def test_a_click_shows_passages_and_leads_on(text_page, texts):
    page, dataset = text_page, texts[0]
    entry = page.locator("[data-matrix=composed] [data-kind=theory] button").first
    other = dataset["token"].values[int(entry.get_attribute("data-id"))]
    settled(page, entry.click)
    assert page.locator("#passages-title").inner_text() == f"bird and {other}"
    assert f"passages={other}" in page.url.replace("%3C", "<").replace("%3E", ">")
    settled(page, page.locator("#beside").click)
    assert page.locator("#compare").input_value() == other
    assert page.locator("dialog").is_hidden()
    settled(page, page.locator(".card[data-matrix=bigram] button").last.click)
    assert page.locator("#passages-title").inner_text().startswith(f"{other} and ")
    settled(page, page.locator("#passages-close").click)
    assert "passages" not in page.url


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_accessibility(opened, texts, width, scheme):
    page = opened(texts[2], "#token=bird&step=10" + "&compare=flew" * (scheme == "dark"))
    check_accessibility(page, width, scheme)
    settled(page, page.locator("[data-matrix=value] li button").first.click)
    check_accessibility(page, width, scheme, "dialog")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
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
            ["--weights", "--weights-fill"], ["--ink", "--both-fill"],
            ["--soft", "--both-fill"], ["--soft", "--theory-fill"],
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
