"""Batches by step number: nothing to remember between steps, so a resumed run sees what an unbroken one would."""

from collections.abc import Callable

import torch
from torch import Tensor

from flowstone.data import Rows
from flowstone.errors import DataError, SettingError, ShapeError

__all__ = ["Batches", "FixedBatches", "FreshBatches", "Sampler", "flipped", "generator", "hold_out"]

Sampler = Callable[[int, torch.Generator], Tensor]

HELD_OUT_DRAWS = 4096
# What data-dependent initialisation looks at, at most: rows, and numbers in them; it all goes through in one piece.
INITIAL_ROWS, INITIAL_NUMBERS = 100_000, 4_000_000
# Streams of randomness beside the steps' own, beyond any number of steps.
INITIAL, HELD_OUT, NOISE, FLIP = 2**40, 2**41, 2**42, 2**43


def generator(*key: int) -> torch.Generator:
    """A generator whose state depends on ``key`` alone."""
    seed = 0
    for part in key:
        seed = (seed * 1_000_003 + part + 1) % 2**63
    return torch.Generator().manual_seed(seed)


class FreshBatches:
    """Newly drawn rows for every step."""

    def __init__(self, draw: Sampler, size: int, seed: int) -> None:
        self.draw, self.size, self.seed = draw, size, seed

    def __call__(self, step: int) -> Rows:
        return Rows(self.draw(self.size, generator(self.seed, step)))

    def initial(self) -> Rows:
        """What data-dependent initialisation sees."""
        first = self.draw(self.size, generator(self.seed, INITIAL))
        enough = min(10_000, _initial_rows(first))
        return Rows(first if enough <= self.size else self.draw(enough, generator(self.seed, INITIAL)))


class FixedBatches:
    """A fixed set of rows, reshuffled every epoch; the last, smaller batch of an epoch is left out."""

    def __init__(self, rows: Rows, size: int, seed: int) -> None:
        self.rows, self.size, self.seed = rows, size, seed
        self.per_epoch = max(1, len(rows.x) // size)
        self.epoch, self.order = -1, torch.empty(0, dtype=torch.long)

    def __call__(self, step: int) -> Rows:
        if len(self.rows) <= self.size:
            return self.rows
        epoch, index = divmod(step, self.per_epoch)
        if epoch != self.epoch:
            self.epoch = epoch
            self.order = torch.randperm(len(self.rows), generator=generator(self.seed, epoch))
        return self.rows.take(self.order[index * self.size : (index + 1) * self.size].to(self.rows.x.device))

    def initial(self) -> Rows:
        """What data-dependent initialisation sees."""
        enough = _initial_rows(self.rows.x)
        if len(self.rows) <= enough:
            return self.rows
        order = torch.randperm(len(self.rows), generator=generator(self.seed, INITIAL))
        return self.rows.take(order[:enough].to(self.rows.x.device))


Batches = FreshBatches | FixedBatches


def flipped(rows: Rows, random: torch.Generator) -> Rows:
    """Half of the images turned left to right."""
    turned = torch.rand(len(rows), generator=random).to(rows.x.device) < 0.5
    return Rows(torch.where(turned[:, None, None, None], rows.x.flip(-1), rows.x), rows.context)


def _initial_rows(x: Tensor) -> int:
    return max(2, min(INITIAL_ROWS, INITIAL_NUMBERS // max(1, x[0].numel())))


def hold_out(
    data: Tensor | Sampler, context: Tensor | None, validation: Rows | None, seed: int
) -> tuple[Rows | Sampler, Rows]:
    """Training data and held-out rows; where none are given, a tenth of the data (of fresh data: new draws)."""
    if validation is not None:
        _check_finite(validation.x, "validation")
    if not isinstance(data, Tensor):
        if not callable(data):
            raise SettingError(f"data is a {type(data).__name__}: give a torch.Tensor, or a function that draws rows")
        if context is not None:
            raise SettingError("fresh data has no context: give rows of data, one for each row of context")
        return data, Rows(data(HELD_OUT_DRAWS, generator(seed, HELD_OUT))) if validation is None else validation
    if context is not None and len(context) != len(data):
        raise ShapeError(f"{len(data)} rows of data but {len(context)} rows of context")
    rows = Rows(data, context)
    _check_finite(rows.x, "data")
    if context is not None:
        _check_finite(context, "context")
    if validation is None:
        if len(data) < 2:
            raise DataError(f"{len(data)} row(s): at least 2 are needed, one of them to hold out")
        order = torch.randperm(len(data), generator=generator(seed, HELD_OUT)).to(data.device)
        count = max(1, len(data) // 10)
        rows, validation = rows.take(order[count:]), rows.take(order[:count])
    if len(rows) == 0 or len(validation) == 0:
        raise DataError(f"{len(rows)} rows to train on and {len(validation)} to validate: both need at least one")
    return rows, validation


def _check_finite(values: Tensor, what: str) -> None:
    if not values.is_floating_point():
        return
    bad = (~values.isfinite()).nonzero()
    if len(bad):
        row, *place = bad[0].tolist()
        where = f"row {row}, feature {', '.join(map(str, place))}"
        raise DataError(f"{what}: {where} is {values[tuple(bad[0])].item()} ({len(bad)} such value(s))")
