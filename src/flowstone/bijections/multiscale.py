"""Layers of image flows: squeezes, checkerboards, and the multi-scale architecture with one flat latent."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from flowstone.bijections.base import Bijection, Chain, Inverse
from flowstone.bijections.constraints import compose_domain, is_real, unknown
from flowstone.errors import SettingError, ShapeError
from flowstone.validation import require_choice, require_instance

__all__ = ["Flatten", "MultiScale", "Squeeze", "checkerboard"]


class Squeeze(Bijection):
    r"""Every 2x2 square of pixels becomes four channels: ``(C, H, W)`` → ``(4C, H/2, W/2)``; log-det 0.

    With ``order="channel"`` the four pixels of a channel stand side by side, row by row. With ``order="checkerboard"``
    the first half of the new channels holds one colour of a checkerboard (the pixels whose row and column are both even
    or both odd), the second half the other: RealNVP's ordered squeeze (Dinh et al. 2016, sections 3.4 and 3.6).

    >>> import torch
    >>> Squeeze(order="checkerboard")(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]))[0].flatten().tolist()
    [1.0, 4.0, 2.0, 3.0]
    """

    event_dims = latent_dims = 3

    def __init__(self, *, order: str = "channel") -> None:
        super().__init__()
        require_choice("order", order, ("channel", "checkerboard"))
        self.order = order

    def extra_repr(self) -> str:
        return f"order={self.order}"

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        channels, height, width = self.latent_shape(x.shape[1:])
        squares = x.reshape(x.shape[0], channels // 4, height, 2, width, 2)
        z = squares.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
        if self.order == "checkerboard":
            z = z.unflatten(1, (-1, 4))  # of each channel the pixels 00, 01, 10, 11
            z = torch.cat((z[:, :, ::3].flatten(1, 2), z[:, :, 1:3].flatten(1, 2)), 1)
        return z, x.new_zeros(x.shape[0])

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        channels, height, width = self.event_shape(z.shape[1:])
        if self.order == "checkerboard":
            (a, d), (b, c) = (half.unflatten(1, (-1, 2)).unbind(2) for half in z.chunk(2, 1))
            z = torch.stack((a, b, c, d), 2).flatten(1, 2)
        squares = z.unflatten(1, (channels, 2, 2)).permute(0, 1, 4, 2, 5, 3)
        return squares.reshape(z.shape[0], channels, height, width), z.new_zeros(z.shape[0])

    def latent_shape(self, event_shape: torch.Size) -> torch.Size:
        if len(event_shape) != 3 or event_shape[1] % 2 or event_shape[2] % 2:
            raise ShapeError(f"cannot squeeze shape {tuple(event_shape)}: it takes images of even height and width")
        channels, height, width = event_shape
        return torch.Size((4 * channels, height // 2, width // 2))

    def event_shape(self, latent_shape: torch.Size) -> torch.Size:
        if len(latent_shape) != 3 or latent_shape[0] % 4:
            raise ShapeError(f"cannot undo a squeeze to shape {tuple(latent_shape)}: its channels come in fours")
        channels, height, width = latent_shape
        return torch.Size((channels // 4, 2 * height, 2 * width))


def checkerboard(bijection: Bijection) -> Chain:
    """``bijection`` on the squeezed image whose first half of channels is one colour of a checkerboard.

    With a ``Coupling`` of 4C channels this is RealNVP's checkerboard coupling, without masks.

    >>> import torch
    >>> from flowstone.bijections import Permutation
    >>> swap = checkerboard(Permutation(torch.tensor([2, 3, 0, 1])))
    >>> swap(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]))[0].flatten().tolist()
    [2.0, 1.0, 4.0, 3.0]
    """
    return Chain(Squeeze(order="checkerboard"), bijection, Inverse(Squeeze(order="checkerboard")))


class Flatten(Bijection):
    """An image as a vector: ``(C, H, W)`` → ``(C * H * W,)``, row by row; log-det 0.

    >>> import torch
    >>> Flatten((1, 2, 2))(torch.zeros(3, 1, 2, 2))[0].shape
    torch.Size([3, 4])
    """

    event_dims, latent_dims = 3, 1

    def __init__(self, event_shape: Sequence[int]) -> None:
        super().__init__(event_shape[0], torch.Size(event_shape).numel())
        self.image = torch.Size(event_shape)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.latent_shape(x.shape[1:])  # raises ShapeError if x has another shape
        return x.flatten(1), x.new_zeros(x.shape[0])

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return z.unflatten(1, self.image), z.new_zeros(z.shape[0])

    def extra_repr(self) -> str:
        return f"{tuple(self.image)}"

    def latent_shape(self, event_shape: torch.Size) -> torch.Size:
        return _flat(self.image, event_shape)

    def event_shape(self, latent_shape: torch.Size) -> torch.Size:
        return self.image


class MultiScale(Bijection):
    r"""Scales one after the other; after each but the last, half of the channels becomes latent (Dinh et al. 2016).

    $$ (z^{(i+1)}, h^{(i+1)}) = f^{(i+1)}(h^{(i)}), \qquad z^{(L)} = f^{(L)}(h^{(L-1)}), \qquad
       z = (z^{(1)}, \dots, z^{(L)}) $$

    The first half of a scale's channels goes on as h, the second half leaves as z. z is flat, ``(batch, D)``, and
    begins with the channels that leave first (the finest), so that priors of vectors fit.

    Args:
        event_shape: ``(channels, height, width)`` of one x.
        scales: a bijection for each scale, which may squeeze.

    Raises:
        SettingError: there is no scale, or one that is not the last ends with an odd number of channels.

    >>> import torch
    >>> MultiScale((1, 4, 4), [Squeeze(), Squeeze()])(torch.zeros(2, 1, 4, 4))[0].shape
    torch.Size([2, 16])
    """

    keeps_autocast = True
    event_dims, latent_dims = 3, 1

    def __init__(self, event_shape: Sequence[int], scales: Sequence[Bijection]) -> None:
        super().__init__(event_shape[0], torch.Size(event_shape).numel())
        if not scales:
            raise SettingError("MultiScale needs at least one scale")
        for scale in scales:
            require_instance("MultiScale takes a bijection for each scale", scale, Bijection)
        self.image = torch.Size(event_shape)
        self.scales = nn.ModuleList(scales)
        self.leaving: list[torch.Size] = []  # the shapes of what leaves after each scale
        shape = self.image
        for index, scale in enumerate(scales):
            channels, height, width = shape = scale.latent_shape(shape)
            if index + 1 < len(scales):
                if channels % 2:
                    raise SettingError(f"scale {index + 1} ends with {channels} channels, which cannot be halved")
                shape = torch.Size((channels // 2, height, width))
            self.leaving.append(shape)

    @property
    def domain(self) -> Constraint:
        return compose_domain((scale.domain, scale.codomain) for scale in self.sublayers())

    @property
    def codomain(self) -> Constraint:
        real = all(is_real(scale.codomain) for scale in self.sublayers())
        return constraints.real if real else unknown()

    def sublayers(self) -> tuple[Bijection, ...]:
        return tuple(cast(Bijection, scale) for scale in self.scales)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.latent_shape(x.shape[1:])  # raises ShapeError if x has another shape
        done, log_det = [], x.new_zeros(x.shape[0])
        for index, scale in enumerate(self.scales):  # by number: torch.export gives another object at each access
            x, scale_log_det = scale(x, context)
            log_det = log_det + scale_log_det
            if index + 1 < len(self.scales):
                x, leaving = x.chunk(2, 1)
                done.append(leaving.flatten(1))
        return torch.cat((*done, x.flatten(1)), 1), log_det

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        parts = z.split([shape.numel() for shape in self.leaving], 1)
        x, log_det = parts[-1].unflatten(1, self.leaving[-1]), z.new_zeros(z.shape[0])
        for index in reversed(range(len(self.scales))):
            if index + 1 < len(self.scales):
                x = torch.cat((x, parts[index].unflatten(1, self.leaving[index])), 1)
            x, scale_log_det = self.sublayers()[index].inverse(x, context)
            log_det = log_det + scale_log_det
        return x, log_det

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        for scale in self.sublayers():
            scale.initialize(x, context)
            x = scale(x, context)[0].chunk(2, 1)[0]

    def latent_shape(self, event_shape: torch.Size) -> torch.Size:
        return _flat(self.image, event_shape)

    def event_shape(self, latent_shape: torch.Size) -> torch.Size:
        return self.image


def _flat(image: torch.Size, event_shape: torch.Size) -> torch.Size:
    if event_shape != image:
        raise ShapeError(f"this flow is for images of shape {tuple(image)}, got {tuple(event_shape)}")
    return torch.Size((image.numel(),))
