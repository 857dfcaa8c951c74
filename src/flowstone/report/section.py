"""Section: one titled part of the page."""

from dataclasses import dataclass

from markupsafe import Markup

__all__ = ["Section"]


@dataclass(frozen=True)
class Section:
    """One titled part of the page.

    Attributes:
        name: its address in the page, lower-case words joined by hyphens.
        title: its heading, of level 2.
        body: HTML; headings in it are of level 3. It loads nothing: its scripts and styles are inside.
    """

    name: str
    title: str
    body: Markup
