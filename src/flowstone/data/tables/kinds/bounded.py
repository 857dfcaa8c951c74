"""Bounded: numbers between two ends, and the ends themselves as atoms where they occur."""

from collections.abc import Sequence
from dataclasses import dataclass

from flowstone.data.tables.facts import Facts
from flowstone.data.tables.kinds.arguments import two_numbers
from flowstone.data.tables.kinds.numbers import Numbers

__all__ = ["Bounded"]


@dataclass(frozen=True, kw_only=True)
class Bounded(Numbers):
    """Numbers between ``low`` and ``high``, such as shares and percentages."""

    name = "bounded"
    takes = True
    rest = "interval"

    @classmethod
    def infer(cls, facts: Facts) -> "Bounded | None":
        low, high = facts.bounds
        return None if low is None or high is None else cls._made(facts, low, high)

    @classmethod
    def requested(cls, facts: Facts, arguments: Sequence[str]) -> "Bounded":
        if not facts.is_numeric or not len(facts.unique):
            raise cls.refuse(facts, "it holds no numbers")
        least, greatest = (float(facts.unique[end]) for end in (0, -1))
        low, high = two_numbers(cls.name, arguments) or (least, greatest)
        if least < low or greatest > high:
            raise cls.refuse(facts, f"it holds {least if least < low else greatest:g}, beyond {low:g} … {high:g}")
        return cls._made(facts, low, high)

    @classmethod
    def _made(cls, facts: Facts, low: float, high: float) -> "Bounded":
        ends = {end for end in (low, high) if end in facts.unique}
        return cls.of(facts, low=low, high=high, atoms=tuple(sorted({*facts.atoms, *ends})))
