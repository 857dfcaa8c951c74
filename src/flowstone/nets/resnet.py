"""Residual conditioners for vectors."""

from collections.abc import Sequence

from torch import Tensor, nn

from flowstone.errors import SettingError
from flowstone.nets.initialization import OUTPUT_SCALE, initialize_output
from flowstone.nets.mlp import activation_of, concat_inputs
from flowstone.validation import require_sizes

__all__ = ["ResNet"]


class ResNet(nn.Module):
    r"""Pre-activation residual blocks of two layers, as in neural spline flows (Durkan et al. 2019, appendix B.1).

    $h \leftarrow h + W_2\, \text{dropout}(\phi(W_1\, \phi(h)))$ in each block; ``(batch, in_features)`` →
    ``(batch, out_features)``; a context is more input; a net without any input gets a 1. The blocks start near zero and
    the output small, so that the flow around the net starts near the identity. Dropout is off until ``fit`` sets it.

    Args:
        in_features, out_features: widths of input and output.
        hidden: the width of each block, all the same.
        context_features: width of the context.
        activation: φ.
        output_scale: how small the output's weights start, as a factor on torch's initial ones (``initialize_output``).

    Raises:
        SettingError: ``hidden`` is empty, or its widths differ.

    >>> import torch
    >>> ResNet(2, 3, hidden=(16, 16))(torch.randn(5, 2)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        hidden: Sequence[int] = (64, 64),
        context_features: int = 0,
        activation: str = "relu",
        output_scale: float = OUTPUT_SCALE,
    ) -> None:
        super().__init__()
        hidden = require_sizes("hidden", hidden)
        if len(set(hidden)) != 1:
            raise SettingError(
                f"hidden={tuple(hidden)}: residual blocks are all of one width, and there is at least one"
            )
        width = hidden[0]
        self.inputs = in_features + context_features
        self.input = nn.Linear(max(1, self.inputs), width)
        self.blocks = nn.ModuleList(_block(width, activation) for _ in hidden)
        self.output = nn.Linear(width, out_features)
        initialize_output(self.output, output_scale)
        self.description = f"{in_features} → {out_features}, hidden={tuple(hidden)}, {activation}"

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x = self.input(concat_inputs(x, context, self.inputs))
        for block in self.blocks:
            x = x + block(x)
        return self.output(x)

    def __repr__(self) -> str:
        return f"ResNet({self.description})"


def _block(width: int, activation: str) -> nn.Sequential:
    phi = activation_of(activation)
    last = nn.Linear(width, width)
    nn.init.uniform_(last.weight, -1e-3, 1e-3)
    nn.init.zeros_(last.bias)
    first = activation_of(activation, inplace=False)()  # its input is the residual stream
    return nn.Sequential(first, nn.Linear(width, width), phi(), nn.Dropout(0.0), last)
