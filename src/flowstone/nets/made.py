"""Masked conditioners for autoregressive layers."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowstone.errors import SettingError
from flowstone.nets.initialization import OUTPUT_SCALE, initialize_output
from flowstone.nets.mlp import activation_of, concat_inputs

__all__ = ["MADE", "MaskedLinear"]


class MaskedLinear(nn.Linear):
    """A linear layer in which an output sees the inputs of lower degree (``strict``), or of lower and equal degree.

    >>> import torch
    >>> layer = MaskedLinear(torch.tensor([1, 2]), torch.tensor([1, 2]), strict=True)
    >>> layer.mask.tolist()
    [[False, False], [True, False]]
    """

    mask: Tensor

    def __init__(self, inputs: Tensor, outputs: Tensor, *, strict: bool = False) -> None:
        super().__init__(len(inputs), len(outputs))
        mask = outputs[:, None] > inputs if strict else outputs[:, None] >= inputs
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight * self.mask, self.bias)


class MADE(nn.Module):
    """A masked multilayer perceptron: the outputs of feature i depend on features before i, and on the context.

    ``(batch, features)`` → ``(batch, features * outputs)``, the outputs of one feature next to each other (Germain et
    al. 2015). Features have degrees 1 … D, hidden units 0 … D - 1, context 0: a unit of degree 0 sees the context
    alone, so that the first feature is conditioned, too. With ``residual`` every hidden layer but the first is added to
    the one before it (ResMADE; Durkan and Nash 2019). The output starts small, so that the flow around it starts near
    the identity; ``output_scale`` says how small, as a part of torch's own start (``initialize_output``).

    >>> import torch
    >>> net = MADE(3, 2, hidden=(16, 16))
    >>> _ = torch.nn.init.ones_(net.output.weight)
    >>> x = torch.randn(1, 3)
    >>> bool((net(x) == net(x * torch.tensor([1.0, 1.0, 0.0]))).all())  # no output depends on the last feature
    True
    """

    def __init__(
        self,
        features: int,
        outputs: int,
        *,
        hidden: Sequence[int] = (128, 128),
        context_features: int = 0,
        activation: str = "relu",
        residual: bool = False,
        output_scale: float = OUTPUT_SCALE,
    ) -> None:
        super().__init__()
        if residual and len(set(hidden)) > 1:
            raise SettingError(f"hidden={tuple(hidden)}: residual layers are all of one width")
        own = torch.arange(1, features + 1)
        seen = torch.cat((own, torch.zeros(context_features, dtype=torch.long)))
        units = [torch.arange(width) * features // width for width in hidden]  # degrees 0 … D - 1, in equal parts
        self.residual = residual
        self.layers = nn.ModuleList(MaskedLinear(a, b) for a, b in pairwise([seen, *units]))
        self.activation = activation_of(activation)()
        self.dropout = nn.Dropout(0.0)  # off until ``fit`` sets it
        self.output = MaskedLinear(units[-1] if units else seen, own.repeat_interleave(outputs), strict=True)
        initialize_output(self.output, output_scale)
        self.description = f"{features} → {features} x {outputs}, hidden={tuple(hidden)}, {activation}"

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x = concat_inputs(x, context)
        for index, layer in enumerate(self.layers):
            h = self.dropout(self.activation(layer(x)))
            x = x + h if self.residual and index else h
        return self.output(x)

    def __repr__(self) -> str:
        return f"MADE({self.description}{', residual' if self.residual else ''})"
