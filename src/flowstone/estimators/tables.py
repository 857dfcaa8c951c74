"""The input of estimators as tables and arrays, and results in the container that rows came in."""

import datetime
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa

from flowstone.data.tables import Table, read_table
from flowstone.data.tables.frames import is_tensor, tensor_values
from flowstone.data.tables.table import is_number_text
from flowstone.data.tables.types import is_number
from flowstone.errors import DataError

__all__ = [
    "LARGEST",
    "TOO_WIDE",
    "as_rows",
    "backend_of",
    "in_container",
    "in_container_of",
    "is_frame",
    "is_plain",
    "plain_values",
    "require_numbers",
    "types_of",
]

LARGEST = 2**53  # up to which float64 tells whole numbers apart
NOT_OF_ARROW = ("Int128", "UInt128", "Float32")  # types of columns that are others in between
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


def types_of(x: Any) -> dict[str, Any]:
    """The type of each column of a frame, as ``in_container`` takes them; of what is no frame none."""
    import narwhals as nw

    if hasattr(x, "iloc"):
        return dict(zip(map(str, x.columns), x.dtypes, strict=True))
    return {name: str(kind) for name, kind in nw.from_native(x, eager_only=True).schema.items()} if is_frame(x) else {}


def in_container_of(x: Any, table: pa.Table) -> Any:
    """An Arrow table with the rows and columns of X in the container of X, with the names and index of pandas; columns
    of X without gaps are its own.
    """
    import narwhals as nw

    made, before = in_container(table, backend_of(x), types_of(x)), read_table(x, empty=True).arrow
    whole = [index for index in range(before.num_columns) if not _has_gaps(before.select([index]))]
    if hasattr(x, "iloc"):
        made = made.set_axis(x.index).set_axis(x.columns, axis=1)
        for index in whole:
            made.isetitem(index, x.iloc[:, index])
        return made
    own, x = nw.from_native(made, eager_only=True), nw.from_native(x, eager_only=True)
    return own.with_columns(*(x[x.columns[index]] for index in whole)).to_native()


def in_container(table: pa.Table, backend: Any, types: Mapping[str, Any]) -> Any:
    """An Arrow table as a frame of this library; as an array of numbers where there is none.

    Args:
        types: of columns, from ``types_of``, or as text; a column is of another one where that cannot hold its values.
    """
    import narwhals as nw

    if backend is None:
        return plain_values(read_table(table))
    if backend == "pandas":
        made = table.to_pandas()
        for name in made.columns:
            with suppress(pa.ArrowException, TypeError, ValueError, OverflowError):
                made[name] = _as_type(table.column(name), types[name]) if name in types else made[name]
        return made
    made = nw.from_arrow(table, backend=backend)
    ordered = {  # Arrow's ordered levels are an Enum, which from_arrow does not know
        field.name: nw.Enum(table.column(field.name).combine_chunks().dictionary.to_pylist())
        for field in table.schema
        if pa.types.is_dictionary(field.type) and field.type.ordered and backend == "polars"
    }
    others = {name: getattr(nw, types[name]) for name in made.columns if types.get(name) in NOT_OF_ARROW}
    return made.with_columns(*(nw.col(name).cast(kind) for name, kind in (ordered | others).items())).to_native()


def _as_type(column: pa.ChunkedArray, kind: Any) -> Any:
    """A column of Arrow as one of pandas of this type.

    Raises:
        pa.ArrowException, TypeError, ValueError, OverflowError: the type cannot hold the values, or is unknown.
    """
    import pandas as pd

    kind = pd.ArrowDtype(column.type) if str(kind).endswith("[pyarrow]") else pd.api.types.pandas_dtype(kind)
    if kind.kind in "iu" and pa.types.is_floating(column.type):
        column = column.cast(pa.int64())
    if hasattr(kind, "__from_arrow__") and not hasattr(kind, "freq"):
        return column.to_pandas(types_mapper=lambda _: kind)
    made = column.to_pandas()
    if hasattr(kind, "categories") and kind.categories is not None:
        made = made.cat.rename_categories(dict(zip(map(str, kind.categories), kind.categories, strict=True)))
        if not set(made.cat.categories) <= set(kind.categories):
            return made
    return made.astype(kind)
