"""Linear layers with ReLU as one product in bfloat16."""

from functools import cache

import torch
from torch import Tensor, nn

from flowstone.execution.override import has_hooks

__all__ = ["fused_relu"]

# With a slope of 0 oneDNN's ReLU turns NaN into 0, which would hide it; with a slope so small that products with it
# are subnormal numbers, processors may take ten times as long.
SLOPE = 1e-30


def fused_relu(layers: nn.Sequential, x: Tensor) -> Tensor:
    """``layers(x)``; under autocast to bfloat16 on the CPU, where no gradient is recorded, ReLU is part of the product.

    By itself, after the product, ReLU would take an eighth of its time, three times as much as in float32.
    """
    parts = list(layers)
    if not (_applies(x) and _are_linear_relu(parts)):
        return nn.Sequential.forward(layers, x)
    for layer in parts[::2]:
        inputs = x.bfloat16(), layer.weight.bfloat16(), layer.bias.bfloat16()
        x = torch.ops.mkldnn._linear_pointwise(*inputs, "leaky_relu", [SLOPE], "")
    return x


def _are_linear_relu(parts: list[nn.Module]) -> bool:
    """Whether the layers alternate between Linear (with bias) and ReLU, without hooks or another forward."""
    kinds = [type(part) for part in parts]
    return (
        kinds == [nn.Linear, nn.ReLU] * (len(kinds) // 2)
        and all(layer.bias is not None for layer in parts[::2])
        and not any("forward" in vars(part) or has_hooks(part) for part in parts)
    )


def _applies(x: Tensor) -> bool:
    return (
        not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and x.dtype != torch.float64  # autocast leaves it as it is
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and type(x) is Tensor
        and not torch._C._are_functorch_transforms_active()
        and _is_supported()
    )


@cache
def _is_supported() -> bool:
    """Whether torch (here: its oneDNN, on this processor) has products in bfloat16 with an activation."""
    ops = torch.ops.mkldnn
    known = all(hasattr(ops, name) for name in ("_linear_pointwise", "_is_mkldnn_bf16_supported"))
    return known and torch.backends.mkldnn.is_available() and ops._is_mkldnn_bf16_supported()
