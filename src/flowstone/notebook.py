"""What a notebook shows: tables as HTML, and an output that is replaced while work goes on."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

__all__ = ["Output", "html_table", "in_notebook"]


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook, which shows HTML and pictures."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


class Output:
    """One output of the cell that runs, whose content is replaced by each ``show``. It needs no widgets."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, content: Mapping[str, str]) -> None:
        """Show content by its type: ``text/plain``, ``text/html``, or ``image/png`` in base64."""
        if self._handle is None:
            self._handle = sys.modules["IPython"].display.display(dict(content), raw=True, display_id=True)
        else:
            self._handle.update(dict(content), raw=True)


def html_table(rows: Iterable[Sequence[object]], *, header: Sequence[object] = (), caption: str = "") -> str:
    """A table in HTML. Without a header the first cell of each row is its heading.

    >>> html_table([("recipe", "<nice>")])
    '<table><tbody><tr><th scope="row">recipe</th><td>&lt;nice&gt;</td></tr></tbody></table>'
    """
    parts = ["<table>"]
    if caption:
        parts.append(f"<caption>{escape(caption)}</caption>")
    if header:
        parts.append("<thead><tr>" + "".join(f'<th scope="col">{escape(str(name))}</th>' for name in header))
        parts.append("</tr></thead>")
    parts.append("<tbody>")
    for row in rows:
        first = "" if header else f'<th scope="row">{escape(str(row[0]))}</th>'
        cells = row if header else row[1:]
        parts.append(f"<tr>{first}" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>")
    return "".join([*parts, "</tbody></table>"])
