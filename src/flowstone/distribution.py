"""Flows and bijections as torch's own: a ``Distribution``, a ``Transform``."""

from collections.abc import Callable
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.transforms import Transform

from flowstone.bijections import Bijection, Chain, Flatten, Inverse, MultiScale
from flowstone.errors import ShapeError
from flowstone.priors import Prior

__all__ = ["BijectionTransform", "FlowDistribution"]

Shape = torch.Size | list[int] | tuple[int, ...]
SCALAR = torch.Size()


class _Density(Protocol):
    """What a distribution needs of a flow."""

    prior: Prior
    event_shape: torch.Size

    @property
    def stochastic(self) -> bool: ...

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor: ...

    def from_latent(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]: ...


class FlowDistribution(Distribution):
    """A flow as a ``torch.distributions.Distribution``; ``Flow.distribution`` makes it.

    Shapes by torch's book: ``sample(s)`` is ``(*s, *batch_shape, *event_shape)``, ``log_prob`` broadcasts. The batch
    shape is that of the context's rows, and ``()`` without context. ``rsample`` carries gradients to the bijection's
    parameters and the context, where the prior has no parameters of its own.
    """

    def __init__(self, flow: _Density, context: Tensor | None = None, *, batch_shape: torch.Size = SCALAR) -> None:
        self.flow, self.context = flow, context
        shape = batch_shape if context is None else context.shape[:-1]
        super().__init__(shape, flow.event_shape, validate_args=False)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        """None: a flow has no named parameters."""
        return {}

    @property
    def has_rsample(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride] (an attribute in torch)
        """Whether ``rsample`` carries every gradient."""
        return self.flow.prior.reparameterized and not self.flow.stochastic

    @property
    def support(self) -> constraints.Constraint:
        """Where it has density: real numbers (a flow with a bounded first link has a smaller one)."""
        return constraints.independent(constraints.real, len(self.event_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in nats, of the shape that value and context broadcast to."""
        events = len(self.event_shape)
        if value.shape[value.ndim - events :] != self.event_shape:
            raise ShapeError(f"expected values of shape (…, {tuple(self.event_shape)}), got {tuple(value.shape)}")
        shape = torch.broadcast_shapes(value.shape[: value.ndim - events], self.batch_shape)
        rows = value.expand(*shape, *self.event_shape).reshape(-1, *self.event_shape)
        return self.flow.log_prob(rows, self._context_rows(shape)).reshape(shape)

    def rsample(self, sample_shape: Shape = SCALAR) -> Tensor:
        """Samples that carry gradients, ``(*sample_shape, *batch_shape, *event_shape)``."""
        if not self.has_rsample:
            raise NotImplementedError(
                f"no rsample: {type(self.flow.prior).__name__} has parameters of its own, or the flow rounds"
            )
        return self._draw(sample_shape)

    @torch.no_grad()
    def sample(self, sample_shape: Shape = SCALAR) -> Tensor:
        """Samples, ``(*sample_shape, *batch_shape, *event_shape)``, from torch's global random state."""
        return self._draw(sample_shape)

    def expand(self, batch_shape: Shape, _instance: Any = None) -> "FlowDistribution":
        """The same with a larger batch shape."""
        shape = torch.Size(batch_shape)
        context = None if self.context is None else self.context.expand(*shape, self.context.shape[-1])
        return FlowDistribution(self.flow, context, batch_shape=shape)

    def _draw(self, sample_shape: Shape) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        context = self._context_rows(shape)
        z = self.flow.prior.sample(shape.numel(), context)
        return self.flow.from_latent(z, context)[0].reshape(*shape, *self.event_shape)

    def _context_rows(self, shape: torch.Size) -> Tensor | None:
        if self.context is None:
            return None
        width = self.context.shape[-1]
        return self.context.expand(*shape, width).reshape(-1, width)


class BijectionTransform(Transform):
    r"""A bijection as a ``torch.distributions.Transform``: ``transform(x)`` is data → latent, ``transform.inv`` back.

    $$ \text{log\_abs\_det\_jacobian}(x, z) = \log|\det \tfrac{\partial z}{\partial x}| $$

    Leading dimensions are free; the last ``event_dim`` are one x. Nothing is cached.

    >>> import torch
    >>> from torch.distributions import MultivariateNormal, TransformedDistribution
    >>> from flowstone.bijections import Scaling
    >>> base = MultivariateNormal(torch.zeros(2), torch.eye(2))
    >>> TransformedDistribution(base, [BijectionTransform(Scaling(2)).inv]).sample((3,)).shape
    torch.Size([3, 2])
    """

    bijective = True

    def __init__(self, bijection: Bijection, context: Tensor | None = None, *, event_dim: int = 1) -> None:
        super().__init__()
        self.bijection, self.context, self.dims = bijection, context, event_dim

    @property
    def domain(self) -> constraints.Constraint:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Real events of ``event_dim`` dimensions."""
        return constraints.independent(constraints.real, self.dims)

    @property
    def codomain(self) -> constraints.Constraint:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Real events, of the latent's dimensions: as many as x has, but for what flattens images or unflattens z."""
        return constraints.independent(constraints.real, _dims_after(self.bijection, self.dims))

    def with_cache(self, cache_size: int = 1) -> "BijectionTransform":
        """Itself: it keeps no cache, which could hide a wrong inverse."""
        del cache_size
        return self

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Of the way from data to latent at x, of the shape of x without its event."""
        del y
        return self._apply(x, self.bijection.forward, self.dims)[1]

    def forward_shape(self, shape: Shape) -> torch.Size:
        """The shape of z, given that of x."""
        return self._shape(shape, self.bijection.latent_shape, self.dims)

    def inverse_shape(self, shape: Shape) -> torch.Size:
        """The shape of x, given that of z."""
        return self._shape(shape, self.bijection.event_shape, self.codomain.event_dim)

    def _call(self, x: Tensor) -> Tensor:
        return self._apply(x, self.bijection.forward, self.dims)[0]

    def _inverse(self, y: Tensor) -> Tensor:
        return self._apply(y, self.bijection.inverse, self.codomain.event_dim)[0]

    def _shape(self, shape: Shape, change: Callable[[torch.Size], torch.Size], events: int) -> torch.Size:
        batch, event = self._split(torch.Size(shape), events)
        return batch + change(event)

    def _split(self, shape: torch.Size, events: int) -> tuple[torch.Size, torch.Size]:
        """Batch shape, broadcast with the context's, and event shape."""
        batch, event = shape[: len(shape) - events], shape[len(shape) - events :]
        given = SCALAR if self.context is None else self.context.shape[:-1]
        return torch.broadcast_shapes(batch, given), event

    def _apply(self, value: Tensor, direction, events: int) -> tuple[Tensor, Tensor]:
        batch, event = self._split(value.shape, events)
        context = None
        if self.context is not None:
            width = self.context.shape[-1]
            context = self.context.expand(*batch, width).reshape(-1, width)
        out, log_det = direction(value.expand(*batch, *event).reshape(-1, *event), context)
        return out.reshape(*batch, *out.shape[1:]), log_det.reshape(batch)


def _dims_after(bijection: Bijection, dims: int, *, backwards: bool = False) -> int:
    """How many dimensions come out where ``dims`` go in: what makes an image flat makes, backwards, an image."""
    if isinstance(bijection, Inverse):
        return _dims_after(bijection.bijection, dims, backwards=not backwards)
    if isinstance(bijection, Chain):
        for link in reversed(bijection.links) if backwards else bijection.links:
            dims = _dims_after(cast(Bijection, link), dims, backwards=backwards)
        return dims
    return (3 if backwards else 1) if isinstance(bijection, MultiScale | Flatten) else dims
