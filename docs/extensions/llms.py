"""``llms.txt`` at the root of the site: every page with a sentence, for programs that read instead of people."""

from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

LONGEST = 300


def _write(app: Sphinx, error: Exception | None) -> None:
    if error is not None or app.builder.format != "html":
        return
    names = sorted(app.env.found_docs, key=lambda name: (name.count("/"), name))
    lines = [f"- [{app.env.titles[name].astext()}]({name}.html): {_sentence(app, name)}" for name in names]
    head = f"# Flowstone\n\n> {_sentence(app, 'index')}\n\n## Pages\n\n"
    Path(app.outdir, "llms.txt").write_text(head + "\n".join(lines) + "\n")


def _sentence(app: Sphinx, name: str) -> str:
    """The first paragraph of a page, up to the end of its first sentence."""
    for paragraph in app.env.get_doctree(name).findall(nodes.paragraph):
        text = " ".join(paragraph.astext().split())
        if text:
            first = text.split(". ")[0].rstrip(".:") + "."
            return first if len(first) <= LONGEST else first[:LONGEST].rsplit(" ", 1)[0] + " …"
    return ""


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the file when all pages are."""
    app.connect("build-finished", _write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
