"""Tables that are objects in Python: frames, arrays, dictionaries and lists of rows."""

import dataclasses
import datetime
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from flowstone.data.tables.arrow import compute
from flowstone.data.tables.table import Table
from flowstone.errors import DataError

__all__ = ["from_object", "is_tensor", "plain_layout", "tensor_values"]

GAPS_OF_PANDAS = ("NAType", "NaTType")


def from_object(source: Any) -> Table:
    """The table in an object of pandas, polars, Arrow, NumPy or plain Python.

    The index of a pandas frame is left out, always; its name, if it has one, is in ``notes``.

    Raises:
        DataError: the object is no table.
    """
    arrow, notes = _arrow_of(source)
    arrow = plain_layout(pa.table(arrow.columns, names=arrow.column_names))
    what = type(source).__module__.partition(".")[0]
    what = f"{what} {type(source).__name__}" if what not in ("builtins", "__main__") else type(source).__name__
    return Table(
        Path(f"<{what}>"), arrow, (f"read from a {what}, {len(arrow)} rows, {arrow.num_columns} columns", *notes)
    )


def _arrow_of(source: Any) -> tuple[pa.Table, list[str]]:
    if hasattr(source, "iloc") and hasattr(source, "index"):
        return _from_pandas(source)
    if is_tensor(source):
        source = tensor_values(source)
    if isinstance(source, np.ndarray):
        return _from_array(source), []
    if isinstance(source, Mapping):
        _require_different(list(map(str, source)))
        return _from_columns({str(name): values for name, values in source.items()}), []
    if isinstance(source, Sequence) and not isinstance(source, str | bytes) and len(source):
        return _from_rows(source), []
    return _from_arrow(source), []


def is_tensor(source: Any) -> bool:
    """Whether an object is a tensor of torch, or behaves as one."""
    return hasattr(source, "detach") and hasattr(source, "numpy")


def tensor_values(tensor: Any) -> np.ndarray:
    """The values of a tensor, wherever it is and whether or not it has a gradient."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if "bfloat16" in str(tensor.dtype) else tensor).numpy()


def _from_arrow(source: Any) -> pa.Table:
    """The table of an object that is one in Arrow, or gives one."""
    if isinstance(source, pa.Table):
        return source.replace_schema_metadata(None)
    if isinstance(source, pa.RecordBatch):
        return pa.Table.from_batches([source])
    if type(source).__module__.startswith("polars"):
        return _from_polars(source)
    if hasattr(source, "__arrow_c_stream__"):
        return pa.table(source)
    if hasattr(source, "to_arrow"):
        return source.to_arrow()
    hint = "; toarray() makes an array of it" if hasattr(source, "toarray") else ""
    what = "an empty list" if isinstance(source, list) else f"an object of type {type(source).__name__}"
    raise DataError(f"{what} is no table: expected a path, a frame, an array, or a list of rows{hint}")


def _require_different(names: Sequence[str]) -> None:
    """DataError where a name comes twice: a dictionary would lose one of the columns."""
    name, count = Counter(names).most_common(1)[0] if names else ("", 0)
    if count > 1:
        raise DataError(f"column name {name!r} occurs more than once")


def plain_layout(arrow: pa.Table) -> pa.Table:
    """The table in a layout that Arrow's functions know: no string views (of polars), run lengths or 8-bit booleans."""
    for place, (name, column) in enumerate(zip(arrow.column_names, arrow.columns, strict=True)):
        plain = _plain_column(column)
        if plain is not column:
            arrow = arrow.set_column(place, name, plain)
    return arrow


def _plain_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_string_view(column.type):
        return column.cast(pa.large_string())
    if pa.types.is_run_end_encoded(column.type):
        return pa.chunked_array([compute.run_end_decode(chunk) for chunk in column.chunks], column.type.value_type)
    if isinstance(column.type, pa.Bool8Type):
        return column.cast(pa.bool_())
    if pa.types.is_dictionary(column.type) and pa.types.is_string_view(column.type.value_type):
        chunks = [
            pa.DictionaryArray.from_arrays(
                chunk.indices, chunk.dictionary.cast(pa.large_string()), ordered=column.type.ordered
            )
            for chunk in column.chunks
        ]
        return pa.chunked_array(chunks, pa.dictionary(column.type.index_type, pa.large_string(), column.type.ordered))
    return column


