"""Datetime: dates, times of day, timestamps with or without a zone, and spans of time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from flowstone.data.tables.facts import Facts, ticks_per_unit
from flowstone.data.tables.kinds.numbers import Numbers
from flowstone.data.tables.types import is_temporal, plain_type, python_value
from flowstone.data.times import TimeFormat

__all__ = ["Datetime"]

FAR = (pa.scalar(-30_610_224_000), pa.scalar(32_503_680_000))  # years 1000 and 3000, in seconds
DAY = 86_400


@dataclass(frozen=True, kw_only=True)
class Datetime(Numbers):
    """Dates in days, all else in seconds, since 1970 where the type counts from there."""

    name = "datetime"
    gridded: bool = True

    @classmethod
    def infer(cls, facts: Facts) -> "Datetime | None":
        return cls._made(facts) if is_temporal(facts.type) else None

    @classmethod
    def asked(cls, facts: Facts, arguments: Sequence[str]) -> "Datetime":
        if not is_temporal(facts.type):
            raise cls.refuse(facts, "its values cannot be read as dates or times")
        return cls._made(facts)

    @classmethod
    def _made(cls, facts: Facts) -> "Datetime":
        seconds = DAY if pa.types.is_date(facts.type) else 1
        counted = pa.types.is_date(facts.type) or pa.types.is_timestamp(facts.type)
        far = [v for v in facts.unique[[0, -1]] if not FAR[0].as_py() <= v * seconds <= FAR[1].as_py()]
        made = cls.of(facts, gridded=facts.on_grid, step=facts.step)
        if counted and far and not facts.origin:
            facts.doubt(f"{made.said(float(far[0]))} is far from all dates that are usual: it may stand for a gap")
        return made

    def format(self) -> TimeFormat:
        """How numbers of the tensor are written, and which moments they are."""
        unit = DAY if pa.types.is_date(self.type) else 1
        start = unit * self.origin / ticks_per_unit(self.type)
        if pa.types.is_duration(self.type):
            return TimeFormat(self.said, "span", unit, start)
        if pa.types.is_time(self.type):
            return TimeFormat(self.said, "time of day", unit, start)
        first = python_value(pa.scalar(0, plain_type(self.type)).cast(self.type))
        return TimeFormat(self.said, "moment", unit, start, getattr(first, "tzinfo", None))

    def head(self) -> dict[str, Any]:
        if self.gridded and self.step:
            return super().head() | {"rest": "grid", "step": self.step, "anchor": self.anchor}
        return super().head()

    def treatment(self) -> str:
        if pa.types.is_date(self.type):
            return "a probability for each day" if self.step == 1 else f"a probability for each {self.step:g} days"
        return f"in seconds, rounded to {self.step:g}" if self.step else "in seconds, a density on the real line"
