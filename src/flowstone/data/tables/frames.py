"""Tables that are objects in Python: frames, arrays, dictionaries and lists of rows."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from flowstone.data.tables.table import Table
from flowstone.errors import DataError

__all__ = ["from_object"]


def from_object(source: Any) -> Table:
    """The table in an object of pandas, polars, Arrow, NumPy or plain Python.

    The index of a pandas frame is left out, always; its name, if it has one, is in ``notes``.

    Raises:
        DataError: the object is no table.
    """
    arrow, notes = _arrow_of(source)
    arrow = pa.table([_without_views(column) for column in arrow.columns], names=arrow.column_names)
    what = type(source).__module__.partition(".")[0]
    what = f"{what} {type(source).__name__}" if what not in ("builtins", "__main__") else type(source).__name__
    return Table(
        Path(f"<{what}>"), arrow, (f"read from a {what}, {len(arrow)} rows, {arrow.num_columns} columns", *notes)
    )


def _arrow_of(source: Any) -> tuple[pa.Table, list[str]]:
    if isinstance(source, pa.Table):
        return source.replace_schema_metadata(None), []
    if isinstance(source, pa.RecordBatch):
        return pa.Table.from_batches([source]), []
    if hasattr(source, "iloc") and hasattr(source, "index"):
        return _from_pandas(source)
    if hasattr(source, "detach") and hasattr(source, "numpy"):
        source = source.detach().cpu().numpy()
    if isinstance(source, np.ndarray):
        return _from_array(source), []
    if hasattr(source, "__arrow_c_stream__"):
        return pa.table(source), []
    if hasattr(source, "to_arrow"):
        return source.to_arrow(), []
    if isinstance(source, Mapping):
        return _from_columns({str(name): values for name, values in source.items()}), []
    if isinstance(source, Sequence) and not isinstance(source, str | bytes) and len(source):
        return _from_rows(source), []
    raise DataError(f"a {type(source).__name__} is no table: expected a path, a frame, an array, or a list of rows")


def _without_views(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Strings in a layout that Arrow's functions know: polars has one of its own."""
    if pa.types.is_string_view(column.type):
        return column.cast(pa.large_string())
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
    frame = frame.set_axis([str(name) for name in frame.columns], axis=1)
    return pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None), notes


def _from_array(array: np.ndarray) -> pa.Table:
    if array.dtype.names:
        return _from_columns({name: array[name] for name in array.dtype.names})
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2:
        raise DataError(f"an array of shape {array.shape} is no table: expected (rows, columns)")
    return _from_columns({f"x{i + 1}": array[:, i] for i in range(array.shape[1])})


def _from_rows(rows: Sequence[Any]) -> pa.Table:
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
    if hasattr(values, "dtype") and getattr(values, "dtype", None) is not None and hasattr(values, "tolist"):
        values = np.asarray(values) if np.asarray(values).dtype != object else np.asarray(values).tolist()
    try:
        return pa.array(values, from_pandas=False) if isinstance(values, np.ndarray) else pa.array(list(values))
    except (pa.ArrowException, OverflowError):
        pass
    cells = list(values)
    if any(isinstance(cell, list | dict | set | np.ndarray) for cell in cells):
        row = next(i for i, cell in enumerate(cells, start=1) if isinstance(cell, list | dict | set | np.ndarray))
        raise DataError(f"column {name!r}, row {row} holds a {type(cells[row - 1]).__name__}: expected one value")
    try:
        return pa.array([None if cell is None else float(cell) if _plain_number(cell) else cell for cell in cells])
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return pa.array([None if cell is None or cell != cell else str(cell) for cell in cells])


def _plain_number(cell: Any) -> bool:
    return (
        isinstance(cell, int | float | np.number)
        and not isinstance(cell, bool)
        and not (isinstance(cell, int) and abs(cell) > 2**53)
    )
