"""Datetime: dates, times of day, timestamps with or without a zone, spans of time; dates that are text, too."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from flowstone.data.tables.arrow import compute
from flowstone.data.tables.date_forms import READINGS, find_form, read_form, write_form
from flowstone.data.tables.facts import Facts, ticks_per_unit
from flowstone.data.tables.kinds.numbers import Numbers
from flowstone.data.tables.types import is_number, is_temporal, is_text, plain_type, python_value
from flowstone.data.tables.values import parse_dates, without_gaps
from flowstone.data.times import TimeFormat
from flowstone.errors import DataError

__all__ = ["Datetime"]

FAR = (pa.scalar(-30_610_224_000), pa.scalar(32_503_680_000))  # years 1000 and 3000, in seconds
DAY = 86_400


@dataclass(frozen=True, kw_only=True)
class Datetime(Numbers):
    """Dates in days, all else in seconds, since 1970 where the type counts from there.

    Attributes:
        gridded: whether it is modelled on its grid.
        form: of a column of text, or of whole numbers such as 20240131, how it writes its dates, which is how samples
            are written; of others empty.
        day_first: whether the day comes before the month where its dates are text; None where nothing said so.
    """

    name = "datetime"
    gridded: bool = True
    form: str = ""
    day_first: bool | None = None

    def __post_init__(self) -> None:
        if self.form and self.form not in READINGS:
            raise ValueError(f"unknown form of dates {self.form!r}")

    @classmethod
    def infer(cls, facts: Facts) -> "Datetime | None":
        if is_temporal(facts.type):
            return cls._made(facts)
        return None if facts.date_form is None else cls._of_text(facts, *facts.date_form)

    @classmethod
    def requested(cls, facts: Facts, arguments: Sequence[str]) -> "Datetime":
        made = cls.infer(facts)
        if made is None:
            raise cls.refuse(facts, "its values cannot be read as dates or times")
        return made

    @classmethod
    def _of_text(cls, facts: Facts, form: str, doubt: str | None) -> "Datetime":
        if doubt:
            facts.doubt(doubt)
        times = read_form(_texts(facts.column), form)
        assert times is not None
        facts.notes.append(f"its {'texts' if is_text(facts.type) else 'numbers'} are dates, {form}")
        made = cls._made(replace(facts, column=times, day_first=READINGS[form].day_first))
        return replace(made, type=facts.type, form=form)

    @classmethod
    def _made(cls, facts: Facts) -> "Datetime":
        seconds = DAY if pa.types.is_date(facts.type) else 1
        counted = pa.types.is_date(facts.type) or pa.types.is_timestamp(facts.type)
        far = [v for v in facts.unique[[0, -1]] if not FAR[0].as_py() <= v * seconds <= FAR[1].as_py()]
        made = cls.of(facts, gridded=facts.on_grid, step=facts.step, day_first=facts.day_first)
        if counted and far and not facts.origin:
            facts.doubt(f"{made.said(float(far[0]))} is far from all dates that are usual: it may stand for a gap")
        return made

    @property
    def times(self) -> "Datetime":
        """The same kind of dates and times in a type of their own."""
        if not self.form:
            return self
        return replace(self, type=READINGS[self.form].type, form="")

    def encode(self, column: pa.ChunkedArray, where: str, start: int = 0) -> np.ndarray:
        if not self.form:
            return super().encode(column, where, start)
        if pa.types.is_dictionary(column.type):
            column = compute.cast(column, column.type.value_type)
        if is_number(column.type):
            column = _texts(column)
            bad = compute.and_(column.is_valid(), READINGS[self.form].stamps(column).is_null())
            if compute.any(bad).as_py():
                row = compute.index(bad, True).as_py()
                held = f"row {start + row + 1} is {column[row]}"
                raise DataError(f"{where}: column {self.column!r}, {held}; it is {self.name}: a date as {self.form}")
        read = self.read(column)
        return self.times.encode(column if read is None else read, where, start)

    def read(self, column: pa.ChunkedArray) -> pa.ChunkedArray | None:
        """Text in the column's own form as dates; None of other columns."""
        if not self.form or not is_text(column.type):
            return None
        return read_form(without_gaps(compute.cast(column, pa.string())), self.form)

    def dates_of(self, text: pa.ChunkedArray) -> pa.ChunkedArray | None:
        parsed = parse_dates(text, self.day_first)
        return None if parsed is None else parsed[0]

    def decode(self, values: np.ndarray, *, seed: int = 0) -> pa.Array:
        if pa.types.is_time(self.type):
            values = np.mod(self.on_grid(np.asarray(values, dtype=np.float64)), DAY)
        if not self.form:
            return super().decode(values, seed=seed)
        return write_form(self.times.decode(values), self.form).cast(self.type)

    def decode_as_type_of(self, values: np.ndarray, column: pa.ChunkedArray) -> pa.Array:
        """Dates for the gaps of a column: where that is text, in its own form."""
        if self.form and not is_text(column.type) and not is_temporal(column.type):
            return self.decode(values)
        times = self.times.decode(values)
        if not is_text(column.type):
            return times
        if self.read(column) is not None:
            return write_form(times, self.form)
        levels = compute.unique(compute.drop_null(without_gaps(compute.cast(column, pa.string()))))
        found = find_form(levels, self.day_first)
        return write_form(times, found[0]) if found else compute.cast(times, pa.string())

    def said(self, value: float | None) -> str:
        return self.times.said(value) if self.form else super().said(value)

    def format(self) -> TimeFormat:
        """How numbers of the tensor are written, and which moments they are."""
        if self.form:
            return self.times.format()
        unit = DAY if pa.types.is_date(self.type) else 1
        start = unit * self.origin / ticks_per_unit(self.type)
        if pa.types.is_duration(self.type):
            return TimeFormat(self.said, "span", unit, start)
        if pa.types.is_time(self.type):
            return TimeFormat(self.said, "time of day", unit, start)
        first = python_value(pa.scalar(0, plain_type(self.type)).cast(self.type))
        return TimeFormat(self.said, "moment", unit, start, getattr(first, "tzinfo", None))

    def head(self) -> dict[str, Any]:
        head = super().head()
        if pa.types.is_time(self.type):  # midnight is both ends of a day
            head |= {"rest": "circle", "low": 0.0, "high": float(DAY)}
        if self.gridded and self.step:
            head |= {"rest": "grid", "step": self.step, "anchor": self.anchor}
            if pa.types.is_time(self.type):
                head["high"] = DAY - 1 / ticks_per_unit(self.type)
        return head

    def treatment(self) -> str:
        if self.form:
            return self.times.treatment()
        if pa.types.is_date(self.type):
            return "a probability for each day" if self.step == 1 else f"a probability for each {self.step:g} days"
        rounded = f", rounded to {self.step:g}" if self.step else ""
        if pa.types.is_time(self.type):
            return f"in seconds{rounded}" if self.gridded else f"in seconds, a density on the circle of a day{rounded}"
        return f"in seconds{rounded}" if rounded else "in seconds, a density on the real line"


def _texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text, or whole numbers, as strings."""
    if pa.types.is_floating(column.type):
        column = compute.if_else(compute.is_nan(column), pa.scalar(None, column.type), column)
    with suppress(pa.ArrowInvalid):  # of fractions, which then are no dates
        column = column.cast(pa.int64()) if is_number(column.type) else column
    return compute.cast(column, pa.string())
