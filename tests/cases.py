"""Every bijection by name, with parameters that are not trivial: the laws run over all of it."""

from collections.abc import Callable

import torch
from torch import nn

from flowstone import bijections as b
from flowstone import recipes
from flowstone.nets import MLP, Parallel


def disturb(module: nn.Module, size: float = 0.6) -> None:
    """Move every parameter away from where it starts: zeros make every law trivially true."""
    for parameter in module.parameters():
        width = parameter.shape[-1] if parameter.ndim > 1 else 1
        parameter.data += size * torch.randn_like(parameter) / max(width, 1) ** 0.5


def coupling(features: int, transform, *, swap: bool = False, context: int = 0, separate: bool = False) -> b.Coupling:
    kept, moved = b.Coupling.sizes(features, swap=swap)
    univariate = transform(moved)
    count = univariate.parameters_per_feature

    def net(outputs: int) -> MLP:
        return MLP(kept, outputs, hidden=(8, 8), context_features=context, activation="tanh")

    nets = Parallel(*(net(moved) for _ in range(count))) if separate else net(moved * count)
    return b.Coupling(features, univariate, nets, swap=swap)


def standardize(features: int) -> b.Standardize:
    layer = b.Standardize(features)
    layer.initialize(torch.randn(50, features) * torch.arange(1, features + 1) + 3)
    return layer


def affine(moved: int) -> b.Affine:
    return b.Affine(moved)


def soft(moved: int) -> b.Affine:
    return b.Affine(moved, bound="soft", limit=1.5)


def additive(_: int) -> b.Additive:
    return b.Additive()


def spline(_: int) -> b.RQSpline:
    return b.RQSpline(bins=5, bound=2.0)


# name -> (constructor, features, context features)
CASES: dict[str, tuple[Callable[[], b.Bijection], int, int]] = {
    "Additive": (lambda: coupling(3, additive), 3, 0),
    "Affine": (lambda: coupling(3, affine), 3, 0),
    "Affine swapped": (lambda: coupling(3, affine, swap=True), 3, 0),
    "Affine soft": (lambda: coupling(4, soft), 4, 0),
    "Affine separate nets": (lambda: coupling(4, affine, separate=True), 4, 0),
    "Affine conditional": (lambda: coupling(3, affine, context=2), 3, 2),
    "Affine one feature": (lambda: coupling(1, affine, context=2), 1, 2),
    "RQSpline": (lambda: coupling(3, spline), 3, 0),
    "RQSpline conditional": (lambda: coupling(2, spline, context=1, swap=True), 2, 1),
    "RQSpline one feature": (lambda: coupling(1, spline), 1, 0),
    "Scaling": (lambda: b.Scaling(3), 3, 0),
    "LeakyReLU": (b.LeakyReLU, 3, 0),
    "Permutation": (lambda: b.Permutation(torch.tensor([2, 0, 3, 1])), 4, 0),
    "Permutation reverse": (lambda: b.Permutation.reverse(3), 3, 0),
    "Permutation random": (lambda: b.Permutation.random(5), 5, 0),
    "Standardize": (lambda: standardize(3), 3, 0),
    "Chain": (lambda: b.Chain(standardize(3), coupling(3, spline), b.LeakyReLU(), coupling(3, affine)), 3, 0),
    "Inverse": (lambda: b.Inverse(coupling(3, spline)), 3, 0),
    "recipe nice": (lambda: recipes.nice(4, hidden=(8,)).bijection, 4, 0),
    "recipe realnvp": (lambda: recipes.realnvp(5, hidden=(8,), leaky_relu=True, context_features=2).bijection, 5, 2),
    "recipe spline": (lambda: recipes.spline(3, hidden=(8,), couplings=3).bijection, 3, 0),
    "recipe spline deep": (lambda: recipes.spline(2, hidden=(8,), couplings=24).bijection, 2, 0),
}


def make(name: str) -> tuple[b.Bijection, int, int]:
    constructor, features, context_features = CASES[name]
    torch.manual_seed(0)
    bijection = constructor()
    # Deep chains of wild layers are ill-conditioned: that would measure float64, not the bijection.
    disturb(bijection, {"recipe spline": 0.3, "recipe spline deep": 0.1}.get(name, 0.6))
    return bijection.eval(), features, context_features
