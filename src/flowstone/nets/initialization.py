"""How the last layer of a conditioner starts."""

from torch import nn

__all__ = ["initialize_output"]


def initialize_output(layer: nn.Module) -> None:
    """Set a linear layer or convolution to zero, so that the flow around its net starts as the identity.

    Of a weight that is a direction and a magnitude (weight normalization) it is the magnitude that is zero.
    """
    name = "parametrizations.weight.original0" if hasattr(layer, "parametrizations") else "weight"
    nn.init.zeros_(layer.get_parameter(name))
    nn.init.zeros_(layer.get_parameter("bias"))