def _from_pandas(frame: Any) -> tuple[pa.Table, list[str]]:
    if not hasattr(frame, "columns"):
        frame = frame.to_frame()
    notes = [f"the frame's index {name!r} is left out" for name in frame.index.names if name is not None]
    names = [str(name) for name in frame.columns]
    _require_different(names)
    frame = frame.set_axis(names, axis=1)
    frame = frame.assign(**{name: _plain_series(frame[name]) for name in names if _is_special(frame[name].dtype)})
    objects = [name for name in names if frame[name].dtype == object and _are_days_and_moments(frame[name])]
    frame = frame.assign(**{name: frame[name].map(_moment) for name in objects})
    try:
        return pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None), notes
    except (pa.ArrowException, TypeError, ValueError, OverflowError):  # of columns of objects
        return _from_columns({name: _of_series(frame[name]) for name in names}), notes


def _is_special(dtype: Any) -> bool:
    """Whether a column of pandas is sparse, of periods, or of categories that are intervals or periods."""
    if hasattr(dtype, "categories"):
        return _is_special(dtype.categories.dtype) or hasattr(dtype.categories.dtype, "subtype")
    return type(dtype).__name__ in ("SparseDtype", "PeriodDtype")


def _plain_series(series: Any) -> Any:
    """A special column as Arrow takes it: dense, moments at which periods begin, categories by their names."""
    if hasattr(series.dtype, "categories"):
        return series.cat.rename_categories(list(map(str, series.dtype.categories)))
    return series.dt.to_timestamp() if hasattr(series.dtype, "freq") else series.sparse.to_dense()


