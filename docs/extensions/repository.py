"""Files of the repository that are pages of the site, too, and links between the two."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx


ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = {  # name of the page: the file outside of docs/ whose text it is
    "speed": "benchmarks/RESULTS.md",
    "image-speed": "benchmarks/IMAGES.md",
    "changelog": "CHANGELOG.md",
    "contributing": "CONTRIBUTING.md",
    "security": "SECURITY.md",
}
TUTORIALS = ("realnvp-two-moons", "nice-and-realnvp", "layer-by-layer", "image-flows", "your-own-table")
SOURCES = "https://github.com/flowstone-flows/flowstone/blob/main/"
LINK = re.compile(r"(```.*?```|`[^`\n]*`)|(\]\()([^)\s#]+)(#[^)\s]*)?(\))", re.DOTALL)


def site_links(text: str, source: Path, page: Path) -> str:
    """The text of a page whose links to files of the repository lead to pages of the site, or else to the repository.

    Args:
        text: Markdown.
        source: the file that the text is of; its links are relative to it.
        page: where the page lies among the sources of the site.
    """
    pages = {(ROOT / file).resolve(): DOCS / "generated" / f"{name}.md" for name, file in PAGES.items()}

    def replaced(found: re.Match[str]) -> str:
        if found[1] or "://" in found[3] or found[3].startswith("mailto:"):
            return found[0]
        target = (source.parent / found[3]).resolve()
        if not target.exists():
            return found[0]
        if target in pages or target.is_relative_to(DOCS):
            place = os.path.relpath(pages.get(target, target), page.parent)
        else:
            place = SOURCES + target.relative_to(ROOT).as_posix()
        return f"{found[2]}{place}{found[4] or ''}{found[5]}"

    return LINK.sub(replaced, text)


def without_absent(text: str, page: Path) -> str:
    """The text of a page without the lines that name a tutorial which is not there: a quick build leaves them out."""
    absent = [name for name in TUTORIALS if not (DOCS / "tutorials" / f"{name}.md").exists()]
    inside = page.parent == DOCS / "tutorials"
    named = re.compile("|".join(rf"^{name}$" if inside else rf"tutorials/{name}\b" for name in absent) or r"(?!)")
    return "\n".join(line for line in text.split("\n") if not named.search(line))


def write_if_changed(path: Path, text: str) -> None:
    """Write a generated page, unless it is there: what has not changed is not built again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def _write_pages(_app: "Sphinx") -> None:
    for name, file in PAGES.items():
        page = DOCS / "generated" / f"{name}.md"
        write_if_changed(page, site_links((ROOT / file).read_text(), ROOT / file, page))


def _replace_links(app: "Sphinx", name: str, source: list[str]) -> None:
    path = Path(app.env.doc2path(name))
    if path.suffix == ".md" and "generated" not in path.parts:
        source[0] = site_links(without_absent(source[0], path), path, path)


def setup(app: "Sphinx") -> dict[str, bool]:
    """Write the pages before the sources are found; replace links as they are read."""
    app.connect("builder-inited", _write_pages)
    app.connect("source-read", _replace_links)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
