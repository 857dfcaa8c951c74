"""Rows that stand both in what was learned from and in what is to judge it."""

from collections.abc import Iterable

import numpy as np
from torch import Tensor

__all__ = ["shared_rows"]


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


def _rows(x: Tensor) -> np.ndarray:
    """Rows in which equal numbers have equal bytes."""
    values = x.detach().double().cpu().flatten(1).numpy() + 0.0  # -0 becomes 0
    return np.where(np.isnan(values), np.nan, values)
