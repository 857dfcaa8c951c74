"""Fully connected conditioners for vectors."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from flowstone.errors import ShapeError
from flowstone.nets.initialization import OUTPUT_SCALE, initialize_output
from flowstone.validation import require_choice, require_sizes

__all__ = ["MLP", "Parallel"]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
}


def activation_of(name: str, *, inplace: bool = True) -> Callable[[], nn.Module]:
    """A function that makes the activation called ``name``.

    ReLU works in place, which saves an array for each layer; ``inplace=False`` keeps inputs that are used elsewhere.
    """
    require_choice("activation", name, ACTIVATIONS)
    return partial(nn.ReLU, inplace=inplace) if name == "relu" else ACTIVATIONS[name]


def concat_inputs(x: Tensor, context: Tensor | None, width: int) -> Tensor:
    """The input of a net for vectors: x and the context, ``width`` columns together; if both are empty, a 1."""
    if x.shape[-1] + (0 if context is None else context.shape[-1]) != width or (
        context is not None and context.shape[:-1] != x.shape[:-1]
    ):
        raise ShapeError(wrong_inputs(x, context, f"{width} column{'s' * (width != 1)}"))
    if context is not None:
        x = torch.cat((x, context), -1)
    return x if width else x.new_ones(x.shape[0], 1)


def wrong_inputs(x: Tensor, context: Tensor | None, wanted: str) -> str:
    """The message of the error that a net raises for inputs it was not built for."""
    given = "no context" if context is None else f"a context of shape {tuple(context.shape)}"
    return f"the net takes {wanted} of input and context together, got input of shape {tuple(x.shape)} and {given}"


class MLP(nn.Module):
    """A multilayer perceptron whose output starts small, so that the flow around it starts near the identity.

    ``(batch, in_features)`` → ``(batch, out_features)``; a context ``(batch, context_features)`` is more input.
    A net without any input gets a 1 and learns a constant. ``output_scale`` says how small the output's weights start,
    as a factor on torch's initial weights (``initialize_output``).

    >>> import torch
    >>> MLP(2, 3, hidden=(16, 16), output_scale=0.0)(torch.randn(5, 2)).abs().max().item()
    0.0
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        hidden: Sequence[int] = (128, 128),
        context_features: int = 0,
        activation: str = "relu",
        output_scale: float = OUTPUT_SCALE,
    ) -> None:
        super().__init__()
        hidden = require_sizes("hidden", hidden)
        phi = activation_of(activation)
        sizes = [max(1, in_features + context_features), *hidden]
        layers: list[nn.Module] = []
        for wide, narrow in pairwise(sizes):
            layers += [nn.Linear(wide, narrow), phi()]
        self.layers = nn.Sequential(*layers)
        self.output = nn.Linear(sizes[-1], out_features)
        initialize_output(self.output, output_scale)
        self.inputs = in_features + context_features
        self.description = f"{in_features} → {out_features}, hidden={tuple(hidden)}, {activation}"

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.output(self.layers(concat_inputs(x, context, self.inputs)))

    def __repr__(self) -> str:
        return f"MLP({self.description})"


class Parallel(nn.Module):
    """n nets of ``features`` outputs on one input, with interleaved outputs: ``(batch, features * n, …)``.

    With two nets this is RealNVP with separate s and t.
    """

    def __init__(self, *nets: nn.Module) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return torch.stack([net(x, context) for net in self.nets], 2).flatten(1, 2)
