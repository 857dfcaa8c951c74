"""Continuous: any real number."""

from collections.abc import Sequence
from dataclasses import dataclass

from flowstone.data.tables.facts import Facts
from flowstone.data.tables.kinds.numbers import Numbers

__all__ = ["Continuous"]


@dataclass(frozen=True, kw_only=True)
class Continuous(Numbers):
    """Numbers without bounds; what is left where no other kind of number fits."""

    name = "continuous"

    @classmethod
    def infer(cls, facts: Facts) -> "Continuous | None":
        return cls.of(facts) if facts.is_numeric else None

    @classmethod
    def requested(cls, facts: Facts, arguments: Sequence[str]) -> "Continuous":
        if not facts.is_numeric:
            raise cls.refuse(facts, "it holds no numbers")
        return cls.of(facts, atoms=() if facts.is_short else facts.atoms)
