"""Columns that are left out: identifiers, indices, free text, and what is no column of values."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from flowstone.data.tables.facts import GROWING, Facts
from flowstone.data.tables.kinds.kind import Description, Kind
from flowstone.data.tables.types import is_number, is_temporal, is_text

__all__ = ["Identifier", "LeftOut", "Text"]


@dataclass(frozen=True, kw_only=True)
class LeftOut(Kind):
    """A column that says nothing about the others: it is neither in the density nor in samples.

    Attributes:
        why: in a few words.
    """

    name = "left_out"
    why: str = "as asked"

    @classmethod
    def infer(cls, facts: Facts) -> "LeftOut | None":
        """The kind of columns whose type has no single values, such as lists and bytes."""
        kind = facts.type
        plain = is_text(kind) or is_number(kind) or is_temporal(kind) or pa.types.is_boolean(kind)
        if plain or pa.types.is_null(kind) or pa.types.is_dictionary(kind):
            return None
        facts.notes.append(f"it is left out: its type is {kind}")
        return cls(column=facts.name, type=facts.type, rows=len(facts.column), why=f"type {kind}")

    @classmethod
    def requested(cls, facts: Facts, arguments: Sequence[str]) -> "LeftOut":
        return cls(column=facts.name, type=facts.type, rows=len(facts.column))

    def describe(self) -> Description:
        return Description("", f"left out: {self.why}")


@dataclass(frozen=True, kw_only=True)
class Identifier(LeftOut):
    """Names of rows: an index, row numbers, ids."""

    name = "identifier"

    @classmethod
    def infer(cls, facts: Facts) -> "Identifier | None":
        why = "the table says that it is an index" if facts.index else None
        if why is None and (is_text(facts.type) or is_number(facts.type) or pa.types.is_dictionary(facts.type)):
            why = facts.looks_like_identifier
        if why is None:
            return None
        if why == GROWING:
            facts.doubt(f"it is left out as an identifier: {why}", "to keep it", kinds={facts.name: "integer"})
        else:
            facts.notes.append(f"it is left out as an identifier: {why}")
        return cls(**cls.common(facts), why=why)

    @classmethod
    def requested(cls, facts: Facts, arguments: Sequence[str]) -> "Identifier":
        return cls(**cls.common(facts))


@dataclass(frozen=True, kw_only=True)
class Text(LeftOut):
    """Free text: too many different values to be categories."""

    name = "text"

    @classmethod
    def infer(cls, facts: Facts) -> "Text | None":
        if not is_text(facts.type) and not pa.types.is_dictionary(facts.type):
            return None
        facts.notes.append(f"it is left out as text: {facts.distinct} different values in {len(facts.present)} rows")
        return cls(**cls.common(facts), why="text")

    @classmethod
    def requested(cls, facts: Facts, arguments: Sequence[str]) -> "Text":
        return cls(**cls.common(facts))
