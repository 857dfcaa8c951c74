"""Gridded: numbers that are multiples of a step, such as prices in cents."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from flowstone.data.tables.facts import DECIMALS, Facts
from flowstone.data.tables.kinds.numbers import Numbers
from flowstone.errors import SettingError

__all__ = ["Gridded"]

FINEST = 10.0**-DECIMALS


@dataclass(frozen=True, kw_only=True)
class Gridded(Numbers):
    """Numbers on a grid: each has a probability, as discrete values have."""

    name = "gridded"
    takes = True
    rest = "grid"

    @classmethod
    def infer(cls, facts: Facts) -> "Gridded | None":
        if not facts.is_numeric or facts.per_unit > 1 or facts.is_integer or not facts.on_grid:
            return None
        return cls._made(facts)

    @classmethod
    def requested(cls, facts: Facts, arguments: Sequence[str]) -> "Gridded":
        if not facts.is_numeric:
            raise cls.refuse(facts, "it holds no numbers")
        step = _step(arguments) or facts.step
        if step is None:
            raise cls.refuse(facts, "its values have no common step; name one, as in gridded(0.01)")
        off = facts.unique[abs(facts.unique / step - (facts.unique / step).round()) > 1e-6]
        if arguments and len(off):
            raise cls.refuse(facts, f"{off[0]:g} is no multiple of {step:g}")
        return cls._made(facts, step=step)

    @classmethod
    def _made(cls, facts: Facts, **changed: Any) -> Self:
        low, high = facts.bounds
        return cls.of(facts, **{"low": low, "high": high} | changed)

    def treatment(self) -> str:
        return f"a probability for each multiple of {self.step:g}{self.ends()}"

    def ends(self) -> str:
        """Where the grid begins and ends, in words."""
        return "".join(f" {word} {end:g}" for word, end in (("from", self.low), ("to", self.high)) if end is not None)


def _step(arguments: Sequence[str]) -> float | None:
    if not arguments:
        return None
    try:
        step = float(arguments[0])
    except ValueError:
        step = 0.0
    if len(arguments) > 1 or not FINEST <= step < math.inf:
        raise SettingError(
            f"gridded({','.join(arguments)}): expected one step, as in gridded(0.01), and at least {FINEST:g}"
        )
    return step
