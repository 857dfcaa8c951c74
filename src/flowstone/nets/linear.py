"""Fully connected layers, quick for few inputs, too."""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowstone.kernels import applicable, watched

__all__ = ["Layers", "Linear", "linear"]

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


class Layers(nn.Sequential):
    """Linear layers, an activation after each.

    Where that is ReLU, and nobody looks on, in one go: calling modules takes as long as a few operations on a batch.
    Under autocast to bfloat16 on CPU, where no gradient is asked for, ReLU is even part of the product: after it, it
    would take as long as an eighth of the product, three times what it takes in float32.
    """

    def forward(self, input: Tensor) -> Tensor:
        parts: list[Any] = list(self._modules.values())
        if not _are_plain(parts):
            return super().forward(input)
        step = _in_bf16 if _products_have_relu(input) else _by_relu
        value = input
        for layer in parts[::2]:
            value = step(value, layer.weight, layer.bias)
        return value


def _are_plain(parts: list[nn.Module]) -> bool:
    """Linear and ReLU in turn, as their classes have them, and nobody looks at what goes in and out of one."""
    kinds = [type(part) for part in parts]
    return kinds == [Linear, nn.ReLU] * (len(kinds) // 2) and not any(
        "forward" in vars(part) or watched(part) for part in parts
    )


def _by_relu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return linear(x, weight, bias).relu_()


def _in_bf16(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    told = x.bfloat16(), weight.bfloat16(), bias.bfloat16()
    return torch.ops.mkldnn._linear_pointwise(*told, "leaky_relu", [ALMOST_NOTHING], "")


# With a slope of 0 oneDNN's ReLU makes 0 of NaN, and nobody would see it; where products with the slope are subnormal
# numbers, processors may take ten times as long.
ALMOST_NOTHING = 1e-30


def _products_have_relu(x: Tensor) -> bool:
    return (
        not torch.is_grad_enabled()
        and x.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and applicable(x)
        and _has_products()
    )


@cache
def _has_products() -> bool:
    """Whether torch (here: its oneDNN, on this processor) has products in bfloat16 with an activation."""
    ops = torch.ops.mkldnn
    known = all(hasattr(ops, name) for name in ("_linear_pointwise", "_is_mkldnn_bf16_supported"))
    return known and torch.backends.mkldnn.is_available() and ops._is_mkldnn_bf16_supported()
