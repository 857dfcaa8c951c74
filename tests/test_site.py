"""The built site in a browser: nothing is fetched, nothing fails, it can be searched, read and used by keyboard.

``make docs`` builds it and runs these tests; ``FLOWSTONE_SITE`` is the folder of its pages.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from browser import barriers, browsing

SITE = Path(os.environ.get("FLOWSTONE_SITE", ""))
if not os.environ.get("FLOWSTONE_SITE"):
    pytest.skip("make docs builds the site and tests it", allow_module_level=True)

PAGES = sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html") if "_" not in path.parts[0][:1])
LOOKED_AT = [
    "index.html",
    "start.html",
    "change-of-variables.html",
    "how-to/from-nflows.html",
    "how-to/reading-check.html",
    "gallery/index.html",
    "gallery/moons.html",
    "api/index.html",
    "api/bijections.html",
    "generated/commands.html",
    "results.html",
    *[page for page in PAGES if page.startswith("tutorials/")],
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing() as started:
        yield started


class Reader:
    """A page in a window, which writes down what goes wrong and what is fetched from elsewhere."""

    def __init__(self, browser: Any, width: int = 1280, scheme: str = "light") -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
        )
        self.page = self.context.new_page()
        self.wrong: list[str] = []
        self.page.on("console", lambda said: said.type in ("error", "warning") and self.wrong.append(said.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda request: self._look_at(request.url))

    def _look_at(self, url: str) -> None:
        if not url.startswith(("file:", "data:")):
            self.wrong.append(f"fetched {url}")

    def open(self, name: str, query: str = "") -> Any:
        self.page.goto((SITE / name).resolve().as_uri() + query)
        return self.page

    def close(self) -> None:
        self.context.close()
        assert not self.wrong


@pytest.fixture
def reader(browser) -> Iterator[Reader]:
    opened = Reader(browser)
    yield opened
    opened.close()


def test_every_page_opens_without_errors_or_requests(reader):
    assert len(PAGES) > 60
    for name in PAGES:
        page = reader.open(name)
        assert page.title(), name
        assert not reader.wrong, name
        unnamed = page.eval_on_selector_all("img", "all => all.filter(i => !i.alt).map(i => i.src)")
        assert not unnamed, f"{name}: no alternative text of {unnamed}"
        broken = page.eval_on_selector_all("img", "all => all.filter(i => !i.naturalWidth).map(i => i.src)")
        assert not broken, f"{name}: {broken}"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_pages_can_be_read(browser, scheme, width):
    reader = Reader(browser, width, scheme)
    for name in LOOKED_AT:
        page = reader.open(name)
        found = barriers(page, large=3, spare=1)
        assert not found, f"{name}: {found}"
    reader.close()


@pytest.mark.parametrize("words", ["RealNVP", "NICE", "fit_to_density", "gaps"])
def test_the_search_finds(reader, words):
    page = reader.open("index.html")
    page.get_by_role("textbox", name="Search").first.fill(words)
    page.keyboard.press("Enter")
    page.wait_for_selector("#search-results li a", timeout=10_000)
    found = page.locator("#search-results li a")
    hrefs = [found.nth(index).get_attribute("href") for index in range(found.count())]
    assert hrefs
    for href in hrefs[:20]:
        assert (SITE / href.partition("#")[0].partition("?")[0]).exists(), href


def test_the_search_prefers_what_a_word_names(reader):
    for word, page_of in (("RealNVP", "realnvp"), ("NICE", "nice"), ("RQSpline", "RQSpline")):
        page = reader.open("search.html", f"?q={word}")
        page.wait_for_selector("#search-results li a", timeout=10_000)
        hrefs = page.eval_on_selector_all("#search-results li a", "all => all.slice(0, 10).map(a => a.href)")
        assert any(page_of.lower() in href.lower() for href in hrefs), (word, hrefs)


def test_formulas_are_drawn_by_the_browser(reader):
    page = reader.open("api/bijections.html")
    heights = page.eval_on_selector_all("math[display=block]", "all => all.map(m => m.getBoundingClientRect().height)")
    assert len(heights) > 20
    assert min(heights) > 12


def test_the_site_can_be_used_by_keyboard(reader):
    page = reader.open("index.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent").strip() == "Skip to content"
    links = page.locator("article a.reference").all()
    links[0].focus()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    with page.expect_navigation():
        page.keyboard.press("Enter")
    assert not page.url.endswith("index.html")


def test_code_can_be_copied(reader):
    page = reader.open("start.html")
    assert page.locator("button.copybtn").count() > 3


def test_a_list_of_pages_is_there_for_programs():
    text = (SITE / "llms.txt").read_text()
    for name in PAGES:
        if name not in ("search.html", "genindex.html", "py-modindex.html"):
            assert f"({name})" in text, name
    assert all(line.rstrip().endswith((".", "…")) for line in text.splitlines() if line.startswith("- "))
