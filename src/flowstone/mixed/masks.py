"""What is known, hidden and counted of each row in one step of a training."""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Masks", "draw_masks"]

# Fractions of the rows. Half of the rows are learned in the table's order, which samples and likelihoods use.
KNOWN, HIDDEN, EVENTS = 0.5, 0.1, 0.5


class Masks(NamedTuple):
    """Masks of values, ``(rows, columns)``.

    Attributes:
        known: columns that come before all others and are not learned; None for none.
        hidden: columns that no other is told of.
        event: gaps that count as events; the others are absent.
    """

    known: Tensor | None
    hidden: Tensor
    event: Tensor


def draw_masks(x: Tensor, with_gaps: Tensor, *, known: bool) -> Masks:
    """Masks drawn from torch's global random state, each of some of the rows, at rates drawn for each row.

    Args:
        with_gaps: ``(columns,)``: which columns have gaps.
        known: whether columns may be known beforehand.
    """
    rows = torch.rand(3, len(x), 1, device=x.device)
    return Masks(
        known=_some_values(x) & (rows[0] < KNOWN) if known else None,
        hidden=_some_values(x) & (rows[1] < HIDDEN),
        event=(rows[2] < EVENTS) & with_gaps,
    )


def _some_values(x: Tensor) -> Tensor:
    """Of each row a part of the values, as large as chance wants: all sizes are equally probable."""
    return torch.rand(x.shape, device=x.device) < torch.rand(len(x), 1, device=x.device)
