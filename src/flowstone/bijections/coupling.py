"""The coupling layer: one half of the features changes, with parameters from a net that sees the other half."""

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from flowstone.bijections.base import Bijection
from flowstone.bijections.conditioned import Conditioned
from flowstone.bijections.constraints import is_real, unknown
from flowstone.bijections.univariate import Univariate
from flowstone.errors import ShapeError
from flowstone.validation import require_instance

__all__ = ["Coupling", "Partial"]


class Coupling(Conditioned):
    r"""Split x into halves (a, b); b is transformed with parameters computed from a (Dinh et al. 2014, 2016).

    $$ z = (a,\; \tau(b;\, \theta(a, c))), \qquad \log|\det| = \sum_i \log \tau'(b_i) $$

    a is the first ``features // 2`` features, b the rest; ``swap=True`` exchanges their roles. With one feature there
    is no a, and the net sees the context alone. Images ``(batch, channels, height, width)`` are split along their
    channels; ``checkerboard`` turns the two colours of a checkerboard into channels.

    Args:
        features: number of features D (for images: channels).
        transform: the univariate transform τ.
        net: the conditioner, ``((batch, kept, …), context) -> (batch, changed * transform.parameters_per_feature, …)``,
            the parameters of one feature next to each other; ``Coupling.sizes`` gives ``kept`` and ``changed``.
        swap: whether a and b exchange their roles.

    Raises:
        ShapeError: the transform, or what the net returns, is for another number of features.

    >>> import torch
    >>> from flowstone.bijections import Additive, Coupling
    >>> from flowstone.nets import MLP
    >>> kept, changed = Coupling.sizes(3)
    >>> coupling = Coupling(3, Additive(), MLP(kept, changed, hidden=(16,)))
    >>> coupling(torch.ones(2, 3))[0].shape
    torch.Size([2, 3])
    """

    def __init__(self, features: int, transform: Univariate, net: nn.Module, *, swap: bool = False) -> None:
        super().__init__(features, self.sizes(features, swap=swap)[1], transform, net)
        self.swap = swap

    @staticmethod
    def sizes(features: int, *, swap: bool = False) -> tuple[int, int]:
        """How many features are ``(kept, changed)``."""
        first, rest = features // 2, features - features // 2
        return (rest, first) if swap else (first, rest)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        a, b = self.split(x)
        b, log_slope = self.transform(b, self.conditioner_parameters(a, context))
        return _concat(a, b, self.swap), log_slope.flatten(1).sum(-1)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        a, b = self.split(z)
        b, log_slope = self.transform.inverse(b, self.conditioner_parameters(a, context))
        return _concat(a, b, self.swap), log_slope.flatten(1).sum(-1)

    def split(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """The kept half a and the changed half b."""
        return _split(value, self.swap)

    def extra_repr(self) -> str:
        return f"{self.features}, swap={self.swap}, {self.transform}, {self.net}"


class Partial(Bijection):
    r"""A bijection of the half of the features that a ``Coupling`` of the same ``features`` and ``swap`` changes.

    $$ z = (a,\; f(b)), \qquad \log|\det| = \log|\det \tfrac{\partial f}{\partial b}| $$

    RealNVP's batch normalization comes after each coupling on what it changed (Dinh et al. 2016, section 3.7).

    >>> import torch
    >>> from flowstone.bijections import Partial, Permutation
    >>> Partial(3, Permutation.reverse(2))(torch.tensor([[1.0, 2.0, 3.0]]))[0]
    tensor([[1., 3., 2.]])
    """

    keeps_autocast = True

    def __init__(self, features: int, bijection: Bijection, *, swap: bool = False) -> None:
        super().__init__(features)
        require_instance("Partial takes a bijection", bijection, Bijection)
        changed = Coupling.sizes(features, swap=swap)[1]
        if bijection.features not in (None, changed):
            raise ShapeError(
                f"Partial, of {features} features, changes {changed}; its bijection is of {bijection.features}"
            )
        self.event_dims, self.latent_dims = bijection.event_dims, bijection.latent_dims
        self.bijection = bijection
        self.swap = swap

    @property
    def domain(self) -> Constraint:
        return _constraint_of_part(self.bijection.domain)

    @property
    def codomain(self) -> Constraint:
        return _constraint_of_part(self.bijection.codomain)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        a, b = _split(x, self.swap)
        b, log_det = self.bijection(b, context)
        return _concat(a, b, self.swap), log_det

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        a, b = _split(z, self.swap)
        b, log_det = self.bijection.inverse(b, context)
        return _concat(a, b, self.swap), log_det

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        self.bijection.initialize(_split(x, self.swap)[1], context)

    def sublayers(self) -> tuple[Bijection, ...]:
        return (self.bijection,)

    def extra_repr(self) -> str:
        return f"{self.features}, swap={self.swap}"


def _constraint_of_part(constraint: Constraint) -> Constraint:
    """The constraint on all features if ``constraint`` holds for one half and the other is free."""
    return constraints.real if is_real(constraint) else unknown()


def _split(value: Tensor, swap: bool) -> tuple[Tensor, Tensor]:
    """The halves (a, b). The gradient of ``split`` is one concatenation; that of two slices, a sum of padded arrays."""
    first, second = value.split((value.shape[1] // 2, value.shape[1] - value.shape[1] // 2), 1)
    return (second, first) if swap else (first, second)


def _concat(a: Tensor, b: Tensor, swap: bool) -> Tensor:
    return torch.cat((b, a) if swap else (a, b), 1)
