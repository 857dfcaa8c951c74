"""Bijections that are linear in all features at once."""

import torch
from torch import Tensor

from flowstone.bijections.base import Bijection
from flowstone.errors import SettingError

__all__ = ["Permutation"]


class Permutation(Bijection):
    r"""$z_i = x_{\text{order}_i}$; log-det 0. ``order`` is a buffer, so a random one is saved with the weights.

    >>> import torch
    >>> Permutation(torch.tensor([1, 2, 0]))(torch.tensor([[10.0, 20.0, 30.0]]))[0]
    tensor([[20., 30., 10.]])
    """

    order: Tensor
    undo: Tensor

    def __init__(self, order: Tensor) -> None:
        super().__init__()
        if not torch.equal(order.sort().values, torch.arange(order.numel())):
            raise SettingError(f"order={order.tolist()} is not a permutation of 0 … {order.numel() - 1}")
        self.register_buffer("order", order)
        self.register_buffer("undo", order.argsort())

    @classmethod
    def reverse(cls, features: int) -> "Permutation":
        """Last feature first."""
        return cls(torch.arange(features - 1, -1, -1))

    @classmethod
    def random(cls, features: int, generator: torch.Generator | None = None) -> "Permutation":
        """A uniformly random order, drawn once."""
        return cls(torch.randperm(features, generator=generator))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x.index_select(-1, self.order), x.new_zeros(x.shape[0])

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return z.index_select(-1, self.undo), z.new_zeros(z.shape[0])
