"""From a bounded domain to the whole line: what preprocessing bounded data takes, its log-det counted."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from flowstone.bijections.base import Bijection
from flowstone.errors import SettingError

__all__ = ["Interval", "Logit", "Positive"]


class Logit(Bijection):
    r"""$z = \operatorname{logit}(\alpha + (1 - 2\alpha)\,x)$ for x in [0, 1] (Dinh et al. 2016, section 4.1).

    $$ \log|\det| = \sum_i \log(1 - 2\alpha) - \log y_i - \log(1 - y_i), \qquad y = \alpha + (1 - 2\alpha)\,x $$

    With α = 0 the borders 0 and 1 are taken to be as near to them as the precision can tell. Outside its domain x has
    no density: log-det is $-\infty$ there, and the gradient zero.

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
        squeezed = self.alpha + (1 - 2 * self.alpha) * x
        z = squeezed.logit(eps=torch.finfo(x.dtype).eps)
        return z, _unless((squeezed < 0) | (squeezed > 1), -self._log_slope(z))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return (z.sigmoid() - self.alpha) / (1 - 2 * self.alpha), self._log_slope(z).flatten(1).sum(-1)

    def _log_slope(self, z: Tensor) -> Tensor:
        """Log dx/dz."""
        return F.logsigmoid(z) + F.logsigmoid(-z) - math.log1p(-2 * self.alpha)


class Interval(Bijection):
    r"""$z = \operatorname{logit} \tfrac{x - a}{b - a}$ for data between a and b, one pair for all features or one each.

    $$ \log|\det| = \sum_i \log(b_i - a_i) - \log(x_i - a_i) - \log(b_i - x_i) $$

    With ``alpha`` the unit interval is first squeezed, as in ``Logit``.

    >>> import torch
    >>> Interval(0.0, 10.0)(torch.tensor([[5.0, 7.5]]))[0]
    tensor([[0.0000, 1.0986]])
    """

    low: Tensor
    width: Tensor

    def __init__(self, low: float | Sequence[float], high: float | Sequence[float], *, alpha: float = 0.0) -> None:
        super().__init__()
        bottom, top = torch.tensor(low), torch.tensor(high)
        if bottom.shape != top.shape or not (bottom < top).all():
            raise SettingError(f"low={low} must be below high={high}, one for all features or one for each")
        self.register_buffer("low", bottom)
        self.register_buffer("width", top - bottom)
        self.logit = Logit(alpha=alpha)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, log_det = self.logit((x - self.low) / self.width)
        return z, log_det - self._log_width(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x, log_det = self.logit.inverse(z)
        return torch.addcmul(self.low, x, self.width), log_det + self._log_width(z)

    def _log_width(self, value: Tensor) -> Tensor:
        return self.width.log().expand(value.shape[1:]).sum()


class Positive(Bijection):
    r"""$z = \operatorname{softplus}^{-1}(x - a) = \log(e^{x - a} - 1)$ for data above a.

    $$ \log|\det| = -\sum_i \log\left(1 - e^{-(x_i - a)}\right) $$

    Far above a it is the identity, so large values keep their scale; a itself is taken to be the least positive number
    away. ``inverse`` is the softplus, $a + \log(1 + e^z)$.

    >>> import torch
    >>> Positive()(torch.tensor([[0.6931, 50.0]]))[0].round(decimals=2).tolist()
    [[-0.0, 50.0]]
    """

    def __init__(self, *, low: float = 0.0) -> None:
        super().__init__()
        self.low = low

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        above = (x - self.low).clamp_min(torch.finfo(x.dtype).tiny)
        log_slope = -(-torch.expm1(-above)).log()
        return above - log_slope, _unless(x < self.low, log_slope)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.low - F.logsigmoid(-z), F.logsigmoid(z).flatten(1).sum(-1)


def _unless(outside: Tensor, log_slope: Tensor) -> Tensor:
    """The log-det of each row; minus infinity where one of its values has no density."""
    return torch.where(outside.flatten(1).any(-1), -math.inf, log_slope.flatten(1).sum(-1))
