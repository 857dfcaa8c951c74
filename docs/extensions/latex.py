"""Formulas of LaTeX as MathML, which browsers draw without scripts, and docstrings as reStructuredText."""

import re

from latex2mathml.converter import convert

BLOCK = re.compile(r"^( *)\$\$\s*(.+?)\s*\$\$ *$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(``.+?``)|(?<![\\$])\$(?![$\s])([^$]+?)(?<![\\\s])\$(?!\$)", re.DOTALL)
NAME_BEFORE = re.compile(r"(<mi>(?:log|exp|sin|cos|arctan|det|min|max)</mi>(?:</m\w+>)*)(?=<m(?!o))")  # log p, not logp
BAR = re.compile(r'<mo stretchy="false">(?:&#x0007C;|\|)</mo>')  # |x| without the space of an operator
ATTRIBUTES = re.compile(r"^Attributes:\n((?:(?: {4}.*)?(?:\n|\Z))+)", re.MULTILINE)


def mathml(latex: str, *, display: str = "inline") -> str:
    """A formula of LaTeX as an element of MathML.

    >>> mathml("x^2")[:34]
    '<math xmlns="http://www.w3.org/199'
    """
    latex = re.sub(r"(?<=\w)\\_(?=\w)", "_", latex)  # inside \text, where the converter leaves the backslash
    element = convert(" ".join(latex.split()), display=display)
    element = NAME_BEFORE.sub(r'\1<mspace width="0.17em"/>', element)
    return BAR.sub('<mo stretchy="false" lspace="0" rspace="0">|</mo>', element)


def with_roles(docstring: str) -> str:
    r"""A docstring in which formulas between dollars are reStructuredText.

    >>> print(with_roles("The $x$ of ``$HOME``."))
    The :math:`x` of ``$HOME``.
    """
    return INLINE.sub(_role, BLOCK.sub(_directive, docstring))


def with_attributes(docstring: str) -> str:
    r"""A docstring whose section of attributes is a field with a list; several names may share what is said.

    >>> print(with_attributes("Attributes:\n    a, b: two of\n        them."))
    :Attributes:
        * **a**, **b** – two of
          them.
    """
    return ATTRIBUTES.sub(lambda found: ":Attributes:\n" + _as_list(found[1]), docstring)


def _as_list(section: str) -> str:
    def names(found: re.Match[str]) -> str:
        return "    * " + ", ".join(f"**{name.strip()}**" for name in found[1].split(",")) + " – "

    return re.sub(r"^ {4}(\w[\w, ]*): ", names, re.sub(r"^ {8}", " " * 6, section, flags=re.M), flags=re.M)


def _directive(found: re.Match[str]) -> str:
    indent, latex = found[1], " ".join(found[2].split())
    return f"\n{indent}.. math::\n\n{indent}   {latex}\n"


def _role(found: re.Match[str]) -> str:
    """A formula as a role, or code as it is; reStructuredText sees neither next to a letter or a sign such as ±."""
    before = found.string[found.start() - 1 : found.start()]
    after = found.string[found.end() : found.end() + 1]
    left = r"\ " if before and not re.match(r"[\s'\"(\[{<\-/:]", before) else ""
    right = r"\ " if after and not re.match(r"[\s'\")\]}>\-/:.,;!?\\]", after) else ""
    return left + (found[1] or f":math:`{' '.join(found[2].split())}`") + right
