"""The directive ``lesson``: the lesson in one dimension, to be played with in the page."""

from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

from flowstone.playground import lesson_section


class Lesson(Directive):
    """The section of HTML, complete in itself."""

    def run(self) -> list[nodes.Node]:
        """One node of raw HTML."""
        return [nodes.raw("", lesson_section(), format="html")]


def setup(app: Sphinx) -> dict[str, Any]:
    """Name the directive."""
    app.add_directive("lesson", Lesson)
    return {"parallel_read_safe": True}
