"""The data of a training: checked before it begins, and split into rows to train on and rows to validate on."""

import torch
from torch import Tensor

from flowstone.data import Rows
from flowstone.density import Density
from flowstone.errors import DataError, SettingError, ShapeError
from flowstone.train.batches import HELD_OUT, Sampler, generator

__all__ = ["check_rows", "training_rows"]

HELD_OUT_DRAWS = 4096
ROWS = 1 << 20  # checked at a time


def training_rows(
    density: Density, data: Tensor | Sampler, context: Tensor | None, validation: Rows | None, seed: int
) -> tuple[Rows | Sampler, Rows]:
    """Rows to train on, or the function that draws them, and rows to validate on: those given, or else a tenth of the
    data, or new draws.

    Raises:
        SettingError: data is neither a tensor nor a function.
        ShapeError: data, context or validation have another shape than the density's.
        DataError: NaN, infinity or a number that the density's precision cannot hold, or too few rows.
    """
    if validation is not None:
        check_rows(density, validation, "validation")
    if not isinstance(data, Tensor):
        return _drawn_rows(density, data, context, validation, seed)
    rows = Rows(data, context)
    check_rows(density, rows, "data")
    if validation is None:
        if len(rows) < 2:
            raise DataError(f"{len(rows)} row(s): at least 2 are needed, one of them to hold out")
        order = torch.randperm(len(rows), generator=generator(seed, HELD_OUT)).to(data.device)
        count = max(1, len(rows) // 10)
        rows, validation = rows.take(order[count:]), rows.take(order[:count])
    if len(rows) == 0 or len(validation) == 0:
        raise DataError(f"{len(rows)} rows to train on and {len(validation)} to validate: both need at least one")
    return rows, validation


def _drawn_rows(
    density: Density, data: Sampler, context: Tensor | None, validation: Rows | None, seed: int
) -> tuple[Sampler, Rows]:
    if not callable(data):
        raise SettingError(
            f"data is a {type(data).__name__}: give a torch.Tensor (torch.as_tensor makes one of an array), "
            f"or a function that draws rows"
        )
    if context is not None:
        raise SettingError("fresh data has no context: give rows of data, one for each row of context")
    if validation is None:
        validation = Rows(data(HELD_OUT_DRAWS, generator(seed, HELD_OUT)))
        check_rows(density, validation, "drawn data")
    return data, validation


def check_rows(density: Density, rows: Rows, what: str) -> None:
    """Require tensors of the density's shapes, with numbers that its precision can hold."""
    for values, name in ((rows.x, what), (rows.context, f"the context of {what}")):
        if values is not None and not isinstance(values, Tensor):
            raise SettingError(f"{name} is a {type(values).__name__}: give a torch.Tensor (torch.as_tensor makes one)")
    try:
        density.check_shapes(rows.x, rows.context)
    except ShapeError as error:
        raise ShapeError(f"{what}: {error}") from None
    _check_finite(rows.x, what, gaps=density.accepts_gaps)
    if rows.context is not None:
        _check_finite(rows.context, f"the context of {what}")
    density.require_possible(rows.x, what)
    if not density.accepts_any_dtype and len(rows):
        _check_precision(rows.x, density.dtype, what)


def _check_finite(values: Tensor, what: str, *, gaps: bool = False) -> None:
    if not values.is_floating_point():
        return
    first, count = None, 0
    for start in range(0, len(values), ROWS):  # a mask of all rows may not fit into memory
        piece = values[start : start + ROWS]
        bad = (piece.isinf() if gaps else ~piece.isfinite()).nonzero()
        if len(bad):
            bad[:, 0] += start
            first = bad[0] if first is None else first
            count += len(bad)
    if first is not None:
        raise DataError(f"{what}: {_place(first)} is {values[tuple(first)].item()} ({count} such value(s))")


def _check_precision(x: Tensor, dtype: torch.dtype, what: str) -> None:
    """Require that no number overflows in the precision of the density, and that no column becomes constant in it."""
    if x.dtype == dtype or x.dtype.itemsize < 4:
        return
    name, held = str(dtype).removeprefix("torch."), x.to(dtype)
    way_out = f"which {name} cannot hold: rescale it, or use flow.double()"
    bad = held.isinf().nonzero()
    if len(bad):
        raise DataError(f"{what}: {_place(bad[0])} is {x[tuple(bad[0])].item():g}, {way_out}")
    underflows = held.abs().amax(0) < torch.finfo(dtype).tiny
    lost = ((x != x[0]).any(0) & ((held == held[0]).all(0) | underflows)).nonzero()
    if len(lost):
        column = x[(slice(None), *lost[0])]
        place, least, most = _place(lost[0], row=False), column.min().item(), column.max().item()
        raise DataError(f"{what}: {place} varies between {least:.13g} and {most:.13g}, {way_out}")


def _place(index: Tensor, *, row: bool = True) -> str:
    numbers = index.tolist()
    start = f"row {numbers.pop(0)}, " if row else ""
    return f"{start}feature {', '.join(map(str, numbers))}"
