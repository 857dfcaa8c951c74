"""The coupling layer: one half of the features moves, told how by a net that sees the other half. And what needs no
telling: a bijection of one half alone.
"""

import torch
from torch import Tensor, nn

from flowstone.bijections.base import Bijection, Parts, joined, parted
from flowstone.bijections.univariate import Univariate

__all__ = ["Coupling", "Half"]


class _Split(Bijection):
    """What knows the two halves: of the features, of images the channels."""

    def __init__(self, features: int, *, swap: bool) -> None:
        super().__init__()
        self.cut: int = features // 2  # pyright: ignore[reportIncompatibleVariableOverride]
        self.swap = swap

    def halves(self, value: Parts) -> tuple[Tensor, Tensor]:
        """What is kept and what moves."""
        return self.turned(*parted(value, self.cut))

    def whole(self, kept: Tensor, moved: Tensor, like: Parts) -> Parts:
        """Both halves in their places: apart, if ``like`` is."""
        value = self.turned(kept, moved)
        return value if isinstance(like, tuple) else joined(value)

    def turned(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """From the order of the features to (kept, moved), and back."""
        return (second, first) if self.swap else (first, second)


class Coupling(_Split):
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
        super().__init__(features, swap=swap)
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

    def parameters_given(self, kept: Tensor, context: Tensor | None = None) -> Tensor:
        """``(batch, moved, …, parameters_per_feature)``: what the net, which sees the kept half, says of the other."""
        given = torch.unflatten(self.net(kept, context), 1, (-1, self.transform.parameters_per_feature))
        return given if given.ndim == 3 else given.movedim(2, -1)

    def asked(self, value: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The moved half, and its parameters."""
        kept, moving = self.halves(value)
        return moving, self.parameters_given(kept, context)

    def _move(self, value: Tensor, context: Tensor | None, transform) -> tuple[Tensor, Tensor]:
        kept, moving = self.halves(value)
        moved, log_slope = transform(moving, self.parameters_given(kept, context))
        return self.whole(kept, moved, value), log_slope.flatten(1).sum(-1)


class Half(_Split):
    r"""A bijection of that half of the features which a ``Coupling`` of the same ``features`` and ``swap`` moves.

    $$ z = (a,\; f(b)), \qquad \log|\det| = \log|\det \tfrac{\partial f}{\partial b}| $$

    RealNVP's batch normalization comes after each coupling on what it moved (Dinh et al. 2016, section 3.7).

    >>> import torch
    >>> from flowstone.bijections import Half, Permutation
    >>> Half(3, Permutation.reverse(2))(torch.tensor([[1.0, 2.0, 3.0]]))[0]
    tensor([[1., 3., 2.]])
    """

    def __init__(self, features: int, bijection: Bijection, *, swap: bool = False) -> None:
        super().__init__(features, swap=swap)
        self.bijection = bijection

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        kept, moving = self.halves(x)
        moved, log_det = self.bijection(moving, context)
        return self.whole(kept, moved, x), log_det

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        kept, moved = self.halves(z)
        moving, log_det = self.bijection.inverse(moved, context)
        return self.whole(kept, moving, z), log_det

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        self.bijection.initialize(self.halves(x)[1], context)
