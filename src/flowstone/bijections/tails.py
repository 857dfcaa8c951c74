"""Outliers compressed by a logarithm, column by column, so that they do not hide the bulk of the data."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from flowstone.bijections.statistics import LARGEST, DataLayer

__all__ = ["CompressTails"]

OCTILES = 2.3006987  # distance between the quantiles 1/8 and 7/8 of a standard normal distribution
# Where the standard deviation of all rows is more than this many times that of the bulk, a few rows decide it. Below
# that, splines resolve the bulk as it is. Columns with repeated values stay below 61, because noise is added to them.
INFLATED = 64.0
KNOT, REACH = 3.0, 5.0  # in standard deviations s of the bulk: where the logarithm begins, where it puts the last row
NOWHERE = torch.finfo(torch.float64).max


class CompressTails(DataLayer):
    r"""The identity between two knots per column, a logarithm beyond: for columns whose outliers hide their bulk.

    $$ z = b + c \log\left(1 + \frac{x - b}{c}\right) \;\text{above the knot } b, \qquad
       \log|\det| = -\sum_{x_i > b_i} \log\left(1 + \frac{x_i - b_i}{c_i}\right), $$

    and the same, mirrored, below the lower knot. Beyond the farthest row x' of the data the map is a straight line with
    slope 1 / (1 + r), r = (x' - b) / c, so that the inverse of a latent far out does not overflow. Value and slope are
    continuous.

    ``initialize`` decides column by column. The standard deviation s of the bulk is estimated as the distance between
    the quantiles 1/8 and 7/8 of the column, divided by 2.30, as for a normal distribution. Where the standard deviation
    of the whole column is at most 64 s, or s is 0, the column stays as it is, to the last bit. In the other columns the
    knots are the median ± 3 s, and on each side c is such that the farthest row comes to lie 5 s from the median; a
    side whose farthest row is nearer than that stays as it is. One row in a thousand at a million standard deviations,
    such as the fault of a sensor, then costs the density of all other rows nothing. Up to an eighth of the rows may be
    outliers.

    Medians and octiles as robust measures: Huber 1981, *Robust Statistics*.

    >>> import torch
    >>> x = torch.cat((torch.linspace(-1, 1, 999), torch.tensor([1e6])))[:, None]
    >>> tails = CompressTails(1)
    >>> tails.initialize(x)
    >>> z, log_det = tails(x)
    >>> bool((z[:999] == x[:999]).all()), round(z[999].item(), 2), round(log_det[999].item(), 2)
    (True, 3.26, -16.34)
    """

    knots: Tensor
    widths: Tensor
    ranges: Tensor
    initialized: Tensor

    def __init__(self, features: int) -> None:
        super().__init__(features)
        # The lower and the upper knot b, the widths c and the ranges r. Files of format 1 may lack them.
        self.register_statistic("knots", torch.tensor([[-NOWHERE], [NOWHERE]], dtype=torch.float64).repeat(1, features))
        self.register_statistic("widths", torch.ones(2, features))
        self.register_statistic("ranges", torch.ones(2, features))
        self.register_buffer("initialized", torch.tensor(False))
        self.active = False

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        if self.initialized:
            return
        ordered = x.double().sort(0).values
        low, median, high = (ordered[round(part * (len(ordered) - 1))] for part in (0.125, 0.5, 0.875))
        width = high / OCTILES - low / OCTILES
        size = ordered.abs().amax(0)  # divided out below, because squares may overflow
        inflated = (width > 0) & ((ordered / size).std(0, correction=0) > INFLATED * width / size)
        ends = torch.stack((median - ordered[0], ordered[-1] - median)) / width
        beyond = inflated & (ends > REACH)
        knots = torch.stack((median - KNOT * width, median + KNOT * width))
        self.knots.copy_(torch.where(beyond, knots, self.knots))
        widths = _log_width(ends - KNOT, REACH - KNOT)
        self.widths.copy_(torch.where(beyond, width * widths, self.widths))
        self.ranges.copy_(torch.where(beyond, (ends - KNOT) / widths, self.ranges))
        self.initialized.fill_(True)
        self.statistics_changed()

    def statistics_changed(self) -> None:
        if not self.knots.is_meta:
            self.active = bool((self.knots.abs() < NOWHERE).any())
            self.needs_float64 = self.reaches_beyond_float32()

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, log_det = self.compress(x.double())
        return z.to(self.dtype), log_det.to(self.dtype)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x, log_det = self.expand(z.double())
        return x.to(self.data_dtype), log_det.to(self.dtype)

    def compress(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``forward`` in float64."""
        if not self.active:
            return x, x.new_zeros(x.shape[0])
        inside, beyond = self._split(x)
        within, rest = _cut(beyond, self.ranges)
        logs = within.log1p()
        return self._join(inside, logs + rest / (1 + self.ranges)), -logs.sum((-1, -2))

    def expand(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """``inverse`` in float64."""
        if not self.active:
            return z, z.new_zeros(z.shape[0])
        inside, beyond = self._split(z)
        logs, rest = _cut(beyond, self.ranges.log1p())
        return self._join(inside, logs.expm1() + rest * (1 + self.ranges)), logs.sum((-1, -2))

    def reaches_beyond_float32(self) -> bool:
        """Whether the farthest rows of the data are too large for float32."""
        return bool((self.widths * self.ranges > LARGEST).any())

    def is_inside(self, x: Tensor) -> Tensor:
        """Which rows have every column between its knots: ``(batch, features)`` → ``(batch,)``."""
        return ((x >= self.knots[0]) & (x <= self.knots[1])).all(-1)

    def _split(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """The part between the knots, and the distances below and above them, in widths: ``(batch, 2, features)``."""
        low, high = self.knots
        distances = torch.stack((low - value, value - high), -2) / self.widths
        return value.clamp(low, high), distances.where(distances > 0, 0.0)  # at a knot only the former has a gradient

    def _join(self, inside: Tensor, distances: Tensor) -> Tensor:
        below, above = (distances * self.widths).unbind(-2)
        return inside - below + above

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        absent = {prefix + name: getattr(self, name) for name in ("knots", "widths", "ranges", "initialized")}
        super()._load_from_state_dict(absent | dict(state_dict), prefix, *args, **kwargs)


def _cut(value: Tensor, border: Tensor) -> tuple[Tensor, Tensor]:
    """The part up to the border, and the rest."""
    over = value > border  # not minimum(), of whose gradient each of two equal numbers has half
    return torch.where(over, border, value), (value - border).where(over, 0.0)


def _log_width(distance: Tensor, room: float) -> Tensor:
    r"""The c for which $c \log(1 + d / c)$ is ``room``, for distances d beyond it, by bisection of log c."""
    low, high = torch.full_like(distance, -12.0), torch.full_like(distance, 24.0)
    for _ in range(60):
        middle = (low + high) / 2
        width = middle.exp()
        short = width * (distance / width).log1p() < room
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return high.exp()
