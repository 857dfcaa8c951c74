"""Integer: whole numbers, such as counts and years."""

from collections.abc import Sequence
from dataclasses import dataclass

from flowstone.data.tables.facts import Facts
from flowstone.data.tables.kinds.gridded import Gridded

__all__ = ["Integer"]


@dataclass(frozen=True, kw_only=True)
class Integer(Gridded):
    """Whole numbers: a grid of step 1, or of a larger one that all values share."""

    name = "integer"
    takes = False

    @classmethod
    def infer(cls, facts: Facts) -> "Integer | None":
        if not facts.is_numeric or facts.per_unit > 1 or not facts.is_integer or not facts.on_grid:
            return None
        return cls._made(facts)

    @classmethod
    def requested(cls, facts: Facts, arguments: Sequence[str]) -> "Integer":
        if not facts.is_numeric:
            raise cls.refuse(facts, "it holds no numbers")
        if not facts.is_integer:
            odd = next((value for value in facts.unique.tolist() if value != int(value)), None)
            raise cls.refuse(facts, f"it holds {odd:g}" if odd is not None else "it holds no numbers")
        return cls._made(facts)

    def treatment(self) -> str:
        every = "whole number" if self.step == 1 else f"multiple of {self.step:g}"
        return f"a probability for each {every}{self.ends()}"
