"""Any distribution of ``torch.distributions`` as a prior."""

from typing import cast

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from flowstone.priors.base import Prior

__all__ = ["FromTorch"]


class FromTorch(Prior):
    """A ``torch.distributions`` object standing in for a prior; its batch and event shape together are one z.

    ``Flow`` wraps one that it is given by itself. It stays on the device and in the precision that it was made in; z is
    brought there and the result back. What it holds is not saved with the flow; it is trained by nobody but its owner.

    >>> import torch
    >>> prior = FromTorch(torch.distributions.Laplace(torch.zeros(3), torch.ones(3)))
    >>> prior.event_shape, prior.log_prob(torch.zeros(5, 3)).shape
    (torch.Size([3]), torch.Size([5]))
    """

    def __init__(self, distribution: Distribution) -> None:
        super().__init__(distribution.batch_shape + distribution.event_shape)
        extra = len(distribution.batch_shape)
        self.distribution = Independent(distribution, extra) if extra else distribution
        self.reparameterized = distribution.has_rsample
        self.own = distribution.sample().flatten()[:0]  # its device and precision

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return cast(Tensor, self.distribution.log_prob(z.to(self.own))).to(z)

    def sample(self, n: int, context: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        # torch.distributions draw from the global state alone, so that is seeded from the generator for a moment.
        with torch.random.fork_rng(enabled=generator is not None):
            if generator is not None:
                torch.manual_seed(int(torch.randint(2**62, (), generator=generator, device=generator.device)))
            draw = self.distribution.rsample if self.reparameterized else self.distribution.sample
            return draw(torch.Size((n,))).to(self.like)
