"""Fully connected layers, quick for few inputs, too."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Linear", "linear"]

FEW = 8


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``x @ weight.T + bias`` of rows x.

    With 2 … 8 inputs the CPU's products for the gradients are up to five times as slow as they need be, unless the
    weights lie the other way round.
    """
    if 1 < weight.shape[1] <= FEW and x.ndim == 2 and x.device.type == "cpu":
        return torch.addmm(bias, x, weight.t().contiguous())
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """``torch.nn.Linear`` by ``linear``.

    >>> import torch
    >>> Linear(3, 5)(torch.zeros(2, 3)).shape
    torch.Size([2, 5])
    """

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)
