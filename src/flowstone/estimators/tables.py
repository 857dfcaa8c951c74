"""The input of estimators as tables and arrays, and results in the container that rows came in."""

import datetime
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from flowstone.data.tables import Table, read_table
from flowstone.data.tables.frames import is_tensor, tensor_values
from flowstone.data.tables.table import is_number_text
from flowstone.data.tables.types import is_number
from flowstone.errors import DataError

__all__ = [
    "as_rows",
    "backend_of",
    "in_container",
    "in_container_of",
    "is_frame",
    "is_plain",
    "plain_values",
    "require_numbers",
]

LARGEST = 2**53  # up to which float64 tells whole numbers apart
TOO_WIDE = "whole numbers beyond 2^53 cannot be told apart in float64; subtract an offset first"


def is_frame(x: Any) -> bool:
    """Whether rows come as a frame or an Arrow table, with names of columns."""
    import narwhals as nw

    return nw.dependencies.is_into_dataframe(x)


def is_plain(table: Table) -> bool:
    """Whether all columns are numbers and no value is missing."""
    arrow = table.arrow
    return all(is_number(column.type) for column in arrow.columns) and not _has_gaps(arrow)


def _has_gaps(arrow: pa.Table) -> bool:
    if any(column.null_count for column in arrow.columns):
        return True
    return any(bool(np.isnan(column.to_numpy()).any()) for column in arrow.columns if pa.types.is_floating(column.type))


def plain_values(table: Table) -> np.ndarray:
    """Numbers as float64, ``(rows, columns)``."""
    columns = [column.to_numpy().astype(np.float64) for column in table.arrow.columns]
    return np.stack(columns, 1) if columns else np.empty((len(table), 0))


def as_rows(x: Any) -> Any:
    """X as estimators read it: a frame with plain names, or an array in which what is masked is NaN.

    Raises:
        DataError: X has no rows and columns; the message says how to make some.
    """
    x = tensor_values(x) if is_tensor(x) else x
    what, shape = type(x).__name__, getattr(x, "shape", ())
    if isinstance(x, pa.Table | pa.RecordBatch):
        _require_different(x.schema.names)
        return pa.Table.from_batches([x]) if isinstance(x, pa.RecordBatch) else x
    if isinstance(x, np.ma.MaskedArray) and x.dtype.kind in "biuf":
        return np.where(np.ma.getmaskarray(x), np.nan, np.asarray(x, dtype=np.float64))
    if what == "LazyFrame":
        raise DataError("X is a LazyFrame: X.collect() makes a frame of it")
    if isinstance(x, Mapping) and not hasattr(x, "toarray"):  # sparse ones may be dictionaries
        raise DataError(f"X is a {what}; expected an array of rows and columns, or a frame")
    if what == "Series":
        raise DataError("X is a Series, which has no columns; Reshape your data: X.to_frame() is a frame of one column")
    if getattr(getattr(x, "dtype", None), "names", None):
        raise DataError("X is a structured array: pandas.DataFrame(X) makes a frame of it")
    if len(shape) == 1 and hasattr(x, "dtype"):
        raise DataError(
            f"X has shape {tuple(shape)}; expected (rows, columns). Reshape your data: X.reshape(-1, 1) is one column"
        )
    return _plainly_named(x) if hasattr(x, "columns") and hasattr(x, "iloc") else x


def _plainly_named(frame: Any) -> Any:
    """A frame of pandas whose names of several levels are text."""
    names = list(frame.columns)
    _require_different(names)
    several = any(isinstance(name, tuple) for name in names)
    return frame.set_axis([str(name) for name in names], axis=1) if several else frame


def _require_different(names: Sequence[Any]) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise DataError(f"column name {repeated[0]!r} of X occurs more than once")


