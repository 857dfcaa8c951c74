"""A bijection as one of torch's transforms."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributions import ComposeTransform, biject_to, constraints, transform_to
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import Transform, _InverseTransform

from flowstone.bijections import Bijection, walk
from flowstone.errors import ShapeError

__all__ = ["BijectionTransform", "Preimage"]

Shape = torch.Size | list[int] | tuple[int, ...]
Direction = Callable[..., tuple[Tensor, Tensor]]


NOTHING = torch.empty(0)


@dataclass(eq=False)
class _Evaluation:
    """A pair x and y = f(x), the log-det there, and what they were computed with."""

    x: Tensor
    y: Tensor
    log_det: Tensor
    with_gradient: bool
    state: tuple[Any, ...]


class BijectionTransform(Transform, nn.Module):
    r"""A bijection as a ``torch.distributions.Transform``: ``transform(x)`` is data → latent, ``transform.inv`` back.

    $$ \text{log\_abs\_det\_jacobian}(x, z) = \log|\det \tfrac{\partial z}{\partial x}| $$

    It is an ``nn.Module``, and so is ``transform.inv``: the bijection's parameters are found, moved and saved. The
    leading dimensions of x are free and broadcast with those of the context; the last ``event_dim`` are one x.

    The last x and z are kept with their log-det, as torch's own transforms do with ``cache_size=1``, so that a value
    and its log-det cost one evaluation; ``with_cache(0)`` keeps nothing. A kept x or z is used again only while
    gradients are recorded, and not after a backward pass through it or a change of the bijection. Changes that torch
    does not count, through ``.data`` and by fused optimizers, are not noticed: call ``clear_cache()`` after them.

    Args:
        bijection: f, data → latent. One that draws noise (``Dequantize``, ``Pad``) is not ``bijective``.
        context: of shape ``(*batch, context_features)``, as the bijection takes it; None for none.
        event_dim: the number of dimensions of one x: by default what the bijection knows, else 1.
        cache_size: 1, or 0 to evaluate anew each time.

    Raises:
        ShapeError: ``event_dim`` is not that of the bijection, or a value is not for it.

    >>> import torch
    >>> from torch.distributions import MultivariateNormal, TransformedDistribution
    >>> from flowstone.bijections import Scaling
    >>> base = MultivariateNormal(torch.zeros(2), torch.eye(2))
    >>> TransformedDistribution(base, [BijectionTransform(Scaling(2)).inv]).sample((3,)).shape
    torch.Size([3, 2])
    """

    context: Tensor | None

    def __init__(
        self,
        bijection: Bijection,
        context: Tensor | None = None,
        *,
        event_dim: int | None = None,
        cache_size: int = 1,
    ) -> None:
        super().__init__(cache_size=cache_size)
        known = bijection.event_dims
        if event_dim is not None and known is not None and event_dim != known:
            raise ShapeError(f"event_dim={event_dim}: {type(bijection).__name__} takes events of {known} dimensions")
        if context is not None and (not isinstance(context, Tensor) or context.ndim == 0):
            raise ShapeError(f"expected a context of shape (…, context_features), got {_described(context)}")
        self.bijection = bijection
        self.register_buffer("context", context, persistent=False)
        self._dims = event_dim or known or 1
        self._latent_dims = bijection.latent_dims or self._dims
        self._stochastic = any(layer.stochastic for layer in walk(bijection))
        self._kept: _Evaluation | None = None

    @property
    def bijective(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride] (an attribute in torch)
        """Whether the two directions undo each other, which they do unless noise is drawn."""
        return not self._stochastic

    @constraints.dependent_property(is_discrete=False)
    def domain(self) -> Constraint:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Events of ``event_dim`` dimensions that the bijection takes."""
        return _events(self.bijection.domain, self._dims, self._latent_dims, self)

    @constraints.dependent_property(is_discrete=False)
    def codomain(self) -> Constraint:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Events that it returns: of as many dimensions as x, unless the bijection flattens images."""
        return _events(self.bijection.codomain, self._latent_dims, self._dims, self.inv)

    @property
    def inv(self) -> Transform:
        """Latent → data, with the same parameters and the same kept values."""
        if self._inv is None:
            self.__dict__["_inv"] = _Inverted(self)  # not as a submodule: this module is one of that
        assert self._inv is not None
        return self._inv

    def with_cache(self, cache_size: int = 1) -> "BijectionTransform":
        """The same map, with the same parameters, that keeps so many pairs."""
        if cache_size == self._cache_size:
            return self
        return BijectionTransform(self.bijection, self.context, event_dim=self._dims, cache_size=cache_size)

    def __call__(self, x: Tensor) -> Tensor:
        """Data → latent."""
        return (self._find(x, None) or self._run(x)).y

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log|det dz/dx| at x, of the shape of x without its event."""
        return (self._find(x, y) or self._run(x)).log_det

    def forward_shape(self, shape: Shape) -> torch.Size:
        """The shape of z, given that of x."""
        batch, event = self._split(torch.Size(shape), self._dims)
        return batch + self.bijection.latent_shape(event)

    def inverse_shape(self, shape: Shape) -> torch.Size:
        """The shape of x, given that of z."""
        batch, event = self._split(torch.Size(shape), self._latent_dims)
        return batch + self.bijection.event_shape(event)

    def __eq__(self, other: object) -> bool:
        """Whether both are of one bijection and one context."""
        return isinstance(other, BijectionTransform) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_kept": None, "_inv": None}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.bijection!r})"

    def clear_cache(self) -> None:
        """Forget the pair that is kept, such as after a change that torch does not count. (The name is Pyro's.)"""
        self._kept = None

    def _call(self, x: Tensor) -> Tensor:
        return self._run(x).y

    def _inverse(self, y: Tensor) -> Tensor:
        return self._run_back(y).x

    def _inv_call(self, y: Tensor) -> Tensor:
        return (self._find(None, y) or self._run_back(y)).x

    def _run(self, x: Tensor) -> _Evaluation:
        y, log_det = self._rows(x, self.bijection, self._dims)
        return self._keep(x, y, log_det, (y, log_det))

    def _run_back(self, y: Tensor) -> _Evaluation:
        x, log_det = self._rows(y, self.bijection.inverse, self._latent_dims)
        return self._keep(x, y, -log_det, (x, log_det))

    def _rows(self, value: Tensor, direction: Direction, dims: int) -> tuple[Tensor, Tensor]:
        if not isinstance(value, Tensor) or value.ndim < dims:
            raise ShapeError(f"expected a tensor whose last {dims} dimensions are one event, got {_described(value)}")
        batch, event = self._split(value.shape, dims)
        context = None
        if self.context is not None:
            width = self.context.shape[-1]
            context = self.context.expand(*batch, width).reshape(-1, width)
        out, log_det = direction(value.expand(*batch, *event).reshape(-1, *event), context)
        return out.reshape(*batch, *out.shape[1:]), log_det.reshape(batch)

    def _split(self, shape: torch.Size, dims: int) -> tuple[torch.Size, torch.Size]:
        """Batch shape, broadcast with the context's, and event shape."""
        batch, event = shape[: len(shape) - dims], shape[len(shape) - dims :]
        return batch if self.context is None else torch.broadcast_shapes(batch, self.context.shape[:-1]), event

    def _keep(self, x: Tensor, y: Tensor, log_det: Tensor, outputs: tuple[Tensor, Tensor]) -> _Evaluation:
        """Keep this evaluation until the next one, or until a gradient has gone through it and freed its graph."""
        evaluation = _Evaluation(x, y, log_det, torch.is_grad_enabled(), self._state(x, y))
        if self._cache_size == 0 or torch.compiler.is_compiling():
            return evaluation
        reference = weakref.ref(evaluation)  # otherwise the graph would never be freed

        def clear(_: Tensor) -> None:
            if (used := reference()) is not None:
                used.x = used.y = used.log_det = NOTHING

        for tensor in outputs:
            if tensor.grad_fn is not None:
                tensor.register_hook(clear)
        self._kept = evaluation
        return evaluation

    def _find(self, x: Tensor | None, y: Tensor | None) -> _Evaluation | None:
        """The evaluation that was kept, if it is of these very tensors and may be used again."""
        kept = self._kept
        if kept is None or (x is not None and x is not kept.x) or (y is not None and y is not kept.y):
            return None
        if x is not None and y is not None:  # the log-det belongs to the pair, whatever became of the bijection since
            return kept if kept.with_gradient or not torch.is_grad_enabled() else None
        fresh = torch.is_grad_enabled() and kept.with_gradient and self._state(kept.x, kept.y) == kept.state
        return kept if fresh and self.bijective and self._has_one_batch_shape(kept) else None

    def _has_one_batch_shape(self, kept: _Evaluation) -> bool:
        """Whether x and y stand in the same batch: where the context has broadcast one, the other is larger."""
        batches = kept.x.shape[: kept.x.ndim - self._dims], kept.y.shape[: kept.y.ndim - self._latent_dims]
        return batches[0] == batches[1]

    def _state(self, *values: Tensor) -> tuple[Any, ...]:
        """A record that changes whenever the bijection or the values do."""
        tensors = (*self.parameters(), *self.buffers(), *values)
        return self.bijection.training, *((id(t), 0 if t.is_inference() else t._version) for t in tensors)

    def _identity(self) -> tuple[int, ...]:
        return id(self.bijection), id(self.context), self._dims


