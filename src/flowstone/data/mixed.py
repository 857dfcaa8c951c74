"""Tables of mixed columns as data to learn from: kinds decided, rows encoded and split."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from flowstone.data.dataset import Dataset
from flowstone.data.request import MIN_ROWS, DataRequest
from flowstone.data.rows import Rows
from flowstone.data.split_rows import SplitRows
from flowstone.data.tables import Columns, Table
from flowstone.data.tables.kinds import Datetime
from flowstone.errors import DataError, SettingError

__all__ = ["is_mixed", "open_mixed"]


def is_mixed(columns: Columns, *, drop_missing: bool = False) -> bool:
    """Whether some column is more than numbers on the real line: dates, levels, values that hold mass, a circle, whole
    numbers that float64 does not hold, or gaps in rows that are not left out. Other tables are learned by flows.
    """
    if any(isinstance(kind, Datetime) or getattr(kind, "origin", 0) for kind in columns.modelled):
        return True
    heads = columns.heads()
    gaps = not drop_missing and any(head["gaps"] for head in heads)
    return gaps or any(head["atoms"] or head["rest"] in (None, "circle") for head in heads)


def open_mixed(request: DataRequest, table: Table, columns: Columns, described: Mapping[str, Any]) -> Dataset:
    """The rows of a table for the density of mixed columns, split 80/10/10 by the seed; gaps are NaN.

    Args:
        columns: the kinds of the table's columns.
        described: what else the dataset's description holds.
    """
    if request.context:
        raise SettingError(
            f"context={','.join(request.context)}: the density of mixed columns takes none; leave it among the "
            "columns, of which any can be given to samples"
        )
    if not columns.names:
        left = ", ".join(f"{kind.column!r} {kind.describe().treatment}" for kind in columns.kinds)
        raise DataError(f"{table.path}: no column is left to learn the density of ({left})")
    if request.columns:
        columns = columns.select([name for name in request.columns if name not in request.exclude])
    kept = len(table)
    if request.drop_missing:
        kept = sum(int(np.isfinite(piece).all(1).sum()) for piece in columns.encoded_chunks(table))
    split, start = SplitRows(kept, len(columns.names), request.seed), 0
    for encoded in columns.encoded_chunks(table):
        piece = encoded[np.isfinite(encoded).all(1)] if request.drop_missing else encoded
        _refuse_infinite(piece, table, columns, start)
        split.put(start, piece)
        start += len(piece)
    if kept < MIN_ROWS:
        raise DataError(f"{table.path}: {kept} rows; the 80/10/10 split needs at least {MIN_ROWS}")
    parts = (Rows(torch.from_numpy(rows)) for rows in (split.train, split.validation, split.test))
    return Dataset(
        columns.names,
        (),
        *parts,
        description={**described, "schema": columns.as_record(), "mixed": True, "rows": kept},
        kinds=columns,
    )


def _refuse_infinite(x: np.ndarray, table: Table, columns: Columns, start: int) -> None:
    infinite = np.argwhere(np.isinf(x))
    if len(infinite):
        row, column = infinite[0].tolist()
        place = f"column {columns.names[column]!r}, row {start + row + 1}"
        raise DataError(
            f"{table.path}: {place} is infinite; to read such values as gaps",
            remedy={"na": ["inf", "-inf"]},
        )
