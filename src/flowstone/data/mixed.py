"""Tables of mixed columns as data to learn from: kinds decided, rows encoded and split."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from flowstone.data.dataset import Dataset
from flowstone.data.request import MIN_ROWS, TABLE, DataRequest
from flowstone.data.rows import Rows
from flowstone.data.tables import Columns, Table
from flowstone.errors import DataError, SettingError

__all__ = ["is_mixed", "open_mixed"]


def is_mixed(columns: Columns) -> bool:
    """Whether some column is more than numbers on the real line: levels, gaps, values that hold mass, a circle.

    Tables without such columns are learned by flows of whole rows, which measure better on them.
    """
    heads = columns.heads()
    return any(head["atoms"] or head["gaps"] or head["rest"] in (None, "circle") for head in heads)


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
    x = columns.encode(table)
    infinite = x.isinf().nonzero()
    if len(infinite):
        row, column = infinite[0].tolist()
        raise DataError(
            f"{table.path}: column {columns.names[column]!r}, row {row + 1} is infinite; to read such values as gaps",
            remedy={"na": ["inf", "-inf"]},
        )
    if request.drop_missing:
        x = x[~x.isnan().any(1)]
    if len(x) < MIN_ROWS:
        raise DataError(f"{table.path}: {len(x)} rows; the 80/10/10 split needs at least {MIN_ROWS}")
    order = np.random.default_rng(request.seed).permutation(len(x))
    test, validation, train = np.split(order, [len(order) // 10, 2 * (len(order) // 10)])

    parts = (Rows(x[torch.from_numpy(rows)]) for rows in (train, validation, test))
    return Dataset(
        columns.names,
        (),
        *parts,
        description={"kind": TABLE, **described, "mixed": True, "rows": len(x)},
        kinds=columns,
    )
