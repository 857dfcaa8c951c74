"""First layers of a flow, which bring data from their own units to numbers of size 1."""

import torch
from torch import Tensor

from flowstone.bijections.linear import solve_lu
from flowstone.bijections.statistics import DataLayer, is_coarse
from flowstone.bijections.tails import CompressTails
from flowstone.errors import DataError, SettingError
from flowstone.validation import require_choice

__all__ = ["Standardize", "Whiten"]

NARROWEST = 1e-6  # least standard deviation of a direction of standardised rows that float32 resolves


class Standardize(DataLayer):
    r"""$z = (x - \mu) / \sigma$ per feature, with μ and σ of the data that ``initialize`` is given.

    $$ \log|\det| = -\sum_i \log \sigma_i $$

    Columns whose outliers hide their bulk are compressed first (``CompressTails``, whose log-det is added); μ and σ are
    then those of the result.

    It is the identity until ``initialize`` is called; a second call changes nothing. μ and σ are kept and applied in
    float64; z has the precision of the flow, and so has x in ``inverse``, unless float32 cannot resolve the columns
    (seconds since 1970) or hold them (1e44): then x is float64. A constant feature has no density; ``keep_constant``
    accepts it, with σ = 1, for a context, which needs no density.

    Raises:
        DataError: from ``initialize``: a feature is constant, and ``keep_constant`` is False.

    >>> import torch
    >>> standardize = Standardize(1)
    >>> standardize.initialize(torch.tensor([[1.0], [3.0]]))
    >>> standardize(torch.tensor([[3.0]]))
    (tensor([[1.]]), tensor([0.]))
    """

    event_dims = latent_dims = 1
    mean: Tensor
    std: Tensor
    initialized: Tensor

    def __init__(self, features: int, *, keep_constant: bool = False) -> None:
        super().__init__(features)
        self.keep_constant = keep_constant
        self.tails = CompressTails(features)
        self.register_statistic("mean", torch.zeros(features))
        self.register_statistic("std", torch.ones(features))
        self.register_buffer("initialized", torch.tensor(False))

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        if self.initialized:
            return
        x = x.double()
        constant = (x == x[0]).all(0)
        if constant.any() and not self.keep_constant:
            columns = ", ".join(f"{i} ({x[0, i].item():g})" for i in constant.nonzero().flatten().tolist())
            raise DataError(f"constant features have no density, leave them out: feature {columns}")
        self.tails.initialize(x)
        x, _ = self.tails.compress(x)
        # Division by a power of two is exact; without it the squares of the numbers may overflow.
        size = torch.ldexp(torch.ones_like(x[0]), torch.frexp(x.abs().amax(0)).exponent - 1)
        std, mean = torch.std_mean(x / size, 0, correction=0)
        self.mean.copy_(mean * size)
        self.std.copy_((std * size).where(~constant, 1.0))
        self.initialized.fill_(True)
        self.statistics_changed()

    @property
    def data_dtype(self) -> torch.dtype:
        # The tails are loaded after this layer's own statistics, so each keeps its own flag.
        return torch.float64 if self.needs_float64 or self.tails.needs_float64 else self.dtype

    def statistics_changed(self) -> None:
        if not self.mean.is_meta:
            self.needs_float64 = is_coarse(self.mean, self.std)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, log_det = self.standardized(x)
        return z.to(self.dtype), log_det.to(self.dtype)

    def standardized(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``forward`` in float64."""
        y, log_det = self.tails.compress(x.double())
        return (y - self.mean) / self.std, log_det - self.std.log().sum()

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x, log_det = self.restored(z)
        return x.to(self.data_dtype), log_det.to(self.dtype)

    def restored(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """``inverse`` in float64."""
        x, log_det = self.tails.expand(torch.addcmul(self.mean, z.double(), self.std))
        return x, log_det + self.std.log().sum()


class Whiten(DataLayer):
    r"""PCA or ZCA whitening of standardised columns, which makes them uncorrelated, with standard deviation 1.

    With $R \Lambda R^\top$ the correlation matrix of the data that ``initialize`` is given (of the rows without
    outliers in the sense of ``CompressTails``, where they are more than half),

    $$ z = \Lambda^{-1/2} R^\top \frac{x - \mu}{\sigma} \;\text{(PCA)}, \qquad
       z = R \Lambda^{-1/2} R^\top \frac{x - \mu}{\sigma} \;\text{(ZCA)}, \qquad
       \log|\det| = -\sum_i \left(\log \sigma_i + \tfrac12 \log \lambda_i\right). $$

    ZCA stays nearest to the data's own axes; PCA orders its axes by variance. On nearly singular tables, couplings
    would otherwise spend their training on finding the directions in which the data hardly vary. With ``narrow`` only
    directions narrower than that are widened, to that width; the others stay as they are, so that with ZCA columns of
    few values keep their shape. A direction narrower than a millionth of a standard deviation is taken to be as wide as
    that. The layer is the identity until it is initialised, once. It keeps triangular factors, so that inverse and
    log-det are exact.

    Args:
        features: number of features D.
        kind: ``"zca"`` or ``"pca"``.
        narrow: None to whiten all directions; else a width, in standard deviations.

    Raises:
        SettingError: ``narrow`` is not above 0 and at most 1.

    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> x = torch.randn(500, 2) @ torch.tensor([[1.0, 0.99], [0.0, 0.01]])
    >>> whiten = Whiten(2)
    >>> whiten.initialize(x)
    >>> torch.allclose(whiten(x)[0].T.cov(correction=0), torch.eye(2), atol=0.01)
    True
    """

    event_dims = latent_dims = 1
    order: Tensor
    below: Tensor
    above: Tensor

    def __init__(self, features: int, *, kind: str = "zca", narrow: float | None = None) -> None:
        super().__init__(features)
        require_choice("kind", kind, ("zca", "pca"))
        if narrow is not None and not 0 < narrow <= 1:
            raise SettingError(f"narrow={narrow} must be above 0 and at most 1")
        self.kind = kind
        self.narrow = narrow
        self.standardize = Standardize(features)
        # P, L and U of the matrix that makes z of the standardised x.
        self.register_buffer("order", torch.arange(features))
        for name in ("below", "above"):
            self.register_statistic(name, torch.zeros(features, features).fill_diagonal_(1.0))

    @property
    def data_dtype(self) -> torch.dtype:
        return self.standardize.data_dtype

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        if self.standardize.initialized:
            return
        self.standardize.initialize(x)
        standardized = self.standardize.standardized(x)[0]
        bulk = self.standardize.tails.is_inside(x.double())
        if 2 * bulk.sum() > len(x):  # an outlier of one column would weaken all correlations of that column
            standardized = standardized[bulk]
        standardized = standardized - standardized.mean(0)  # rounding of a large mean leaves a remainder
        variance, rotation = torch.linalg.eigh(standardized.T @ standardized / len(standardized))
        spread, rotation = variance.flip(-1).clamp_min(NARROWEST**2).sqrt(), rotation.flip(-1)
        if self.narrow is not None:
            spread = (spread / self.narrow).clamp_max(1)
        matrix = (rotation / spread).T
        rows, below, above = torch.linalg.lu(rotation @ matrix if self.kind == "zca" else matrix)
        self.order.copy_(rows.argmax(-1))
        self.below.copy_(below)
        self.above.copy_(above)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        standardized, log_det = self.standardize.standardized(x)
        z = (standardized @ self.above.T @ self.below.T).index_select(1, self.order)
        return z.to(self.dtype), (log_det + self._log_det()).to(self.dtype)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        standardized = solve_lu(self.below, self.above, z.double().index_select(1, self.order.argsort()))
        x, log_det = self.standardize.restored(standardized)
        return x.to(self.data_dtype), (log_det - self._log_det()).to(self.dtype)

    def _log_det(self) -> Tensor:
        """The log-det of the matrix alone."""
        return self.above.diagonal().abs().log().sum()

    def extra_repr(self) -> str:
        narrow = "" if self.narrow is None else f", narrow={self.narrow:g}"
        return f"{self.features}, kind={self.kind}{narrow}"
