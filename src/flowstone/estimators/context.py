"""The context that an estimator is given with the rows: columns of any kind, as numbers that nets can read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from flowstone.data.tables import Columns, Table, kinds_of, read_table
from flowstone.data.tables.frames import is_tensor, tensor_values
from flowstone.errors import DataError
from flowstone.estimators.tables import LARGEST, TOO_WIDE, is_frame, is_plain, plain_values

__all__ = ["ContextColumns"]

WHERE = Path("the context")  # in messages
REST = {None: 0, "circle": 2}  # how many numbers stand for a value that is no atom, by its rest; one for others


@dataclass(frozen=True)
class ContextColumns:
    """How the columns of a context become numbers.

    Numbers stay as they are. A category, or another value that repeats, is a 1 among zeros, an angle its sine and
    cosine. A value that is missing is the mean of its column, or all zeros, and a further column says so.

    Attributes:
        names: of the columns.
        columns: their kinds; None where all are numbers without gaps, of an array or a frame.
        means: the mean of each modelled column, which stands for a missing value.
    """

    names: tuple[str, ...]
    columns: Columns | None = None
    means: tuple[float, ...] = ()

    @classmethod
    def learn(cls, context: Any, kinds: Mapping[str, str]) -> "ContextColumns":
        """Learn how the columns of a context become numbers, from the context of the rows that are learned.

        Args:
            kinds: corrections of the kinds that are inferred; names of other columns are passed over.
        """
        table = _table(context)
        requested = {name: kind for name, kind in kinds.items() if name in table.columns}
        if is_plain(table) and not requested:
            if not table.columns:
                raise DataError("the context has no column")
            return cls(tuple(table.columns))
        columns = kinds_of(table, requested)
        if not columns.names:
            raise DataError(f"no column of the context says anything ({', '.join(columns.notes)})")
        x = columns.encode(table)
        return cls(tuple(table.columns), columns, tuple(x.nanmean(0).nan_to_num().tolist()))

    @property
    def features(self) -> int:
        """How many numbers a row of the context becomes."""
        if self.columns is None:
            return len(self.names)
        return sum(len(head["atoms"]) + REST.get(head["rest"], 1) + head["gaps"] for head in self.columns.heads())

    def encode(self, context: Any) -> Tensor:
        """``(rows, features)``, float64.

        Raises:
            DataError: a column is missing, or holds a value that is none of its kind.
        """
        table = _table(context)
        if not is_frame(context) and len(table.columns) != len(self.names):
            raise DataError(f"the context has {len(table.columns)} columns; {len(self.names)} were fitted")
        table.require(self.names)
        if self.columns is None:
            table = Table(table.path, table.arrow.select(self.names))
            if not is_plain(table):
                raise DataError(f"{table.path}: it was fitted as numbers without gaps; {_first_gap(table)}")
            _require_distinct_values(table)
            return _finite(torch.from_numpy(plain_values(table)), self.names)
        return self._encoded(_finite(self.columns.encode(table), self.columns.names))

    def _encoded(self, x: Tensor) -> Tensor:
        assert self.columns is not None
        parts = []
        for kind, value, mean in zip(self.columns.modelled, x.unbind(1), self.means, strict=True):
            head, missing = kind.head(), value.isnan()
            is_atom = value[:, None] == torch.tensor(head["atoms"], dtype=torch.float64)
            unknown = missing & (not head["gaps"])
            if head["rest"] is None:
                unknown |= ~missing & ~is_atom.any(1)
            if unknown.any():
                row = int(unknown.nonzero()[0])
                said = "is missing" if missing[row] else f"is {value[row].item():g}"
                raise DataError(
                    f"the context: column {kind.column!r}, row {row + 1} {said}: none was when it was fitted"
                )
            parts.append(is_atom.double())
            if head["rest"] == "circle":
                turn = 2 * torch.pi * (value - head["low"]) / (head["high"] - head["low"])
                parts.append(torch.stack((turn.sin(), turn.cos()), 1).nan_to_num())
            elif head["rest"] is not None:
                parts.append(value.nan_to_num(mean)[:, None])
            if head["gaps"]:
                parts.append(missing.double()[:, None])
        return torch.cat(parts, 1)

    def as_record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        columns = None if self.columns is None else self.columns.as_record()
        return {"names": list(self.names), "columns": columns, "means": list(self.means)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "ContextColumns":
        """The columns that ``as_record`` wrote."""
        columns = None if record["columns"] is None else Columns.from_record(record["columns"])
        return cls(tuple(record["names"]), columns, tuple(record["means"]))


def _table(context: Any) -> Table:
    """A context as a table; an array with one value for each row becomes one column."""
    if is_frame(context):
        return replace(read_table(context), path=WHERE)
    context = tensor_values(context) if is_tensor(context) else context
    values = context if isinstance(context, np.ma.MaskedArray) else np.asarray(context)
    if values.ndim == 0 and values.dtype == object:
        raise DataError(f"the context is a {type(context).__name__}; expected an array of rows and columns, or a frame")
    if values.dtype.names:
        raise DataError("the context is a structured array: pandas.DataFrame(context) makes a frame of it")
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim != 2:
        raise DataError(f"the context has shape {values.shape}; expected (rows, columns)")
    return replace(read_table({f"context{index}": values[:, index] for index in range(values.shape[1])}), path=WHERE)


def _finite(x: Tensor, names: Sequence[str]) -> Tensor:
    """Return x; DataError where a number is infinite."""
    if x.isinf().any():
        row, column = x.isinf().nonzero()[0].tolist()
        raise DataError(f"the context: column {names[column]!r}, row {row + 1} is infinite")
    return x


def _require_distinct_values(table: Table) -> None:
    """Refuse whole numbers that float64 cannot tell apart."""
    for name, column in zip(table.columns, table.arrow.columns, strict=True):
        values = column.to_numpy() if pa.types.is_integer(column.type) else np.empty(0)
        wide = (values > LARGEST) | (values < -LARGEST)
        if wide.any():
            row = int(wide.argmax())
            raise DataError(f"{table.path}: column {name!r}, row {row + 1} is {values[row]}: {TOO_WIDE}")


def _first_gap(table: Table) -> str:
    for name in table.columns:
        column = table.arrow.column(name)
        if not is_plain(Table(table.path, pa.table({name: column}))):
            values = column.to_pylist()
            row = next((r for r, v in enumerate(values) if not isinstance(v, int | float) or v != v), 0)
            return f"column {name!r}, row {row + 1} is {values[row]!r}"
    return ""
