"""Any distribution of ``torch.distributions`` as a prior."""

import math
from threading import Lock
from typing import cast

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent
from torch.distributions.constraints import Constraint

from flowstone.priors.base import Prior, without_autocast

__all__ = ["FromTorch"]

_seeding = Lock()


class FromTorch(Prior):
    """A ``torch.distributions`` object standing in for a prior; its batch and event shape together are one z.

    ``Flow`` wraps the distributions that it is given. They stay on their device and in their precision; z is brought
    there and the result back. Their parameters are not saved with the flow and not trained.

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
        with torch.random.fork_rng():
            self.inside = distribution.sample()
        self.own = self.inside.flatten()[:0]  # its device and precision

    @property
    def support(self) -> Constraint:
        return cast(Constraint, self.distribution.support)

    def cdf(self, z: Tensor) -> Tensor:
        own = z.to(self.own)
        within = cast(Constraint, self._of_features().support).check(own)
        # Outside of the support, where torch refuses to answer, it is 0 below and 1 above.
        beyond = torch.where(own.isnan(), math.nan, (own > self.inside).to(own))
        return torch.where(within, self._by_feature("cdf", torch.where(within, own, self.inside)), beyond).to(z)

    def icdf(self, probability: Tensor) -> Tensor:
        return self._by_feature("icdf", probability.to(self.own)).to(probability)

    def _of_features(self) -> Distribution:
        """The distribution of each feature by itself, if the features are independent."""
        one = self.distribution
        while isinstance(one, Independent):
            one = one.base_dist
        return one

    def _by_feature(self, name: str, value: Tensor) -> Tensor:
        one = self._of_features()
        try:
            return getattr(one, name)(value)
        except NotImplementedError:
            raise NotImplementedError(f"{type(one).__name__} has no {name} in closed form") from None

    @without_autocast
    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        if len(z) == 0:  # torch cannot check the support of no rows
            return z.flatten(1).sum(-1)
        own = z.to(self.own)
        within = cast(Tensor, self.distribution.support.check(own)).reshape(len(own), -1).all(-1)  # pyright: ignore
        # A sample stands in for what lies outside the support, which torch would refuse.
        safe = torch.where(within.reshape(-1, *(1 for _ in self.event_shape)), own, self.inside)
        log_prob = torch.where(within, cast(Tensor, self.distribution.log_prob(safe)), -math.inf)
        return torch.where(own.reshape(len(own), -1).isnan().any(-1), math.nan, log_prob).to(z)

    @without_autocast
    def sample(self, n: int, context: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        # torch.distributions draws from the global state alone, so that this state is seeded from the generator for a
        # moment, by one thread at a time.
        with _seeding, torch.random.fork_rng(enabled=generator is not None):
            if generator is not None:
                torch.manual_seed(int(torch.randint(2**62, (), generator=generator, device=generator.device)))
            draw = self.distribution.rsample if self.reparameterized else self.distribution.sample
            return draw(torch.Size((n,))).to(self._reference)