def _of_series(series: Any) -> Any:
    """A column of pandas as Arrow's array, or where it holds objects of several types as a list."""
    try:
        return pa.array(series, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        if series.dtype != object:
            return series.to_numpy()
        return series.where(series.notna(), None).tolist()


def _from_polars(source: Any) -> pa.Table:
    """A frame, lazy or not, or a column of polars; integers wider than 64 bits become text where they must."""
    if hasattr(source, "collect"):
        source = source.collect()
    frame = source.to_frame() if not hasattr(source, "columns") else source
    wide = [name for name, kind in frame.schema.items() if str(kind) in ("Int128", "UInt128")]
    arrow = pa.table(frame.drop(wide))
    if not wide:
        return arrow
    made = {
        name: arrow.column(name) if name not in wide else _array(name, frame[name].to_list()) for name in frame.columns
    }
    return pa.table(made)


def _from_array(array: np.ndarray) -> pa.Table:
    if array.dtype.names:
        return _from_columns({name: array[name] for name in array.dtype.names})
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2:
        raise DataError(f"an array of shape {array.shape} is no table: expected (rows, columns)")
    array = array if isinstance(array, np.ma.MaskedArray) else np.asarray(array)
    return _from_columns({f"x{i + 1}": array[:, i] for i in range(array.shape[1])})


def _from_rows(rows: Sequence[Any]) -> pa.Table:
    first = rows[0]
    if dataclasses.is_dataclass(first):
        rows = [vars(row) if dataclasses.is_dataclass(row) else row for row in rows]
        first = rows[0]
    if isinstance(first, Mapping):
        names = dict.fromkeys(str(name) for row in rows for name in row)
        return _from_columns({name: [row.get(name) for row in rows] for name in names})
    if isinstance(first, str | bytes) or not isinstance(first, Sequence | np.ndarray):
        return _from_columns({"x1": list(rows)})
    for number, row in enumerate(rows, start=1):
        if len(row) != len(first):
            raise DataError(f"row {number} has {len(row)} values, the first row {len(first)}")
    names = getattr(first, "_fields", None) or [f"x{i + 1}" for i in range(len(first))]
    return _from_columns({name: [row[i] for row in rows] for i, name in enumerate(names)})


def _from_columns(columns: Mapping[str, Any]) -> pa.Table:
    arrays = {name: _array(name, values) for name, values in columns.items()}
    lengths = {name: len(values) for name, values in arrays.items()}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{name!r} {length}" for name, length in list(lengths.items())[:5])
        raise DataError(f"columns have different lengths: {said}")
    return pa.table(arrays)


def _array(name: str, values: Any) -> pa.Array:
    """A column; what is a number in one row and text in another becomes text, and is judged with the kinds."""
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    if isinstance(values, str | bytes) or not hasattr(values, "__iter__"):
        raise DataError(f"column {name!r} is one value ({values!r}): expected a value for each row")
    if hasattr(values, "iloc"):  # of pandas
        values = _of_series(_plain_series(values) if _is_special(values.dtype) else values)
        if isinstance(values, pa.Array | pa.ChunkedArray):
            return values
    mask = np.ma.getmaskarray(values) if isinstance(values, np.ma.MaskedArray) else None
    if getattr(values, "dtype", None) is not None and hasattr(values, "tolist"):
        values = _numpy(name, np.asarray(values))
    if isinstance(values, np.ndarray):
        with suppress(pa.ArrowException, OverflowError):
            return pa.array(values, mask=mask)
    return _of_cells(name, list(values))


def _of_cells(name: str, cells: list[Any]) -> pa.Array:
    """A column of objects in Python."""
    cells = [None if type(cell).__name__ in GAPS_OF_PANDAS else cell for cell in cells]
    if _are_days_and_moments(cells):
        cells = list(map(_moment, cells))
    with suppress(pa.ArrowException, OverflowError, TypeError):
        return pa.array(cells)
    if all(cell is None or (_is_integer(cell) and 0 <= cell < 2**64) for cell in cells):
        return pa.array(cells, pa.uint64())
    if any(isinstance(cell, list | dict | set | np.ndarray) for cell in cells):
        row = next(i for i, cell in enumerate(cells, start=1) if isinstance(cell, list | dict | set | np.ndarray))
        raise DataError(f"column {name!r}, row {row} holds a {type(cells[row - 1]).__name__}: expected one value")
    try:
        return pa.array([None if cell is None else float(cell) if _plain_number(cell) else cell for cell in cells])
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return pa.array([None if cell is None or cell != cell else str(cell) for cell in cells])


def _numpy(name: str, values: np.ndarray) -> Any:
    """Values of a type that Arrow has: dates in its units, floats of at most 64 bits, objects as a list."""
    kind, unit = values.dtype.kind, np.datetime_data(values.dtype)[0] if values.dtype.kind in "Mm" else ""
    if kind == "c":
        raise DataError(f"column {name!r} holds complex numbers; its real and imaginary parts are two columns")
    if kind == "f" and values.dtype.itemsize > 8:
        return values.astype(np.float64)
    if kind == "M" and unit in ("Y", "M", "W"):
        return values.astype("datetime64[D]")
    if (kind == "M" and unit in ("h", "m")) or (kind == "m" and unit in ("W", "D", "h", "m")):
        return values.astype(f"{values.dtype.str[1]}8[s]")
    return values.tolist() if kind == "O" else values


def _plain_number(cell: Any) -> bool:
    return (
        isinstance(cell, int | float | np.number)
        and not isinstance(cell, bool)
        and not (_is_integer(cell) and abs(int(cell)) > 2**53)
    )


def _is_integer(cell: Any) -> bool:
    return isinstance(cell, int | np.integer) and not isinstance(cell, bool | np.timedelta64)


def _are_days_and_moments(cells: Iterable[Any]) -> bool:
    """Whether some cells are days and some moments: Arrow makes days of all of them where a day comes first."""
    types = set(map(type, cells))
    return datetime.date in types and any(issubclass(each, datetime.datetime) for each in types)


def _moment(cell: Any) -> Any:
    return datetime.datetime.combine(cell, datetime.time()) if type(cell) is datetime.date else cell
