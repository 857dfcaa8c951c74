"""Rows as a mixed density reads them: which option each value is, and where it lies on the marginal's scale."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flowstone.mixed.column import MOST_OFF_GRID, OFF_GRID, ROUNDING, Column
from flowstone.mixed.marginals import Marginals

__all__ = ["FEW", "Encoded", "Encoder"]

FEW = 20  # values of the rest, below which its marginal is made from all values of the column
FARTHEST = torch.finfo(torch.float64).max  # where there is no border


class Encoded(NamedTuple):
    """Values of some columns, ``(rows, columns)``; those of a column's rest also on the scale of its marginal.

    Attributes:
        columns: which columns they are.
        rests: positions, among these columns, of those that have a rest.
        grids: positions of those whose rest is a grid.
        places: for each of ``rests``, its position among all columns of the table that have a rest.
        option: the index of a value among the atoms; the number of atoms for a value of the rest.
        missing: where there is no value.
        possible: where the column can have this value.
        z, log_density: for ``rests``, what ``Marginals.scale`` returns: ``(rows, rests)``.
        low, high: for ``grids``, z half a step below the value and half a step above: ``(rows, grids)``.
        distance: for ``rests``, the distance from the marginal's median, in interquartile ranges.
    """

    columns: Sequence[int]
    rests: list[int]
    grids: list[int]
    places: list[int]
    option: Tensor
    missing: Tensor
    possible: Tensor
    z: Tensor
    log_density: Tensor
    low: Tensor
    high: Tensor
    distance: Tensor


class Encoder(nn.Module):
    """From rows in the data's units, where NaN is a missing value, to what the heads and the embedding read."""

    def __init__(self, columns: Sequence[Column], pieces: int) -> None:
        super().__init__()
        self.columns = columns
        rests = [index for index, column in enumerate(columns) if column.rest is not None]
        self.place = {index: place for place, index in enumerate(rests)}  # of a column among the marginals
        self.marginals = Marginals([columns[index] for index in rests], pieces)
        self._tables = _tables(columns)  # in float64, whatever the precision of the density

    def table(self, name: str, columns: Sequence[int]) -> Tensor:
        """The rows of ``_tables(…)[name]`` for these columns, on the density's device."""
        device = self.marginals.knots.device
        if self._tables[name].device != device:
            self._tables = {key: table.to(device) for key, table in _tables(self.columns).items()}
        return self._tables[name][list(columns)]

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Set the marginals from rows."""
        values, encoded = self.plain(x.double(), range(len(self.columns))).clone(), self.encode(x)
        for index in self.place:
            is_rest = (encoded.option[:, index] == len(self.columns[index].atoms)) & encoded.possible[:, index]
            if (is_rest & ~encoded.missing[:, index]).sum() >= FEW:
                values[~is_rest, index] = torch.nan
        self.marginals.initialize(values[:, list(self.place)])

    def encode(self, x: Tensor, columns: Sequence[int] | None = None) -> Encoded:
        """The values of these columns (None: all of them), ``(rows, columns)``."""
        columns = range(len(self.columns)) if columns is None else columns
        missing = x.isnan()
        x = self.plain(x.double().where(~missing, 0.0), columns)
        option, is_atom = self._options(x, columns)
        inside = self.is_inside(x, columns)
        possible = missing | is_atom | inside

        kinds = [self.columns[index].rest for index in columns]
        rests = [at for at, kind in enumerate(kinds) if kind is not None]
        grids = [at for at, kind in enumerate(kinds) if kind == "grid"]
        places = [self.place[columns[at]] for at in rests]
        center, width = self.marginals.centers[places], self.marginals.widths[places]
        value = x[:, rests].where((possible & ~missing)[:, rests], center)
        z, log_density = self.marginals.scale(value, places)

        origin, step = (self.table(name, columns)[grids] for name in ("origins", "steps"))
        count, half = ((x[:, grids] - origin) / step).round(), inside[:, grids] / 2  # an atom off the grid has no step
        lattice = [places[rests.index(at)] for at in grids]
        low, high = (self.marginals.scale(origin + (count + side) * step, lattice)[0] for side in (-half, half))
        distance = (value - center) / width
        return Encoded(columns, rests, grids, places, option, missing, possible, z, log_density, low, high, distance)

    def decode(self, z: Tensor, index: int) -> Tensor:
        """The values of the rest of column ``index`` that lie at z, ``(rows,)``: on its grid, within its borders."""
        value = self.marginals.quantile(z[:, None], [self.place[index]])[:, 0]
        column = self.columns[index]
        low, high = column.border
        if column.step is not None and column.rest == "grid":
            origin, (low, high) = column.origin, column.ends
            value = origin + ((value - origin) / column.step).round() * column.step
        return value.clamp(low, high) if low is not None or high is not None else value

    def scale_below(self, value: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """The lowest z of column ``index``, and the z up to which its values are at or below ``value``, ``(rows,)``; on
        a grid that is the z half a step above the last such value.
        """
        column, value = self.columns[index], self.plain(value.double()[:, None], [index])
        low, high = column.border
        if column.rest == "grid":
            origin, step = self.table("origins", [index]), self.table("steps", [index])
            count = ((value - origin) / step).round()
            count = count.where(origin + count * step <= value, count - 1)
            value = origin + (count + 0.5) * step
        value = value[:, 0]
        inside = value.clamp(low, high) if low is not None or high is not None else value
        ends = (torch.full_like(inside, -FARTHEST if low is None else low), inside)
        least, z = (self.marginals.scale(end[:, None], [self.place[index]])[0][:, 0] for end in ends)
        return least, z

    def _options(self, x: Tensor, columns: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The atom that each value is, and whether it is one; else the number of atoms."""
        atoms, counts = self.table("atoms", columns), self.table("counts", columns)
        value = x.detach().t().contiguous()
        index = torch.searchsorted(atoms, value).clamp_max(atoms.shape[1] - 1)
        is_atom = (atoms.gather(1, index) == value) & (index < counts[:, None])
        return index.where(is_atom, counts[:, None]).t(), is_atom.t()

    def plain(self, x: Tensor, columns: Sequence[int]) -> Tensor:
        """Values of which equal ones are the same number: angles between the two ends of their circle, and values that
        only rounding errors separate from one of the grid.
        """
        rests = {self.columns[index].rest for index in columns}
        if "circle" in rests:
            x = _wrapped(x, self.table("lows", columns), self.table("turns", columns))
        if "grid" in rests:
            x = _on_grid(x, self.table("origins", columns), self.table("steps", columns))
        return x

    def is_inside(self, x: Tensor, columns: Sequence[int]) -> Tensor:
        """Whether a value of ``plain`` lies in the domain of the column's rest, and on its grid."""
        low, high = self.table("lows", columns), self.table("highs", columns)
        inside = (x >= low) & (x <= high)
        if all(self.columns[index].rest != "grid" for index in columns):
            return inside
        origin, step = self.table("origins", columns), self.table("steps", columns)
        return inside & ((step == 0) | (x == _nearest(x, origin, step)))


