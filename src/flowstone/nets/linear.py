"""Fully connected layers, quick for few inputs, too."""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowstone.kernels import applicable

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

    Under autocast to bfloat16 on CPU, where no gradient is asked for, ReLU is part of the product: after it, it would
    take as long as an eighth of the product, three times what it takes in float32.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not (_in_bf16(input) and self._are_plain()):
            return super().forward(input)
        value = input.bfloat16()
        for layer in list(self)[::2]:
            told = value, layer.weight.bfloat16(), layer.bias.bfloat16()
            value = torch.ops.mkldnn._linear_pointwise(*told, "leaky_relu", [ALMOST_NOTHING], "")
        return value

    def _are_plain(self) -> bool:
        """Linear and ReLU in turn, and nobody looks at what goes in and out of one."""
        kinds = [type(part) for part in self]
        hooked = any(part._forward_hooks or part._forward_pre_hooks for part in self)
        return kinds == [Linear, nn.ReLU] * (len(kinds) // 2) and not hooked


ALMOST_NOTHING = 1.2e-38  # with a slope of 0 oneDNN's ReLU makes 0 of NaN, and nobody would see it


def _in_bf16(x: Tensor) -> bool:
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
