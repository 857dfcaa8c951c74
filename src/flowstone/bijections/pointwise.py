"""Bijections that act on each feature by itself, with parameters of their own."""

import torch
from torch import Tensor, nn

from flowstone.bijections.base import Bijection
from flowstone.validation import require_number

__all__ = ["LeakyReLU", "LogTails", "Scaling"]


class Scaling(Bijection):
    r"""$z = x \odot e^{d}$ with a learned d per feature: NICE's last layer (Dinh et al. 2014, section 3.3).

    d is 0 at the start; ``initialize`` sets it, once, so that z has standard deviation 1. Features that hardly vary,
    such as the border of an image of a digit, would otherwise need thousands of training steps to reach that scale.

    >>> import torch
    >>> scaling = Scaling(2)
    >>> _ = scaling.log_scale.data.copy_(torch.tensor([0.0, 1.0]))
    >>> scaling(torch.ones(1, 2))[1]
    tensor([1.], grad_fn=<ExpandBackward0>)
    """

    event_dims = latent_dims = 1
    initialized: Tensor

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.log_scale = nn.Parameter(torch.zeros(features))
        self.register_buffer("initialized", torch.tensor(False))

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        if self.initialized:
            return
        variance = x.double().var(0, correction=0)
        self.log_scale.copy_(-0.5 * variance.clamp_min(1e-12).log())  # a feature that does not vary stays finite
        self.initialized.fill_(True)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x * self.log_scale.exp(), self.log_scale.sum().expand(x.shape[0])

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return z * (-self.log_scale).exp(), (-self.log_scale.sum()).expand(z.shape[0])


class LeakyReLU(Bijection):
    r"""$z = x$ for $x \ge 0$, $z = e^{a} x$ below, with one learned a, 0 at the start: a kink as a flow layer.

    $$ \log|\det| = a \cdot \#\{i : x_i < 0\} $$

    >>> import torch
    >>> layer = LeakyReLU()
    >>> _ = layer.log_slope.data.fill_(-1.0)
    >>> layer(torch.tensor([[-1.0, -2.0, 3.0]]))[1]
    tensor([-2.], grad_fn=<MulBackward0>)
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_slope = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._bend(x, self.log_slope)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._bend(z, -self.log_slope)

    @staticmethod
    def _bend(value: Tensor, log_slope: Tensor) -> tuple[Tensor, Tensor]:
        below = value < 0
        return torch.where(below, value * log_slope.exp(), value), below.flatten(1).sum(-1) * log_slope


class LogTails(Bijection):
    r"""The identity on [-B, B] and a logarithm beyond, which draws outliers in.

    $$ z = x \;\; (|x| \le B), \qquad
       z = \operatorname{sign}(x)\, B \left(1 + \log\tfrac{|x|}{B}\right) \;\;\text{beyond},
       \qquad \log|\det| = -\sum_{|x_i| > B} \log\tfrac{|x_i|}{B}. $$

    The slope is continuous at ±B, where it is 1. Under a normal latent the tails are those of a log-normal: a test row
    at 10,000 standard deviations costs a thousand nats and not fifty million.

    >>> import torch
    >>> z, log_det = LogTails(bound=5.0)(torch.tensor([[-3.0, 5.0 * torch.e]]))
    >>> z, log_det.round(decimals=3)
    (tensor([[-3., 10.]]), tensor([-1.]))
    """

    def __init__(self, *, bound: float = 5.0) -> None:
        super().__init__()
        require_number("bound", bound, above=0)
        self.bound = bound

    def extra_repr(self) -> str:
        return f"bound={self.bound:g}"

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        inside, times = self._split(x)
        excess = times.log()
        return inside * (1 + excess), -excess.flatten(1).sum(-1)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        inside, times = self._split(z)
        excess = times - 1
        return inside * excess.exp(), excess.flatten(1).sum(-1)

    def _split(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """The value clamped to [-B, B], and its size in units of B, at least 1. At B only the first has a gradient."""
        times = value.abs() / self.bound
        return value.clamp(-self.bound, self.bound), torch.where(times > 1, times, 1.0)
