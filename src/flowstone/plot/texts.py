"""Numbers and names as short texts that stay different from each other."""

import math
import re
from collections import defaultdict
from collections.abc import Sequence

from matplotlib.axis import Axis

__all__ = ["name_axis", "number_text", "scale_note", "shortened", "shortened_all"]

LARGE, SMALL = 1e15, 1e-4  # numbers above and below are written with an exponent
EXACT = 16  # digits that a float64 has


def number_text(value: float, spread: float = 0.0, *, digits: int = 5) -> str:
    """A number with so many digits or more: of numbers that are spread over a range, the digits are those of the range.

    >>> number_text(2.0), number_text(123_290.0), number_text(1_700_000_123.25, spread=50.0), number_text(2e-9)
    ('2', '123290', '1700000123.25', '2e-09')
    """
    size = abs(value)
    if not math.isfinite(size) or size >= LARGE or 0 < size < SMALL:
        return f"{value:.{digits}g}"
    above = math.floor(math.log10(size)) + 1 if size else 1  # digits before the point; less than 1 for small numbers
    decimals = digits - above
    if 0 < spread < math.inf:
        decimals = max(decimals, digits - 1 - math.ceil(math.log10(spread)))
    text = f"{value:.{max(0, min(decimals, EXACT - above))}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def shortened(text: str, most: int) -> str:
    """A text, or its beginning where it has more than so many characters.

    >>> shortened("temperature outside", 12)
    'temperature…'
    """
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def shortened_all(texts: Sequence[str], most: int) -> list[str]:
    """Texts of at most so many characters. Those that begin alike lose what they share.

    >>> shortened_all(["Bachelor of Science", "Bachelor of Arts", "PhD"], 12)
    ['…Science', '…Arts', 'PhD']
    """
    groups = defaultdict(set)
    for text in texts:
        groups[shortened(text, most)].add(text)
    short = {}
    for begin, group in groups.items():
        start = _first_difference(group) if len(group) > 1 else 0
        short |= {text: f"…{shortened(text[start:], most - 1)}" if start else begin for text in group}
    return [short[text] for text in texts]


def _first_difference(texts: set[str]) -> int:
    """Where the first word begins in which texts differ; of one long word, where its first different letter is."""
    low, high = min(texts), max(texts)
    alike = next((index for index, pair in enumerate(zip(low, high, strict=False)) if pair[0] != pair[1]), len(low))
    return len(re.sub(r"\w+$", "", low[:alike])) or alike


def scale_note(axis: Axis) -> str:
    """The factor or the summand that the ticks of an axis leave out, such as `` (×1e6)``, to stand beside its name.

    matplotlib would write it at the end of the axis, across the name. The limits of the axis must be final.
    """
    formatter = axis.get_major_formatter()
    formatter.set_locs(axis.get_majorticklocs())  # pyright: ignore[reportArgumentType]
    left_out = formatter.get_offset()
    axis.offsetText.set_visible(False)
    if not left_out:
        return ""
    return f" ({'' if left_out[0] in '+−-' else '×'}{left_out})"


def name_axis(axis: Axis, name: str) -> None:
    """Label an axis with a name, and with what its ticks leave out."""
    axis.set_label_text(f"{name}{scale_note(axis)}")
