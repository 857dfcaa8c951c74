"""The baseline of the speed tables: RealNVP as tutorials write it. Two full-width nets, binary masks, default Adam."""

import math

import torch
from torch import Tensor, nn

__all__ = ["PlainRealNVP"]


def net(features: int, hidden: int, *, tanh: bool) -> nn.Sequential:
    layers = [nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, features)]
    return nn.Sequential(*layers, nn.Tanh()) if tanh else nn.Sequential(*layers)


class PlainRealNVP(nn.Module):
    """z = x·exp(s) + t on the features that a mask lets move; s and t see the masked x at full width."""

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
