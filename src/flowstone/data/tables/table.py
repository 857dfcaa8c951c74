"""Table: named columns as they were read, and what was understood while reading them."""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from flowstone.data.tables.arrow import compute
from flowstone.data.tables.reading import AS_SHOWN, Reading
from flowstone.data.tables.types import python_value
from flowstone.errors import DataError

__all__ = ["Table", "is_number_text"]


@dataclass(frozen=True)
class Table:
    """A table as it was read: nothing is checked or converted before ``numbers`` asks for it.

    Attributes:
        path: where it comes from, for messages.
        arrow: its columns.
        notes: what was understood while it was read, such as "read as cp1252 text separated by ';'"; the first says
            its form, the others what was done or doubted.
        index: names of columns that hold an index by the file's own word, such as pandas' in Parquet.
        reading: the options by which it was read, with what its cells showed in place of what was not set.
        start: how many rows of its source come before its first one, where it is a chunk of a larger table.
    """

    path: Path
    arrow: pa.Table
    notes: tuple[str, ...] = ()
    index: tuple[str, ...] = ()
    reading: Reading = AS_SHOWN
    start: int = 0

    @property
    def columns(self) -> list[str]:
        return self.arrow.column_names

    def __len__(self) -> int:
        return self.arrow.num_rows

    def require(self, columns: Iterable[str]) -> None:
        """Raise DataError where one of these columns is missing."""
        for name in columns:
            if name not in self.columns:
                near = difflib.get_close_matches(name, self.columns, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(self.columns)}"
                raise DataError(f"{self.path}: no column {name!r}: {hint}")

    def numbers(self, columns: Sequence[str]) -> np.ndarray:
        """``(rows, len(columns))`` in float64; missing values become NaN.

        Raises:
            DataError: a column is missing or not numeric; the message names it, and the row of the first text.
        """
        self.require(columns)
        return np.stack([np.empty(len(self)), *map(self._number_column, columns)], 1)[:, 1:]

    def finite(self, columns: Sequence[str], *, drop_missing: bool = False) -> tuple["Table", np.ndarray]:
        """``numbers`` with every value finite: rows with a NaN or infinity are an error, or left out where asked."""
        values = self.numbers(columns)
        good = np.isfinite(values).all(1)
        if good.all():
            return self, values
        if not drop_missing:
            row, column = np.argwhere(~np.isfinite(values))[0]
            what = "missing or NaN" if np.isnan(values[row, column]) else "infinite"
            raise DataError(
                f"{self.path}: column {columns[column]!r}, row {self.start + row + 1} is {what}; "
                f"{int((~good).sum())} of {self.extent()} hold such values; to leave them out",
                remedy={"drop_missing": True},
            )
        return replace(self, arrow=self.arrow.filter(pa.array(good))), values[good]

    def chunks(self, rows: int) -> "Iterator[Table]":
        """Its rows, so many at a time."""
        for start in range(0, len(self), rows):
            yield replace(self, arrow=self.arrow.slice(start, rows), start=self.start + start)

    def extent(self) -> str:
        """Its rows in words: their number, or where a chunk lies."""
        return f"rows {self.start + 1} to {self.start + len(self)}" if self.start else f"{len(self)} rows"

    def renamed(self, names: Sequence[str]) -> "Table":
        """The same table under other column names, as many as it has columns."""
        if len(names) != len(self.columns):
            raise DataError(f"{self.path}: {len(self.columns)} columns, expected {len(names)}: {', '.join(names)}")
        return replace(self, arrow=self.arrow.rename_columns(list(names)))

    def _number_column(self, name: str) -> np.ndarray:
        column = self.arrow.column(name)
        kind = column.type
        if not (
            pa.types.is_integer(kind)
            or pa.types.is_floating(kind)
            or pa.types.is_decimal(kind)
            or pa.types.is_boolean(kind)
        ):
            raise DataError(f"{self.path}: column {name!r} is not numeric ({_first_text(column, self.start)})")
        return np.array(compute.cast(column, pa.float64(), safe=False).to_numpy())  # 2**53 + 1 may lose its last digit


def is_number_text(text: str) -> bool:
    """Whether Python reads a text as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _first_text(column: pa.ChunkedArray, start: int) -> str:
    for row, value in enumerate(map(python_value, column), start=start + 1):
        if value is not None and not is_number_text(str(value)):
            return f"row {row} holds {str(value)!r}"
    return f"type {column.type}"
