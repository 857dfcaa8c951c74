"""The monotonic rational-quadratic spline, with linear tails or on a circle."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from flowstone.bijections.univariate import Univariate
from flowstone.errors import SettingError
from flowstone.kernels import fused_spline
from flowstone.validation import require_integer, require_number

__all__ = ["RQSpline"]


class RQSpline(Univariate):
    r"""A monotonic rational-quadratic spline on [-B, B], the identity outside (Durkan et al. 2019, section 3.1).

    Knots $(x_k, y_k)$ with slopes $\delta_k$ (1 at both ends); in bin k, with $\xi = (x - x_k)/w_k$ and the
    mean slope $m_k = h_k/w_k$,

    $$ z = y_k + h_k \frac{m_k \xi^2 + \delta_k \xi(1-\xi)}{m_k + (\delta_{k+1} + \delta_k - 2 m_k)\,\xi(1-\xi)}. $$

    Parameters per feature: K raw widths, K raw heights, K - 1 raw inner slopes, K = ``bins``; zeros give the identity.
    No bin is narrower or lower than ``min_size`` of the interval, and no slope at a knot is below ``min_slope``. Inside
    a bin that is far flatter than its ends the slope falls below both, to about $2 m_k^2 / \delta$ in its middle.
    There the inverse loses digits in float32: it is exact to about 1e-5 where no raw parameter is beyond 1, 1e-3 at
    2 and 3e-2 at 3, for B = 3. ``flowstone.check`` reports how exact a flow is.

    ``circular=True`` is for angles: -B and B are the same point, numbers beyond them are wrapped, the slope at the seam
    is free and the same from both sides, and one more parameter turns the circle (Rezende et al. 2020): 3K + 1 in all.

    >>> import torch
    >>> spline = RQSpline(bins=4, bound=2.0)
    >>> z, log_slope = spline(torch.tensor([[0.5, 7.0]]), torch.zeros(1, 2, spline.parameters_per_feature))
    >>> z, bool(log_slope.abs().max() < 1e-6)
    (tensor([[0.5000, 7.0000]]), True)
    """

    reads_bf16 = True

    def __init__(
        self,
        *,
        bins: int = 8,
        bound: float = 3.0,
        circular: bool = False,
        min_size: float = 1e-3,
        min_slope: float = 1e-3,
    ) -> None:
        super().__init__()
        require_integer("bins", bins, at_least=2)
        require_number("bound", bound, above=0)
        require_number("min_size", min_size, above=0)
        require_number("min_slope", min_slope, above=0, below=1)
        if bins * min_size >= 1:
            raise SettingError(f"bins={bins} must be below 1/min_size = {1 / min_size:.0f}")
        self.bins = bins
        self.bound = bound
        self.min_size = min_size
        self.min_slope = min_slope
        self.circular = circular
        self.parameters_per_feature = 3 * bins + 1 if circular else 3 * bins - 1

    def extra_repr(self) -> str:
        return f"bins={self.bins}, bound={self.bound:g}" + (", circular=True" if self.circular else "")

    @fused_spline
    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        inside = self._wrap(x) if self.circular else x.clamp(-self.bound, self.bound)
        (left, bottom), (width, height), slopes = self._bin(inside, parameters, axis=0)
        rise, log_slope = self._segment((inside - left) / width, height / width, slopes)
        z = bottom + height * rise
        if self.circular:
            return self._wrap(z + self._turn(parameters)), log_slope
        # Beyond the bound the clamped part is constant and the remainder has slope 1: no branch, so no NaN gradient.
        return z + (x - inside), log_slope

    @fused_spline
    def inverse(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        inside = self._wrap(z - self._turn(parameters)) if self.circular else z.clamp(-self.bound, self.bound)
        (left, bottom), (width, height), slopes = self._bin(inside, parameters, axis=1)
        xi = self._solve((inside - bottom) / height, height / width, slopes)
        _, log_slope = self._segment(xi, height / width, slopes)
        x = left + width * xi
        return x if self.circular else x + (z - inside), -log_slope

    def saturation(self, x: Tensor, parameters: Tensor) -> float | None:
        """The share of the x that lie beyond ±B; None on a circle."""
        return None if self.circular else (x.abs() > self.bound).double().mean().item()

    def _turn(self, parameters: Tensor) -> Tensor:
        return self.bound * parameters[..., -1]

    def _wrap(self, value: Tensor) -> Tensor:
        return torch.remainder(value + self.bound, 2 * self.bound) - self.bound

    def _knots(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Edges ``(2, K + 1, …)``, those of x first, and slopes ``(K + 1, …)``.

        The axis of the knots is the first one, so that every operation runs along the batch in memory, which is several
        times as fast.
        """
        parameters = parameters.movedim(-1, 0).contiguous()
        sizes = parameters[: 2 * self.bins].unflatten(0, (2, self.bins)).softmax(1)
        sizes = 2 * self.bound * (self.min_size + (1 - self.bins * self.min_size) * sizes)
        end = torch.full_like(sizes[:, :1], self.bound)
        edges = torch.cat((-end, sizes[:, :-1].cumsum(1) - self.bound, end), 1)
        unit = math.log(math.expm1(1 - self.min_slope))  # softplus(unit) + min_slope = 1: a zero parameter is slope 1
        slopes = self.min_slope + F.softplus(parameters[2 * self.bins : 3 * self.bins] + unit)
        if self.circular:
            return edges, torch.cat((slopes, slopes[:1]))
        one = torch.ones_like(slopes[:1])
        return edges, torch.cat((one, slopes, one))

    def _bin(self, value: Tensor, parameters: Tensor, *, axis: int) -> tuple[Tensor, Tensor, Tensor]:
        """The bin that holds ``value`` (axis 0: x, 1: y): its lower corner, its size, its two end slopes."""
        edges, slopes = self._knots(parameters)
        index = (value >= edges[axis, 1:-1]).sum(0, keepdim=True)
        ends = torch.cat((index, index + 1))
        corners = edges.gather(1, ends.expand(2, *ends.shape))
        return corners[:, 0], corners[:, 1] - corners[:, 0], slopes.gather(0, ends)

    @staticmethod
    def _segment(xi: Tensor, mean_slope: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:
        """Rise in [0, 1] and log-slope at xi in [0, 1] of one bin."""
        start, end = slopes
        bend, square = xi * (1 - xi), xi.square()
        denominator = mean_slope + (start + end - 2 * mean_slope) * bend
        rise = (mean_slope * square + start * bend) / denominator
        steepness = end * square + 2 * mean_slope * bend + start * (1 - xi).square()
        return rise, ((mean_slope / denominator).square() * steepness).log()

    @staticmethod
    def _solve(rise: Tensor, mean_slope: Tensor, slopes: Tensor) -> Tensor:
        """Solve ``_segment(xi)[0] == rise`` for xi in [0, 1], by the stable root of a quadratic."""
        start, end = slopes
        curve = rise * (start + end - 2 * mean_slope)
        a = mean_slope - start + curve
        b = start - curve
        c = -mean_slope * rise
        discriminant = (b.square() - 4 * a * c).clamp_min(0)  # rounding can push it below zero
        root = -2 * c / (b + discriminant.sqrt())
        near = root.clamp(-0.01, 1.01)  # rounding leads a little beyond [0, 1], where the gradient is still right
        return root.clamp(0, 1).detach() + (near - near.detach())
