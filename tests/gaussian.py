"""A flow that is a multivariate normal, and that normal; a small flow with a context."""

from typing import Any

import torch
from torch import distributions as td

from cases import disturb, set_from_data, vector
from flowstone import Flow, priors
from flowstone import bijections as b
from flowstone.nets import MADE, MLP

__all__ = ["gaussian_flow", "normal_of", "some_distribution"]


def gaussian_flow(*, kind: str = "zca") -> Flow:
    """One of every layer that is affine in all features, couplings and autoregressive ones by nets that are linear."""
    kept, moved = b.Coupling.sizes(4)
    linear = MLP(kept, 2 * moved, hidden=())
    masked = MADE(4, 2, hidden=())
    lu, normalized = b.LULinear(4), b.ActNorm(4)
    learned = [
        lu,
        normalized,
        b.Permutation.random(4),
        b.Coupling(4, b.Affine(moved), linear),
        b.Householder(4),
        b.Coupling(4, b.Affine(2, scale="soft"), MLP(2, 4, hidden=()), swap=True),
        b.Autoregressive(4, b.Affine(4, scale="soft"), masked),
        b.Scaling(4),
    ]
    for layer in learned:
        disturb(layer, 0.5)
    for net in (linear, learned[5].net, masked):
        net.output.weight.data[0::2] = 0  # the log-scale is a constant, the shift is linear
    batch_norm = b.BatchNorm(4)
    batch_norm.initialize(3 * torch.randn(50, 4) + 1)
    first = [set_from_data(b.Whiten(4, kind=kind), 4), set_from_data(b.Standardize(4), 4), batch_norm]
    return Flow(b.Chain(*first, *learned, b.Inverse(b.Scaling(4))), priors.StandardNormal(4)).eval()


def normal_of(flow: Flow) -> td.MultivariateNormal:
    """Basis vectors through the way back: x = mean + M z."""
    with torch.no_grad():
        mean = flow.from_latent(torch.zeros(1, 4))[0][0]
        transposed = flow.from_latent(torch.eye(4))[0] - mean
    upper = torch.linalg.qr(transposed).R  # M Mᵀ = Rᵀ R without its squared condition number
    return td.MultivariateNormal(mean, scale_tril=(upper.diagonal().sign()[:, None] * upper).T)


def some_distribution(batch: tuple[int, ...] | None) -> tuple[Flow, Any, torch.Size]:
    """A flow, its distribution given contexts of shape ``batch`` (of a flow without context: None), its batch shape."""
    flow = Flow(
        b.Chain(vector(3, b.Affine, context=0 if batch is None else 2), b.Permutation.random(3), b.Scaling(3)),
        priors.StandardNormal(3),
        context_features=0 if batch is None else 2,
    )
    disturb(flow)
    if flow.standardize_context is None or batch is None:
        return flow, flow.distribution(), torch.Size()
    flow.standardize_context.initialize(3 * torch.randn(50, 2) + 1)
    return flow, flow.distribution(torch.randn(*batch, 2)), torch.Size(batch)
