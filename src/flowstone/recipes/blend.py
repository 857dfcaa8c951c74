"""A weighted mixture of densities that recipes make."""

from collections.abc import Mapping, Sequence
from typing import Any

from flowstone.blend import Blend
from flowstone.recipes.registry import build, recipe

__all__ = ["blend"]


@recipe
def blend(
    features: int,
    *,
    context_features: int = 0,
    parts: Sequence[Mapping[str, Any]] = ({"recipe": "gaussian_mixture"}, {"recipe": "spline"}),
    weights: Sequence[float] | None = None,
) -> Blend:
    """A weighted mixture of densities, each made by a recipe (``flowstone.blend.Blend``).

    Args:
        features: the number of columns.
        context_features: width of a context, which each of them is given.
        parts: for each density its ``recipe`` and, unless they are the defaults, its ``arguments``.
        weights: of the densities; None: equal ones.

    >>> import flowstone
    >>> parts = [{"recipe": "nice"}, {"recipe": "gaussian_mixture", "arguments": {"components": 2}}]
    >>> flowstone.recipes.blend(2, parts=parts).sample(3, seed=0).shape
    torch.Size([3, 2])
    """
    shared = {"features": features, "context_features": context_features}
    return Blend([build(part["recipe"], {**part.get("arguments", {}), **shared}) for part in parts], weights)
