"""Reading: how a file of a table is to be read."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from flowstone.errors import SettingError
from flowstone.validation import require_bool, require_choice

__all__ = ["AS_SHOWN", "READING", "Reading"]


@dataclass(frozen=True)
class Reading:
    """How a file of a table is to be read.

    Attributes:
        na: texts or numbers that mean a gap, beside the usual ones.
        encoding: of a text file; None: UTF-8, or UTF-16 or cp1252 where the bytes say so.
        skip_bad: whether rows of a text file that have too many or too few fields are left out.
        decimal: the decimal mark of a text file, ``"."`` or ``","``, where its numbers do not show it.
        day_first: whether 3/4/2024 is in April, where the dates do not show it.

    Raises:
        SettingError: one of them has a value that it cannot have.
    """

    na: Sequence[str] = ()
    encoding: str | None = None
    skip_bad: bool = False
    decimal: str | None = None
    day_first: bool | None = None

    def __post_init__(self) -> None:
        na: Any = (self.na,) if isinstance(self.na, str | int | float) else self.na
        if not isinstance(na, Iterable):
            raise SettingError(f"na={na!r} must be a sequence")
        object.__setattr__(self, "na", tuple(map(str, na)))
        if not isinstance(self.encoding, str | None):
            raise SettingError(f"encoding={self.encoding!r} must be a name, such as cp1252")
        require_bool("skip_bad", self.skip_bad)
        if self.decimal is not None:
            require_choice("decimal", self.decimal, (".", ","))
        if self.day_first is not None:
            require_bool("day_first", self.day_first)


READING = tuple(each.name for each in fields(Reading))  # names of its options
AS_SHOWN = Reading()
