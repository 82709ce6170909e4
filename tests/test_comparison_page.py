"""The page of a compared language model in a browser, against the numbers that it was given."""

import numpy as np
import pytest
from browsers import check_accessibility, settled
from tracked_lists import AWKWARD, random_comparison

import assocjax as aj
from assocjax import cli
from assocjax.storage import results


@pytest.fixture(scope="module")
def dataset():
    return random_comparison()


@pytest.fixture(scope="module")
def path(dataset, tmp_path_factory):
    path = tmp_path_factory.mktemp("comparison") / "page.html"
    aj.write_comparison(dataset, path)
    return path


def check_page(page, dataset, prefix, **where):
    """Score, controls, and the tokens that carry the score."""
    at = dataset.sel(where)
    score = float(at[f"{prefix}similarity"])
    means, sds = (at[f"{prefix}null_{of}"].values for of in ("mean", "sd"))
    values = page.locator("#bars .value").all_inner_texts()
    pairs = zip(means, sds, strict=True)
    assert values == [f"{score:.3f}", *(f"{mean:.3f} ± {sd:.3f}" for mean, sd in pairs)]
    verdict = page.locator("#verdict").inner_text()
    for part, mean, sd in zip(verdict.split(";"), means, sds, strict=True):
        found = float(part.split()[0].replace("−", "-"))  # noqa: RUF001
        assert found == pytest.approx((score - mean) / sd, abs=0.051)
    shown = page.locator("#tokens li").evaluate_all(
        "all => all.map(li => [+li.dataset.id, +li.dataset.share])"
    )
    ids, shares = at[f"{prefix}top_token"].values, at[f"{prefix}top_share"].values
    assert [id for id, _ in shown] == ids[shares > 0].tolist()
    np.testing.assert_allclose([share for _, share in shown], shares[shares > 0], rtol=1e-6)
    first = page.locator("#tokens li").first.inner_text().split("\n")
    assert first[-1] == f"{100 * shares[0] / score:.1f} %"
    assert first[-2].startswith(f"{int(dataset.token_count[ids[0]]):,}")


START = {"residual": "uniform", "centering": "token", "layer": 2, "revision": "step512"}


def test_scores_controls_and_tokens_follow_what_is_chosen(opened, path, dataset):
    page = opened(path)
    check_page(page, dataset, "", theory="value", stream="after_layer", **START)
    settled(page, lambda: page.locator("#theory").select_option("bigram"))
    settled(page, lambda: page.locator("#part").select_option("before"))
    settled(page, lambda: page.locator("#layer").select_option("1"))
    where = START | {"layer": 1}
    check_page(page, dataset, "", theory="bigram", stream="before", **where)
    settled(page, page.locator("label:has(input[name=residual][value='1'])").click)
    settled(page, page.locator("label:has(input[name=centering][value='0'])").click)
    page.locator("#step").focus()
    settled(page, lambda: page.keyboard.press("ArrowLeft"))
    where = {"residual": "unigram", "centering": "feature", "layer": 1, "revision": "step16"}
    check_page(page, dataset, "", theory="bigram", stream="before", **where)
    settled(page, lambda: page.evaluate("history.back()"))
    where |= {"centering": "token", "revision": "step512"}
    check_page(page, dataset, "", theory="bigram", stream="before", **where)


def test_heads_of_attention(opened, path, dataset):
    page = opened(path, "#theory=query_key&part=head+1&layer=1")
    check_page(page, dataset, "attention_", head="1", **START | {"layer": 1})
    settled(page, lambda: page.locator("#part").select_option("head mean"))
    check_page(page, dataset, "attention_", head="mean", **START | {"layer": 1})
    # No other statistic has heads.
    settled(page, lambda: page.locator("#theory").select_option("value"))
    check_page(page, dataset, "", theory="value", stream="after_layer", **START | {"layer": 1})


def test_all_layers_are_in_the_table_and_lead_on(opened, path, dataset):
    page = opened(path, "#theory=value")
    at = dataset.sel(theory="value", residual="uniform", centering="token", revision="step512")
    shown = page.locator("#table td b").all_inner_texts()
    expected = at["similarity"].transpose("layer", "stream").values[::-1]
    assert shown == [f"{value:.2f}" for value in expected.ravel()]
    settled(page, page.locator("#table tbody tr").nth(1).locator("button").nth(1).click)
    where = START | {"layer": 1}
    check_page(page, dataset, "", theory="value", stream="after_attention", **where)
    assert page.evaluate("document.activeElement.matches('#table .now')")
    assert page.locator("#live").inner_text().startswith("Layer 1, after attention")


def test_the_curve_over_checkpoints(opened, path, dataset):
    page = opened(path, "#theory=value")
    at = dataset.sel({k: v for k, v in START.items() if k != "revision"})
    values = at["similarity"].sel(theory="value", stream="after_layer").values
    drawn = page.locator("#curve path.overlap").get_attribute("d")
    heights = [float(point.split()[1]) for point in drawn.replace("M", "L").split("L")[1:]]
    lines = page.locator("#curve line.axis")
    low, high = (float(lines.nth(i).get_attribute("y1")) for i in range(2))
    np.testing.assert_allclose((np.array(heights) - low) / (high - low), values, atol=0.01)


def test_a_score_that_is_undefined(opened, dataset, tmp_path):
    one = dataset.isel(revision=[0]).copy(deep=True)
    for name in ("similarity", "null_mean", "null_sd", "p", "top_share"):
        one[name][:] = np.nan
    aj.write_comparison(one, tmp_path / "page.html")
    page = opened(tmp_path / "page.html")
    assert page.locator("#bars .value").all_inner_texts() == ["undefined"] * 3
    assert "undefined" in page.locator("#verdict").inner_text()
    assert page.locator("#tokens-note").inner_text() == "No token adds to this score."
    assert page.locator("#over").is_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_accessibility(opened, path, width, scheme):
    check_accessibility(opened(path), width, scheme)


def test_the_command_writes_either_page(dataset, tmp_path):
    results.save(dataset, tmp_path / "comparison.nc")
    cli.main(["explore", str(tmp_path / "comparison.nc")])
    text = (tmp_path / "comparison.html").read_text("utf-8")
    assert "step0, step16: 2 of 5 tensors" in text
    assert len(AWKWARD) == 21  # tokens that could break the page
    assert text.count("<script") == text.count("</script>") == 2 + 2 * 6
    with pytest.raises(ValueError, match="must be from compare_revisions"):
        aj.write_comparison(dataset.drop_vars("top_share"), tmp_path / "page.html")
