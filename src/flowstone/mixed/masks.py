"""In which order the columns of each row are learned in one step of a training, and what is hidden."""

from typing import NamedTuple

import torch
from torch import Tensor

from flowstone.bijections.noise import drawn

__all__ = ["Masks", "draw_masks"]

# Fractions of the rows in which some columns come first, are hidden, and in which gaps are events. Rows that are not
# shuffled are learned in the table's order, which samples and likelihoods use.
SHUFFLED, HIDDEN, EVENTS = 0.6, 0.1, 0.5


class Masks(NamedTuple):
    """Masks of values, ``(rows, columns)``.

    Attributes:
        place: numbers by which the columns are ordered, the least first; None for the table's order.
        hidden: columns on which no other depends.
        event: gaps that count as events; the others are absent.
    """

    place: Tensor | None
    hidden: Tensor
    event: Tensor


def draw_masks(x: Tensor, with_gaps: Tensor, *, any_order: bool) -> Masks:
    """Draw masks from torch's global random state, or from where ``noise_from`` says. Each holds in some rows, and for
    a share of the columns that is drawn for each row.

    In the rows whose order is shuffled, a part of the columns comes first, in random order, and the others follow as
    they stand in the table, which is the order that is used when that part is given.

    Args:
        with_gaps: ``(columns,)``: which columns have gaps.
        any_order: whether orders other than the table's are learned.
    """
    rows = drawn(torch.rand, (3, len(x), 1), x.device, rows=1)
    return Masks(
        place=_shuffled(x, rows[0] < SHUFFLED) if any_order else None,
        hidden=_some_values(x) & (rows[1] < HIDDEN),
        event=(rows[2] < EVENTS) & with_gaps,
    )


def _shuffled(x: Tensor, rows: Tensor) -> Tensor:
    first = _some_values(x) & rows
    return torch.where(first, drawn(torch.rand, x.shape, x.device) - 1, torch.arange(x.shape[1], device=x.device))


def _some_values(x: Tensor) -> Tensor:
    """A random part of the values of each row; all sizes of the part are equally probable."""
    return drawn(torch.rand, x.shape, x.device) < drawn(torch.rand, (len(x), 1), x.device)
