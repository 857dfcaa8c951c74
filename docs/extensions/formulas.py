"""Formulas as MathML, which browsers draw without scripts, and formulas between dollars in docstrings."""

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging

BLOCK = re.compile(r"^( *)\$\$\s*(.+?)\s*\$\$ *$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(``.+?``)|(?<![\\$])\$(?![$\s])([^$]+?)(?<![\\\s])\$(?!\$)", re.DOTALL)

NAME_BEFORE = re.compile(r"(<mi>(?:log|exp|sin|cos|arctan|det|min|max)</mi>(?:</m\w+>)*)(?=<m(?!o))")  # log p, not logp
BAR = re.compile(r'<mo stretchy="false">(?:&#x0007C;|\|)</mo>')  # |x| without the space of an operator


def mathml(latex: str, *, display: str = "inline") -> str:
    """A formula of LaTeX as an element of MathML.

    >>> mathml("x^2")[:34]
    '<math xmlns="http://www.w3.org/199'
    """
    element = convert(" ".join(latex.split()), display=display)
    element = NAME_BEFORE.sub(r'\1<mspace width="0.17em"/>', element)
    return BAR.sub('<mo stretchy="false" lspace="0" rspace="0">|</mo>', element)


def with_roles(docstring: str) -> str:
    r"""A docstring in which formulas between dollars are reStructuredText.

    >>> print(with_roles("The $x$ of ``$HOME``."))
    The :math:`x` of ``$HOME``.
    """
    return INLINE.sub(_role, BLOCK.sub(_directive, docstring))


def _directive(found: re.Match[str]) -> str:
    indent, latex = found[1], " ".join(found[2].split())
    return f"\n{indent}.. math::\n\n{indent}   {latex}\n"


def _role(found: re.Match[str]) -> str:
    if found[1]:
        return found[1]
    before = found.string[found.start() - 1 : found.start()]
    after = found.string[found.end() : found.end() + 1]
    left = r"\ " if before.isalnum() else ""
    right = r"\ " if after.isalnum() else ""
    return f"{left}:math:`{' '.join(found[2].split())}`{right}"


def _convert_docstring(_app: Sphinx, _what: str, _name: str, _thing: Any, _options: Any, lines: list[str]) -> None:
    lines[:] = with_roles("\n".join(lines)).split("\n")


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
