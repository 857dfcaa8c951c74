"""Conditioner nets in low precision."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from flowstone.bijections import Conditioned
from flowstone.execution.fused_relu import fused_relu
from flowstone.execution.override import ForwardOverride

__all__ = ["bf16_conditioners", "has_conditioners"]


def bf16_conditioners(density: nn.Module) -> ForwardOverride:
    """A context in which the net of every coupling and autoregressive layer runs in bfloat16.

    The flow's own arithmetic keeps its precision: parameters are widened to it, unless a transform reads them in
    bfloat16. Where activations are recomputed, call ``backward`` inside the context.
    """
    nets = {layer.net for layer in density.modules() if isinstance(layer, Conditioned)}
    layers = {part for net in nets for part in net.modules() if type(part) is nn.Sequential}
    return ForwardOverride({**dict.fromkeys(nets, _in_bf16), **dict.fromkeys(layers, fused_relu)})


def has_conditioners(density: nn.Module, dtype: torch.dtype | None = None) -> bool:
    """Whether a density has couplings or autoregressive layers with nets, of this precision if one is named."""
    nets = (layer.net for layer in density.modules() if isinstance(layer, Conditioned))
    return any(dtype in (None, parameter.dtype) for net in nets for parameter in net.parameters())


def _in_bf16(net: nn.Module, x: Tensor, context: Tensor | None = None) -> Tensor:
    forward: Callable = type(net).forward
    # Convolutions in bfloat16 are up to twice as fast with the channels of a pixel side by side.
    inputs = x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        return forward(net, inputs, context)
