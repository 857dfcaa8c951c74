"""A mixture of Gaussians: a prior with several modes, and a good density model by itself."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flowstone.errors import SettingError
from flowstone.priors.base import Prior, without_autocast
from flowstone.priors.em import Mixture, best_mixture
from flowstone.validation import require_integer

__all__ = ["GaussianMixture"]

ROWS = 10_000  # the most rows that expectation-maximization uses


class GaussianMixture(Prior):
    r"""K Gaussians with learned weights, means and full covariances.

    $$ p(z) = \sum_{k=1}^K \pi_k\, \mathcal N(z;\, \mu_k, \Sigma_k), \qquad \Sigma_k^{-1} = A_k^\top A_k,
       \; A_k \text{ lower triangular} $$

    Modes in the data need no bridges between them when the prior has modes of its own (Stimper et al. 2022; Izmailov
    et al. 2020). ``initialize`` (which ``fit`` calls) sets all parameters by expectation-maximization on the latents
    that the flow begins with. How many components the mixture has is chosen on a fifth of them, held out; the rest of
    the K are copies, which training may separate. A flow that begins as the identity thus begins as the best mixture.

    Args:
        event_shape: the number of features of one z.
        components: K, the largest number of different components.

    Raises:
        SettingError: ``event_shape`` is not that of a vector, or there is no component.

    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> mixture = GaussianMixture(1, components=2)
    >>> mixture.initialize(torch.cat((torch.randn(500, 1) - 9, torch.randn(500, 1) + 9)))
    >>> [round(mean) for mean in sorted(mixture.means.flatten().tolist())]
    [-9, 9]
    """

    initialized: Tensor

    def __init__(self, event_shape: int | Sequence[int], *, components: int = 16) -> None:
        super().__init__(event_shape)
        require_integer("components", components)
        if len(self.event_shape) != 1:
            raise SettingError(f"a mixture is of vectors, got event shape {tuple(self.event_shape)}")
        features = self.event_shape.numel()
        self.logits = nn.Parameter(torch.zeros(components))
        self.means = nn.Parameter(torch.randn(components, features))
        self.below = nn.Parameter(torch.zeros(components, features, features))  # the strictly lower part of A
        self.log_diagonal = nn.Parameter(torch.zeros(components, features))
        self.register_buffer("initialized", torch.tensor(False))

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return self.component_log_prob(z).logsumexp(-1)

    @without_autocast
    def component_log_prob(self, z: Tensor) -> Tensor:
        """Log of weight times density of each component, ``(batch, K)``."""
        factor = self._factor()
        count, features = self.means.shape
        infinite = z.isinf()
        # A zero of A times infinity would be NaN.
        white = (z.masked_fill(infinite, 0.0) @ factor.flatten(0, 1).T).unflatten(-1, (count, features))
        white = white - torch.einsum("kij,kj->ki", factor, self.means)
        constant = self.logits.log_softmax(0) + self.log_diagonal.sum(-1) - 0.5 * features * math.log(2 * math.pi)
        log_prob = constant - 0.5 * white.square().sum(-1)
        return torch.where(infinite.any(-1, keepdim=True), log_prob - math.inf, log_prob)

    @without_autocast
    @torch.no_grad()
    def sample(self, n: int, context: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        chosen = torch.multinomial(self.logits.softmax(0), n, replacement=True, generator=generator) if n else None
        z = self._normal(n, generator)
        wide = torch.promote_types(z.dtype, torch.float32)  # torch has no solver in half precision
        for index, (factor, mean) in enumerate(zip(self._factor().to(wide), self.means, strict=True)):
            rows = chosen == index
            z[rows] = mean + torch.linalg.solve_triangular(factor.T, z[rows].to(wide), upper=True, left=False).to(z)
        return z

    def _factor(self) -> Tensor:
        return self.below.tril(-1) + torch.diag_embed(self.log_diagonal.exp())

    @torch.no_grad()
    def initialize(self, z: Tensor, context: Tensor | None = None) -> None:
        if self.initialized:
            return
        generator = torch.Generator().manual_seed(0)
        order = torch.randperm(len(z), generator=generator)[:ROWS].to(z.device)
        z = z[order].double()
        self.set_components(best_mixture(z, len(self.logits), generator))

    @torch.no_grad()
    def set_components(self, mixture: Mixture) -> None:
        """Set each component of ``mixture``, then copies of the heaviest until there are K; ``initialize`` then leaves
        them as they are.
        """
        features, count = self.means.shape[1], len(mixture.weights)
        source = list(range(count))
        shares = mixture.weights.tolist()
        copies = [1] * count
        while len(source) < len(self.logits):
            heaviest = max(range(count), key=lambda index: shares[index] / copies[index])
            copies[heaviest] += 1
            source.append(heaviest)
        weights = mixture.weights[source] / torch.tensor(copies, dtype=torch.double, device=self.means.device)[source]
        eye = torch.eye(features, dtype=torch.double, device=self.means.device).expand(count, -1, -1)
        factor = torch.linalg.solve_triangular(mixture.scale, eye, upper=False)[source]
        self.logits.copy_(weights.log())
        self.means.copy_(mixture.means[source])
        self.below.copy_(factor.tril(-1))
        self.log_diagonal.copy_(factor.diagonal(dim1=-2, dim2=-1).log())
        self.initialized.fill_(True)
