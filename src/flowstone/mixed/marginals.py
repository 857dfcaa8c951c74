"""The marginal distribution functions of columns: the scale on which their conditional distributions are learned."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from flowstone.bijections import RQSpline
from flowstone.bijections.statistics import DataLayer
from flowstone.mixed.column import Column

__all__ = ["FARTHEST", "Marginals", "log_logistic"]

FARTHEST = 30.0  # largest |z|: beyond it float64 cannot resolve 1 - F
HEAVY = 0.25  # the index of the tails beyond the data: polynomial, with a finite variance
FEW = 20  # values of the rest, below which the scale is made from all values of a column


class Marginals(DataLayer):
    r"""Each column on the scale of its marginal distribution function: $z = \log \frac{F(x)}{1 - F(x)}$.

    F goes through quantiles of the data by monotone rational-quadratic pieces (Gregory and Delbourgo 1982), so that
    density f = F' and inverse are in closed form. At a value that repeats, F counts half of its mass (the
    mid-distribution function). F reaches 0 or 1 at a border of the domain; where there is no border, the tail beyond
    the last value is a generalised Pareto distribution,

    $$ 1 - F(x) = q \left(1 + \xi \frac{x - b}{\beta}\right)^{-1 / \xi}, \qquad \xi = \tfrac14, $$

    with q half of the share of the last value b, and β half of the width of the last piece. The density is continuous.
    All of it is kept and computed in float64.

    Attributes:
        knots: x of the pieces' ends, ``(columns, pieces + 1)``; of a column with fewer pieces the last ones repeat.
        levels: F at the knots.
        slopes: F' at the knots.
        counts: the number of pieces of each column.
    """

    knots: Tensor
    levels: Tensor
    slopes: Tensor
    counts: Tensor
    centers: Tensor
    widths: Tensor

    def __init__(self, columns: Sequence[Column], pieces: int) -> None:
        super().__init__(len(columns) or None)  # of a table of categories alone there are none
        self.columns = columns
        self.pieces = pieces
        tables = [torch.zeros(len(columns), pieces + 1, dtype=torch.float64) for _ in range(3)]
        for name, table in zip(("knots", "levels", "slopes"), tables, strict=True):
            self.register_statistic(name, table)
        self.register_statistic("centers", torch.zeros(len(columns)))
        self.register_statistic("widths", torch.ones(len(columns)))
        self.register_buffer("counts", torch.ones(len(columns), dtype=torch.long))
        if self.knots.is_meta:  # there are no numbers to set, and operations take long there
            return
        for index, column in enumerate(columns):
            self._set(index, *_start(column))

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Take the quantiles of each column's values, ``(rows, columns)``; NaN is no value."""
        for index, column in enumerate(self.columns):
            values = x[:, index].double()
            values = values[~values.isnan()]
            if len(values):
                self._set(index, *_curve(column, values, self.pieces))

    def _set(self, index: int, knots: Tensor, levels: Tensor) -> None:
        """The pieces of a column: through these points, with slopes that keep F increasing."""
        column, count = self.columns[index], len(knots) - 1
        slopes = _slopes(knots, levels, circular=column.rest == "circle")
        for table, values in ((self.knots, knots), (self.levels, levels), (self.slopes, slopes)):
            table[index] = values[-1]
            table[index, : count + 1] = values
        self.counts[index] = count
        low, middle, high = _interpolate(levels.new_tensor([0.25, 0.5, 0.75]), levels, knots)
        self.centers[index], self.widths[index] = middle, (high - low).clamp_min(1e-300)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, log_density = self.scale(x, range(len(self.columns)))
        return z.to(self.dtype), self._log_det(z, log_density).to(self.dtype)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self.quantile(z, range(len(self.columns)))
        wide, log_density = self.scale(x, range(len(self.columns)))
        return x.to(self.data_dtype), -self._log_det(wide, log_density).to(self.dtype)

    @staticmethod
    def _log_det(z: Tensor, log_density: Tensor) -> Tensor:
        return (log_density - log_logistic(z)).sum(-1)

    def scale(self, x: Tensor, columns: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The pair (z, log f) of these columns' values, ``(rows, columns)``, in float64; z is within ± ``FARTHEST``."""
        value = x.double().t().contiguous()
        (left, right), (bottom, top), slopes = self._pieces(value, self.knots, columns)
        inside = value.clamp(self.knots[columns, :1], self.knots[columns, -1:])
        width, height = right - left, top - bottom
        rise, log_slope = RQSpline._segment((inside - left) / width, height / width, slopes)
        below, above = bottom + height * rise, (1 - top) + height * (1 - rise)
        is_low, is_high = value < inside, value > inside
        share = below.where(is_low, above).clamp_min(TINY)
        stretch = ((value - inside).abs() * HEAVY * log_slope.exp() / share).log1p()
        share = share * (-stretch / HEAVY).exp()  # in a tail: the probability farther out
        below = share.where(is_low, (1 - share).where(is_high, below)).clamp_min(TINY)
        above = share.where(is_high, (1 - share).where(is_low, above)).clamp_min(TINY)
        z = (below.log() - above.log()).clamp(-FARTHEST, FARTHEST)
        return z.t(), (log_slope - stretch * (1 + 1 / HEAVY)).t()

    def quantile(self, z: Tensor, columns: Sequence[int]) -> Tensor:
        """The values of these columns at these z, ``(rows, columns)``, in float64."""
        z = z.double().t().contiguous()
        below, above = z.sigmoid(), (-z).sigmoid()
        (bottom, top), (left, right), slopes = self._pieces(below, self.levels, columns)
        width, height = right - left, top - bottom
        rise = ((below - bottom) / height).clamp(0, 1)
        x = left + width * RQSpline._solve(rise, height / width, slopes)
        return (x - self._beyond(below, columns, 0) + self._beyond(above, columns, -1)).t()

    def _beyond(self, share: Tensor, columns: Sequence[int], end: int) -> Tensor:
        """How far below the first knot (end 0) or above the last one (-1) a value with this share beyond it lies."""
        slope, level = self.slopes[columns, end, None], self.levels[columns, end, None]
        whole = level if end == 0 else 1 - level
        fraction = (share / whole.clamp_min(TINY)).clamp(TINY, 1)
        return whole / slope / HEAVY * (fraction**-HEAVY - 1)

    def _pieces(self, value: Tensor, table: Tensor, columns: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """The piece in which each value, ``(columns, rows)``, lies by this table of knots or of levels: its two ends
        there and in the other table, and the two slopes, ``(2, columns, rows)`` each.
        """
        columns = list(columns)
        index = torch.searchsorted(table[columns], value.detach(), right=True) - 1
        index = index.clamp_min(0).minimum(self.counts[columns, None] - 1)
        other = self.levels if table is self.knots else self.knots
        first, second, slopes = (
            torch.stack((found.gather(1, index), found.gather(1, index + 1)))
            for found in (table[columns], other[columns], self.slopes[columns])
        )
        return first, second, slopes


TINY = 1e-300


def log_logistic(z: Tensor) -> Tensor:
    """Log-density of the logistic distribution."""
    return F.logsigmoid(z) + F.logsigmoid(-z)


def _start(column: Column) -> tuple[Tensor, Tensor]:
    """Points of F before there are data: on a scale of 1, or of ten steps of a grid."""
    low, high = column.border
    width = 10 * (column.step or 0.1)
    if low is not None and high is not None:
        points = [(low, 0.0), (high, 1.0)]
    elif low is not None:
        points = [(low, 0.0), (low + width, 0.5), (low + 2 * width, 0.75)]
    elif high is not None:
        points = [(high - 2 * width, 0.25), (high - width, 0.5), (high, 1.0)]
    else:
        points = [(-width, 0.25), (width, 0.75)]
    knots, levels = torch.tensor(points, dtype=torch.float64).t().contiguous()
    return knots, levels


def _curve(column: Column, values: Tensor, pieces: int) -> tuple[Tensor, Tensor]:
    """Points of F from data: pieces are narrow in the tails, and there are fewer of them where there are few values."""
    points, levels = _mid_distribution(column, values)
    count = max(4, min(pieces, round(2 * len(values) ** 0.4)))
    part = torch.linspace(0, 1, count + 1, dtype=torch.float64, device=values.device)
    wanted = torch.lerp(levels[0], levels[-1], part.square() * (3 - 2 * part))
    knots = _interpolate(wanted, levels, points)
    rising = torch.cat((torch.ones_like(knots[:1], dtype=torch.bool), knots.diff() > 0))
    return knots[rising], wanted[rising]


def _mid_distribution(column: Column, values: Tensor) -> tuple[Tensor, Tensor]:
    """The different values with F there, which counts half of their own mass, and the borders with F = 0 and 1."""
    low, high = column.border
    points, counts = values.unique(return_counts=True)
    levels = (counts.cumsum(0) - counts.double() / 2) / len(values)
    inside = torch.ones_like(points, dtype=torch.bool)
    inside &= points > low if low is not None else True
    inside &= points < high if high is not None else True
    points, levels = points[inside], levels[inside]
    if low is not None:
        points, levels = torch.cat((points.new_tensor([low]), points)), torch.cat((levels.new_zeros(1), levels))
    if high is not None:
        points, levels = torch.cat((points, points.new_tensor([high]))), torch.cat((levels, levels.new_ones(1)))
    if len(points) > 1:
        return points, levels
    width = column.step or max(1e-3 * values[0].abs().item(), 1e-3)
    around = values[0] if low is None and high is None else points[0]
    if low is not None:
        return torch.stack((around, around + width)), levels.new_tensor([0.0, 0.5])
    if high is not None:
        return torch.stack((around - width, around)), levels.new_tensor([0.5, 1.0])
    return torch.stack((around - width, around + width)), levels.new_tensor([0.25, 0.75])


def _slopes(knots: Tensor, levels: Tensor, *, circular: bool) -> Tensor:
    """F' at the knots: between two pieces the harmonic mean of their mean slopes; at an end without border such that
    the tail beyond is half as wide as the last piece.
    """
    widths = knots.diff()
    means = levels.diff() / widths
    first, last = means[:1], means[-1:]
    if circular:
        first = last = 2 * first * last / (first + last)
    first = torch.where(levels[:1] > 0, 2 * levels[:1] / widths[:1], first)
    last = torch.where(levels[-1:] < 1, 2 * (1 - levels[-1:]) / widths[-1:], last)
    return torch.cat((first, 2 * means[1:] * means[:-1] / (means[1:] + means[:-1]), last))


def _interpolate(at: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The line through the points (x, y), x ascending, at these places, between the first and the last."""
    index = (torch.searchsorted(x, at, right=True) - 1).clamp(0, len(x) - 2)
    part = (at - x[index]) / (x[index + 1] - x[index])
    return torch.lerp(y[index], y[index + 1], part.clamp(0, 1))
