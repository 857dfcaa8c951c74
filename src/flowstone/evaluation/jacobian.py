"""Jacobians of bijections by automatic differentiation."""

from collections.abc import Callable

from torch import Tensor
from torch.func import jacrev, vmap

__all__ = ["jacobian"]


def jacobian(function: Callable[..., tuple[Tensor, Tensor]], value: Tensor, context: Tensor | None) -> Tensor:
    """The Jacobian of one direction of a bijection at each row, ``(batch, D, D)``."""

    def one(row: Tensor, given: Tensor | None) -> Tensor:
        return function(row[None], None if given is None else given[None])[0][0].flatten()

    matrices = vmap(jacrev(one), in_dims=(0, None if context is None else 0), randomness="different")(value, context)
    return matrices.flatten(2)
