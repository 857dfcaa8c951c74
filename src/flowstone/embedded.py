"""Embedded: a conditional density with an embedding net for its context."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from flowstone.bijections import Standardize
from flowstone.density import Density
from flowstone.distribution import FlowDistribution
from flowstone.errors import SettingError, ShapeError

__all__ = ["Embedded"]


class Embedded(Density):
    r"""The density of x given a wide context c, which a net g embeds in a few numbers:

    $$ p(x \mid c) = q(x \mid g(c)). $$

    Both are trained together. A context of many columns then enters every layer of q as the few numbers that g makes of
    it; images or series may be the context where g is a net for them (an embedding net, as in simulation-based
    inference; Radev et al. 2020).

    Args:
        density: q, with a context as wide as what the net returns.
        net: g, ``(batch, context_features)`` → ``(batch, density.context_features)``; it sees standardised columns.
        context_features: width of c.

    Raises:
        SettingError: ``density`` takes no context.

    >>> import torch, flowstone
    >>> net = torch.nn.Sequential(torch.nn.Linear(100, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    >>> density = Embedded(flowstone.spline(2, context_features=4), net, context_features=100)
    >>> density.log_prob(torch.zeros(5, 2), torch.randn(5, 100)).shape
    torch.Size([5])
    """

    def __init__(self, density: Density, net: nn.Module, *, context_features: int) -> None:
        super().__init__(density.event_shape, context_features)
        if not density.context_features:
            raise SettingError("a net for the context is of use to a conditional density alone: this one takes none")
        self.standardize_context = Standardize(context_features, keep_constant=True)
        self.net = net
        self.density = density

    @property
    def device(self) -> torch.device:
        """The device of q."""
        return self.density.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of q."""
        return self.density.dtype

    @property
    def stochastic(self) -> bool:
        """Whether q draws noise."""
        return self.density.stochastic

    @property
    def stochastic_training(self) -> bool:
        """Whether q draws random numbers in training mode."""
        return self.density.stochastic_training

    @property
    def reparameterized(self) -> bool:
        """Whether samples of q carry the gradient of every parameter."""
        return self.density.reparameterized

    @property
    def accepts_any_dtype(self) -> bool:
        """Whether q reads x in any precision."""
        return self.density.accepts_any_dtype

    @property
    def accepts_gaps(self) -> bool:
        """Whether q reads gaps."""
        return self.density.accepts_gaps

    def require_possible(self, x: Tensor, what: str) -> None:
        self.density.require_possible(x, what)

    def training_settings(self, rows: float) -> Mapping[str, Any]:
        """The settings that suit q."""
        return self.density.training_settings(rows)

    def distribution(self, context: Tensor | None = None, *, validate_args: bool | None = None) -> FlowDistribution:
        """The density as a ``torch.distributions.Distribution``; arguments are those of ``Flow.distribution``."""
        return FlowDistribution(self, context, validate_args=validate_args)

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Set what depends on data, first the scale of the context's columns, then q."""
        self._require_context(context, x)
        assert context is not None
        self.standardize_context.initialize(context)
        self.density.initialize(x, self.embed(context))

    def embed(self, context: Tensor) -> Tensor:
        """What the net makes of a context, ``(batch, density.context_features)``.

        Raises:
            ShapeError: the net returns another shape.
        """
        embedded = self.net(self.standardize_context(context)[0])
        width = self.density.context_features
        if embedded.ndim != 2 or embedded.shape[1] != width:
            found = tuple(embedded.shape)
            raise ShapeError(f"the net for the context returns shape {found}, the density takes (batch, {width})")
        return embedded

    def to_latent(self, x: Tensor, context: Tensor) -> Any:
        """The latents of x by ``to_latent`` of q, given the embedded context; only where q has this method."""
        return cast(Any, self.density).to_latent(x, self.embed(context))

    def from_latent(self, z: Tensor, context: Tensor) -> Any:
        """The inverse of ``to_latent``."""
        return cast(Any, self.density).from_latent(z, self.embed(context))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """``log_prob``, or what q is trained by."""
        self._check(x, context, self.event_shape)
        assert context is not None
        return self.density(x, self.embed(context))

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        assert context is not None
        return self.density._log_prob(x, self.embed(context))

    def _sample(self, n: int, context: Tensor | None, generator: torch.Generator | None, temperature: float) -> Tensor:
        assert context is not None
        return self.density._sample(n, self.embed(context), generator, temperature)

    def _sample_and_log_prob(
        self, n: int, context: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        assert context is not None
        return self.density._sample_and_log_prob(n, self.embed(context), generator)
