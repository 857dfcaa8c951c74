"""Gated residual conditioner for images."""

import torch.nn.functional as F
from torch import Tensor, nn

from flowstone.nets.conv import with_context
from flowstone.nets.initialization import initialize_output
from flowstone.validation import require_integer

__all__ = ["GatedConvNet"]


class GatedConvNet(nn.Module):
    r"""Residual blocks of one 3x3 and one 1x1 convolution that end in a gate, without normalization.

    $h \leftarrow h + u \odot \sigma(v)$ with $(u, v) = W_{1 \times 1}\, \phi(W_{3 \times 3}\, \phi(h))$ and φ = SiLU,
    between a first 3x3 and a last 1x1 convolution, the last one zero at the start (gates: van den Oord et al. 2016).
    ``(batch, in_channels, height, width)`` → ``(batch, out_channels, height, width)``; a context as in ``ConvNet``.

    >>> import torch
    >>> GatedConvNet(2, 3, hidden=8, blocks=1)(torch.randn(5, 2, 4, 4)).shape
    torch.Size([5, 3, 4, 4])
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, hidden: int = 32, blocks: int = 2, context_features: int = 0
    ) -> None:
        super().__init__()
        require_integer("hidden", hidden)
        require_integer("blocks", blocks, at_least=0)
        self.inputs = in_channels + context_features
        self.input = nn.Conv2d(self.inputs, hidden, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.SiLU(),
                nn.Conv2d(hidden, hidden, 3, padding=1),
                nn.SiLU(),
                nn.Conv2d(hidden, 2 * hidden, 1),
                _Gate(),
            )
            for _ in range(blocks)
        )
        self.output = nn.Conv2d(hidden, out_channels, 1)
        initialize_output(self.output, 0.0)
        self.description = f"{in_channels} → {out_channels}, hidden={hidden}, blocks={blocks}"

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        h = self.input(with_context(x, context, self.inputs))
        for block in self.blocks:
            h = h + block(h)
        return self.output(F.silu(h))

    def __repr__(self) -> str:
        return f"GatedConvNet({self.description})"


class _Gate(nn.Module):
    r"""$u \odot \sigma(v)$ of the two halves (u, v) of the channels."""

    def forward(self, x: Tensor) -> Tensor:
        # Copies, because half of the channels is not contiguous where the channels of a pixel lie together, and
        # operations on it are five times as slow.
        u, v = (half.clone() for half in x.chunk(2, 1))
        return u * v.sigmoid()