def _wrapped(x: Tensor, low: Tensor, turn: Tensor) -> Tensor:
    """Angles between the two ends of their circle; other values, of a turn of 0, as they are."""
    turned = low + torch.remainder(x - low, turn.where(turn > 0, 1.0))
    turned = turned.where(turned < low + turn, low)  # rounded up to the high end, just below the low one
    return torch.where(turn > 0, turned, x)


def _nearest(x: Tensor, origin: Tensor, step: Tensor) -> Tensor:
    """The nearest values of grids; those of columns with a step of 0, which have none, are rounded."""
    width = step.where(step > 0, 1.0)
    return origin + ((x - origin) / width).round() * width


def _on_grid(x: Tensor, origin: Tensor, step: Tensor) -> Tensor:
    """Values of a grid in place of those that only rounding errors separate from them."""
    nearest = _nearest(x, origin, step)
    error = (OFF_GRID * step + ROUNDING * x.abs()).minimum(MOST_OFF_GRID * step)
    return torch.where((x - nearest).abs() < error, nearest, x)


def _log_unseen(column: Column) -> float:
    """The log-probability of a value that is none of the column's atoms."""
    return math.log(column.unseen) if column.unseen else -math.inf


def _tables(columns: Sequence[Column]) -> dict[str, Tensor]:
    """The descriptions of the columns as tensors, by name; the domain of a column without a rest is empty."""
    most = max(1, *(len(column.atoms) for column in columns))
    atoms = torch.full((len(columns), most), FARTHEST, dtype=torch.float64)
    lows, highs = torch.full((2, len(columns)), FARTHEST, dtype=torch.float64)
    turns = torch.zeros(len(columns), dtype=torch.float64)
    for index, column in enumerate(columns):
        atoms[index, : len(column.atoms)] = torch.tensor(column.atoms, dtype=torch.float64)
        if column.rest is not None:
            low, high = column.border
            lows[index] = -FARTHEST if low is None else low
            highs[index] = FARTHEST if high is None else high
            turns[index] = highs[index] - lows[index] if column.rest == "circle" else 0.0
        else:
            highs[index] = -FARTHEST
    origins = torch.tensor([column.origin for column in columns], dtype=torch.float64)
    widths = [column.step or 0.0 if column.rest == "grid" else 0.0 for column in columns]
    steps = torch.tensor(widths, dtype=torch.float64)
    for index, column in enumerate(() if atoms.is_meta else columns):  # as ``Encoder.plain`` has values
        own = _wrapped(atoms[index, : len(column.atoms)], lows[index], turns[index])
        atoms[index, : len(column.atoms)] = _on_grid(own, origins[index], steps[index])
    return {
        "atoms": atoms,
        "counts": torch.tensor([len(column.atoms) for column in columns]),
        "lows": lows,
        "highs": highs,
        "turns": turns,
        "steps": steps,
        "origins": origins,
        "log_unseen": torch.tensor([_log_unseen(column) for column in columns], dtype=torch.float64),
    }
