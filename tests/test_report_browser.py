"""The pages in a real browser: nothing loaded, nothing complained about, nothing wider than a phone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stillhouse.report.compare import compare
from stillhouse.report.page import write_report
from test_report import FIGURES, figure, log, summary, write_run

pytestmark = pytest.mark.browser

QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--no-first-run",
]
OVERFLOWING = """() => [...document.querySelectorAll('main *')]
    .filter(e => !e.closest('.scroll, .code, .hidden') && e.getBoundingClientRect().right > innerWidth + 1)
    .map(e => e.outerHTML.slice(0, 120))"""
CUT_OFF = """() => [...document.querySelectorAll('.card svg text')].filter(t => {
    const own = t.getBoundingClientRect(), all = t.ownerSVGElement.getBoundingClientRect();
    return own.left < all.left - 1 || own.right > all.right + 1 || own.bottom > all.bottom + 1 || own.top < all.top - 1;
}).map(t => t.outerHTML)"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, driven by Playwright. CI must have both; elsewhere the tests are skipped without them."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sync_playwright = None
    if path is None or sync_playwright is None:
        if os.environ.get("CI"):
            pytest.fail("CI must have Chromium and the Python package playwright: the report is tested in a browser")
        pytest.skip("needs Chromium and the Python package playwright")
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A report and a comparison, with long names, many classes and several arms."""
    classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    arms = summary()["arms"] | {"teacher_1_step": {"accuracy": 0.5}, "a_rather_long_arm_name": {"accuracy": 0.7}}
    more = [
        figure("dots", "By class", arm, labels=classes, series={"": [0.7 + 0.02 * n for n in range(10)]}, unit="share")
        for arm in arms
    ]
    bins = [{"low": n / 5, "high": (n + 1) / 5, "count": n, "confidence": n / 5, "accuracy": n / 6} for n in range(5)]
    more.append(figure("reliability", "Reliability", bins=bins, ece=0.03))
    more.append(figure("who-is-right", "Who is right", both=9, arm_only=1, teacher_only=2, neither=3, same_mistake=1))
    more.append(figure("text", "Long", samples=["x" * 400]))
    many = {"labels": [f"class {n}" for n in range(40)], "series": {"n": list(range(40))}}
    layers = [f"model.layers.{n}.mlp" for n in range(16)]
    more.append(figure("heatmap", "Likeness", rows=layers, columns=layers, values=[[0.5] * 16] * 16, xlabel="layer"))
    more.append(
        figure("heatmap", "Likeness", rows=layers[:3], columns=layers[:3], values=[[0.5] * 3] * 3, about="How.")
    )
    bounds = {
        "difference": [0.1, -0.2] * 12,
        "low": [-0.5] * 24,
        "high": [0.5] * 24,
        "count": [1000] * 24,
        "unit": "share",
    }
    more.append(figure("intervals", "By class", labels=[f"a rather long class name {n}" for n in range(24)], **bounds))
    more.append(figure("lines", "Cosine", x=[1, 2], series={"features/long/name ~ other": [-0.1, 0.2]}, range=[-1, 1]))
    folder = write_run(
        tmp_path_factory.mktemp("browser") / "run",
        summary_json=summary(arms=arms),
        figures_json=[*FIGURES, *more, figure("bars", "Many", **many)],
        metrics_jsonl=log("teacher") + log() + log("control", {"total/student": 1e-6}),
        provenance_json={"data": {"train": {"sha256": "0123456789abcdef" * 4}}},
    )
    other = write_run(folder.parent / "other", summary_json=summary(arms=arms, name="another-recipe"))
    return {"report": write_report(folder), "comparison": compare([folder, other]).html(folder.parent / "compare.html")}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 768, 1280])
@pytest.mark.parametrize("name", ["report", "comparison"])
def test_page_renders(browser, pages, name, width, scheme):
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(pages[name].as_uri())
    for fold in page.query_selector_all("details"):
        fold.evaluate("e => e.open = true")
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [pages[name].as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(OVERFLOWING) == []
    assert page.evaluate(CUT_OFF) == []
    assert page.inner_text("h1")
    assert all(page.evaluate("[...document.images].map(i => i.complete && i.naturalWidth > 0)"))
    page.close()


@pytest.mark.parametrize("name", ["report", "comparison"])
def test_what_scrolls_on_a_phone_shows_that_it_does(browser, pages, name):
    """The edge that hides something is darker than the ground; scrolled to the end, it no longer is."""
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.goto(pages[name].as_uri())
    box = next(
        box for box in page.query_selector_all(".scroll") if box.evaluate("e => e.scrollWidth > e.clientWidth + 40")
    )
    assert box.get_attribute("tabindex") == "0"
    hidden = right_edge(box)
    box.evaluate("e => e.scrollLeft = e.scrollWidth")
    assert hidden < right_edge(box) - 8
    page.close()


def test_a_phone_shows_the_drawn_interval_without_scrolling(browser, pages):
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.goto(pages["report"].as_uri())
    box = page.query_selector(".whisker").bounding_box()
    assert box["width"] > 60
    assert box["height"] > 8
    page.close()


def right_edge(box: Any) -> float:
    """Mean brightness of the last six pixels of a box, over its whole height."""
    picture = Image.open(BytesIO(box.screenshot())).convert("L")
    width, height = picture.size
    return float(np.asarray(picture.crop((width - 6, 0, width, height))).mean())


def test_the_page_follows_the_readers_colours_and_can_be_read_in_both(browser, pages):
    """Text against its ground: WCAG asks for a contrast of 4.5."""
    grounds = []
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto(pages["report"].as_uri())
        colours = page.evaluate(
            "['body', '.lead', '.legend', 'td.num', 'td.better b', '.eyebrow b'].map("
            "s => getComputedStyle(document.querySelector(s)).color)"
        )
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        grounds.append(ground)
        assert min(contrast(colour, ground) for colour in colours) >= 4.5
        page.close()
    assert grounds[0] != grounds[1]


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two CSS colours `rgb(r, g, b)` (WCAG 2.2)."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [float(p) / 255 for p in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
