"""Preprocessing of bounded data: bijections from a bounded domain to the real line."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions.constraints import Constraint

from flowstone.bijections.constraints import Between, is_outside
from flowstone.bijections.statistics import DataLayer, is_coarse
from flowstone.errors import SettingError
from flowstone.validation import require_number

__all__ = ["Interval", "Logit", "Positive", "Rescale"]


class _Bounded(DataLayer):
    def _with_log_det(self, z: Tensor, log_slope: Tensor, outside: Tensor) -> tuple[Tensor, Tensor]:
        """Return z and the log-det of each row: minus infinity where one of its values has no density."""
        log_det = torch.where(outside.flatten(1).any(-1), -math.inf, log_slope.flatten(1).sum(-1))
        return z.to(self.dtype), log_det.to(self.dtype)

    def _inverse_with_log_det(self, x: Tensor, log_slope: Tensor) -> tuple[Tensor, Tensor]:
        return x.to(self.data_dtype), log_slope.flatten(1).sum(-1).to(self.dtype)


class Logit(_Bounded):
    r"""$z = \operatorname{logit}(\alpha + (1 - 2\alpha)\,x)$ for x in [0, 1] (Dinh et al. 2016, section 4.1).

    $$ \log|\det| = \sum_i \log(1 - 2\alpha) - \log y_i - \log(1 - y_i), \qquad y = \alpha + (1 - 2\alpha)\,x $$

    y is clamped to $[\epsilon, 1 - \epsilon]$, with ε the machine epsilon of the flow's precision, so that z is finite.
    Where y is below 0 or above 1 there is no density: log-det is $-\infty$, and the gradient zero. With α > 0 a little
    of the density lies beyond [0, 1], down to $-\alpha / (1 - 2\alpha)$ and as far above 1. Numbers beyond a border by
    no more than the rounding of float32 count as the border.

    >>> import torch
    >>> z, log_det = Logit(alpha=0.05)(torch.tensor([[0.5, 1.0]]))
    >>> z
    tensor([[0.0000, 2.9444]])
    """

    def __init__(self, *, alpha: float = 0.0) -> None:
        super().__init__()
        require_number("alpha", alpha, at_least=0, below=0.5)
        self.alpha = alpha

    @property
    def domain(self) -> Constraint:
        return Between(0 - self.margin, 1 + self.margin)

    @property
    def margin(self) -> float:
        """How far below 0 and above 1 there is density."""
        return self.alpha / (1 - 2 * self.alpha)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._with_log_det(*self.bend(x.double()), is_outside(x, 0 - self.margin, 1 + self.margin))

    def bend(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return z and log dz/dx of each number in float64; beyond a border, those of the border."""
        squeezed = self.alpha + (1 - 2 * self.alpha) * x
        z = squeezed.logit(eps=torch.finfo(self.dtype).eps)
        return z, -self._log_slope(z)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._inverse_with_log_det(*self.unbend(z.double()))

    def unbend(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and log dx/dz of each number in float64."""
        return (z.sigmoid() - self.alpha) / (1 - 2 * self.alpha), self._log_slope(z)

    def _log_slope(self, z: Tensor) -> Tensor:
        """Return log dx/dz."""
        return F.logsigmoid(z) + F.logsigmoid(-z) - math.log1p(-2 * self.alpha)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha:g}"


class Interval(_Bounded):
    r"""$z = \operatorname{logit} \tfrac{x - a}{b - a}$ for data between a and b, one pair for all features or one each.

    $$ \log|\det| = \sum_i \log(b_i - a_i) - \log(x_i - a_i) - \log(b_i - x_i) $$

    ``alpha`` and numbers beyond a border are treated as in ``Logit``.

    Raises:
        SettingError: ``low`` is not below ``high``, one of them is infinite, or their numbers of features differ.

    >>> import torch
    >>> Interval(0.0, 10.0)(torch.tensor([[5.0, 7.5]]))[0]
    tensor([[0.0000, 1.0986]])
    """

    low: Tensor
    high: Tensor

    def __init__(self, low: float | Sequence[float], high: float | Sequence[float], *, alpha: float = 0.0) -> None:
        bottom, top = (torch.as_tensor(border, dtype=torch.float64) for border in (low, high))
        super().__init__(len(bottom) if bottom.ndim else None)
        self.event_dims = self.latent_dims = 1 if bottom.ndim else None
        if bottom.shape != top.shape or not (bottom.is_meta or ((bottom < top) & (top - bottom).isfinite()).all()):
            raise SettingError(
                f"low={low} must be below high={high}, both finite, one for all features or one for each"
            )
        self.register_statistic("low", bottom)
        self.register_statistic("high", top)
        self.logit = Logit(alpha=alpha)
        self.statistics_changed()

    @property
    def domain(self) -> Constraint:
        low, high = (border.to(self.data_dtype) for border in self._borders())
        return Between(low, high)

    def _borders(self) -> tuple[Tensor, Tensor]:
        margin = self.logit.margin * (self.high - self.low)
        return self.low - margin, self.high + margin

    def statistics_changed(self) -> None:
        if not self.low.is_meta:
            self.needs_float64 = is_coarse(self.low, self.high - self.low)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, log_slope = self.logit.bend((x.double() - self.low) / (self.high - self.low))
        return self._with_log_det(z, log_slope - (self.high - self.low).log(), is_outside(x, *self._borders()))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        unit, log_slope = self.logit.unbend(z.double())
        x = torch.lerp(self.low, self.high, unit)
        return self._inverse_with_log_det(x, log_slope + (self.high - self.low).log())

    def extra_repr(self) -> str:
        return f"low={self.low.tolist()}, high={self.high.tolist()}, alpha={self.logit.alpha:g}"


class Rescale(_Bounded):
    r"""$z = \tfrac{x - a}{b - a}$: from [a, b] to [0, 1], for images without a logit.

    $$ \log|\det| = -D \log(b - a) $$

    Values outside [a, b] have density, too.

    >>> import torch
    >>> Rescale(0.0, 256.0)(torch.tensor([[64.0, 256.0]]))[0]
    tensor([[0.2500, 1.0000]])
    """

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        require_number("low", low)
        require_number("high", high)
        if not low < high:
            raise SettingError(f"low={low} must be below high={high}")
        self.low, self.width = low, high - low
        self.needs_float64 = is_coarse(*torch.tensor([low, high - low], device="cpu"))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z = (x.double() - self.low) / self.width
        return z.to(self.dtype), -self._log_width(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self.low + z.double() * self.width
        return x.to(self.data_dtype), self._log_width(z)

    def _log_width(self, value: Tensor) -> Tensor:
        log_width = value.shape[1:].numel() * math.log(self.width)
        return self._reference.new_full(value.shape[:1], log_width)

    def extra_repr(self) -> str:
        return f"low={self.low:g}, high={self.low + self.width:g}"


class Positive(_Bounded):
    r"""$z = \operatorname{softplus}^{-1}(x - a) = \log(e^{x - a} - 1)$ for data above a.

    $$ \log|\det| = -\sum_i \log\left(1 - e^{-(x_i - a)}\right) $$

    Far above a it is nearly the identity, so large values keep their scale. a itself, and numbers below it by no more
    than the rounding of float32, count as a plus the least positive number. ``inverse`` is $a + \log(1 + e^z)$.

    >>> import torch
    >>> Positive()(torch.tensor([[0.6931, 50.0]]))[0].round(decimals=2).tolist()
    [[-0.0, 50.0]]
    """

    def __init__(self, *, low: float = 0.0) -> None:
        super().__init__()
        require_number("low", low)
        self.low = low
        self.needs_float64 = is_coarse(*torch.tensor([low, 1.0], device="cpu"))

    @property
    def domain(self) -> Constraint:
        return Between(self.low)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        distance = x.double() - self.low
        above = distance.clamp_min(torch.finfo(self.dtype).tiny)
        log_slope = -(-torch.expm1(-above)).log()
        return self._with_log_det(above - log_slope, log_slope, is_outside(x, self.low, math.inf))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z = z.double()
        return self._inverse_with_log_det(self.low - F.logsigmoid(-z), F.logsigmoid(z))

    def extra_repr(self) -> str:
        return f"low={self.low:g}"
