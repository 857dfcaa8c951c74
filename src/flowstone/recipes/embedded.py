"""A conditional density with a net for its context."""

from collections.abc import Mapping, Sequence
from typing import Any

from flowstone.embedded import Embedded
from flowstone.nets import MLP, ResNet
from flowstone.recipes.registry import build, recipe
from flowstone.validation import require_choice

__all__ = ["embedded"]

NETS = {"mlp": MLP, "residual": ResNet}


@recipe
def embedded(
    features: int,
    *,
    context_features: int,
    density: Mapping[str, Any] | None = None,
    width: int = 16,
    net: str = "residual",
    embedding: Sequence[int] = (128, 128),
) -> Embedded:
    """A conditional density of a wide context, which a net makes narrow (``flowstone.embedded.Embedded``).

    Args:
        features: the number of columns.
        context_features: width of the context.
        density: the ``recipe`` of the conditional density and, unless they are the defaults, its ``arguments``; None:
            ``spline``.
        width: how many numbers the net returns.
        net: ``residual``: blocks with dropout, which is off until ``fit`` sets it; ``mlp``: a multilayer perceptron.
        embedding: the width of each block, all the same; or of each layer.

    >>> import torch, flowstone
    >>> density = flowstone.recipes.embedded(2, context_features=100)
    >>> density.sample(3, torch.randn(5, 100), seed=0).shape
    torch.Size([3, 5, 2])
    """
    require_choice("net", net, NETS)
    embed = NETS[net](context_features, width, hidden=embedding, output_scale=1.0)
    name, arguments = ("spline", {}) if density is None else (density["recipe"], density.get("arguments", {}))
    inner = build(name, {**arguments, "features": features, "context_features": width})
    return Embedded(inner, embed, context_features=context_features)
