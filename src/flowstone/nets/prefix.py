"""A conditioner that computes the parameters of each column from the columns before it, in any order."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flowstone.nets.initialization import initialize_output

__all__ = ["PrefixNet", "ResidualBlocks"]


class ResidualBlocks(nn.Module):
    r"""$h \leftarrow h + W_2 \phi(\text{dropout}(W_1 \phi(h)))$ from block to block, φ = ReLU; then φ once more."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_block(width) for _ in range(blocks))

    def forward(self, h: Tensor) -> Tensor:
        for block in self.blocks:
            h = h + block(h)
        return h.relu()


def _block(width: int) -> nn.Sequential:
    last = nn.Linear(width, width)
    nn.init.uniform_(last.weight, -1e-2, 1e-2)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.ReLU(), nn.Linear(width, width), nn.ReLU(inplace=True), nn.Dropout(0.0), last)


class PrefixNet(nn.Module):
    r"""The parameters of column j from the sum of the vectors of the known columns, and a vector of j itself.

    $$ \theta_j = W_j\, g\left(t_j + C c + \sum_{i \text{ before } j} e_i\right) $$

    with residual blocks g. A sum does not tell in which order its terms came, nor does it miss what is absent: so the
    same weights give the distribution of any column given any others. That of all columns in one order takes a running
    sum.

    Args:
        outputs: the number of parameters of each column.
        width: of the vectors e, and of the blocks.
        blocks: how many blocks.
        context_features: width of the context c.

    >>> import torch
    >>> net = PrefixNet([2, 3], width=8, blocks=1)
    >>> [tuple(parameters.shape) for parameters in net(torch.randn(5, 2, 8), order=[1, 0])]
    [(5, 2), (5, 3)]
    """

    def __init__(self, outputs: Sequence[int], *, width: int, blocks: int, context_features: int = 0) -> None:
        super().__init__()
        self.targets = nn.Parameter(torch.randn(len(outputs), width) / 2)
        self.context = nn.Linear(context_features, width, bias=False) if context_features else None
        self.blocks = ResidualBlocks(width, blocks)
        self.outputs = nn.ModuleList(nn.Linear(width, count) for count in outputs)
        for output in self.outputs:
            initialize_output(output, 0.1)

    def forward(
        self,
        tokens: Tensor,
        context: Tensor | None = None,
        *,
        order: Sequence[int] | None = None,
        known: Tensor | None = None,
    ) -> list[Tensor]:
        """Parameters of each column from those before it, vectors ``(rows, columns, width)``.

        Args:
            tokens: a vector for each value; zeros where it is absent.
            context: ``(rows, context_features)``.
            order: the columns, the first one first; None: as they stand.
            known: ``(rows, columns)``: which columns come before all others, whatever the order.
        """
        order = list(range(tokens.shape[1]) if order is None else order)
        first = torch.zeros_like(tokens[:, :1])
        if known is not None:
            first = (tokens * known[..., None]).sum(1, keepdim=True)
            tokens = tokens * ~known[..., None]
        before = torch.cat((first, tokens[:, order[:-1]]), 1).cumsum(1)
        h = before + self.targets[order]
        if self.context is not None and context is not None:
            h = h + self.context(context)[:, None]
        h = self.blocks(h)
        place = {column: position for position, column in enumerate(order)}
        return [output(h[:, place[column]]) for column, output in enumerate(self.outputs)]

    def column(self, tokens: Tensor, index: int, context: Tensor | None = None) -> Tensor:
        """Parameters of one column from the vectors of all that is known."""
        h = tokens.sum(1) + self.targets[index]
        if self.context is not None and context is not None:
            h = h + self.context(context)
        return self.outputs[index](self.blocks(h))

    @torch.no_grad()
    def set_start(self, parameters: Sequence[Tensor]) -> None:
        """Let each column's parameters begin as these."""
        for output, start in zip(self.outputs, parameters, strict=True):
            output.get_parameter("bias").copy_(start)