def require_numbers(x: Any) -> None:
    """Refuse what would lose its meaning as float64: dates, text, and whole numbers that it cannot tell apart; and
    what is infinite.

    Raises:
        DataError: the message names row and column; rows of a frame count from 1, an array is indexed.
    """
    if is_frame(x):
        for name, column in _columns(x):
            _require_numbers(
                column.to_numpy(),
                f"column {name!r} of X",
                lambda row, name=name: f"column {name!r} of X, row {row + 1}",
            )
        return
    values = np.asarray(x)
    if values.dtype.kind == "c":
        raise DataError(f"Complex data not supported: X is an array of {values.dtype}")
    if values.ndim != 2 or values.dtype.kind not in "MmUSOiuf":
        return
    if values.dtype.kind == "f" and np.isfinite(values.sum()):
        return
    for index, column in enumerate(values.T):
        _require_numbers(column, f"column {index} of X", lambda row, index=index: f"X[{row}, {index}]")


def _require_numbers(values: np.ndarray, column: str, place: Callable[[int], str]) -> None:
    """``require_numbers`` for one column, in words and by row."""
    kind = values.dtype.kind
    if kind in "Mm":
        raise DataError(f"{column} holds dates; a frame with kinds='infer' learns them as such")
    if kind in "UO":
        for row, value in enumerate(values):
            _require_number(value, lambda row=row: place(row))
    if kind == "f" and np.isinf(values).any():
        raise DataError(f"{place(int(np.isinf(values).argmax()))} is infinite")
    if kind in "iu":
        wide = (values > LARGEST) | (values < -LARGEST)
        if wide.any():
            row = int(wide.argmax())
            raise DataError(f"{place(row)} is {values[row]}: {TOO_WIDE}")


def _require_number(value: Any, place: Callable[[], str]) -> None:
    """``require_numbers`` for one object; None is a gap."""
    if isinstance(value, datetime.date | datetime.timedelta):
        raise DataError(f"{place()} holds a date; a frame with kinds='infer' learns dates as such")
    if isinstance(value, str) and not is_number_text(value):
        raise DataError(f"{place()} holds {str(value)!r}, which is no number")
    if isinstance(value, int | np.integer) and not -LARGEST <= value <= LARGEST:
        raise DataError(f"{place()} is {value}: {TOO_WIDE}")
    if isinstance(value, str | float | np.floating) and np.isinf(float(value)):
        raise DataError(f"{place()} is infinite")
    if value is not None and not isinstance(value, str) and not hasattr(value, "__float__"):
        raise TypeError(f"{place()} holds {value!r}; the argument must be a string or a real number")


def _columns(x: Any) -> list[tuple[str, Any]]:
    import narwhals as nw

    frame = nw.from_native(x, eager_only=True)
    return [(column.name, column) for column in frame.iter_columns()]


def backend_of(x: Any) -> str | None:
    """Which library's frame it is, as narwhals names it; None of what is no frame."""
    import narwhals as nw

    return nw.from_native(x, eager_only=True).implementation.name.lower() if is_frame(x) else None


def in_container_of(x: Any, table: pa.Table) -> Any:
    """An Arrow table with the rows and columns of X in the container of X, with the names and index of pandas."""
    made = in_container(table, backend_of(x))
    return made.set_axis(x.index).set_axis(x.columns, axis=1) if hasattr(x, "iloc") else made


def in_container(table: pa.Table, backend: Any) -> Any:
    """An Arrow table as a frame of this library; as an array of numbers where there is none."""
    import narwhals as nw

    if backend is None:
        return plain_values(read_table(table))
    if backend == "pyarrow":
        return table
    if backend == "pandas":
        return table.to_pandas()
    made = nw.from_arrow(table, backend=backend)
    ordered = {  # Arrow's ordered levels are an Enum, which from_arrow does not know
        field.name: nw.Enum(table.column(field.name).combine_chunks().dictionary.to_pylist())
        for field in table.schema
        if pa.types.is_dictionary(field.type) and field.type.ordered and backend == "polars"
    }
    return made.with_columns(*(nw.col(name).cast(kind) for name, kind in ordered.items())).to_native()
