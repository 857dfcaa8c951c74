"""Flow: a bijection and a prior, which together are a probability distribution."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from flowstone.bijections import Bijection, Standardize
from flowstone.compute import reuse_memory
from flowstone.diagnosis import Diagnosis, diagnose
from flowstone.distribution import FlowDistribution
from flowstone.errors import SettingError, ShapeError
from flowstone.priors import FromTorch, Prior

__all__ = ["Flow"]

# Rows at a time when no gradient is asked for: with fewer the small steps between matrix products count, with more the
# activations leave the caches; a GPU wants more to do. Of long rows (images) as many as make so many numbers.
CHUNK, GPU_CHUNK = 8192, 65_536
NUMBERS, GPU_NUMBERS = 2**17, 2**23


class Flow(nn.Module):
    r"""The distribution of x when $z = f(x)$ follows the prior.

    $$ \log p(x \mid c) = \log p_\text{prior}(f(x; c)) + \log \left| \det \tfrac{\partial f}{\partial x} \right| $$

    in nats, in the units of x itself: preprocessing is part of f.

    Args:
        bijection: f, data → latent.
        prior: the distribution of z: one of ``flowstone.priors``, or any ``torch.distributions`` object over one z.
        context_features: width of the context c that the density is conditioned on, 0 for none. The context is
            standardised inside, by what ``initialize`` saw.

    Attributes:
        event_shape: shape of one x.
        spec: recipe name and arguments, set by recipes: with the weights, enough to build the flow again; else None.

    >>> import torch
    >>> from flowstone import Flow
    >>> from flowstone.bijections import Scaling
    >>> from flowstone.priors import StandardNormal
    >>> flow = Flow(Scaling(2), StandardNormal(2))
    >>> flow.log_prob(torch.zeros(3, 2)).shape, flow.sample(5, seed=0).shape
    (torch.Size([3]), torch.Size([5, 2]))
    """

    def __init__(self, bijection: Bijection, prior: Prior | Distribution, *, context_features: int = 0) -> None:
        super().__init__()
        self.bijection = bijection
        self.prior = prior if isinstance(prior, Prior) else FromTorch(prior)
        self.event_shape = bijection.event_shape(self.prior.event_shape)
        self.context_features = context_features
        self.standardize_context = Standardize(context_features, keep_constant=True) if context_features else None
        self.spec: Mapping[str, Any] | None = None
        reuse_memory()

    @property
    def device(self) -> torch.device:
        """Where the flow is."""
        return self.prior.like.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of its arithmetic and of its samples."""
        return self.prior.like.dtype

    @property
    def stochastic(self) -> bool:
        """Whether it draws noise (dequantization, padding): its log_prob is then a lower bound, and differs by draw."""
        return any(getattr(module, "stochastic", False) for module in self.bijection.modules())

    def to_latent(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data → latent: ``(z, log|det dz/dx|)``, shapes ``(batch, *prior.event_shape)`` and ``(batch,)``."""
        return self.bijection(self._read(x), self._conditioning(x, context, self.event_shape))

    def from_latent(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Latent → data: ``(x, log|det dx/dz|)``, shapes ``(batch, *event_shape)`` and ``(batch,)``."""
        return self.bijection.inverse(z, self._conditioning(z, context, self.prior.event_shape))

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Log-density of each row in nats, ``(batch, *event_shape)`` → ``(batch,)``.

        Where no gradient is being recorded it works in chunks, so that memory does not grow with the batch.

        Raises:
            ShapeError: x or the context has another shape than the flow was built for.
        """
        if torch.is_grad_enabled():
            return self._log_prob(x, context)
        result = x.new_empty(x.shape[:1], dtype=self.dtype)
        for rows in _chunks(len(x), self.event_shape, x.device):
            result[rows] = self._log_prob(x[rows], None if context is None else context[rows])
        return result

    def sample(
        self, n: int, context: Tensor | None = None, *, temperature: float = 1.0, seed: int | None = None
    ) -> Tensor:
        """Draw ``n`` samples: ``(n, *event_shape)``; with context ``(batch, features)``, ``(n, batch, *event_shape)``.

        Args:
            temperature: factor on the latent; below 1 stays nearer to the mode, 1 samples the model itself.
            seed: the same seed gives the same samples; None draws from torch's global state.

        Memory beyond the result does not grow with n.
        """
        batch = 1 if context is None else len(context)
        parts = self.stream(n, context, temperature=temperature, seed=seed)
        result = torch.empty(n * batch, *self.event_shape, dtype=self.dtype, device=self.device)
        done = 0
        for part in parts:
            result[done : (done := done + len(part))] = part
        return result if context is None else result.unflatten(0, (n, batch))

    def stream(
        self, n: int, context: Tensor | None = None, *, temperature: float = 1.0, seed: int | None = None
    ) -> Iterator[Tensor]:
        """What ``sample`` draws, piece by piece, for more than memory holds: ``(rows, *event_shape)`` each.

        With context it goes through all context rows for each of the n samples in turn.

        >>> import flowstone
        >>> sum(len(part) for part in flowstone.nice(2).stream(5000))
        5000
        """
        if n < 0:
            raise SettingError(f"n={n}: the number of samples cannot be negative")
        if not 0 < temperature < math.inf:
            raise SettingError(f"temperature={temperature} must be positive and finite")
        if context is not None:
            self._check_context(context, len(context))
        generator = None if seed is None else torch.Generator(self.device).manual_seed(seed)
        return self._pieces(n, context, temperature, generator)

    @torch.no_grad()
    def _pieces(
        self, n: int, context: Tensor | None, temperature: float, generator: torch.Generator | None
    ) -> Iterator[Tensor]:
        batch = 1 if context is None else len(context)
        for rows in _chunks(n * batch, self.event_shape, self.device):
            count, part = rows.stop - rows.start, context
            if context is not None:  # every draw in turn goes through all context rows
                part = context[torch.arange(rows.start, rows.stop, device=context.device) % batch]
            z = self.prior.sample(count, part, generator)
            conditioning = self._conditioning(z, part, self.prior.event_shape)
            yield self.bijection.inverse(z * temperature, conditioning)[0]

    def distribution(self, context: Tensor | None = None) -> FlowDistribution:
        """A ``torch.distributions.Distribution``: event shape ``event_shape``, batch shape that of the context rows.

        Without context the batch shape is ``()``; a context ``(*batch, context_features)`` gives batch shape ``batch``.

        >>> import flowstone
        >>> import torch
        >>> density = flowstone.nice(2).distribution()
        >>> density.log_prob(density.sample((3, 4))).shape
        torch.Size([3, 4])
        """
        if context is not None:
            self._check_context(context.reshape(-1, context.shape[-1]), context.shape[:-1].numel())
        elif self.context_features:
            self._check_context(None, 1)
        return FlowDistribution(self, context)

    def check(self, x: Tensor, context: Tensor | None = None) -> Diagnosis:
        """Whether the flow inverts and its log-dets are true, layer by layer; ``print`` it.

        On up to 256 rows of the data, outside them and at the latent's edge: round-trip and log-det errors in float64,
        condition numbers of the Jacobians, how near its bound each scale runs, and what float32 makes of it; first of
        all a sentence on each thing that is wrong (Behrmann et al. 2021 show how inverses explode unseen).

        >>> import flowstone
        >>> import torch
        >>> flowstone.nice(2).check(torch.randn(100, 2)).ok
        True
        """
        self._conditioning(x, context, self.event_shape)
        return diagnose(self, x, context)

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Set what depends on data (standardisation, data-dependent layers) from one large batch; ``fit`` does."""
        if self.standardize_context is not None and context is not None:
            self.standardize_context.initialize(context)
        conditioning = self._conditioning(x, context, self.event_shape)
        x = self._read(x)
        self.bijection.initialize(x, conditioning)
        if type(self.prior).initialize is not Prior.initialize:
            self.prior.initialize(self.bijection(x, conditioning)[0], context)

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        z, log_det = self.to_latent(x, context)
        return self.prior.log_prob(z, context) + log_det

    def _read(self, x: Tensor) -> Tensor:
        """Data in the flow's own precision, but for bijections that see to that themselves, digits unharmed."""
        return x if self.bijection.casts else x.to(self.dtype)

    def _conditioning(self, value: Tensor, context: Tensor | None, shape: torch.Size) -> Tensor | None:
        """Check both shapes; the context as the bijections want it."""
        if value.shape[1:] != shape:
            wanted = ", ".join(map(str, shape))
            raise ShapeError(f"expected shape (batch, {wanted}), got {tuple(value.shape)}")
        self._check_context(context, len(value))
        return None if self.standardize_context is None else self.standardize_context(context)[0]

    def _check_context(self, context: Tensor | None, batch: int) -> None:
        if self.context_features == 0:
            if context is not None:
                raise ShapeError(f"this flow takes no context, got one of shape {tuple(context.shape)}")
            return
        wanted = f"({batch}, {self.context_features})"
        if context is None:
            raise ShapeError(f"this flow is conditional: it needs a context of shape {wanted}, got none")
        if tuple(context.shape) != (batch, self.context_features):
            raise ShapeError(f"expected a context of shape {wanted}, got {tuple(context.shape)}")


def _chunks(n: int, event_shape: torch.Size, device: torch.device) -> Iterator[slice]:
    rows, numbers = (CHUNK, NUMBERS) if device.type == "cpu" else (GPU_CHUNK, GPU_NUMBERS)
    size = max(1, min(rows, numbers // event_shape.numel()))
    return (slice(start, min(start + size, n)) for start in range(0, n, size))
