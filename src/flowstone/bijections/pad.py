"""From images of any size to images of a size that can be halved, by pixels of noise."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from flowstone.bijections.base import Bijection
from flowstone.bijections.noise import normal_like
from flowstone.errors import ShapeError

__all__ = ["Pad"]


class Pad(Bijection):
    r"""Rows below and columns to the right, filled with standard normal noise u: $z = (x, u)$; ``inverse`` crops.

    Like ``Dequantize``, this layer is not a bijection but gives a bound. With $\phi$ the normal density of the noise,

    $$ \log p(x) \ge \mathbb E_{u \sim \phi} \left[ \log p(x, u) - \log \phi(u) \right] $$

    and the log-det of ``forward`` is $-\log \phi(u)$ of the noise it drew, so that the log-probability is that of x
    alone. The bound is exact for a flow that leaves the added pixels as they are. ``inverse`` has log-det 0.

    Args:
        event_shape: ``(channels, height, width)`` of one x.
        size: ``(height, width)`` of one z.

    >>> import torch
    >>> pad = Pad((1, 3, 3), (4, 4))
    >>> z, log_det = pad(torch.zeros(2, 1, 3, 3))
    >>> z.shape, pad.inverse(z)[0].shape
    (torch.Size([2, 1, 4, 4]), torch.Size([2, 1, 3, 3]))
    """

    stochastic = True
    event_dims = latent_dims = 3

    def __init__(self, event_shape: Sequence[int], size: Sequence[int]) -> None:
        super().__init__(event_shape[0])
        channels, height, width = event_shape
        if size[0] < height or size[1] < width:
            raise ShapeError(f"cannot pad images of {height} x {width} to {size[0]} x {size[1]}: that is smaller")
        self.image, self.padded = torch.Size(event_shape), torch.Size((channels, *size))

    def extra_repr(self) -> str:
        return f"{tuple(self.image)} to {tuple(self.padded)}"

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.latent_shape(x.shape[1:])  # raises ShapeError if x has another shape
        z = normal_like(x.new_empty(x.shape[0], *self.padded))
        log_density = -0.5 * (z.square() + math.log(2 * math.pi))
        _, height, width = self.image
        added = log_density.flatten(1).sum(-1) - log_density[:, :, :height, :width].flatten(1).sum(-1)
        z[:, :, :height, :width] = x
        return z, -added

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.event_shape(z.shape[1:])
        _, height, width = self.image
        return z[:, :, :height, :width], z.new_zeros(z.shape[0])

    def latent_shape(self, event_shape: torch.Size) -> torch.Size:
        if event_shape != self.image:
            raise ShapeError(f"this pads images of shape {tuple(self.image)}, got {tuple(event_shape)}")
        return self.padded

    def event_shape(self, latent_shape: torch.Size) -> torch.Size:
        if latent_shape != self.padded:
            raise ShapeError(f"this pads images to shape {tuple(self.padded)}, got {tuple(latent_shape)}")
        return self.image
