"""Pieces of HTML that several sections use. What comes from data is escaped: only ``Markup`` is taken as it is."""

import base64
import math
from collections.abc import Container, Iterable, Sequence

from markupsafe import Markup, escape

__all__ = ["code", "join", "number", "paragraph", "picture", "side_by_side", "table", "unfold"]

NARROW = 600  # a picture of so many pixels is still readable where a phone makes it smaller; wider ones scroll
DENSITY = 1.5  # of a picture to one of the page, so that it is sharp on dense screens
PNG = b"\x89PNG\r\n\x1a\n"


def join(parts: Iterable[Markup | str]) -> Markup:
    """Parts one after the other; texts among them are escaped."""
    return Markup("").join(parts)


def paragraph(text: Markup | str, kind: str = "") -> Markup:
    """A paragraph; ``kind`` is its class."""
    return Markup("<p{}>{}</p>").format(Markup(' class="{}"').format(kind) if kind else "", text)


def number(value: float | None, spec: str = ".4f") -> str:
    """A figure as text; JSON keeps what is not finite as None.

    >>> number(1.25, ".1f"), number(None)
    ('1.2', 'not finite')
    """
    return "not finite" if value is None or not math.isfinite(value) else format(value, spec)


def table(
    caption: str,
    head: Sequence[str],
    rows: Iterable[Sequence[Markup | str]],
    *,
    texts: int = 1,
    also_texts: Container[int] = (),
) -> Markup:
    """A table whose first column names its rows.

    Args:
        texts: how many columns, from the left, hold text; the others hold numbers and are aligned to the right.
        also_texts: the places of further columns that hold text.
    """

    def is_number(index: int) -> bool:
        return index >= texts and index not in also_texts

    head_cells = join(_cell("th", text, is_number(index), ' scope="col"') for index, text in enumerate(head))
    body = join(
        Markup("<tr>{}</tr>").format(
            join(
                _cell("td" if index else "th", cell, is_number(index), "" if index else ' scope="row"')
                for index, cell in enumerate(row)
            )
        )
        for row in rows
    )
    return Markup(
        '<div class="wide" tabindex="0" role="region" aria-label="{0}"><table><caption>{0}</caption>'
        "<thead><tr>{1}</tr></thead><tbody>{2}</tbody></table></div>"
    ).format(caption, head_cells, body)


def picture(image: bytes, alt: str, caption: Markup | str = "", *, kind: str = "") -> Markup:
    """A picture in PNG, on a light card of its own, with the text that takes its place.

    Args:
        kind: ``card`` for a small picture beside others; others have the width of the page.
    """
    width, height = (int.from_bytes(image[start : start + 4], "big") for start in (16, 20))
    assert image.startswith(PNG)
    source = base64.b64encode(image).decode()
    width, height = (round(size / DENSITY) for size in (width, height))
    shown = Markup('<img src="data:image/png;base64,{}" width="{}" height="{}" alt="{}">').format(
        source, width, height, alt
    )
    if kind != "card" and width <= NARROW:
        shown = Markup('<div class="small">{}</div>').format(shown)
    elif kind != "card":
        label = f"picture: {alt.partition(':')[0]}"
        shown = Markup('<div class="wide" tabindex="0" role="region" aria-label="{}">{}</div>').format(label, shown)
    below = Markup("<figcaption>{}</figcaption>").format(caption) if caption else ""
    return Markup('<figure class="{}">{}{}</figure>').format(kind or "whole", shown, below)


def side_by_side(parts: Iterable[Markup]) -> Markup:
    """Tables beside each other where there is room."""
    return Markup('<div class="beside">{}</div>').format(join(parts))


def code(lines: Iterable[str], label: str) -> Markup:
    """Lines to be copied, as they are."""
    text = "\n".join(lines)
    return Markup('<pre tabindex="0" role="region" aria-label="{}"><code>{}</code></pre>').format(label, text)


def unfold(title: str, body: Markup) -> Markup:
    """A part that is closed until it is asked for; a keyboard opens it, too."""
    return Markup("<details><summary>{}</summary>{}</details>").format(title, body)


def _cell(tag: str, text: Markup | str, is_number: bool, scope: str) -> Markup:
    kind = ' class="number"' if is_number else ""
    return Markup(f"<{tag}{scope}{kind}>{{}}</{tag}>").format(escape(text))
