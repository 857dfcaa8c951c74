"""Constant: one value in all rows, or none in any: no part of the density, put back in samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from flowstone.data.tables.arrow import compute
from flowstone.data.tables.facts import Facts
from flowstone.data.tables.kinds.kind import Description, Kind
from flowstone.data.tables.types import plain_type, python_value, type_from_record, type_to_record

__all__ = ["Constant"]


@dataclass(frozen=True, kw_only=True)
class Constant(Kind):
    """A value that all rows have.

    Attributes:
        value: as text, a number or a truth value; None where all rows are gaps.
        value_type: its type in Arrow.
        said: the value as the table shows it.
    """

    name = "constant"
    value: Any = None
    value_type: str = "null"
    said: str = "no value"

    @classmethod
    def infer(cls, facts: Facts) -> "Constant | None":
        alone = facts.distinct == 0 or (facts.distinct == 1 and not facts.missing)
        return cls.requested(facts, ()) if alone else None

    @classmethod
    def requested(cls, facts: Facts, arguments: Sequence[str]) -> "Constant":
        if facts.distinct > 1 or (facts.distinct and facts.missing):
            raise cls.refuse(facts, f"it holds {facts.distinct} different values and {facts.missing} gaps")
        if not len(facts.present):
            return cls(**cls.common(facts))
        value = facts.present.slice(0, 1)
        plain = compute.cast(value, plain_type(value.type))
        said = python_value(value[0])
        return cls(**cls.common(facts), value=plain[0].as_py(), value_type=type_to_record(plain.type), said=str(said))

    def repeat(self, rows: int) -> pa.Array:
        """The constant, so many times."""
        if self.value is None:
            return pa.nulls(rows, self.type)
        one = pa.array([self.value], type_from_record(self.value_type))
        repeated = one.take(pa.array(np.zeros(rows, dtype=np.int64)))
        if pa.types.is_dictionary(self.type):
            return repeated.cast(self.type.value_type).dictionary_encode().cast(self.type)
        return repeated.cast(self.type)

    def differs(self, column: pa.ChunkedArray) -> np.ndarray:
        """Where a column holds another value, ``(rows,)``; a gap is none, and a column of gaps alone has no value."""
        if pa.types.is_dictionary(column.type):
            column = compute.cast(column, column.type.value_type)
        present = np.asarray(compute.is_valid(column))
        if pa.types.is_floating(column.type):
            present &= ~np.asarray(compute.fill_null(compute.is_nan(column), True))
        if self.value is None:
            return np.zeros(len(column), dtype=bool)
        value = pa.scalar(self.value, type_from_record(self.value_type))
        try:
            same = compute.equal(column, value.cast(column.type))
        except pa.ArrowException:  # of another type: the same words are the same value; a list has none
            try:
                same = compute.equal(compute.cast(column, pa.string()), str(self.value))
            except pa.ArrowException:
                return present
        return present & ~np.asarray(compute.fill_null(same, False))

    def describe(self) -> Description:
        return Description(self.said, "left out of the density, put back in samples")
