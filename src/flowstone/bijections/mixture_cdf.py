"""The mixture-of-logistics transform of Flow++."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from flowstone.bijections.univariate import Univariate, soft_clamp
from flowstone.validation import require_integer, require_number

__all__ = ["LogisticMixtureCDF"]

BISECTIONS = 60


class LogisticMixtureCDF(Univariate):
    r"""The distribution function of a mixture of logistics, mapped to the real line by a logit (Ho et al. 2019, 3.2).

    $$ z = \operatorname{logit} F(x), \qquad F(x) = \sum_{k=1}^K \pi_k\, \sigma\!\left((x - \mu_k) e^{-s_k}\right),
       \qquad \log \tfrac{dz}{dx} = \log F'(x) - \log F(x) - \log(1 - F(x)) $$

    It can map a multimodal feature to a unimodal one. Parameters per feature: K logits, K means, K log-scales (softly
    kept within ±``limit``). With zeros all components are the standard logistic, and the transform is the identity.
    Each mean is the net's number times a fixed gain of that component, because equal components would stay equal in
    training. The inverse has no closed form: bisection starts from the quantiles of the components, and a last Newton
    step carries the gradient.

    >>> import torch
    >>> transform = LogisticMixtureCDF(components=3)
    >>> z, log_slope = transform(torch.tensor([[0.5, -40.0]]), torch.zeros(1, 2, transform.parameters_per_feature))
    >>> torch.allclose(z, torch.tensor([[0.5, -40.0]])), bool(log_slope.abs().max() < 1e-5)
    (True, True)
    """

    gains: Tensor

    def __init__(self, *, components: int = 4, limit: float = 5.0) -> None:
        super().__init__()
        require_integer("components", components)
        require_number("limit", limit, above=0)
        self.components = components
        self.limit = limit
        self.parameters_per_feature = 3 * components
        self.register_buffer("gains", torch.linspace(0.5, 1.5, components), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "LogisticMixtureCDF":
        """Gains that were built on the device ``meta`` are computed when there is memory for them."""
        was_meta = self.gains.is_meta
        super()._apply(fn, recurse)
        if was_meta:
            torch.linspace(0.5, 1.5, self.components, out=self.gains)
        return self

    def extra_repr(self) -> str:
        return f"components={self.components}, limit={self.limit:g}"

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return self._logit(x, *self._mixture(parameters))

    def inverse(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        mixture = self._mixture(parameters)
        x = self._bisect(z.detach(), *(part.detach() for part in mixture))
        reached, log_slope = self._logit(x, *mixture)
        x = x - (reached - z) * (-log_slope.detach()).exp()
        return x, -self._logit(x, *mixture)[1]

    def saturation(self, x: Tensor, parameters: Tensor) -> float | None:
        """The largest size of a log-scale, as a share of ``limit``."""
        return self._mixture(parameters)[2].abs().max().item() / self.limit

    def _mixture(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log-weights, means and log-scales, each ``(…, K)``."""
        logits, means, log_scales = parameters.unflatten(-1, (3, self.components)).unbind(-2)
        return logits.log_softmax(-1), means * self.gains, soft_clamp(log_scales, self.limit)

    @staticmethod
    def _logit(x: Tensor, log_weights: Tensor, means: Tensor, log_scales: Tensor) -> tuple[Tensor, Tensor]:
        r"""Logit of F and its log-slope, all in logarithms.

        Far out log F' and log(1 - F) are both of the size of x, and their difference is of size 1. It is computed from
        the responsibilities $r_k = \pi_k (1 - \sigma_k) / (1 - F)$ of the components for the smaller of F and 1 - F:
        $F' / (1 - F) = \sum_k r_k\, \sigma_k\, e^{-s_k}$, and likewise with F.
        """
        white = (x[..., None] - means) * (-log_scales).exp()
        below, above = F.logsigmoid(white), F.logsigmoid(-white)
        log_cdf = (log_weights + below).logsumexp(-1)
        log_rest = (log_weights + above).logsumexp(-1)
        in_upper_half = log_rest < log_cdf
        log_larger = torch.where(in_upper_half, log_cdf, log_rest)  # not maximum(), whose gradient errs where F = 1/2
        in_upper_half = in_upper_half[..., None]
        smaller, larger = torch.where(in_upper_half, above, below), torch.where(in_upper_half, below, above)
        responsibilities = (log_weights + smaller).log_softmax(-1)
        log_hazard = (responsibilities + larger - log_scales).logsumexp(-1)
        return log_cdf - log_rest, log_hazard - log_larger

    def _bisect(self, z: Tensor, log_weights: Tensor, means: Tensor, log_scales: Tensor) -> Tensor:
        quantiles = means + log_scales.exp() * z[..., None]
        low, high = quantiles.amin(-1), quantiles.amax(-1)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            too_low = self._logit(middle, log_weights, means, log_scales)[0] < z
            low, high = torch.where(too_low, middle, low), torch.where(too_low, high, middle)
        return (low + high) / 2
