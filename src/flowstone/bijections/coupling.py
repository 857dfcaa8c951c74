"""The coupling layer: one half of the features moves, told how by a net that sees the other half."""

import torch
from torch import Tensor, nn

from flowstone.bijections.base import Bijection
from flowstone.bijections.univariate import Univariate

__all__ = ["Coupling"]


class Coupling(Bijection):
    r"""Split x into halves (a, b); a is kept and tells how b moves (Dinh et al. 2014, 2016).

    $$ z = (a,\; \tau(b;\, \theta(a, c))), \qquad \log|\det| = \sum_i \log \tau'(b_i) $$

    a is the first ``features // 2`` features, b the rest; ``swap=True`` exchanges their roles. With one feature nothing
    is kept and the net sees the context alone. Of images ``(batch, channels, height, width)`` it is the channels that
    are split; ``checkerboard`` makes channels of the colours of a checkerboard.

    Args:
        features: number of features D, of images: channels.
        transform: the univariate transform τ.
        net: the conditioner, ``((batch, kept, …), context) -> (batch, moved * transform.parameters_per_feature, …)``,
            the parameters of one feature next to each other; ``Coupling.sizes`` tells ``kept`` and ``moved``.

    >>> import torch
    >>> from flowstone.bijections import Additive, Coupling
    >>> from flowstone.nets import MLP
    >>> kept, moved = Coupling.sizes(3)
    >>> coupling = Coupling(3, Additive(), MLP(kept, moved, hidden=(16,)))
    >>> coupling(torch.ones(2, 3))[0].shape
    torch.Size([2, 3])
    """

    def __init__(self, features: int, transform: Univariate, net: nn.Module, *, swap: bool = False) -> None:
        super().__init__()
        self.first = features // 2
        self.swap = swap
        self.transform = transform
        self.net = net

    @staticmethod
    def sizes(features: int, *, swap: bool = False) -> tuple[int, int]:
        """How many features are ``(kept, moved)``."""
        first, rest = features // 2, features - features // 2
        return (rest, first) if swap else (first, rest)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._move(x, context, self.transform.forward)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._move(z, context, self.transform.inverse)

    def asked(self, value: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The moved half, and the parameters ``(batch, moved, …, parameters_per_feature)`` that the net gives it."""
        kept, moving = self._halves(value)
        parameters = self.net(kept, context).unflatten(1, (moving.shape[1], self.transform.parameters_per_feature))
        return moving, parameters.movedim(2, -1)

    def _halves(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Kept and moving."""
        head, tail = value[:, : self.first], value[:, self.first :]
        return (tail, head) if self.swap else (head, tail)

    def _move(self, value: Tensor, context: Tensor | None, transform) -> tuple[Tensor, Tensor]:
        kept, _ = self._halves(value)
        moved, log_slope = transform(*self.asked(value, context))
        halves = (moved, kept) if self.swap else (kept, moved)
        return torch.cat(halves, 1), log_slope.flatten(1).sum(-1)
