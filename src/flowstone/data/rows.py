"""Rows: data and, where a flow is conditional, the context of each row."""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Rows"]


@dataclass(frozen=True)
class Rows:
    """``x (n, *event_shape)`` and its ``context (n, context_features)``, or None."""

    x: Tensor
    context: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def take(self, index: Tensor | slice) -> "Rows":
        """The rows at ``index``, with their context."""
        return Rows(self.x[index], None if self.context is None else self.context[index])

    def some(self, count: int) -> "Rows":
        """At most so many of the rows, chosen at random and in random order; the same ones each time."""
        return self.take(torch.randperm(len(self), generator=torch.Generator().manual_seed(0))[:count])

    def to(self, device: torch.device | str) -> "Rows":
        """The same rows on another device."""
        return Rows(self.x.to(device), None if self.context is None else self.context.to(device))
