"""Fonts for names in any script: where a font lacks a letter, another of those installed draws it."""

import warnings
from functools import cache
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, fontManager, get_font
from matplotlib.text import Text

__all__ = ["complete_fonts"]

NO_LETTERS = "Last Resort"  # fonts that have a box for everything
REGULAR = 400  # the weight of plain text


def complete_fonts(figure: Figure) -> None:
    """Let each text of a figure have the fonts that its letters need. Letters that no font has become boxes, which is
    said once.
    """
    nowhere = set()
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        own = findfont(text.get_fontproperties())
        letters = [letter for letter in dict.fromkeys(text.get_text()) if not letter.isascii()]
        lacking = [letter for letter in letters if not _has(own, letter)]
        found = [_family_with(letter) for letter in lacking]
        nowhere |= {letter for letter, family in zip(lacking, found, strict=True) if family is None}
        if families := list(dict.fromkeys(family for family in found if family)):
            text.set_fontfamily([*text.get_fontfamily(), *families])
    if nowhere:
        _say("".join(sorted(nowhere)))


def _has(path: str, letter: str) -> bool:
    return bool(get_font(path).get_char_index(ord(letter)))


@cache
def _family_with(letter: str) -> str | None:
    """A family of fonts, installed on this machine, that has a letter."""
    for font in fontManager.ttflist:
        upright = font.style == "normal" and font.weight == REGULAR and not font.name.startswith(NO_LETTERS)
        if upright and Path(font.fname).is_file() and _has(font.fname, letter):
            return font.name
    return None


@cache
def _say(letters: str) -> None:
    warnings.warn(f"no installed font has {', '.join(letters)}: pictures show a box for each of them", stacklevel=2)
