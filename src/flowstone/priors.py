"""Priors: the distribution of the latent z. They are plain: log-density and samples, nothing learned from x."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowstone.errors import UnknownNameError

__all__ = ["PRIORS", "Logistic", "Prior", "StandardNormal", "make_prior"]


class Prior(nn.Module, ABC):
    """A distribution over z of shape ``event_shape``; ``log_prob`` in nats, shape ``(batch,)``."""

    like: Tensor

    def __init__(self, event_shape: int | Sequence[int]) -> None:
        super().__init__()
        self.event_shape = torch.Size((event_shape,) if isinstance(event_shape, int) else event_shape)
        self.register_buffer("like", torch.zeros(()), persistent=False)  # carries device and dtype

    @abstractmethod
    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Log p(z) in nats, ``(batch, *event_shape)`` → ``(batch,)``."""

    @abstractmethod
    def sample(self, n: int, context: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """``(n, *event_shape)``; with context, row i is drawn given context row i."""


class StandardNormal(Prior):
    r"""$\log p(z) = -\tfrac12 \|z\|^2 - \tfrac D2 \log 2\pi$.

    >>> import torch
    >>> round(StandardNormal(2).log_prob(torch.zeros(1, 2)).item(), 4)
    -1.8379
    """

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return -0.5 * (z.square().flatten(1).sum(-1) + self.event_shape.numel() * math.log(2 * math.pi))

    def sample(self, n: int, context: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        return torch.randn(n, *self.event_shape, generator=generator, dtype=self.like.dtype, device=self.like.device)


class Logistic(Prior):
    r"""$\log p(z) = -\sum_i \left(\text{softplus}(z_i) + \text{softplus}(-z_i)\right)$: NICE's prior, heavy-tailed.

    >>> import torch
    >>> round(Logistic(1).log_prob(torch.zeros(1, 1)).item(), 4)
    -1.3863
    """

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return -(F.softplus(z) + F.softplus(-z)).flatten(1).sum(-1)

    def sample(self, n: int, context: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        u = torch.rand(n, *self.event_shape, generator=generator, dtype=self.like.dtype, device=self.like.device)
        return u.logit(eps=torch.finfo(u.dtype).tiny)


PRIORS = {"normal": StandardNormal, "logistic": Logistic}


def make_prior(name: str, event_shape: int | Sequence[int]) -> Prior:
    """The prior called ``name``."""
    if name not in PRIORS:
        raise UnknownNameError("prior", name, PRIORS)
    return PRIORS[name](event_shape)
