"""Positive: numbers above 0, and 0 itself as an atom where it occurs."""

from collections.abc import Sequence
from dataclasses import dataclass

from flowstone.data.tables.facts import Facts
from flowstone.data.tables.kinds.numbers import Numbers

__all__ = ["Positive"]


@dataclass(frozen=True, kw_only=True)
class Positive(Numbers):
    """Numbers above 0, such as prices and durations."""

    name = "positive"
    rest = "positive"

    @classmethod
    def infer(cls, facts: Facts) -> "Positive | None":
        return cls._made(facts) if facts.bounds == (0.0, None) else None

    @classmethod
    def requested(cls, facts: Facts, arguments: Sequence[str]) -> "Positive":
        if not facts.is_numeric:
            raise cls.refuse(facts, "it holds no numbers")
        if len(facts.unique) and facts.unique[0] < 0 and facts.unique[0] not in facts.sentinels:
            raise cls.refuse(facts, f"its least value is {facts.unique[0]:g}")
        return cls._made(facts)

    @classmethod
    def _made(cls, facts: Facts) -> "Positive":
        zero = (0.0,) if len(facts.unique) and 0.0 in facts.unique else ()
        return cls.of(facts, low=0.0, atoms=tuple(sorted({*facts.atoms, *zero})))
