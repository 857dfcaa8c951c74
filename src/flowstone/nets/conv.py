"""Convolutional conditioners for images."""

import torch
from torch import Tensor, nn

from flowstone.errors import ShapeError
from flowstone.nets.initialization import initialize_output
from flowstone.nets.mlp import activation_of, wrong_inputs
from flowstone.validation import require_integer

__all__ = ["ConvNet"]


class ConvNet(nn.Module):
    """Glow's conditioner: a 3x3, a 1x1 and a 3x3 convolution, the last one zero at the start.

    ``(batch, in_channels, height, width)`` → ``(batch, out_channels, height, width)`` (Kingma and Dhariwal 2018,
    appendix B). A context ``(batch, context_features)`` is appended as channels, the same at every pixel. The context
    may also be an image of the same size, or k times as high and wide; each square of k x k pixels then becomes
    channels, which ``context_features`` counts.

    >>> import torch
    >>> ConvNet(2, 3, hidden=16)(torch.randn(5, 2, 4, 4)).shape
    torch.Size([5, 3, 4, 4])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        hidden: int = 64,
        context_features: int = 0,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        require_integer("hidden", hidden)
        phi = activation_of(activation)
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels + context_features, hidden, 3, padding=1),
            phi(),
            nn.Conv2d(hidden, hidden, 1),
            phi(),
        )
        self.output = nn.Conv2d(hidden, out_channels, 3, padding=1)
        initialize_output(self.output, 0.0)
        self.inputs = in_channels + context_features
        self.description = f"{in_channels} → {out_channels}, hidden={hidden}, {activation}"

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.output(self.layers(with_context(x, context, self.inputs)))

    def __repr__(self) -> str:
        return f"ConvNet({self.description})"


def with_context(x: Tensor, context: Tensor | None, channels: int) -> Tensor:
    """Append the context to x as channels: a vector at every pixel, a larger image by squares of pixels.

    Raises:
        ShapeError: x and the context do not make ``channels`` channels together.
    """
    fits = x.ndim == 4 and (context is None or (context.ndim in (2, 4) and context.shape[0] == x.shape[0]))
    joined = torch.cat((x, _at_pixels(x, context)), 1) if fits and context is not None else x
    if not fits or joined.shape[1] != channels:
        raise ShapeError(wrong_inputs(x, context, f"{channels} channel{'s' * (channels != 1)}"))
    return joined


def _at_pixels(x: Tensor, context: Tensor) -> Tensor:
    """The context at every pixel of x."""
    height, width = x.shape[2:]
    if context.ndim == 2:
        return context[:, :, None, None].expand(-1, -1, height, width)
    squares = context.unflatten(3, (width, -1)).unflatten(2, (height, -1))
    return squares.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
