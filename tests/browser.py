"""A headless browser for the tests of pages; they are skipped with a reason where there is none."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

__all__ = ["RUNTIME", "browsing", "opened", "require_browser", "require_runtime"]

RUNTIME = Path(__file__).parents[1] / "node_modules" / "onnxruntime-web"  # `make runtime` puts it there


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
def opened(browser: Any, path: Path, *, width: int = 1000, dark: bool = False) -> Iterator[Any]:
    """A page from disk with a clock that stands still; no error on its console and no request but for files."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light")
    page, errors, requests = context.new_page(), [], []
    page.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    yield page
    context.close()
    assert errors == []
    assert [url for url in requests if not url.startswith(("file:", "blob:"))] == []
