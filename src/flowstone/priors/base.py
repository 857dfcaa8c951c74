"""The contract of every prior."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from flowstone.errors import ShapeError
from flowstone.validation import require_sizes

__all__ = ["Prior", "without_autocast"]


class Prior(nn.Module, ABC):
    """A distribution over z of shape ``event_shape``; ``log_prob`` in nats, shape ``(batch,)``.

    The context is the user's own, not standardised, ``(batch, context_features)`` or None; most priors ignore it.
    """

    _reference: Tensor
    reparameterized = False  # whether samples carry the gradients of all parameters of the prior, if any

    def __init__(self, event_shape: int | Sequence[int]) -> None:
        super().__init__()
        self.event_shape = torch.Size(require_sizes(f"{type(self).__name__}: event_shape", event_shape))
        if not self.event_shape:
            raise ShapeError(
                f"{type(self).__name__}: one z needs a dimension at least, event shape () has none; "
                "of a torch distribution give its parameters one, such as loc=torch.zeros(1)"
            )
        self.register_buffer("_reference", torch.zeros(()), persistent=False)  # carries device and dtype

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return self._reference.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of its samples."""
        return self._reference.dtype

    @abstractmethod
    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Log p(z) in nats, ``(batch, *event_shape)`` → ``(batch,)``."""

    @abstractmethod
    def sample(self, n: int, context: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Draw ``n`` samples, ``(n, *event_shape)``; with a context, sample i is drawn given row i of the context."""

    @property
    def support(self) -> Constraint:
        """The values of z that have density."""
        return constraints.independent(constraints.real, len(self.event_shape))

    def cdf(self, z: Tensor) -> Tensor:
        r"""$P(Z_i \le z_i)$ of each feature by itself, of the shape of z.

        Raises:
            NotImplementedError: the prior has no cdf in closed form.
        """
        raise NotImplementedError(f"{type(self).__name__} has no cdf in closed form")

    def icdf(self, probability: Tensor) -> Tensor:
        """The quantile of each feature by itself, of the shape of ``probability``.

        Raises:
            NotImplementedError: the prior has no quantiles in closed form.
        """
        raise NotImplementedError(f"{type(self).__name__} has no quantiles in closed form")

    def _uniform(self, n: int, generator: torch.Generator | None) -> Tensor:
        """Numbers in [0, 1), ``(n, *event_shape)``."""
        return torch.rand(n, *self.event_shape, generator=generator, dtype=self.dtype, device=self.device)

    def _normal(self, n: int, generator: torch.Generator | None) -> Tensor:
        """Standard normal numbers, ``(n, *event_shape)``."""
        return torch.randn(n, *self.event_shape, generator=generator, dtype=self.dtype, device=self.device)

    def initialize(self, z: Tensor, context: Tensor | None = None) -> None:
        """Set what depends on data from the latents of one large batch. Most priors have nothing to set."""
        del z, context

    def extra_repr(self) -> str:
        return f"{tuple(self.event_shape)}"


def without_autocast(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A method of a prior whose matrix products keep their precision under ``torch.autocast``."""

    @wraps(method)
    def call(self: Prior, *args: Any, **kwargs: Any) -> Tensor:
        device = self.device.type
        if device == "meta" or not torch.is_autocast_enabled(device):
            return method(self, *args, **kwargs)
        with torch.autocast(device, enabled=False):
            return method(self, *args, **kwargs)

    return call
