"""From integers to continuous numbers, by noise."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from flowstone.bijections.base import Bijection

__all__ = ["Dequantize"]


class Dequantize(Bijection):
    r"""$z = x + u$ with noise u in [0, 1): integers become continuous, and ``inverse`` gives the integers back exactly.

    Not a bijection but a bound: with $q(u \mid x)$ the noise's density, the log-probability of the integers is

    $$ \log P(x) \ge \mathbb E_{u \sim q} \left[ \log p(x + u) - \log q(u \mid x) \right] $$

    and the log-det of ``forward`` is $-\log q(u \mid x)$ of the noise it drew, from torch's global random state.
    Uniform noise has log-det 0 (Theis et al. 2016). ``inverse`` is the floor; its log-det is 0.

    Args:
        noise: None for uniform noise; else a bijection, data → latent, that ends in a standard normal and whose context
            is x: variational dequantization, $u = \sigma(\text{noise}^{-1}(\epsilon; x))$ (Ho et al. 2019, 3.1).
        levels: how many integers there are; the noise's context is x / levels - 1/2.

    >>> import torch
    >>> dequantize = Dequantize()
    >>> x = torch.tensor([[0.0, 255.0]])
    >>> dequantize.inverse(dequantize(x)[0])[0]
    tensor([[  0., 255.]])
    """

    stochastic = True

    def __init__(self, noise: Bijection | None = None, *, levels: int = 256) -> None:
        super().__init__()
        self.noise = noise
        self.levels = levels

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if self.noise is None:
            u, log_density = torch.rand_like(x), x.new_zeros(x.shape[0])
        else:
            epsilon = torch.randn_like(x)
            raw, log_det = self.noise.inverse(epsilon, x / self.levels - 0.5)
            u = raw.sigmoid()
            log_normal = -0.5 * (epsilon.square() + math.log(2 * math.pi))
            log_density = (log_normal - F.logsigmoid(raw) - F.logsigmoid(-raw)).flatten(1).sum(-1) - log_det
        # Rounding may carry x + u up to the next integer; the last number below it is as good.
        return torch.minimum(x + u, torch.nextafter(x + 1, x)), -log_density

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return z.floor(), z.new_zeros(z.shape[0])
