"""Normalization as layers of a flow: by moments of the first batch (ActNorm), or by running averages (BatchNorm)."""

import torch
from torch import Tensor, nn

from flowstone.bijections.base import Bijection
from flowstone.validation import require_choice, require_number

__all__ = ["ActNorm", "BatchNorm"]


class ActNorm(Bijection):
    r"""A learned scale and shift per feature, set once so that z starts with mean 0 and standard deviation 1.

    $$ z = (x - b) \odot e^{s}, \qquad \log|\det| = \sum_i s_i \;(\cdot\; \text{height} \cdot \text{width}) $$

    Images ``(batch, channels, height, width)`` have one scale and one shift for each channel (Kingma and Dhariwal 2018,
    section 3.1). ``initialize`` sets both, once; a flag that it has done so is saved with the weights.

    >>> import torch
    >>> layer = ActNorm(1)
    >>> layer.initialize(torch.tensor([[1.0], [3.0]]))
    >>> layer(torch.tensor([[3.0]]))[0]
    tensor([[1.]], grad_fn=<MulBackward0>)
    """

    initialized: Tensor

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.shift = nn.Parameter(torch.zeros(features))
        self.log_scale = nn.Parameter(torch.zeros(features))
        self.register_buffer("initialized", torch.tensor(False))

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        if self.initialized:
            return
        variance, mean = _moments(x.double())
        self.shift.copy_(mean)
        self.log_scale.copy_(-0.5 * variance.clamp_min(1e-12).log())  # a feature that does not vary stays finite
        self.initialized.fill_(True)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        scale, shift = (_per_feature(part, x) for part in (self.log_scale.exp(), self.shift))
        return (x - shift) * scale, _total_log_scale(self.log_scale, x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        scale, shift = (_per_feature(part, z) for part in ((-self.log_scale).exp(), self.shift))
        return z * scale + shift, -_total_log_scale(self.log_scale, z)


class BatchNorm(Bijection):
    r"""RealNVP's batch normalization, without a learned scale (Dinh et al. 2016, section 3.7 and appendix E).

    $$ z = \frac{x - \tilde\mu}{\sqrt{\tilde\sigma^2 + \epsilon}}, \qquad
       \log|\det| = -\tfrac12 \sum_i \log(\tilde\sigma_i^2 + \epsilon) \;(\cdot\; \text{height} \cdot \text{width}) $$

    In training, ``statistics="running"`` (the paper's appendix E) normalizes by the running average with this batch
    already in it, $\tilde\mu \leftarrow (1-\rho)\tilde\mu + \rho\hat\mu$, through which the gradient flows;
    ``"batch"`` normalizes by the batch alone. In evaluation mode, and always in ``inverse``, the running averages are
    used; before the first batch they make the layer the identity. Variances are biased. ``initialize`` sets the
    averages from data, once.

    Args:
        features: number of features (for images: channels).
        momentum: ρ, the weight of the newest batch.
        eps: ε.
        statistics: ``"running"`` or ``"batch"``.

    >>> import torch
    >>> layer = BatchNorm(2)
    >>> layer.eval()(torch.tensor([[3.0, 4.0]]))[0]
    tensor([[3., 4.]])
    """

    mean: Tensor
    variance: Tensor
    initialized: Tensor

    def __init__(self, features: int, *, momentum: float = 0.1, eps: float = 1e-4, statistics: str = "running") -> None:
        super().__init__(features)
        require_choice("statistics", statistics, ("running", "batch"))
        if momentum != 1:  # with 1 the average is the newest batch alone
            require_number("momentum", momentum, above=0, below=1)
        require_number("eps", eps, above=0, below=1)
        self.momentum, self.eps, self.statistics = momentum, eps, statistics
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("variance", torch.full((features,), 1 - eps))  # with ε: exactly 1, the identity
        self.register_buffer("initialized", torch.tensor(False))

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        if self.initialized:
            return
        variance, mean = _moments(x.double())
        self.mean.copy_(mean)
        self.variance.copy_(variance)
        self.initialized.fill_(True)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if not self.training:
            return self._normalize(x, self.mean, self.variance)
        batch_variance, batch_mean = _moments(x)
        mean = torch.lerp(self.mean, batch_mean, self.momentum)
        variance = torch.lerp(self.variance, batch_variance, self.momentum)
        with torch.no_grad():
            self.mean.copy_(mean)
            self.variance.copy_(variance)
        if self.statistics == "batch":
            return self._normalize(x, batch_mean, batch_variance)
        return self._normalize(x, mean, variance)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        deviation = (self.variance + self.eps).sqrt()
        return z * _per_feature(deviation, z) + _per_feature(self.mean, z), _total_log_scale(deviation.log(), z)

    def _normalize(self, x: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        deviation = (variance + self.eps).sqrt()
        return (x - _per_feature(mean, x)) / _per_feature(deviation, x), -_total_log_scale(deviation.log(), x)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Biased variance and mean of each feature (channel)."""
    return torch.var_mean(x, [0, *range(2, x.ndim)], correction=0)


def _per_feature(vector: Tensor, x: Tensor) -> Tensor:
    """One number for each feature (channel), in a shape that broadcasts with x."""
    return vector.reshape(-1, *(1 for _ in x.shape[2:]))


def _total_log_scale(log_scale: Tensor, x: Tensor) -> Tensor:
    """The log-det of one scale for each feature (channel), applied at every place of x."""
    return (x.shape[2:].numel() * log_scale.sum()).expand(x.shape[0])
