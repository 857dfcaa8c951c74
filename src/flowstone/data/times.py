"""TimeFormat: how the numbers of a column of dates or times are written, and which moments they are."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import tzinfo
from typing import Literal

__all__ = ["TimeFormat"]


@dataclass(frozen=True)
class TimeFormat:
    """Writes a number of a column of dates or times as the table shows it; pictures ask it for the moment, too.

    A number stands for ``start + unit * number`` seconds: for moments since the beginning of 1970 in UTC, for times of
    day since midnight, for spans of time their length.

    Attributes:
        write: a number as text.
        what: whether numbers are moments, times of day or spans of time.
        unit, start: see above.
        zone: in which moments are written; None is UTC.
    """

    write: Callable[[float], str]
    what: Literal["moment", "time of day", "span"]
    unit: float = 1.0
    start: float = 0.0
    zone: tzinfo | None = None

    def __call__(self, value: float) -> str:
        return self.write(value)

    def seconds(self, value: float) -> float:
        """What a number stands for.

        >>> TimeFormat(str, "moment", unit=86_400).seconds(2.0)
        172800.0
        """
        return self.start + self.unit * value

    def value(self, seconds: float) -> float:
        """The number that stands for so many seconds."""
        return (seconds - self.start) / self.unit
