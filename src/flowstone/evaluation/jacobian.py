"""Jacobians of bijections by automatic differentiation."""

from collections.abc import Callable

from torch import Tensor
from torch.func import jacrev, vmap

__all__ = ["jacobian"]


def jacobian(function: Callable[..., tuple[Tensor, Tensor]], value: Tensor, context: Tensor | None) -> Tensor:
    """Of one direction of a bijection at each row, by automatic differentiation: ``(batch, D, D)``."""

    def one(row: Tensor, given: Tensor | None) -> Tensor:
        return function(row[None], None if given is None else given[None])[0][0].flatten()

    found = vmap(jacrev(one), in_dims=(0, None if context is None else 0), randomness="different")(value, context)
    return found.flatten(2)
