"""Blend: a weighted mixture of densities."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from flowstone.density import Density
from flowstone.distribution import FlowDistribution
from flowstone.errors import SettingError, ShapeError

__all__ = ["Blend"]


class Blend(Density):
    r"""A row comes from one of several densities, chosen with fixed probabilities:

    $$ p(x) = \sum_k w_k\, p_k(x). $$

    A row costs at most $-\log w_k$ nats more than under any density k of the blend alone.

    Args:
        parts: densities of the same event shape, all without context or all with one of the same width.
        weights: of the densities, positive; they are divided by their sum. None: equal ones.

    Raises:
        SettingError: there is no density, or not one positive weight for each.
        ShapeError: the event shapes or the widths of the context differ.

    >>> import torch, flowstone
    >>> from flowstone.blend import Blend
    >>> blend = Blend([flowstone.nice(2), flowstone.spline(2)], [3.0, 1.0])
    >>> blend.log_prob(torch.zeros(4, 2)).shape, blend.sample(3, seed=0).shape
    (torch.Size([4]), torch.Size([3, 2]))
    """

    weights: Tensor

    def __init__(self, parts: Sequence[Density], weights: Sequence[float] | None = None) -> None:
        if not parts:
            raise SettingError("a blend needs at least one density")
        for part in parts:
            if (part.event_shape, part.context_features) != (parts[0].event_shape, parts[0].context_features):
                raise ShapeError(
                    "a blend is of densities of one event shape and context, got "
                    f"{tuple(parts[0].event_shape)} with {parts[0].context_features} context features and "
                    f"{tuple(part.event_shape)} with {part.context_features}"
                )
        super().__init__(parts[0].event_shape, parts[0].context_features)
        self.parts = nn.ModuleList(parts)
        given = [1.0] * len(parts) if weights is None else [float(weight) for weight in weights]
        if len(given) != len(parts) or not all(0 < weight < math.inf for weight in given):
            raise SettingError(f"weights={weights}: one positive number for each of {len(parts)} densities")
        self.register_buffer("weights", torch.tensor([weight / sum(given) for weight in given], dtype=torch.float64))

    @property
    def densities(self) -> list[Density]:
        """The parts."""
        return [part for part in self.parts if isinstance(part, Density)]

    @property
    def heaviest(self) -> Density:
        """The part with the largest weight."""
        return self.densities[int(self.weights.argmax())]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Blend":
        """The weights stay in float64, whatever the precision of the parts."""
        weights = self.weights
        super()._apply(fn, recurse)
        self.weights = torch.empty_like(weights, device=self.device) if weights.is_meta else weights.to(self.device)
        return self

    @property
    def device(self) -> torch.device:
        """The device of the first part."""
        return self.densities[0].device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the first part; each has its own."""
        return self.densities[0].dtype

    @property
    def accepts_any_dtype(self) -> bool:
        """Whether all parts read x in any precision."""
        return all(part.accepts_any_dtype for part in self.densities)

    @property
    def stochastic(self) -> bool:
        """Whether a part draws noise."""
        return any(part.stochastic for part in self.densities)

    @property
    def accepts_gaps(self) -> bool:
        """Whether all parts read gaps."""
        return all(part.accepts_gaps for part in self.densities)

    def require_possible(self, x: Tensor, what: str) -> None:
        for part in self.densities:
            part.require_possible(x, what)

    def distribution(self, context: Tensor | None = None, *, validate_args: bool | None = None) -> FlowDistribution:
        """The blend as a ``torch.distributions.Distribution``; arguments are those of ``Flow.distribution``."""
        return FlowDistribution(self, context, validate_args=validate_args)

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Set what depends on data in each part."""
        for part in self.densities:
            part.initialize(x.to(part.data_dtype), context)

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        terms = [part.log_prob(x.to(part.data_dtype), context).double() for part in self.densities]
        return (torch.stack(terms) + self.weights.log()[:, None]).logsumexp(0)

    def _sample(self, n: int, context: Tensor | None, generator: torch.Generator | None, temperature: float) -> Tensor:
        chosen = torch.multinomial(self.weights, n, replacement=True, generator=generator) if n else self.weights[:0]
        x = torch.empty(n, *self.event_shape, dtype=torch.float64, device=self.device)
        for index, part in enumerate(self.densities):
            rows = (chosen == index).nonzero()[:, 0]
            given = None if context is None else context[rows]
            x[rows] = part._sample(len(rows), given, generator, temperature).double()
        return x

    def _sample_and_log_prob(
        self, n: int, context: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        x = self._sample(n, context, generator, 1.0)
        return x, self._log_prob(x, context)
