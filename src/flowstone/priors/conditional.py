"""A prior for classes: one Gaussian each."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flowstone.errors import DataError
from flowstone.priors.base import Prior
from flowstone.validation import require_integer

__all__ = ["ClassConditional"]


class ClassConditional(Prior):
    r"""A Gaussian of its own for every class: $p(z \mid c) = \prod_i \mathcal N(z_i;\, \mu_{c,i}, \sigma_{c,i}^2)$.

    One column of the context holds the class, a whole number from 0 to ``classes`` - 1. With it a flow tells classes
    apart in its latent space, $p(c \mid x) \propto p(x \mid c)\, p(c)$ (Izmailov et al. 2020, FlowGMM).

    Args:
        event_shape: the shape of one z.
        classes: the number of classes.
        column: the column of the context that holds the class.

    Raises:
        SettingError: ``classes`` is below 1.
        DataError: from its methods: there is no context, it has no such column, or that holds what is no class.

    >>> import torch
    >>> ClassConditional(2, classes=3).log_prob(torch.zeros(4, 2), torch.tensor([[0.0], [1.0], [2.0], [1.0]])).shape
    torch.Size([4])
    """

    def __init__(self, event_shape: int | Sequence[int], *, classes: int, column: int = 0) -> None:
        super().__init__(event_shape)
        require_integer("classes", classes)
        self.column = column
        self.means = nn.Parameter(torch.randn(classes, *self.event_shape))
        self.log_scales = nn.Parameter(torch.zeros(classes, *self.event_shape))

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        label = self._classes(context)
        log_scale = self.log_scales[label]
        white = (z - self.means[label]) * (-log_scale).exp()
        return -(0.5 * white.square() + log_scale + 0.5 * math.log(2 * math.pi)).flatten(1).sum(-1)

    @torch.no_grad()
    def sample(self, n: int, context: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        label = self._classes(context)
        return self.means[label] + self.log_scales[label].exp() * self._normal(n, generator)

    def _classes(self, context: Tensor | None) -> Tensor:
        if context is None:
            raise DataError("a class-conditional prior needs the class of each row, in a column of the context")
        if not -context.shape[1] <= self.column < context.shape[1]:
            raise DataError(f"the class is in column {self.column} of the context, which has {context.shape[1]}")
        label, count = context[:, self.column], len(self.means)
        wrong = (label != label.round()) | (label < 0) | (label >= count)
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise DataError(f"context row {row} has class {label[row].item():g}; classes are 0 … {count - 1}")
        return label.long()
