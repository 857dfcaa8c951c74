"""How the last layer of a conditioner starts."""

import torch
from torch import nn

__all__ = ["OUTPUT_SCALE", "initialize_output", "scale_at_depth"]

OUTPUT_SCALE = 0.5  # times torch's initial weights; with 0.1 RealNVP does not leave the identity on a uniform square


@torch.no_grad()
def initialize_output(layer: nn.Module, scale: float = OUTPUT_SCALE) -> None:
    """Make the weights of a linear layer or convolution small and its bias zero: the flow starts near the identity.

    The weights, or the magnitudes of weight-normalized ones, become ``scale`` times those that torch drew. Zero makes
    the flow exactly the identity, which suits splines and flows of images. Affine and additive couplings must start
    away from it: on symmetric data, such as a uniform square, the gradient of their output weights is zero there.
    """
    name = "parametrizations.weight.original0" if hasattr(layer, "parametrizations") else "weight"
    layer.get_parameter(name).mul_(scale)
    layer.get_parameter("bias").zero_()


def scale_at_depth(layers: int, scale: float = OUTPUT_SCALE) -> float:
    """The scale for a flow of ``layers`` layers: more than eight together start no farther from the identity than 8."""
    return scale * min(1.0, 8 / layers)
