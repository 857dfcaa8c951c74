"""Rows that stand both in what was learned from and in what is to judge it."""

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from flowstone.data import Dataset, Rows
from flowstone.errors import SettingError

__all__ = ["seen_rows", "shared_rows"]

CHUNK = 1 << 18  # rows at a time


def shared_rows(learned: Tensor | Iterable[Tensor], held_out: Tensor) -> int:
    """How many held-out rows are, to the last digit, also among the learned ones; gaps equal gaps.

    Rows of continuous numbers do not repeat by chance, so that a shared one measures the likelihood of a row which the
    model has seen. Rows of few categories repeat by chance.

    Args:
        learned: rows, or pieces of them.

    >>> import torch
    >>> shared_rows(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[3.0, 4.0], [5.0, 6.0]]))
    1
    """
    rows = [row.tobytes() for row in _rows(held_out)]
    wanted, found = set(rows), set()
    for piece in [learned] if isinstance(learned, Tensor) else learned:
        found |= wanted.intersection(row.tobytes() for row in _rows(piece))
    return sum(row in found for row in rows)


def seen_rows(dataset: Dataset) -> int:
    """How many test rows of a table are also training rows, context included, without the noise added to both.

    Raises:
        SettingError: the training draws fresh rows.
    """
    if not isinstance(dataset.train, Rows):
        raise SettingError("the training draws fresh rows: none was seen before")

    def table(rows: Rows) -> Tensor:
        x = dataset.without_noise(rows.x, most=math.inf)
        return x if rows.context is None else torch.cat((x, rows.context.double().cpu()), 1)

    train = dataset.train
    pieces = (train.take(slice(start, start + CHUNK)) for start in range(0, len(train), CHUNK))
    return shared_rows(map(table, pieces), table(dataset.test))


def _rows(x: Tensor) -> np.ndarray:
    """Rows in which equal numbers have equal bytes."""
    values = x.detach().double().cpu().flatten(1).numpy() + 0.0  # -0 becomes 0
    return np.where(np.isnan(values), np.nan, values)
