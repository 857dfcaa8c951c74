"""Calibration: whether held-out values lie where a density says, as often as it says."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from flowstone.density import Density
from flowstone.errors import DataError, ShapeError
from flowstone.evaluation.metrics import log_prob
from flowstone.evaluation.trees import require_sklearn
from flowstone.mixed import MixedDensity
from flowstone.validation import require_integer

__all__ = ["Calibration", "calibration", "conditional_pit", "distance_between", "uniformity"]

ROUNDING = 1e-5  # relative difference of likelihoods up to which they are equal, as they are in single precision
POOLED = 50  # times as many draws make the pool of a density without context


@dataclass(frozen=True)
class Calibration:
    r"""Where rows lie among draws of their density.

    Attributes:
        ranks: for each row and column the share of draws below its value, ``(rows, columns)``, NaN where there is no
            value; among draws that equal it, it has a place by chance. They are uniform if the density is right: given
            a context this is simulation-based calibration (Talts et al. 2018).
        levels: for each row the share of draws that are likelier than it, ``(rows,)``: the probability of the region
            of highest density at whose border it lies; among draws that are as likely, as of discrete columns, it has a
            place by chance. NaN for rows with gaps.
        pool: how many draws serve all rows, which then share what is by chance in them; None where each row has its own
            draws.

    >>> import torch, flowstone
    >>> flow = flowstone.nice(2).double()
    >>> found = calibration(flow, flow.sample(500, seed=1), seed=0)
    >>> bool(abs(found.coverage(0.9)[0] - 0.9) < 0.06), found.p_values().shape
    (True, torch.Size([2]))
    """

    ranks: Tensor
    levels: Tensor
    pool: int | None = None

    def effective(self, rows: int) -> float:
        """How many rows with draws of their own would show as much as these."""
        return rows if self.pool is None else rows * self.pool / (rows + self.pool)

    def coverage(self, probability: float) -> tuple[float, float]:
        """The share of rows inside the region of highest density that has this probability, and its standard error."""
        inside = (self.levels[~self.levels.isnan()] <= probability).double()
        if not len(inside):
            return math.nan, math.nan
        share = inside.mean().item()
        variance = max(share * (1 - share), probability * (1 - probability))
        return share, math.sqrt(variance / self.effective(len(inside)))

    def p_values(self) -> Tensor:
        """For each column the probability of ranks as far from uniform, were the density right (``uniformity``)."""
        return torch.tensor([self._p_value(column) for column in self.ranks.unbind(1)], dtype=torch.float64)

    def _p_value(self, ranks: Tensor) -> float:
        distance, p_value = uniformity(ranks)
        if self.pool is None or math.isnan(distance):
            return p_value
        from scipy.stats import kstwo

        return float(kstwo.sf(distance, max(1, round(self.effective(int((~ranks.isnan()).sum()))))))


@torch.no_grad()
def calibration(
    density: Density, x: Tensor, context: Tensor | None = None, *, draws: int = 200, seed: int = 0
) -> Calibration:
    """Compare rows with draws of the density.

    Args:
        x: held-out rows, ``(rows, columns)``.
        context: of each row.
        draws: for each row, where there is a context; else one pool of 50 times as many serves all rows.
        seed: of the draws.

    Raises:
        ShapeError: the density is not of rows of columns.
        DataError: there are no rows.
    """
    require_integer("draws", draws)
    density.check_shapes(x, context)
    if x.ndim != 2:
        raise ShapeError(f"calibration is of rows of columns; the events here are of {tuple(density.event_shape)}")
    if not len(x):
        raise DataError("0 rows: there is nothing to compare")
    x = x.double().cpu()
    own = log_prob(density, x.to(density.data_dtype), context).double()
    counts = _Counts(x.where(~x.isnan(), 0.0), own, torch.Generator().manual_seed(seed + draws))
    if context is None:
        drawn = density.sample(POOLED * draws, seed=seed)
        counts.add_pool(drawn.double().cpu(), log_prob(density, drawn).double())
    else:
        for index in range(draws):
            drawn = density.sample(1, context.to(density.device), seed=seed + index)[0]
            counts.add(drawn.double().cpu(), log_prob(density, drawn, context).double())
    gaps = x.isnan()
    ranks, levels = counts.shares()
    pool = POOLED * draws if context is None else None
    return Calibration(ranks.masked_fill(gaps, torch.nan), levels.masked_fill(gaps.any(1), torch.nan), pool)


class _Counts:
    """How many draws lie below each value, how many equal it, and how many are likelier than each row or as likely."""

    def __init__(self, values: Tensor, likelihoods: Tensor, generator: torch.Generator) -> None:
        self.values, self.likelihoods, self.generator = values, likelihoods, generator
        self.below, self.equal = torch.zeros_like(values), torch.zeros_like(values)
        self.likelier, self.as_likely = torch.zeros_like(likelihoods), torch.zeros_like(likelihoods)
        rounding = ROUNDING * (1 + likelihoods.abs().nan_to_num(posinf=0.0))
        self.least, self.most = likelihoods - rounding, likelihoods + rounding
        self.draws = 0

    def add(self, drawn: Tensor, likelihoods: Tensor) -> None:
        """One draw for each row."""
        self.below += drawn < self.values
        self.equal += drawn == self.values
        self.likelier += likelihoods > self.most
        self.as_likely += (likelihoods >= self.least) & (likelihoods <= self.most)
        self.draws += 1

    def add_pool(self, drawn: Tensor, likelihoods: Tensor) -> None:
        """Draws that serve all rows."""
        for index, column in enumerate(drawn.T):
            ordered, values = column.sort().values, self.values[:, index].contiguous()
            below, upto = (torch.searchsorted(ordered, values, right=side) for side in (False, True))
            self.below[:, index] += below
            self.equal[:, index] += upto - below
        ordered = likelihoods.sort().values
        upto = torch.searchsorted(ordered, self.most, right=True)
        self.likelier += len(drawn) - upto
        self.as_likely += upto - torch.searchsorted(ordered, self.least)
        self.draws += len(drawn)

    def shares(self) -> tuple[Tensor, Tensor]:
        """Ranks and levels. A row has one more place among the draws than there are draws, and where several fit it has
        each of them with equal probability: then both are exactly uniform for a right density.
        """
        chance = torch.rand(self.below.shape, dtype=torch.float64, generator=self.generator)
        other = torch.rand(self.likelier.shape, dtype=torch.float64, generator=self.generator)
        ranks = (self.below + chance * (self.equal + 1)) / (self.draws + 1)
        return ranks, (self.likelier + other * (self.as_likely + 1)) / (self.draws + 1)


@torch.no_grad()
def conditional_pit(density: MixedDensity, x: Tensor, context: Tensor | None = None, *, seed: int = 0) -> Tensor:
    """The probability integral transform of each value given all others of its row, ``(rows, columns)``, NaN at gaps
    (``Prediction.pit``): each column is uniform if its conditional distribution is right.

    Raises:
        SettingError: the density has a fixed order, so that not all columns can be given.
    """
    found = []
    for index in range(x.shape[1]):
        prediction = density.predict(x.to(density.device), index, context)
        found.append(prediction.pit(x[:, index].to(density.device), seed=seed + index).cpu())
    return torch.stack(found, 1)


def distance_between(one: Tensor, other: Tensor) -> float:
    """The largest distance between the distribution functions of two columns of values; NaN is no value, and where one
    column has no other the distance is NaN.

    >>> distance_between(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 3.0]))
    0.5
    """
    parts = [values[~values.isnan()].double().cpu().sort().values for values in (one, other)]
    if not all(map(len, parts)):
        return math.nan
    both = torch.cat(parts)
    shares = [torch.searchsorted(part, both, right=True) / len(part) for part in parts]
    return (shares[0] - shares[1]).abs().max().item()


def uniformity(values: Tensor) -> tuple[float, float]:
    """The largest distance between the distribution function of values and that of uniform ones, and the probability of
    one as large (the test of Kolmogorov and Smirnov). NaN is no value.

    >>> distance, p_value = uniformity((torch.arange(1000) + 0.5) / 1000)
    >>> distance < 0.001, p_value > 0.99
    (True, True)
    """
    require_sklearn()
    from scipy.stats import kstest

    present = values[~values.isnan()].double().numpy()
    if not len(present):
        return math.nan, math.nan
    found = kstest(present, "uniform")
    return float(found.statistic), float(found.pvalue)
