"""Tables of mixed columns as data to learn from: kinds decided, rows encoded and split."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from flowstone.data.dataset import Dataset
from flowstone.data.request import MIN_ROWS, DataRequest
from flowstone.data.rows import Rows
from flowstone.data.tables import Columns, Table
from flowstone.data.tables.kinds import Datetime
from flowstone.errors import DataError, SettingError

__all__ = ["is_mixed", "open_mixed"]


def is_mixed(columns: Columns, *, drop_missing: bool = False) -> bool:
    """Whether some column is more than numbers on the real line: dates, levels, values that hold mass, a circle, or
    gaps in rows that are not left out. Other tables are learned by flows.
    """
    if any(isinstance(kind, Datetime) for kind in columns.modelled):
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
    x = columns.encode(table)
    if request.drop_missing:
        x = x[x.isfinite().all(1)]
    infinite = x.isinf().nonzero()
    if len(infinite):
        row, column = infinite[0].tolist()
        raise DataError(
            f"{table.path}: column {columns.names[column]!r}, row {row + 1} is infinite; to read such values as gaps",
            remedy={"na": ["inf", "-inf"]},
        )
    if len(x) < MIN_ROWS:
        raise DataError(f"{table.path}: {len(x)} rows; the 80/10/10 split needs at least {MIN_ROWS}")
    order = np.random.default_rng(request.seed).permutation(len(x))
    test, validation, train = np.split(order, [len(order) // 10, 2 * (len(order) // 10)])

    parts = (Rows(x[torch.from_numpy(rows)]) for rows in (train, validation, test))
    return Dataset(
        columns.names,
        (),
        *parts,
        description={**described, "schema": columns.as_record(), "mixed": True, "rows": len(x)},
        kinds=columns,
    )
