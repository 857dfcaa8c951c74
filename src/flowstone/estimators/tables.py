"""What estimators are given, as tensors, and results in the container that rows came in."""

from typing import Any

import numpy as np
import pyarrow as pa

from flowstone.data.tables import Table, read_table
from flowstone.data.tables.table import is_number_text
from flowstone.data.tables.types import is_number
from flowstone.errors import DataError

__all__ = ["backend_of", "in_container", "is_frame", "is_plain", "plain_values", "require_numbers"]

LARGEST = 2**53  # up to which float64 tells whole numbers apart


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


def require_numbers(x: Any) -> None:
    """Refuse what would lose its meaning as float64: dates, text, and whole numbers that it cannot tell apart.

    Raises:
        DataError: the message names row and column.
    """
    if is_frame(x):
        columns = {name: column.to_numpy() for name, column in _columns(x)}
    else:
        values = np.asarray(x)
        if values.ndim != 2 or values.dtype.kind not in "MmUSOiu":
            return
        columns = {str(index): column for index, column in enumerate(values.T)}
    for name, values in columns.items():
        if values.dtype.kind in "Mm":
            raise DataError(f"column {name!r} of X holds dates; a frame with kinds='infer' learns them as such")
        if values.dtype.kind in "USO":
            row = next(
                (row for row, value in enumerate(values) if isinstance(value, str) and not is_number_text(value)), None
            )
            if row is not None:
                raise DataError(f"column {name!r} of X, row {row} holds {str(values[row])!r}, which is no number")
        if values.dtype.kind in "iu":
            wide = (values > LARGEST) | (values < -LARGEST)
            if wide.any():
                row = int(wide.argmax())
                raise DataError(
                    f"column {name!r} of X, row {row} is {values[row]}: whole numbers beyond 2^53 cannot be told apart "
                    "in float64; subtract an offset first"
                )


def _columns(x: Any) -> list[tuple[str, Any]]:
    import narwhals as nw

    frame = nw.from_native(x, eager_only=True)
    return [(name, frame[name]) for name in frame.columns]


def backend_of(x: Any) -> str | None:
    """Which library's frame it is, as narwhals names it; None of what is no frame."""
    import narwhals as nw

    return nw.from_native(x, eager_only=True).implementation.name.lower() if is_frame(x) else None


def in_container(table: pa.Table, backend: Any) -> Any:
    """An Arrow table as a frame of this library; as an array of numbers where there is none."""
    import narwhals as nw

    if backend is None:
        return plain_values(read_table(table))
    if backend == "pyarrow":
        return table
    return table.to_pandas() if backend == "pandas" else nw.from_arrow(table, backend=backend).to_native()
