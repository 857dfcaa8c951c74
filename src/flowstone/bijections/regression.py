"""A linear regression on the context, as a layer that leaves the residuals."""

import torch
from torch import Tensor, nn

from flowstone.bijections.base import Bijection
from flowstone.errors import ShapeError

__all__ = ["Regression"]


class Regression(Bijection):
    r"""The residuals of a linear regression of the features on the context c:

    $$ z = x - (W c + b), \qquad \log|\det| = 0. $$

    ``initialize`` sets W and b by ridge regression, with the penalty $\|W\|^2$ on the sum of squares over all rows.
    It does so while both are zero, as they are at the start: a later training goes on from what was learned. With a
    Gaussian prior the flow is the linear Gaussian model of x given c.

    Args:
        features: number of features.
        context_features: width of the context.

    Raises:
        ShapeError: a call comes without a context, or with one of another shape.

    >>> import torch
    >>> from flowstone.bijections import Regression
    >>> c = torch.randn(1000, 1)
    >>> regression = Regression(1, 1)
    >>> regression.initialize(3 * c + 2, c)
    >>> regression(torch.tensor([[5.0]]), torch.tensor([[1.0]]))[0].abs().item() < 0.1
    True
    """

    event_dims = latent_dims = 1

    def __init__(self, features: int, context_features: int) -> None:
        super().__init__(features)
        self.mean = nn.Linear(context_features, features)
        nn.init.zeros_(self.mean.weight)
        nn.init.zeros_(self.mean.bias)

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Set W and b by ridge regression of these rows, if both are zero."""
        if any(parameter.any() for parameter in self.mean.parameters()):
            return
        given, wanted = self._given(x, context).double(), x.double()
        centred = given - given.mean(0)
        squares = centred.T @ centred
        squares.diagonal().add_(1)  # the penalty
        weight = torch.linalg.solve(squares, centred.T @ wanted).T
        self.mean.weight.copy_(weight)
        self.mean.bias.copy_(wanted.mean(0) - weight @ given.mean(0))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x - self.mean(self._given(x, context)), x.new_zeros(x.shape[0])

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return z + self.mean(self._given(z, context)), z.new_zeros(z.shape[0])

    def _given(self, x: Tensor, context: Tensor | None) -> Tensor:
        wanted = (x.shape[0], self.mean.in_features)
        if context is None or tuple(context.shape) != wanted:
            given = "none" if context is None else tuple(context.shape)
            raise ShapeError(f"Regression: it needs a context of shape {wanted}, got {given}")
        return context
