"""A headless browser for the tests of pages; they are skipped with a reason where there is none."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

__all__ = ["RUNTIME", "barriers", "browsing", "opened", "require_browser", "require_runtime"]

RUNTIME = Path(__file__).parents[1] / "node_modules" / "onnxruntime-web"  # `make runtime` puts it there
# What bars a reader from a page: texts of too little contrast by the formula of WCAG 2, pictures and controls without
# a name, a focus that cannot be seen, a page that is wider than the window, and names in the page that come twice.
BARRIERS = """([large, spare]) => {
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const over = (top, under) => [0, 1, 2].map((i) => {
    const a = top.length > 3 ? top[3] : 1;
    return a * top[i] + (1 - a) * under[i];
  });
  const ground = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) layers.push(parse(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255]);
  };
  const light = (rgb) => {
    const linear = rgb.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const visible = (element) => element.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true });
  const what = (element) => `${element.tagName.toLowerCase()}.${element.className} ${element.id}`;
  const found = new Set();
  let seen = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, text = walker.currentNode.textContent.trim();
    if (!text || element.closest("script, style, svg") || !visible(element)) continue;
    seen += 1;
    const style = getComputedStyle(element), under = ground(element), size = parseFloat(style.fontSize);
    const [a, b] = [light(over(parse(style.color), under)), light(under)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < (size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? large : 4.5)) {
      found.add(`contrast ${ratio.toFixed(2)} of ${what(element)}: ${text.slice(0, 40)}`);
    }
  }
  if (!seen) found.add("no text");
  const name = (element) => element.getAttribute("alt") || element.getAttribute("aria-label") || element.title ||
    element.getAttribute("aria-labelledby") || [...(element.labels || [])].map((each) => each.textContent).join("") ||
    element.textContent || element.querySelector("[aria-label], [alt]");
  const nameless = (element) =>
    element.matches("select") ? !element.labels.length && !element.ariaLabel : !name(element);
  for (const element of document.querySelectorAll("img, canvas, svg[role], a[href], button, select, input, textarea")) {
    if (visible(element) && nameless(element)) found.add(`no name: ${what(element)}`);
  }
  for (const element of document.querySelectorAll("a[href], button, select, input, summary, [tabindex='0']")) {
    if (!visible(element) || element.disabled) continue;
    document.activeElement.blur();
    element.focus({ preventScroll: true });
    const style = getComputedStyle(element);
    const shown = style.outlineStyle !== "none" || style.boxShadow !== "none";
    if (document.activeElement === element && !shown) found.add(`focus unseen: ${what(element)}`);
  }
  document.activeElement.blur();
  const names = [...document.querySelectorAll("[id]")].map((element) => element.id);
  names.filter((id, at) => names.indexOf(id) !== at).forEach((id) => found.add(`id twice: ${id}`));
  if (!document.documentElement.lang) found.add("no language");
  if (!document.title) found.add("no title");
  const width = document.scrollingElement.scrollWidth;
  if (width > innerWidth + spare) found.add(`${width} pixels wide in ${innerWidth}`);
  return [...found];
}"""


def barriers(page: Any, *, large: float = 4.5, spare: int = 0) -> list[str]:
    """What bars a reader from what the page shows; empty where nothing does.

    Args:
        large: the least contrast of large texts; WCAG 2 asks for 3 (level AA) or 4.5 (AAA), and for 4.5 of others.
        spare: pixels by which the page may be wider than the window.
    """
    page.keyboard.press("Tab")  # after a click browsers draw no focus until a key is pressed
    return page.evaluate(BARRIERS, [large, spare])


def require_browser() -> str:
    """The path of a Chromium; the test is skipped where there is none, or no playwright."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = [path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))]
    if not found:
        pytest.skip("no Chromium on this machine: chromium, chromium-browser, google-chrome")
    return found[0]


def require_runtime() -> Path:
    """The folder of onnxruntime-web; the test is skipped where it is missing."""
    if not RUNTIME.is_dir():
        pytest.skip("onnxruntime-web is not in node_modules: make runtime")
    return RUNTIME


@contextmanager
def browsing() -> Iterator[Any]:
    """A browser without a window."""
    path = require_browser()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@contextmanager
def opened(
    browser: Any, path: Path, *, width: int = 1000, dark: bool = False, alone: bool = True, **options: Any
) -> Iterator[Any]:
    """A page from disk; at its end there may be no error, nothing on its console, and no request but for itself.

    Args:
        alone: False lets it ask for other files, and say on its console what is neither an error nor a warning.
        options: of the browser's context.
    """
    scheme = "dark" if dark else "light"
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **options)
    page, errors, requests = context.new_page(), [], []
    said = lambda message: alone or message.type in ("error", "warning")  # noqa: E731
    page.on("console", lambda message: errors.append(message.text) if said(message) else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    yield page
    context.close()
    assert errors == []
    own = (path.as_uri(), "data:") if alone else ("file:", "blob:", "data:")
    assert [url for url in requests if not url.startswith(own)] == []
