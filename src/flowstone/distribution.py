"""A density as one of torch's distributions."""

import sys
from typing import Any, NoReturn, Protocol, cast, runtime_checkable

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.constraints import Constraint

from flowstone.bijections.constraints import is_real
from flowstone.density import Density
from flowstone.errors import DataError, SettingError, ShapeError
from flowstone.priors import Prior
from flowstone.transform import BijectionTransform, Preimage, Shape

__all__ = ["FlowDistribution"]

SCALAR = torch.Size()
QUARTILES = (0.25, 0.75)


@runtime_checkable
class _Invertible(Protocol):
    """A density with a latent: a flow."""

    prior: Prior

    @property
    def stochastic(self) -> bool: ...

    def transform(self, context: Tensor | None = None) -> BijectionTransform: ...


class FlowDistribution(Distribution):
    """A density as a ``torch.distributions.Distribution``; ``density.distribution()`` makes it.

    Shapes are as in torch: ``sample(s)`` is ``(*s, *batch_shape, *event_shape)``, ``log_prob`` broadcasts. The batch
    shape is that of the context's rows, and ``()`` without context. ``rsample`` carries gradients to the parameters
    and the context, where the prior has no parameters of its own. ``pyro.sample`` takes it, too.

    Args:
        density: a flow, or any other ``Density``.
        context: of shape ``(*batch_shape, context_features)``; None for none.
        batch_shape: the batch shape where there is no context: so many independent copies stand side by side.
        validate_args: whether values outside of the support, and NaN, raise an error; without it the log-density is
            minus infinity there, as that of the density itself is. None: the default of ``torch.distributions``, which
            is True unless ``Distribution.set_default_validate_args`` or ``python -O`` changes it.

    Raises:
        ShapeError: the context is not of the density's width; from methods: a value is not of the event's shape.
        DataError: from methods: a value lies outside of the support.

    >>> import flowstone
    >>> density = FlowDistribution(flowstone.nice(2))
    >>> density.log_prob(density.sample((3, 4))).shape
    torch.Size([3, 4])
    """

    def __init__(
        self,
        density: Density,
        context: Tensor | None = None,
        *,
        batch_shape: Shape = SCALAR,
        validate_args: bool | None = None,
    ) -> None:
        density.context_rows(context)
        if (mixin := _pyro_mixin()) is not None:
            mixin.register(FlowDistribution)  # so that isinstance agrees with __getattr__
        self.density, self.context = density, context
        self.has_rsample = density.reparameterized and not density.stochastic
        shape = torch.Size(batch_shape) if context is None else context.shape[:-1]
        super().__init__(shape, density.event_shape, validate_args=validate_args)

    @property
    def arg_constraints(self) -> dict[str, Constraint]:
        """Empty: a density has no named parameters."""
        return {}

    @property
    def flow(self) -> Density:
        """The density."""
        return self.density

    @constraints.dependent_property
    def support(self) -> Constraint:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The values with density: the domain of each feature where the flow knows it, else a ``Preimage``; all real
        numbers for a density that is no flow.
        """
        dims = len(self.event_shape)
        density = self.density
        if not isinstance(density, _Invertible):
            return constraints.independent(constraints.real, dims)
        transform = density.transform(self.context)
        domain, target = transform.domain, density.prior.support
        if is_real(target) and not isinstance(domain, Preimage):
            return domain
        return Preimage(transform, target, dims, is_discrete=domain.is_discrete)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in nats, of the shape that value and context broadcast to."""
        shape = self._batch_of(value)
        rows = value.expand(*shape, *self.event_shape).reshape(-1, *self.event_shape)
        log_prob = self.density.log_prob(rows, self._context_rows(shape)).reshape(shape)
        if self._validate_args and value.numel():
            support = self.support
            # The log-density shows whether a value is in a preimage, without a second evaluation of the flow.
            self._require(log_prob.isfinite() if isinstance(support, Preimage) else support.check(value), value)
        return log_prob

    def sample(self, sample_shape: Shape = SCALAR) -> Tensor:
        """Samples, ``(*sample_shape, *batch_shape, *event_shape)``, from torch's global random state."""
        shape, n, context = self._draws(sample_shape)
        return self.density.sample(n, context).reshape(*shape, *self.event_shape)

    def rsample(self, sample_shape: Shape = SCALAR) -> Tensor:
        """Samples that carry gradients, ``(*sample_shape, *batch_shape, *event_shape)``."""
        return self.rsample_and_log_prob(sample_shape)[0]

    @torch.no_grad()
    def sample_and_log_prob(self, sample_shape: Shape = SCALAR) -> tuple[Tensor, Tensor]:
        """``sample``, and the log-density of each sample, ``(*sample_shape, *batch_shape)``, in one pass."""
        shape, n, context = self._draws(sample_shape)
        x, log_prob = self.density.sample_and_log_prob(n, context)
        return x.reshape(*shape, *self.event_shape), log_prob.reshape(shape)

    def rsample_and_log_prob(self, sample_shape: Shape = SCALAR) -> tuple[Tensor, Tensor]:
        """``sample_and_log_prob`` with gradients."""
        if not self.has_rsample:
            raise NotImplementedError(
                f"no samples with gradients: those of this {type(self.density).__name__} do not carry that of every "
                "parameter (its prior has some, it rounds, or it chooses among parts); use sample"
            )
        shape, n, context = self._draws(sample_shape)
        x, log_prob = self.density.rsample_and_log_prob(n, context)
        return x.reshape(*shape, *self.event_shape), log_prob.reshape(shape)

    def cdf(self, value: Tensor) -> Tensor:
        """P(X ≤ value), of the shape of ``log_prob(value)``, for flows of one feature whose prior has a cdf.

        >>> import flowstone
        >>> import torch
        >>> density = flowstone.nice(1).distribution()
        >>> torch.allclose(density.icdf(density.cdf(torch.tensor([0.3]))), torch.tensor([0.3]), atol=1e-6)
        True
        """
        prior, transform = self._of_one_feature("cdf")
        value = value.expand(*self._batch_of(value), 1)
        if self._validate_args:
            self._validate_sample(value)
        below = prior.cdf(transform(value))[..., 0]
        return torch.where(self._increases(prior, transform), below, 1 - below)

    def icdf(self, value: Tensor) -> Tensor:
        """The quantiles: x with ``cdf(x) == value``, of the shape of value and one feature."""
        prior, transform = self._of_one_feature("icdf")
        _require_tensor(value)
        value = value.expand(self._broadcast(value, value.shape))
        if self._validate_args and (outside := ~((value >= 0) & (value <= 1))).any():
            raise DataError(f"icdf takes probabilities, between 0 and 1, got {_first_of(value, outside)}")
        below = torch.where(self._increases(prior, transform), value, 1 - value)
        return cast(Tensor, transform.inv(prior.icdf(below[..., None])))

    def expand(self, batch_shape: Shape, _instance: Any = None) -> "FlowDistribution":
        """The same with a larger batch shape."""
        new = cast(FlowDistribution, self._get_checked_instance(FlowDistribution, _instance))
        shape = torch.Size(batch_shape)
        fits = all(own in (1, wanted) for own, wanted in zip(self.batch_shape[::-1], shape[::-1], strict=False))
        if len(shape) < len(self.batch_shape) or not fits:
            raise ShapeError(f"cannot expand batch shape {tuple(self.batch_shape)} to {tuple(shape)}")
        new.density = self.density
        new.context = None if self.context is None else self.context.expand(*shape, self.context.shape[-1])
        new.has_rsample = self.has_rsample
        super(FlowDistribution, new).__init__(shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> NoReturn:
        """Raises NotImplementedError: there is no mean in closed form."""
        raise NotImplementedError("a flow has no mean in closed form: average samples, density.sample((n,)).mean(0)")

    @property
    def mode(self) -> NoReturn:
        """Raises NotImplementedError: there is no mode in closed form."""
        raise NotImplementedError("a flow has no mode in closed form: climb log_prob from some samples")

    @property
    def variance(self) -> NoReturn:
        """Raises NotImplementedError: there is no variance in closed form."""
        raise NotImplementedError("a flow has no variance in closed form: take that of samples")

    def entropy(self) -> NoReturn:
        """Raises NotImplementedError: there is no entropy in closed form."""
        raise NotImplementedError(
            "a flow has no entropy in closed form: average, -density.sample_and_log_prob((n,))[1].mean(0)"
        )

    def enumerate_support(self, expand: bool = True) -> NoReturn:
        """Raises NotImplementedError: a continuous distribution has no list of values."""
        raise NotImplementedError("the values of a flow cannot be listed")

    def __call__(self, sample_shape: Shape = SCALAR) -> Tensor:
        """``rsample`` where there is one, else ``sample``: what ``pyro.sample`` calls."""
        return self.rsample(sample_shape) if self.has_rsample else self.sample(sample_shape)

    def __getattr__(self, name: str) -> Any:
        """The methods that Pyro adds to torch's distributions (``to_event``, ``mask``, …), once Pyro is imported."""
        added = None if name.startswith("_") else getattr(_pyro_mixin(), name, None)
        if added is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return added.__get__(self, type(self))

    def _of_one_feature(self, name: str) -> tuple[Prior, BijectionTransform]:
        """Prior and transform of a flow of one feature."""
        density = self.density
        if not isinstance(density, _Invertible):
            raise NotImplementedError(f"{name} is of flows: {type(density).__name__} has no prior")
        if self.event_shape.numel() != 1 or len(self.event_shape) != 1:
            raise NotImplementedError(f"{name} is of one feature; the events here are of {tuple(self.event_shape)}")
        if density.stochastic:
            raise NotImplementedError(f"no {name} of a flow that draws noise")
        if any(getattr(module, "circular", False) for module in density.modules()):  # a turn takes the seam elsewhere
            raise NotImplementedError(f"no {name} on a circle, which has no first point")
        return density.prior, density.transform(self.context)

    @staticmethod
    def _increases(prior: Prior, transform: BijectionTransform) -> Tensor:
        """Whether x grows with z, given each row of the context. Two latents tell, as an invertible map is monotone."""
        with torch.no_grad():
            z = prior.icdf(torch.tensor(QUARTILES, dtype=prior.dtype, device=prior.device)[:, None])
            low, high = (cast(Tensor, transform.inv(end)) for end in z)
        return (high > low)[..., 0]

    def _draws(self, sample_shape: Shape) -> tuple[torch.Size, int, Tensor | None]:
        """The shape of a draw, and how many samples of which contexts it takes."""
        try:
            shape = torch.Size(sample_shape) + self.batch_shape
        except TypeError:
            raise SettingError(f"sample_shape={sample_shape!r} must be a tuple of sizes, such as (100,)") from None
        context = self._context_rows(shape)
        return shape, shape.numel() if context is None else 1, context

    def _context_rows(self, shape: torch.Size) -> Tensor | None:
        if self.context is None:
            return None
        width = self.context.shape[-1]
        return self.context.expand(*shape, width).reshape(-1, width)

    def _batch_of(self, value: Tensor) -> torch.Size:
        """The shape that the value's leading dimensions and the batch shape broadcast to."""
        _require_tensor(value)
        start = value.ndim - len(self.event_shape)
        wanted = ", ".join(map(str, self.event_shape))
        if start < 0 or value.shape[start:] != self.event_shape:
            raise ShapeError(f"expected values of shape (…, {wanted}), got {tuple(value.shape)}")
        return self._broadcast(value, value.shape[:start])

    def _broadcast(self, value: Tensor, shape: torch.Size) -> torch.Size:
        try:
            return torch.broadcast_shapes(shape, self.batch_shape)
        except RuntimeError:
            raise ShapeError(
                f"values of shape {tuple(value.shape)} do not broadcast with batch shape {tuple(self.batch_shape)}"
            ) from None

    def _validate_sample(self, value: Tensor) -> None:
        self._batch_of(value)
        if value.numel():
            self._require(self.support.check(value), value)

    def _require(self, valid: Tensor, value: Tensor) -> None:
        if not torch._is_all_true(valid):
            raise DataError(
                f"{int((~valid).sum())} of {valid.numel()} values lie outside of the support {self.support}, "
                f"the first is {_first_of(value.expand(*valid.shape, *self.event_shape), ~valid)}"
            )


def _pyro_mixin() -> Any:
    """What Pyro adds to torch's distributions, where Pyro is imported."""
    return getattr(sys.modules.get("pyro.distributions.torch_distribution"), "TorchDistributionMixin", None)


def _require_tensor(value: Any) -> None:
    if not isinstance(value, Tensor):
        raise ShapeError(f"expected a torch.Tensor, got {type(value).__name__}")


def _first_of(value: Tensor, wrong: Tensor) -> str:
    """The first of the wrong values, short enough for one line."""
    first = value[wrong][0]
    numbers = ", ".join(f"{number:.6g}" for number in first.flatten()[:8].tolist())
    return numbers + (", …" if first.numel() > 8 else "")
