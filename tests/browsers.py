"""What tests of pages in a browser share, besides the fixture `opened`."""

import pytest


def settled(page, action):
    """Acts, and waits until the page shows what it brings."""
    before = page.evaluate("document.body.dataset.shown")
    action()
    page.wait_for_function("before => document.body.dataset.shown !== before", arg=before)


def check_accessibility(page, width: int, scheme: str, within: str | None = None) -> None:
    """axe-core finds no serious or critical fault, and nothing is wider than the window."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    for details in page.locator("details").all():
        details.evaluate("details => { details.open = true; }")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = axe.run(page, context=within).response
    assert found["testEngine"]["name"] == "axe-core"
    faults = [of for of in found["violations"] if of["impact"] in ("serious", "critical")]
    assert [(of["id"], of["nodes"][0]["html"]) for of in faults] == []
