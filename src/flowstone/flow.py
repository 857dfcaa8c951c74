"""Flow: a bijection and a prior, which together are a probability distribution."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.distributions.constraints import integer_interval

from flowstone.bijections import BatchNorm, Bijection, Standardize, State, noise_from
from flowstone.density import Density
from flowstone.distribution import FlowDistribution
from flowstone.errors import DataError, ShapeError
from flowstone.priors import FromTorch, Prior
from flowstone.transform import BijectionTransform
from flowstone.validation import require_instance

__all__ = ["Flow"]

NUMBERS = 1 << 22  # checked at a time
RUNNING_STATISTICS = (BatchNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Flow(Density):
    r"""The distribution of x when $z = f(x)$ follows the prior.

    $$ \log p(x \mid c) = \log p_\text{prior}(f(x; c)) + \log \left| \det \tfrac{\partial f}{\partial x} \right| $$

    in nats, in the units of x itself: preprocessing is part of f.

    Args:
        bijection: f, data → latent.
        prior: the distribution of z: one of ``flowstone.priors``, or any ``torch.distributions`` object over one z.
        context_features: width of the context c that the density is conditioned on, 0 for none. The context is
            standardised inside, by what ``initialize`` saw: ``to_latent(x, c)`` and ``transform(c)`` do it,
            ``flow.bijection(x, c)`` takes the standardised one. The prior gets c as it is.

    Raises:
        ShapeError: the bijection or one of its layers is for another width than the prior.
        SettingError: one of them is something else.

    >>> import torch
    >>> from flowstone import Flow
    >>> from flowstone.bijections import Scaling
    >>> from flowstone.priors import StandardNormal
    >>> flow = Flow(Scaling(2), StandardNormal(2))
    >>> flow.log_prob(torch.zeros(3, 2)).shape, flow.sample(5, seed=0).shape
    (torch.Size([3]), torch.Size([5, 2]))
    """

    def __init__(self, bijection: Bijection, prior: Prior | Distribution, *, context_features: int = 0) -> None:
        require_instance("Flow takes a bijection first", bijection, Bijection)
        require_instance("Flow takes a prior, or a distribution of torch", prior, (Prior, Distribution))
        prior = prior if isinstance(prior, Prior) else FromTorch(prior)
        try:
            event_shape = bijection.event_shape(prior.event_shape)
        except ShapeError as error:
            raise ShapeError(f"the prior is over {tuple(prior.event_shape)}: {error}") from error
        if bijection.latent_shape(event_shape) != prior.event_shape:
            raise ShapeError(
                f"the bijection maps shape {tuple(event_shape)} to {tuple(bijection.latent_shape(event_shape))}; "
                f"the prior is over {tuple(prior.event_shape)}"
            )
        super().__init__(event_shape, context_features)
        self.bijection = bijection
        self.prior = prior
        self.standardize_context = Standardize(context_features, keep_constant=True) if context_features else None

    def _layers(self) -> list[nn.Module]:
        return [*(self.bijection.sublayers() or [self.bijection]), self.prior]

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return self.prior.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of its arithmetic."""
        return self.prior.dtype

    @property
    def stochastic(self) -> bool:
        """Whether it draws noise (dequantization, padding): its log_prob is then a lower bound, and differs by draw."""
        return any(getattr(module, "stochastic", False) for module in self.bijection.modules())

    @property
    def accepts_any_dtype(self) -> bool:
        """Whether the first layer reads x in any precision, integers too, with every digit."""
        return self.bijection.accepts_any_dtype

    @property
    def reparameterized(self) -> bool:
        """Whether samples carry the gradient of every parameter: they do where those of the prior do."""
        return self.prior.reparameterized

    def to_latent(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data → latent: ``(z, log|det dz/dx|)``, shapes ``(batch, *prior.event_shape)`` and ``(batch,)``."""
        self._check(x, context, self.event_shape)
        return self.bijection(self._to_own_dtype(x), self._standardized(context))

    def from_latent(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Latent → data: ``(x, log|det dx/dz|)``, shapes ``(batch, *event_shape)`` and ``(batch,)``."""
        self._check(z, context, self.prior.event_shape)
        return self.bijection.inverse(z.to(self.dtype), self._standardized(context))

    def states(self, x: Tensor, context: Tensor | None = None) -> list[State]:
        """Data → latent, the value after every layer with the layer's log-det; the first state is x itself.

        >>> import flowstone
        >>> import torch
        >>> [tuple(state.value.shape) for state in flowstone.nice(2, couplings=1).states(torch.zeros(4, 2))]
        [(4, 2), (4, 2), (4, 2), (4, 2)]
        """
        self._check(x, context, self.event_shape)
        x = self._to_own_dtype(x)
        return [State(None, x, x.new_zeros(x.shape[0])), *self.bijection.states(x, self._standardized(context))]

    def inverse_states(self, z: Tensor, context: Tensor | None = None) -> list[State]:
        """Latent → data, the value after every layer with the layer's log-det; the first state is z itself."""
        self._check(z, context, self.prior.event_shape)
        z = z.to(self.dtype)
        return [State(None, z, z.new_zeros(z.shape[0])), *self.bijection.inverse_states(z, self._standardized(context))]

    def distribution(self, context: Tensor | None = None, *, validate_args: bool | None = None) -> FlowDistribution:
        """A ``torch.distributions.Distribution``: event shape ``event_shape``, batch shape that of the context rows.

        Without context the batch shape is ``()``; a context ``(*batch, context_features)`` gives batch shape ``batch``.
        ``validate_args`` says whether values outside of its support raise an error; None: as torch's distributions do.

        >>> import flowstone
        >>> import torch
        >>> density = flowstone.nice(2).distribution()
        >>> density.log_prob(density.sample((3, 4))).shape
        torch.Size([3, 4])
        """
        return FlowDistribution(self, context, validate_args=validate_args)

    def transform(self, context: Tensor | None = None) -> BijectionTransform:
        """Data → latent as a ``torch.distributions.Transform``; its ``inv`` is latent → data.

        >>> import flowstone
        >>> import torch
        >>> transform = flowstone.nice(2).transform()
        >>> transform(torch.zeros(3, 4, 2)).shape
        torch.Size([3, 4, 2])
        """
        standardized = self._standardized(self.context_rows(context))
        if standardized is not None and context is not None:
            standardized = standardized.reshape(context.shape)
        return BijectionTransform(self.bijection, standardized, event_dim=len(self.event_shape))

    def training_settings(self, rows: float) -> Mapping[str, Any]:
        """Switch the averaging of weights off where a layer keeps running statistics: these belong to the weights of
        each step, and with averaged weights the likelihood is far worse.
        """
        return {"ema": 0.0} if any(isinstance(module, RUNNING_STATISTICS) for module in self.modules()) else {}

    def require_possible(self, x: Tensor, what: str) -> None:
        """Raise DataError if a number is none of the integers that the density is of, such as a pixel in [0, 1]."""
        domain = self.bijection.domain
        if not isinstance(domain, integer_interval):
            return
        size = max(1, NUMBERS // max(1, self.event_shape.numel()))
        for start in range(0, len(x), size):
            bad = (~domain.check(x[start : start + size].double())).nonzero()  # int8 does not hold 255
            if len(bad):
                row, *place = bad[0].tolist()
                value = x[(start + row, *place)].item()
                raise DataError(
                    f"{what}: row {start + row}, feature {', '.join(map(str, place))} is {value:.6g}; it can be "
                    f"an integer from {domain.lower_bound} to {domain.upper_bound}"
                )

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Set what depends on data (standardisation, data-dependent layers) from one large batch; ``fit`` does.

        Raises:
            DataError: there is no row, or a layer cannot be set from these, such as of a constant column.
        """
        self._check(x, context, self.event_shape)
        if len(x) == 0:
            raise DataError("no rows: what depends on data is set from at least two")
        if self.standardize_context is not None and context is not None:
            self.standardize_context.initialize(context)
        x, standardized = self._to_own_dtype(x), self._standardized(context)
        self.bijection.initialize(x, standardized)
        if type(self.prior).initialize is not Prior.initialize:
            self.prior.initialize(self.bijection(x, standardized)[0], context)

    def __str__(self) -> str:
        """All layers, one on each line; ``repr`` is a single line."""
        return nn.Module.__repr__(self)

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        z, log_det = self.bijection(self._to_own_dtype(x), self._standardized(context))
        return self.prior.log_prob(z, context) + log_det

    def _sample(self, n: int, context: Tensor | None, generator: torch.Generator | None, temperature: float) -> Tensor:
        z = self.prior.sample(n, context, generator) * temperature
        return self.bijection.inverse(z, self._standardized(context))[0]

    def _sample_and_log_prob(
        self, n: int, context: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        if self.stochastic:  # the noise that ``inverse`` takes away has a density, too, which ``forward`` counts
            x = self._sample(n, context, generator, 1.0)
            with nullcontext() if generator is None else noise_from(generator):
                return x, self._log_prob(x, context)
        z = self.prior.sample(n, context, generator)
        x, log_det = self.bijection.inverse(z, self._standardized(context))
        return x, self.prior.log_prob(z, context) - log_det

    def _to_own_dtype(self, x: Tensor) -> Tensor:
        """Data in the flow's own precision, unless the first layer converts it itself and keeps every digit."""
        return x if self.bijection.accepts_any_dtype else x.to(self.dtype)

    def _standardized(self, context: Tensor | None) -> Tensor | None:
        return None if context is None or self.standardize_context is None else self.standardize_context(context)[0]