class _Inverted(_InverseTransform, nn.Module):
    """``transform.inv``, as a module, so that its parameters are found."""

    def __hash__(self) -> int:
        return id(self)

    def __getstate__(self) -> dict[str, Any]:
        return nn.Module.__getstate__(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self.inv._inv is None:  # a copy, of which this is the inverse
            self.inv.__dict__["_inv"] = self

    def clear_cache(self) -> None:
        """Forget the pair that is kept."""
        cast(BijectionTransform, self.inv).clear_cache()


class Preimage(Constraint):
    """The events that ``transform`` maps into ``target``, with a finite log-det: where a flow has density.

    ``biject_to`` maps unconstrained numbers to ``target``, and from there to the events.
    """

    def __init__(self, transform: Transform, target: Constraint, event_dim: int, *, is_discrete: bool = False) -> None:
        super().__init__()
        self.transform = transform
        self.target = target
        self.event_dim = event_dim
        self.is_discrete = is_discrete

    @torch.no_grad()
    def check(self, value: Tensor) -> Tensor:
        """Whether each event is mapped into ``target``."""
        image = self.transform(value)
        return self.target.check(image) & self.transform.log_abs_det_jacobian(value, image).isfinite()

    def __repr__(self) -> str:
        return f"Preimage({self.target!r})"


@biject_to.register(Preimage)
def _biject_to_preimage(constraint: Preimage) -> Transform:
    return ComposeTransform([biject_to(constraint.target), constraint.transform.inv])


@transform_to.register(Preimage)
def _transform_to_preimage(constraint: Preimage) -> Transform:
    return ComposeTransform([transform_to(constraint.target), constraint.transform.inv])


def _events(features: Constraint, dims: int, other_dims: int, transform: Transform) -> Constraint:
    """The constraint on events of ``dims`` dimensions, given that on their features."""
    if constraints.is_dependent(features):
        target = constraints.independent(constraints.real, other_dims)
        return Preimage(transform, target, dims, is_discrete=features.is_discrete)
    return constraints.independent(features, dims)


def _described(value: Any) -> str:
    return f"one of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
