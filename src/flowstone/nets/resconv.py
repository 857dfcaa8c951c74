"""RealNVP's residual conditioner for images."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from flowstone.nets.conv import with_context
from flowstone.nets.initialization import initialize_output
from flowstone.nets.mlp import activation_of
from flowstone.validation import require_choice, require_integer

__all__ = ["NORMS", "FullResolution", "ResConvNet"]


class _GroupNorm(nn.GroupNorm):
    """``nn.GroupNorm`` in plain arithmetic: torch's kernel does not take half of the channels under ``vmap``."""

    def forward(self, input: Tensor) -> Tensor:
        groups = input.unflatten(1, (self.num_groups, -1)).flatten(2)
        variance, mean = torch.var_mean(groups, -1, correction=0, keepdim=True)
        normed = ((groups - mean) * (variance + self.eps).rsqrt()).reshape(input.shape)
        return torch.addcmul(self.bias[:, None, None], normed, self.weight[:, None, None])


class _InstanceNorm(nn.InstanceNorm2d):
    """``nn.InstanceNorm2d``, also where torch refuses: of images of one pixel, its own mean, and of no images."""

    def forward(self, input: Tensor) -> Tensor:
        if input.shape[0] and input.shape[2:].numel() > 1:
            return super().forward(input)
        return torch.addcmul(self.bias[:, None, None], input - input, self.weight[:, None, None])


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "instance": lambda channels: _InstanceNorm(channels, affine=True),
    "layer": lambda channels: _GroupNorm(1, channels),
    "group": lambda channels: _GroupNorm(8 if channels % 8 == 0 else 1, channels),
    "none": lambda _: nn.Identity(),
}


class ResConvNet(nn.Module):
    r"""Pre-activation residual blocks with a skip from each to the output (Dinh et al. 2016, section 4.1).

    $h_0 = W_0\, \phi([x, -x])$, $h_{k+1} = h_k + W''_k\, \phi(\nu(W'_k\, \phi(\nu(h_k))))$ with 3x3 convolutions W and
    normalization ν. The output is $W\, \phi(\nu(\sum_k S_k h_k))$ with 1x1 convolutions S and W, W zero at the start.
    ``(batch, in_channels, height, width)`` → ``(batch, out_channels, height, width)``; a context as in ``ConvNet``.

    Args:
        hidden, blocks: the number of channels of h, and of blocks.
        norm: ν: ``"batch"`` as in the paper, ``"instance"``, ``"layer"``, ``"group"`` or ``"none"``.
        weight_norm: every convolution's weight as a direction and a magnitude (Salimans and Kingma 2016).
        normed_input: whether x is normalized.

    >>> import torch
    >>> ResConvNet(2, 3, hidden=8, blocks=1)(torch.randn(5, 2, 4, 4)).shape
    torch.Size([5, 3, 4, 4])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        hidden: int = 32,
        blocks: int = 2,
        context_features: int = 0,
        norm: str = "batch",
        weight_norm: bool = True,
        activation: str = "relu",
        normed_input: bool = True,
    ) -> None:
        super().__init__()
        require_integer("hidden", hidden)
        require_integer("blocks", blocks, at_least=0)
        nu = norm_of(norm)
        phi = activation_of(activation, inplace=norm != "none")  # a norm makes a copy first

        def conv(inputs: int, outputs: int, size: int, *, bias: bool = True) -> nn.Module:
            layer = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=bias)
            return parametrizations.weight_norm(layer) if weight_norm else layer

        def block() -> nn.Sequential:
            first, second = conv(hidden, hidden, 3, bias=False), conv(hidden, hidden, 3)
            return nn.Sequential(nu(hidden), phi(), first, nu(hidden), phi(), second)

        self.norm = nu(in_channels) if normed_input else nn.Identity()
        self.phi = phi()
        self.inputs = 2 * in_channels + context_features
        self.input = conv(self.inputs, hidden, 3)
        self.blocks = nn.ModuleList(block() for _ in range(blocks))
        self.skips = nn.ModuleList(conv(hidden, hidden, 1) for _ in range(blocks + 1))
        self.last = nn.Sequential(nu(hidden), phi())
        self.output = conv(hidden, out_channels, 1)
        initialize_output(self.output, 0.0)
        self.description = f"{in_channels} → {out_channels}, hidden={hidden}, blocks={blocks}, norm={norm}"

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x = self.norm(x)
        h = self.input(with_context(self.phi(torch.cat((x, -x), 1)), context, self.inputs))
        skip_sum = self.skips[0](h)
        for block, skip in zip(self.blocks, self.skips[1:], strict=True):
            h = h + block(h)
            skip_sum = skip_sum + skip(h)
        return self.output(self.last(skip_sum))

    def __repr__(self) -> str:
        return f"ResConvNet({self.description})"


class FullResolution(nn.Module):
    """A net on the full image: it gets the pixels of one colour of a checkerboard, and zeros at those of the other.

    ``(batch, 2 * channels, height, width)``, the kept half of ``checkerboard(Coupling(…))``, → the parameters of the
    other half, as RealNVP's masked coupling computes them, at four times the cost of a net on the half itself.

    Args:
        net: ``(batch, channels + 1, 2 * height, 2 * width)`` → ``(batch, channels * each, 2 * height, 2 * width)``; its
            last input channel is the mask.
        channels: number of channels of the image.
        swap: which colour is kept, as in the coupling.
        norm: normalization of the kept pixels, without the zeros.
    """

    def __init__(self, net: nn.Module, channels: int, *, swap: bool = False, norm: str = "batch") -> None:
        super().__init__()
        self.net = net
        self.kept, self.changed = ((1, 2), (0, 3)) if swap else ((0, 3), (1, 2))  # of the pixels 00, 01, 10, 11
        self.norm = norm_of(norm)(2 * channels)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        batch, twice, height, width = x.shape
        board = x.new_zeros(batch, twice // 2 + 1, 2 * height, 2 * width)
        pairs = self.norm(x).unflatten(1, (-1, 2))
        for which, pixel in enumerate(self.kept):
            board[:, :-1, pixel // 2 :: 2, pixel % 2 :: 2] = pairs[:, :, which]
            board[:, -1, pixel // 2 :: 2, pixel % 2 :: 2] = 1.0
        parameters = self.net(board, context).unflatten(1, (twice // 2, -1))  # channel, its parameters
        return torch.stack([parameters[..., pixel // 2 :: 2, pixel % 2 :: 2] for pixel in self.changed], 2).flatten(
            1, 3
        )


def norm_of(name: str) -> Callable[[int], nn.Module]:
    """The normalization of that name: channels → a layer."""
    require_choice("norm", name, NORMS)
    return NORMS[name]
