"""Boolean: true and false, and columns of 0 and 1."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from flowstone.data.tables.arrow import compute
from flowstone.data.tables.facts import Facts
from flowstone.data.tables.kinds.kind import Description, ModelledKind
from flowstone.data.tables.types import is_number, is_text, python_value
from flowstone.data.tables.values import is_gap, without_gaps
from flowstone.errors import DataError

__all__ = ["Boolean"]

TRUTH = ("true", "false", "1", "0")


@dataclass(frozen=True, kw_only=True)
class Boolean(ModelledKind):
    """Two values: 0 for false, 1 for true."""

    name = "boolean"

    @property
    def of_truth_values(self) -> bool:
        """Whether the column holds true and false, not 1 and 0."""
        return pa.types.is_boolean(self.type)

    @classmethod
    def infer(cls, facts: Facts) -> "Boolean | None":
        if pa.types.is_boolean(facts.type):
            return cls(**cls.common(facts))
        numbers = is_number(facts.type) and facts.distinct == 2 and facts.unique.tolist() == [0.0, 1.0]
        return cls(**cls.common(facts)) if numbers else None

    @classmethod
    def requested(cls, facts: Facts, arguments: Sequence[str]) -> "Boolean":
        made = cls.infer(facts)
        if made is None:
            raise cls.refuse(facts, "it holds other values than true and false, 0 and 1; categorical takes any two")
        return made

    def encode(self, column: pa.ChunkedArray, where: str, start: int = 0) -> np.ndarray:
        if pa.types.is_dictionary(column.type):
            column = compute.cast(column, column.type.value_type)
        try:
            if is_text(column.type):
                column = compute.cast(without_gaps(compute.cast(column, pa.string())), pa.bool_())
            values = np.array(compute.cast(column, pa.float64(), safe=False).to_numpy(), dtype=np.float64)
        except pa.ArrowException as error:
            texts = enumerate(map(python_value, column), start=start + 1)
            bad = (
                (row, cell)
                for row, cell in texts
                if isinstance(cell, str) and cell.strip().lower() not in TRUTH and not is_gap(cell)
            )
            row, cell = next(bad, (0, None))
            held = f", row {row} holds {cell!r}" if row else f" is of type {column.type}"
            raise DataError(f"{where}: column {self.column!r}{held}; it is boolean: true or false, 1 or 0") from error
        bad = np.flatnonzero(~(np.isnan(values) | (values == 0) | (values == 1)))
        if len(bad):
            row = int(bad[0])
            held = f"row {start + row + 1} is {values[row]:g}"
            raise DataError(f"{where}: column {self.column!r}, {held}; it is boolean: 0 or 1")
        return values

    def decode(self, values: np.ndarray, *, seed: int = 0) -> pa.Array:
        gaps = np.isnan(values)
        whole = np.clip(np.round(np.where(gaps, 0.0, values)), 0, 1)
        if not pa.types.is_decimal(self.type):  # which Arrow makes of floats, but not of integers of 64 bits
            whole = whole.astype(np.int64)
        return pa.array(whole, mask=gaps).cast(self.type)

    def head(self) -> dict[str, Any]:
        return {
            "name": self.column, "atoms": [0.0, 1.0], "rest": None, "low": None, "high": None,
            "step": None, "anchor": None, "gaps": self.missing > 0,
        }  # fmt: skip

    def describe(self) -> Description:
        return Description("false, true" if pa.types.is_boolean(self.type) else "0, 1", "a probability for each")
