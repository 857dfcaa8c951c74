"""Masked conditioners for autoregressive layers."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowstone.errors import SettingError
from flowstone.nets.initialization import OUTPUT_SCALE, initialize_output
from flowstone.nets.mlp import activation_of, concat_inputs
from flowstone.validation import require_sizes

__all__ = ["MADE", "MaskedLinear", "MaskedNet"]


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
        self.strict = strict
        self.register_buffer("mask", self._mask(inputs, outputs), persistent=False)

    def set_degrees(self, inputs: Tensor, outputs: Tensor) -> None:
        """Make the mask for these degrees, on the device of the weights."""
        self.mask = self._mask(inputs, outputs).to(self.weight.device)

    def _mask(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        return outputs[:, None] > inputs if self.strict else outputs[:, None] >= inputs

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight * self.mask, self.bias)


class MaskedNet(nn.Module):
    """A net of masked layers, the last of them ``output``.

    The masks follow from its arguments and are no part of its state. Those of a net that was built on the device
    ``meta`` are made when it gets memory (``to_empty``).
    """

    output: MaskedLinear

    @abstractmethod
    def set_masks(self) -> None:
        """Make the mask of every layer."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "MaskedNet":
        was_meta = self.output.mask.is_meta
        super()._apply(fn, recurse)
        if was_meta:
            self.set_masks()
        return self


class MADE(MaskedNet):
    """A masked multilayer perceptron: the outputs of feature i depend on features before i, and on the context.

    ``(batch, features)`` → ``(batch, features * outputs)``, the outputs of one feature next to each other (Germain et
    al. 2015). Features have degrees 1 … D, hidden units 0 … D - 1, context 0: a unit of degree 0 sees the context
    alone, so that the first feature is conditioned, too. With ``residual`` every hidden layer but the first is added to
    the one before it (ResMADE; Durkan and Nash 2019). The output starts small, so that the flow around it starts near
    the identity; ``output_scale`` says how small, as a factor on torch's initial weights (``initialize_output``).

    Raises:
        SettingError: ``residual`` is set, and the hidden layers differ in width.

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
        hidden = require_sizes("hidden", hidden)
        if residual and len(set(hidden)) > 1:
            raise SettingError(f"hidden={tuple(hidden)}: residual layers are all of one width")
        self.features, self.context_features = features, context_features
        self.outputs, self.hidden = outputs, tuple(hidden)
        self.residual = residual
        *layers, output = self._degrees()
        self.layers = nn.ModuleList(MaskedLinear(*degrees) for degrees in layers)
        self.activation = activation_of(activation)()
        self.dropout = nn.Dropout(0.0)  # off until ``fit`` sets it
        self.output = MaskedLinear(*output, strict=True)
        initialize_output(self.output, output_scale)
        self.description = f"{features} → {features} x {outputs}, hidden={tuple(hidden)}, {activation}"

    def _degrees(self) -> list[tuple[Tensor, Tensor]]:
        """The degrees of the inputs and of the outputs of each layer."""
        own = torch.arange(1, self.features + 1)
        seen = torch.cat((own, torch.zeros(self.context_features, dtype=torch.long)))
        units = [torch.arange(width) * self.features // width for width in self.hidden]  # 0 … D - 1, in equal parts
        return list(pairwise([seen, *units, own.repeat_interleave(self.outputs)]))

    def set_masks(self) -> None:
        for layer, degrees in zip([*self.layers, self.output], self._degrees(), strict=True):
            cast(MaskedLinear, layer).set_degrees(*degrees)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x = concat_inputs(x, context, self.features + self.context_features)
        for index, layer in enumerate(self.layers):
            h = self.dropout(self.activation(layer(x)))
            x = x + h if self.residual and index else h
        return self.output(x)

    def __repr__(self) -> str:
        return f"MADE({self.description}{', residual' if self.residual else ''})"
