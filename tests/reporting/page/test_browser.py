"""Pages as Chromium shows them: nothing fails, every plot is drawn, nothing runs over the edge of a phone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testing.browser import CHROMIUM, DESK, DRIVER, PHONE, open_browser, show
from tests.reporting.page.made import HOSTILE, SERVED, TARGET, make_family, tiny_page
from trimformer.reporting.page.sweep import sweep_page

pytestmark = [
    pytest.mark.xdist_group("browser"),  # one browser for all
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium and chromedriver on this machine"),
]

# Elements that reach beyond the window, but for what scrolls by itself.
OVER = """
return [...document.querySelectorAll("body *")].filter(e => !e.closest(".wide, pre") && !e.closest("svg"))
    .filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5).map(e => e.outerHTML)
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with open_browser(tmp_path_factory.mktemp("browser")) as driver:
        yield driver


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    long = "a-name-of-a-model-that-is-longer-than-a-phone-is-wide-" * 2
    made = {
        "prune": tiny_page(
            name=HOSTILE,
            loading=["import trimformer", f"model = trimformer.load({long!r})"],
            target=TARGET,
            serving=SERVED,
        ),
        "family": sweep_page(make_family(model=long)),
    }
    folder = tmp_path_factory.mktemp("pages")
    for name, html in made.items():
        (folder / f"{name}.html").write_text(html, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in made}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("name", ["prune", "family"])
def test_a_page_is_drawn_whole_and_nothing_fails(browser, pages, name, width, scheme):
    show(browser, pages[name], width=width, scheme=scheme)
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script(OVER) == []
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('svg')].map(s => [s.getBoundingClientRect().width,"
        "s.getBoundingClientRect().height, s.querySelectorAll('path, use').length])"
    )
    assert len(sizes) == {"prune": 3, "family": 6}[name]
    assert all(wide > 200 and high > 100 and marks > 10 for wide, high, marks in sizes)


@pytest.mark.parametrize("name", ["prune", "family"])
def test_texts_of_plots_and_tables_can_be_selected(browser, pages, name):
    show(browser, pages[name])
    selected = browser.execute_script(
        "const all = document.createRange(); all.selectNodeContents(document.body);"
        "getSelection().removeAllRanges(); getSelection().addRange(all); return getSelection().toString()"
    )
    plotted = browser.execute_script("return [...document.querySelectorAll('svg text')].map(t => t.textContent)")
    assert len(plotted) > 20
    assert all(text in selected for text in plotted)
    assert "forward passes" in selected


@pytest.mark.parametrize("name", ["prune", "family"])
def test_light_and_dark_can_both_be_read(browser, pages, name):
    """Contrast with the background, as WCAG counts it: 4.5 at least of texts, 3 of lines and marks."""
    for scheme in ("light", "dark"):
        show(browser, pages[name], scheme=scheme)
        names = ["paper", "panel", "ink", "muted", "right", *(f"series-{i}" for i in range(1, 8))]
        colors = browser.execute_script(
            "const style = getComputedStyle(document.documentElement);"
            "return arguments[0].map(name => style.getPropertyValue('--' + name).trim())", names,
        )  # fmt: skip
        paper, panel, *drawn = map(luminance, colors)
        for ground in (paper, panel):
            assert all(contrast(color, ground) >= 3 for color in drawn), scheme
            assert all(contrast(text, ground) >= 4.5 for text in drawn[:4]), scheme
    assert paper < 0.05  # the last one is dark


def luminance(color: str) -> float:
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: float, other: float) -> float:
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)
