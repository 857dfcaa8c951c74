"""From a bounded domain to the whole line: what preprocessing bounded data takes, its log-det counted."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from flowstone.bijections.base import Bijection
from flowstone.errors import SettingError

__all__ = ["Interval", "Logit", "Positive", "Rescale"]

ROUNDING = torch.finfo(torch.float32).eps  # what a border may be off by where a table was once written in float32


class _Bounded(Bijection):
    """What comes in may be a table of integers or of float64: it is read as it is, and leaves as the flow has it."""

    casts = True
    like: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("like", torch.zeros(()), persistent=False)  # carries the precision

    def _read(self, x: Tensor) -> Tensor:
        return x.to(torch.promote_types(x.dtype, self.like.dtype))

    def _told(self, z: Tensor, log_slope: Tensor, outside: Tensor) -> tuple[Tensor, Tensor]:
        """z, and the log-det of each row: minus infinity where one of its values has no density."""
        log_det = torch.where(outside.flatten(1).any(-1), -math.inf, log_slope.flatten(1).sum(-1))
        return z.to(self.like.dtype), log_det.to(self.like.dtype)


class Logit(_Bounded):
    r"""$z = \operatorname{logit}(\alpha + (1 - 2\alpha)\,x)$ for x in [0, 1] (Dinh et al. 2016, section 4.1).

    $$ \log|\det| = \sum_i \log(1 - 2\alpha) - \log y_i - \log(1 - y_i), \qquad y = \alpha + (1 - 2\alpha)\,x $$

    Where y is 0 or 1 it is taken to be as near to them as the precision can tell (with α = 0: at the borders 0 and 1).
    Where y is below 0 or above 1 there is no density: log-det is $-\infty$, and the gradient zero. With α > 0 a little
    of the density lies beyond [0, 1], down to $-\alpha / (1 - 2\alpha)$ and as far above 1.

    >>> import torch
    >>> z, log_det = Logit(alpha=0.05)(torch.tensor([[0.5, 1.0]]))
    >>> z
    tensor([[0.0000, 2.9444]])
    """

    def __init__(self, *, alpha: float = 0.0) -> None:
        super().__init__()
        if not 0 <= alpha < 0.5:
            raise SettingError(f"alpha={alpha} must be at least 0 and below 0.5")
        self.alpha = alpha

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        squeezed = self.alpha + (1 - 2 * self.alpha) * self._read(x)
        z = squeezed.logit(eps=torch.finfo(squeezed.dtype).eps)
        return self._told(z, -self._log_slope(z), (squeezed < 0) | (squeezed > 1))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return (z.sigmoid() - self.alpha) / (1 - 2 * self.alpha), self._log_slope(z).flatten(1).sum(-1)

    def _log_slope(self, z: Tensor) -> Tensor:
        """Log dx/dz."""
        return F.logsigmoid(z) + F.logsigmoid(-z) - math.log1p(-2 * self.alpha)


class Interval(_Bounded):
    r"""$z = \operatorname{logit} \tfrac{x - a}{b - a}$ for data between a and b, one pair for all features or one each.

    $$ \log|\det| = \sum_i \log(b_i - a_i) - \log(x_i - a_i) - \log(b_i - x_i) $$

    With ``alpha`` the unit interval is first squeezed, as in ``Logit``. What is beyond a border by no more than float32
    can tell is at it.

    >>> import torch
    >>> Interval(0.0, 10.0)(torch.tensor([[5.0, 7.5]]))[0]
    tensor([[0.0000, 1.0986]])
    """

    low: Tensor
    high: Tensor

    def __init__(self, low: float | Sequence[float], high: float | Sequence[float], *, alpha: float = 0.0) -> None:
        super().__init__()
        bottom, top = (torch.tensor(border, dtype=torch.get_default_dtype()) for border in (low, high))
        if bottom.shape != top.shape or not (bottom < top).all():
            raise SettingError(f"low={low} must be below high={high}, one for all features or one for each")
        self.register_buffer("low", bottom)
        self.register_buffer("high", top)
        self.logit = Logit(alpha=alpha)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self._read(x)
        slack = ROUNDING * torch.maximum(self.low.abs(), self.high)
        at_border = ((x - self.low).abs() <= slack) | ((x - self.high).abs() <= slack)
        unit = (x - self.low) / (self.high - self.low)
        z, log_det = self.logit(torch.where(at_border, unit.clamp(0, 1), unit))
        return z, log_det - self._log_width(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x, log_det = self.logit.inverse(z)
        return torch.lerp(self.low, self.high, x), log_det + self._log_width(z)

    def _log_width(self, value: Tensor) -> Tensor:
        return (self.high - self.low).log().expand(value.shape[1:]).sum()


class Rescale(_Bounded):
    r"""$z = \tfrac{x - a}{b - a}$: from between a and b to between 0 and 1, and nothing bent.

    $$ \log|\det| = -D \log(b - a) $$

    What images get where there is no logit. Values beyond a and b are no worse than others.

    >>> import torch
    >>> Rescale(0.0, 256.0)(torch.tensor([[64.0, 256.0]]))[0]
    tensor([[0.2500, 1.0000]])
    """

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        if not low < high:
            raise SettingError(f"low={low} must be below high={high}")
        self.low, self.width = low, high - low

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z = ((self._read(x) - self.low) / self.width).to(self.like.dtype)
        return z, -self._log_width(z)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.low + z * self.width, self._log_width(z)

    def _log_width(self, value: Tensor) -> Tensor:
        return value.new_full(value.shape[:1], value.shape[1:].numel() * math.log(self.width))


class Positive(_Bounded):
    r"""$z = \operatorname{softplus}^{-1}(x - a) = \log(e^{x - a} - 1)$ for data above a.

    $$ \log|\det| = -\sum_i \log\left(1 - e^{-(x_i - a)}\right) $$

    Far above a it is the identity, so large values keep their scale; a itself (and what is below it by no more than
    float32 can tell) is taken to be the least positive number away. ``inverse`` is the softplus, $a + \log(1 + e^z)$.

    >>> import torch
    >>> Positive()(torch.tensor([[0.6931, 50.0]]))[0].round(decimals=2).tolist()
    [[-0.0, 50.0]]
    """

    def __init__(self, *, low: float = 0.0) -> None:
        super().__init__()
        self.low = low

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        distance = self._read(x) - self.low
        above = distance.clamp_min(torch.finfo(self.like.dtype).tiny)
        log_slope = -(-torch.expm1(-above)).log()
        return self._told(above - log_slope, log_slope, distance < -ROUNDING * abs(self.low))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.low - F.logsigmoid(-z), F.logsigmoid(z).flatten(1).sum(-1)
