"""Batches that depend on the step number alone, so that a resumed run sees the batches of an uninterrupted one."""

from collections.abc import Callable

import torch
from torch import Tensor

from flowstone.data import Rows

__all__ = ["Batches", "FixedBatches", "FreshBatches", "Sampler", "generator", "mirrored"]

Sampler = Callable[[int, torch.Generator], Tensor]

# The largest batch for data-dependent initialisation, in rows and in numbers: it is computed in one piece.
INITIAL_ROWS, INITIAL_NUMBERS = 100_000, 4_000_000
# Keys of other random streams, which no step number reaches: each step has a stream with its number as the key.
INITIAL, HELD_OUT, NOISE, FLIP, HELD_OUT_NOISE = 2**40, 2**41, 2**42, 2**43, 2**44


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

    def numbers(self, step: int) -> None:
        """None: rows that are drawn anew have no numbers."""

    def initial(self) -> Rows:
        """The rows for data-dependent initialisation."""
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
        return self.rows.take(self.numbers(step).to(self.rows.x.device))

    def numbers(self, step: int) -> Tensor:
        """The numbers of a step's rows among all, from 0."""
        if len(self.rows) <= self.size:
            return torch.arange(len(self.rows))
        epoch, index = divmod(step, self.per_epoch)
        if epoch != self.epoch:
            self.epoch = epoch
            self.order = torch.randperm(len(self.rows), generator=generator(self.seed, epoch))
        return self.order[index * self.size : (index + 1) * self.size]

    def initial(self) -> Rows:
        """The rows for data-dependent initialisation."""
        enough = _initial_rows(self.rows.x)
        if len(self.rows) <= enough:
            return self.rows
        order = torch.randperm(len(self.rows), generator=generator(self.seed, INITIAL))
        return self.rows.take(order[:enough].to(self.rows.x.device))


Batches = FreshBatches | FixedBatches


def mirrored(rows: Rows, random: torch.Generator) -> Rows:
    """Rows of images with half of them mirrored left to right."""
    chosen = torch.rand(len(rows), generator=random).to(rows.x.device) < 0.5
    return Rows(torch.where(chosen[:, None, None, None], rows.x.flip(-1), rows.x), rows.context)


def _initial_rows(x: Tensor) -> int:
    return max(2, min(INITIAL_ROWS, INITIAL_NUMBERS // max(1, x[0].numel())))
