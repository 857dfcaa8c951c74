"""Formulas in pages and docstrings are drawn as MathML."""

from typing import Any

from docutils import nodes
from latex import mathml, with_attributes, with_roles
from sphinx.application import Sphinx
from sphinx.util import logging


def _convert_docstring(_app: Sphinx, what: str, _name: str, _thing: Any, _options: Any, lines: list[str]) -> None:
    lines[:] = with_attributes(with_roles("\n".join(lines))).split("\n")
    if what in ("property", "attribute"):
        lines[:0] = ["..", ""]  # an empty comment; else napoleon takes what is before a colon for a type


def _visit_inline(translator: Any, node: nodes.Element) -> None:
    translator.body.append(_checked(node, "inline"))
    raise nodes.SkipNode


def _visit_block(translator: Any, node: nodes.Element) -> None:
    translator.body.append(f'<div class="math-block" tabindex="0">{_checked(node, "block")}</div>\n')
    raise nodes.SkipNode


def _checked(node: nodes.Element, display: str) -> str:
    try:
        return mathml(node.astext(), display=display)
    except Exception as error:
        logging.getLogger(__name__).warning(f"the formula {node.astext()!r} has no MathML: {error}", location=node)
        return ""


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer and the reading of docstrings, which comes before that of napoleon."""
    app.add_html_math_renderer("mathml", (_visit_inline, None), (_visit_block, None))
    app.connect("autodoc-process-docstring", _convert_docstring, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
