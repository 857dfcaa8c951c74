"""The baselines of the speed tables: RealNVP as tutorials write it, for vectors and for images: binary masks."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowstone.nets import GatedConvNet

__all__ = ["PlainImages", "PlainRealNVP"]


def net(features: int, hidden: int, *, tanh: bool) -> nn.Sequential:
    layers = [nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, features)]
    return nn.Sequential(*layers, nn.Tanh()) if tanh else nn.Sequential(*layers)


class PlainRealNVP(nn.Module):
    """z = x·exp(s) + t on the features where the mask is 0; the nets of s and t get the masked x at full width."""

    masks: Tensor

    def __init__(self, features: int = 2, couplings: int = 6, hidden: int = 128) -> None:
        super().__init__()
        even = torch.arange(features) % 2
        self.register_buffer("masks", torch.stack([(even + i) % 2 for i in range(couplings)]).float())
        self.s = nn.ModuleList(net(features, hidden, tanh=True) for _ in range(couplings))
        self.t = nn.ModuleList(net(features, hidden, tanh=False) for _ in range(couplings))

    def log_prob(self, x: Tensor) -> Tensor:
        total = torch.zeros(len(x))
        for mask, s_net, t_net in zip(self.masks, self.s, self.t, strict=True):
            s, t = s_net(x * mask) * (1 - mask), t_net(x * mask) * (1 - mask)
            x = x * torch.exp(s) + t
            total = total + s.sum(1)
        return (-0.5 * x**2 - 0.5 * math.log(2 * math.pi)).sum(1) + total

    def sample(self, n: int) -> Tensor:
        x = torch.randn(n, self.masks.shape[1])
        for mask, s_net, t_net in reversed(list(zip(self.masks, self.s, self.t, strict=True))):
            s, t = s_net(x * mask) * (1 - mask), t_net(x * mask) * (1 - mask)
            x = (x - t) * torch.exp(-s)
        return x


class PlainImages(nn.Module):
    """Multi-scale RealNVP by masks: every net gets the full masked image and returns s and t for all of it, in float32.

    Each scale has ``couplings`` checkerboard couplings and, after a squeeze, as many channel couplings; half of the
    channels are then latents. The last scale has four checkerboard couplings. The nets are those of the recipe.
    """

    def __init__(
        self, channels: int, *, scales: int = 2, couplings: int = 3, hidden: int = 32, blocks: int = 2
    ) -> None:
        super().__init__()
        self.scales: list[tuple[nn.ModuleList, nn.ModuleList]] = []

        def nets(count: int, width: int) -> nn.ModuleList:
            return nn.ModuleList(GatedConvNet(width, 2 * width, hidden=hidden, blocks=blocks) for _ in range(count))

        for index in range(scales):
            last = index + 1 == scales
            boards, stacks = nets(4 if last else couplings, channels), nets(0 if last else couplings, 4 * channels)
            self.scales.append((boards, stacks))
            self.add_module(f"scale{index}", nn.ModuleList((boards, stacks)))
            channels *= 2

    def log_prob(self, x: Tensor) -> Tensor:
        squeezed = (0.05 + 0.9 * (x + torch.rand_like(x)) / 256).logit()
        slope = F.softplus(squeezed) + F.softplus(-squeezed) + math.log(0.9 / 256)
        x, total = squeezed, slope.sum((1, 2, 3))
        for boards, stacks in self.scales:
            height, width = x.shape[2:]
            board = ((torch.arange(height)[:, None] + torch.arange(width)) % 2).to(x)
            x, total = masked(x, total, boards, board)
            if len(stacks):
                x = F.pixel_unshuffle(x, 2)
                x, total = masked(x, total, stacks, (torch.arange(x.shape[1]) % 2).to(x)[:, None, None])
                x, latent = x.chunk(2, 1)
                total = total + normal(latent)
        return total + normal(x)


def masked(x: Tensor, total: Tensor, nets: nn.ModuleList, mask: Tensor) -> tuple[Tensor, Tensor]:
    for net in nets:
        s, t = net(x * mask).chunk(2, 1)
        s = s.tanh() * (1 - mask)
        x, total = x * s.exp() + t * (1 - mask), total + s.sum((1, 2, 3))
        mask = 1 - mask
    return x, total


def normal(z: Tensor) -> Tensor:
    return (-0.5 * z.square() - 0.5 * math.log(2 * math.pi)).sum((1, 2, 3))
