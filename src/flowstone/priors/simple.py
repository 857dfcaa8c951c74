"""Priors whose features are independent: normal, logistic, Student's t, uniform."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from flowstone.errors import SettingError
from flowstone.priors.base import Prior
from flowstone.validation import require_number

__all__ = ["Logistic", "StandardNormal", "StudentT", "Uniform"]


class StandardNormal(Prior):
    r"""$\log p(z) = -\tfrac12 \|z\|^2 - \tfrac D2 \log 2\pi$.

    >>> import torch
    >>> round(StandardNormal(2).log_prob(torch.zeros(1, 2)).item(), 4)
    -1.8379
    """

    reparameterized = True

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return -0.5 * (z.square().flatten(1).sum(-1) + self.event_shape.numel() * math.log(2 * math.pi))

    def sample(self, n: int, context: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        return self._normal(n, generator)

    def cdf(self, z: Tensor) -> Tensor:
        return torch.special.ndtr(z)

    def icdf(self, probability: Tensor) -> Tensor:
        return torch.special.ndtri(probability)


class Logistic(Prior):
    r"""$\log p(z) = -\sum_i \left(\text{softplus}(z_i) + \text{softplus}(-z_i)\right)$: NICE's prior.

    Its tails fall as $e^{-|z|}$, more slowly than those of the normal (Dinh et al. 2014).

    >>> import torch
    >>> round(Logistic(1).log_prob(torch.zeros(1, 1)).item(), 4)
    -1.3863
    """

    reparameterized = True

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return -(F.softplus(z) + F.softplus(-z)).flatten(1).sum(-1)

    def sample(self, n: int, context: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        # Half of the distance between two such numbers stands for 0, which a logit takes to minus infinity.
        return self._uniform(n, generator).logit(eps=torch.finfo(self.dtype).eps / 4)

    def cdf(self, z: Tensor) -> Tensor:
        return z.sigmoid()

    def icdf(self, probability: Tensor) -> Tensor:
        return probability.logit()


class StudentT(Prior):
    r"""Student's t with learned degrees of freedom ν per feature: tails that fall as a power of z.

    $$ \log p(z) = \sum_i \log\Gamma\!\left(\tfrac{\nu_i + 1}{2}\right) - \log\Gamma\!\left(\tfrac{\nu_i}{2}\right)
       - \tfrac12 \log(\pi \nu_i) - \tfrac{\nu_i + 1}{2} \log\left(1 + z_i^2 / \nu_i\right) $$

    A flow with bounded slopes hands its prior's tails on to its data, so heavy-tailed data want a heavy-tailed prior
    (Jaini et al. 2020). Samples by Bailey's polar method (1994).

    Args:
        event_shape: the shape of one z.
        df: degrees of freedom at the start; they stay above 1.

    Raises:
        SettingError: ``df`` is not above 1.

    >>> import torch
    >>> round(StudentT(1, df=3.0).log_prob(torch.zeros(1, 1)).item(), 4)
    -1.0009
    """

    def __init__(self, event_shape: int | Sequence[int], *, df: float = 5.0) -> None:
        super().__init__(event_shape)
        require_number("df", df, above=1)
        self.log_excess = nn.Parameter(torch.full(tuple(self.event_shape), math.log(df - 1)))

    @property
    def df(self) -> Tensor:
        """Degrees of freedom, of shape ``event_shape``."""
        return 1 + self.log_excess.exp()

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        df = self.df
        constant = torch.lgamma((df + 1) / 2) - torch.lgamma(df / 2) - 0.5 * torch.log(math.pi * df)
        return (constant - (df + 1) / 2 * torch.log1p(z.square() / df)).flatten(1).sum(-1)

    def sample(self, n: int, context: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        angle = 2 * math.pi * self._uniform(n, generator)
        radius = (self.df * torch.expm1(-2 / self.df * torch.log1p(-self._uniform(n, generator)))).sqrt()
        return (radius * angle.cos()).detach()


class Uniform(Prior):
    r"""Uniform on [low, high] in every feature, for circular flows; $-\infty$ outside, NaN of NaN.

    $$ \log p(z) = -D \log(\text{high} - \text{low}) $$

    >>> import torch
    >>> round(Uniform(2, low=-1.0, high=1.0).log_prob(torch.tensor([[0.2, -0.9]])).item(), 4)
    -1.3863
    """

    reparameterized = True

    def __init__(self, event_shape: int | Sequence[int], *, low: float = 0.0, high: float = 1.0) -> None:
        super().__init__(event_shape)
        require_number("low", low)
        require_number("high", high)
        if not low < high:
            raise SettingError(f"low={low} must be below high={high}")
        self.low, self.high = low, high

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        within = ((z >= self.low) & (z <= self.high)).flatten(1).all(-1)
        inside = z.new_full((), -self.event_shape.numel() * math.log(self.high - self.low))
        return torch.where(z.flatten(1).isnan().any(-1), math.nan, torch.where(within, inside, -math.inf))

    def sample(self, n: int, context: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        return self.low + (self.high - self.low) * self._uniform(n, generator)

    @property
    def support(self) -> Constraint:
        return constraints.independent(constraints.interval(self.low, self.high), len(self.event_shape))

    def cdf(self, z: Tensor) -> Tensor:
        return ((z - self.low) / (self.high - self.low)).clamp(0, 1)

    def icdf(self, probability: Tensor) -> Tensor:
        return self.low + (self.high - self.low) * probability
