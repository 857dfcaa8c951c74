"""Expectation-maximization for mixtures of Gaussians (Dempster et al. 1977), in torch: the prior's start."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Mixture", "best_mixture"]

HELD_OUT = 5  # one row in so many is held out to choose the number of components
RIDGE = 1e-4  # variance added to every component, for latents of variance near 1
TOLERANCE = 1e-3  # gain in nats a row below which a round is the last
ROUNDS = 60


@dataclass(frozen=True)
class Mixture:
    """Weights ``(K,)``, means ``(K, D)`` and Cholesky factors of the covariances ``(K, D, D)``."""

    weights: Tensor
    means: Tensor
    scale: Tensor

    def log_prob(self, z: Tensor) -> Tensor:
        """Log of weight times density of each component, ``(n, K)``."""
        away = (z[None] - self.means[:, None]).mT  # (K, D, n)
        white = torch.linalg.solve_triangular(self.scale, away, upper=False)
        volume = self.scale.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = self.weights.log() - volume - 0.5 * z.shape[-1] * math.log(2 * math.pi)
        return (constant[:, None] - 0.5 * white.square().sum(1)).T


def best_mixture(z: Tensor, most: int, generator: torch.Generator) -> Mixture:
    """The mixture of 1, 2, 4, … up to ``most`` components that is likeliest on rows held out."""
    held_out, rows = z[::HELD_OUT], z[torch.arange(len(z), device=z.device) % HELD_OUT > 0]
    best, best_likelihood = None, -math.inf
    count = 1
    while count <= min(most, len(rows) // 2):
        mixture = fit_mixture(rows, count, generator)
        likelihood = mixture.log_prob(held_out).logsumexp(-1).mean().item()
        if likelihood > best_likelihood:
            best, best_likelihood = mixture, likelihood
        elif likelihood < best_likelihood - 1:
            break  # more components would only overfit
        count = count * 2
    return improve(z, best) if best else moments(z, z.new_ones(len(z), 1))


def fit_mixture(z: Tensor, count: int, generator: torch.Generator) -> Mixture:
    """EM from centres that are spread out by k-means++ (Arthur and Vassilvitskii 2007) and some rounds of k-means."""
    centres = spread_out(z, count, generator)
    nearest = torch.cdist(z, centres).argmin(-1)
    for _ in range(10):
        share = torch.nn.functional.one_hot(nearest, count).to(z)
        centres = share.T @ z / share.sum(0).clamp_min(1)[:, None]
        nearest = torch.cdist(z, centres).argmin(-1)
    share = torch.nn.functional.one_hot(nearest, count).to(z)
    return improve(z, moments(z, share))


def improve(z: Tensor, mixture: Mixture) -> Mixture:
    """EM until a round gains less than ``TOLERANCE``."""
    before = -math.inf
    for _ in range(ROUNDS):
        joint = mixture.log_prob(z)
        total = joint.logsumexp(-1, keepdim=True)
        likelihood = total.mean().item()
        if likelihood - before < TOLERANCE:
            break
        before = likelihood
        mixture = moments(z, (joint - total).exp())
    return mixture


def moments(z: Tensor, share: Tensor) -> Mixture:
    """The M step: weights, means and covariances given the responsibilities ``share``, ``(n, K)``."""
    features = z.shape[-1]
    mass = share.sum(0) + 1e-9
    means = share.T @ z / mass[:, None]
    eye = torch.eye(features, dtype=z.dtype, device=z.device)
    scale = []
    for weight, mean in zip(share.T, means, strict=True):
        away = (z - mean) * weight.sqrt()[:, None]
        # The ridge makes covariances regular also of components with fewer than D + 1 rows.
        scale.append(away.T @ away / weight.sum().clamp_min(1e-9) + RIDGE * eye)
    return Mixture(mass / mass.sum(), means, torch.linalg.cholesky(torch.stack(scale)))


def spread_out(z: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Rows far from each other: each next one is drawn in proportion to its squared distance from those chosen."""
    chosen = [z[int(torch.randint(len(z), (), generator=generator))]]
    distance = (z - chosen[0]).square().sum(-1)
    for _ in range(count - 1):
        index = int(torch.multinomial(distance.cpu() + 1e-12, 1, generator=generator))
        chosen.append(z[index])
        distance = torch.minimum(distance, (z - chosen[-1]).square().sum(-1))
    return torch.stack(chosen)
