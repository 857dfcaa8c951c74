"""The first link of the chain: from the data's own units to numbers a net likes, its log-det counted like any other."""

import torch
from torch import Tensor

from flowstone.bijections.base import Bijection
from flowstone.errors import DataError

__all__ = ["Standardize"]


class Standardize(Bijection):
    r"""$z = (x - \mu) / \sigma$ per feature, with μ and σ of the data that ``initialize`` is given.

    $$ \log|\det| = -\sum_i \log \sigma_i $$

    The identity until it is initialised, once; a second ``initialize`` changes nothing. The subtraction is done in the
    precision of x, so that a float64 table keeps its digits, and the result has the precision of the flow. ``inverse``
    works in the flow's precision alone: where a column is ``coarse`` (seconds since 1970), sample from
    ``flow.double()``, as the command line does.

    >>> import torch
    >>> standardize = Standardize(1)
    >>> standardize.initialize(torch.tensor([[1.0], [3.0]]))
    >>> standardize(torch.tensor([[3.0]]))
    (tensor([[1.]]), tensor([-0.]))
    """

    mean: Tensor
    std: Tensor
    initialized: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        self.register_buffer("initialized", torch.tensor(False))

    @property
    def coarse(self) -> bool:
        """Whether float32 leaves these columns few digits: a mean more than 1000 deviations away from 0."""
        return bool((self.mean.abs() > 1000 * self.std).any())

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        if self.initialized:
            return
        std, mean = torch.std_mean(x.double(), 0, correction=0)
        constant = (std == 0).nonzero().flatten().tolist()
        if constant:
            raise DataError(
                f"feature {constant[0]} is constant ({x[0, constant[0]].item():g}): it has no density; leave it out"
            )
        self.mean.copy_(mean)
        self.std.copy_(std)
        self.initialized.fill_(True)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z = ((x - self.mean) / self.std).to(self.mean.dtype)
        return z, -self.std.log().sum().expand(x.shape[0])

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return torch.addcmul(self.mean, z, self.std), self.std.log().sum().expand(z.shape[0])
