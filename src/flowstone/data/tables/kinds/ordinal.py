"""Ordinal: levels with an order."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import pyarrow as pa

from flowstone.data.tables.arrow import compute
from flowstone.data.tables.facts import Facts
from flowstone.data.tables.kinds.categorical import Categorical
from flowstone.data.tables.kinds.kind import Description
from flowstone.data.tables.types import plain_type

__all__ = ["Ordinal"]


@dataclass(frozen=True, kw_only=True)
class Ordinal(Categorical):
    """Levels 0 … K − 1 in the order that the user, or an ordered dictionary, gives."""

    name = "ordinal"
    takes = True
    ordered = True

    @classmethod
    def infer(cls, facts: Facts) -> "Ordinal | None":
        if not pa.types.is_dictionary(facts.type) or not facts.type.ordered or not facts.distinct:
            return None
        dictionary = facts.column.chunk(0).dictionary
        declared, found = (
            compute.cast(each, plain_type(each.type)).to_pylist() for each in (dictionary, facts.level_counts[0])
        )
        return cls._ordered(facts, declared) if set(found) <= set(declared) else None

    @classmethod
    def requested(cls, facts: Facts, arguments: Sequence[str]) -> "Ordinal":
        made = cast("Ordinal", super().requested(facts, ()))
        if not arguments:
            if made.grouped or any(isinstance(level, str) for level in made.levels):
                raise cls.refuse(facts, "name its levels in their order, as in ordinal(S,M,L)")
            return made
        by_text = {str(level): level for level in (*made.levels, *made.grouped)}
        left_out = [text for text in by_text if text not in arguments]
        if left_out:
            raise cls.refuse(facts, f"level {left_out[0]!r} is not among {', '.join(arguments)}")
        kind = type(made.levels[0])
        return cls._ordered(facts, [by_text.get(text, kind(text)) for text in arguments])

    @classmethod
    def _ordered(cls, facts: Facts, levels: Sequence) -> "Ordinal":
        made = super().requested(facts, ())
        return cast("Ordinal", replace(made, levels=tuple(levels), grouped=(), grouped_counts=()))

    def describe(self) -> Description:
        said = super().describe()
        shown = " < ".join(map(str, self.levels[:4])) + (" < …" if len(self.levels) > 4 else "")
        return replace(said, range=shown)
