"""The first link of the chain: from the data's own units to numbers a net likes, its log-det counted like any other."""

import torch
from torch import Tensor

from flowstone.bijections.base import Bijection
from flowstone.bijections.linear import solve_lu
from flowstone.errors import DataError, SettingError, UnknownNameError

__all__ = ["Standardize", "Whiten"]

NARROWEST = 1e-6  # of a standardised direction: what float32 numbers still resolve


class Standardize(Bijection):
    r"""$z = (x - \mu) / \sigma$ per feature, with μ and σ of the data that ``initialize`` is given.

    $$ \log|\det| = -\sum_i \log \sigma_i $$

    The identity until it is initialised, once; a second ``initialize`` changes nothing. The subtraction is done in the
    precision of x, so that a float64 table keeps its digits, and the result has the precision of the flow. ``inverse``
    works in the flow's precision alone: where a column is ``coarse`` (seconds since 1970), sample from
    ``flow.double()``, as the command line does. A constant feature has no density and is refused; ``keep_constant``
    leaves its scale alone, for what is no data but a context.

    >>> import torch
    >>> standardize = Standardize(1)
    >>> standardize.initialize(torch.tensor([[1.0], [3.0]]))
    >>> standardize(torch.tensor([[3.0]]))
    (tensor([[1.]]), tensor([-0.]))
    """

    casts = True
    mean: Tensor
    std: Tensor
    initialized: Tensor

    def __init__(self, features: int, *, keep_constant: bool = False) -> None:
        super().__init__()
        self.keep_constant = keep_constant
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
        if constant and not self.keep_constant:
            raise DataError(
                f"feature {constant[0]} is constant ({x[0, constant[0]].item():g}): it has no density; leave it out"
            )
        self.mean.copy_(mean)
        self.std.copy_(std.where(std > 0, 1.0))
        self.initialized.fill_(True)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.standardized(x).to(self.mean.dtype), -self.std.log().sum().expand(x.shape[0])

    def standardized(self, x: Tensor) -> Tensor:
        r"""$(x - \mu) / \sigma$ in the precision of x, or of the flow if that is higher."""
        return (x - self.mean) / self.std

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return torch.addcmul(self.mean, z, self.std), self.std.log().sum().expand(z.shape[0])


class Whiten(Bijection):
    r"""Columns made uncorrelated, each with deviation 1: PCA or ZCA whitening of what ``Standardize`` gives.

    With $R \Lambda R^\top$ the correlation matrix of the data that ``initialize`` is given,

    $$ z = \Lambda^{-1/2} R^\top \frac{x - \mu}{\sigma} \;\text{(PCA)}, \qquad
       z = R \Lambda^{-1/2} R^\top \frac{x - \mu}{\sigma} \;\text{(ZCA)}, \qquad
       \log|\det| = -\sum_i \left(\log \sigma_i + \tfrac12 \log \lambda_i\right). $$

    ZCA stays nearest to the data's own axes, PCA orders them by variance. Nearly singular tables need it: couplings
    spend their training on finding directions in which the data hardly vary. ``narrow`` whitens in part: directions
    narrower than that are widened to it, and all others are left as they are, so that with ZCA columns of few values
    keep their shape. A direction narrower than a millionth of a deviation is taken to be as wide as that. The identity
    until it is initialised, once. Kept as triangular factors, so that the inverse and the log-det are exact in every
    precision.

    Args:
        features: number of features D.
        kind: ``"zca"`` or ``"pca"``.
        narrow: None to whiten all directions; else a width, in deviations.

    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> x = torch.randn(500, 2) @ torch.tensor([[1.0, 0.99], [0.0, 0.01]])
    >>> whiten = Whiten(2)
    >>> whiten.initialize(x)
    >>> torch.allclose(whiten(x)[0].T.cov(correction=0), torch.eye(2), atol=0.01)
    True
    """

    casts = True
    order: Tensor
    below: Tensor
    above: Tensor

    def __init__(self, features: int, *, kind: str = "zca", narrow: float | None = None) -> None:
        super().__init__()
        if kind not in ("zca", "pca"):
            raise UnknownNameError("kind of whitening", kind, ("zca", "pca"))
        if narrow is not None and not 0 < narrow <= 1:
            raise SettingError(f"narrow={narrow} must be above 0 and at most 1")
        self.kind = kind
        self.narrow = narrow
        self.standardize = Standardize(features)
        # P, L and U of the matrix that makes z of the standardised x.
        self.register_buffer("order", torch.arange(features))
        self.register_buffer("below", torch.eye(features))
        self.register_buffer("above", torch.eye(features))

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        if self.standardize.initialized:
            return
        self.standardize.initialize(x)
        standardized = self.standardize.standardized(x.double())
        standardized = standardized - standardized.mean(0)  # what rounding of a large mean has left
        variance, rotation = torch.linalg.eigh(standardized.T @ standardized / len(x))
        spread, rotation = variance.flip(-1).clamp_min(NARROWEST**2).sqrt(), rotation.flip(-1)
        if self.narrow is not None:
            spread = (spread / self.narrow).clamp_max(1)
        matrix = (rotation / spread).T
        rows, below, above = torch.linalg.lu(rotation @ matrix if self.kind == "zca" else matrix)
        self.order.copy_(rows.argmax(-1))
        self.below.copy_(below)
        self.above.copy_(above)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        standardized = self.standardize.standardized(x)
        above, below = self.above.to(standardized), self.below.to(standardized)
        z = (standardized @ above.T @ below.T).index_select(1, self.order)
        return z.to(self.above.dtype), self._log_det().expand(x.shape[0])

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        standardized = solve_lu(self.below, self.above, z.index_select(1, self.order.argsort()))
        return self.standardize.inverse(standardized)[0], -self._log_det().expand(z.shape[0])

    def _log_det(self) -> Tensor:
        return self.above.diagonal().abs().log().sum() - self.standardize.std.log().sum()
