"""What estimators are given, as tensors, and results in the container that rows came in."""

from typing import Any

import numpy as np
import pyarrow as pa

from flowstone.data.tables import Table, read_table
from flowstone.data.tables.types import is_number

__all__ = ["backend_of", "in_container", "is_frame", "is_plain", "plain_values"]


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
