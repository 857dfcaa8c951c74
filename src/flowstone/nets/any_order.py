"""A conditioner that computes the parameters of each column from the columns before it, in any order."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flowstone.nets.initialization import initialize_output

__all__ = ["AnyOrderNet", "ResidualBlocks", "RowDropout"]


class ResidualBlocks(nn.Module):
    r"""$h \leftarrow h + W_2\, \text{dropout}(\phi(W_1 \phi(h)))$ in each block, φ = ReLU; at the end φ and dropout."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_block(width) for _ in range(blocks))
        self.dropout = RowDropout(0.0)

    def forward(self, h: Tensor) -> Tensor:
        for block in self.blocks:
            h = h + block(h)
        return self.dropout(h.relu())


class RowDropout(nn.Dropout):
    """Dropout of ``(rows, …, width)`` that drops the same units of a row at all positions (Gal and Ghahramani 2016).

    One number is drawn for each row and unit; to draw one for each position, too, would take as long as a layer.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return input
        return input * (input.new_empty(self.mask_shape(input)).bernoulli_(1 - self.p) / (1 - self.p))

    @staticmethod
    def mask_shape(input: Tensor) -> tuple[int, ...]:
        """The shape of what is drawn: 1 in place of the positions."""
        return input.shape[0], *(1 for _ in input.shape[1:-1]), input.shape[-1]


def _block(width: int) -> nn.Sequential:
    last = nn.Linear(width, width)
    nn.init.uniform_(last.weight, -1e-2, 1e-2)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.ReLU(), nn.Linear(width, width), nn.ReLU(inplace=True), RowDropout(0.0), last)


class AnyOrderNet(nn.Module):
    r"""The parameters of column j from the sum of the vectors of the columns before it, and a vector of j itself.

    $$ \theta_j = W_j\, g\left(t_j + C c + s_j \odot \sum_{i \text{ before } j} e_i\right) $$

    with residual blocks g. A sum does not depend on the order of its terms, and absent columns add nothing to it, so
    the same weights give the distribution of any column given any others (a function of sets; Zaheer et al. 2017). The
    scales s, 1 at the start, choose what of the sum a column reads (feature-wise modulation; Perez et al. 2018).

    Args:
        outputs: the number of parameters of each column.
        width: of the vectors e, and of the blocks.
        blocks: how many blocks.
        context_features: width of the context c.
        scaled: False: without the scales s.

    >>> import torch
    >>> net = AnyOrderNet([2, 3], width=8, blocks=1)
    >>> before = torch.tensor([[False, True], [False, False]])  # the second column, then the first
    >>> [tuple(parameters.shape) for parameters in net(torch.randn(5, 2, 8), before)]
    [(5, 2), (5, 3)]
    """

    def __init__(
        self, outputs: Sequence[int], *, width: int, blocks: int, context_features: int = 0, scaled: bool = True
    ) -> None:
        super().__init__()
        self.targets = nn.Parameter(torch.randn(len(outputs), width).mul_(0.5))
        self.scales = nn.Parameter(torch.ones(len(outputs), width)) if scaled else None
        self.context = nn.Linear(context_features, width, bias=False) if context_features else None
        self.blocks = ResidualBlocks(width, blocks)
        self.outputs = nn.ModuleList(nn.Linear(width, count) for count in outputs)
        for output in self.outputs:
            initialize_output(output, 0.1)

    def forward(
        self,
        tokens: Tensor,
        before: Tensor,
        context: Tensor | None = None,
        *,
        columns: Sequence[int] | None = None,
    ) -> list[Tensor]:
        """The parameters of each column, or of ``columns`` alone.

        Args:
            tokens: a vector for each value, ``(rows, columns, width)``; zeros where it is absent.
            before: ``(columns, columns)`` or ``(rows, columns, columns)``: entry [i, j] is whether j comes before i.
            context: ``(rows, context_features)``.
            columns: the indices of the columns whose parameters are wanted; None: all.
        """
        columns = list(range(len(self.outputs)) if columns is None else columns)
        chosen = before[..., columns, :].to(tokens.dtype)
        h = self.blocks(self._scaled(chosen @ tokens, columns) + self._targets(self.targets[columns], context))
        return [self.outputs[column](h[:, place]) for place, column in enumerate(columns)]

    def column(self, tokens: Tensor, index: int, context: Tensor | None = None) -> Tensor:
        """Parameters of one column from the vectors of all that is known."""
        known = self._scaled(tokens.sum(1), index)
        h = self.blocks(known + self._targets(self.targets[index, None], context)[:, 0])
        return self.outputs[index](h)

    def _scaled(self, known: Tensor, columns: int | list[int]) -> Tensor:
        return known if self.scales is None else known * self.scales[columns]

    def _targets(self, targets: Tensor, context: Tensor | None) -> Tensor:
        if self.context is None or context is None:
            return targets[None]
        return targets + self.context(context)[:, None]

    @torch.no_grad()
    def set_start(self, parameters: Sequence[Tensor]) -> None:
        """Set the biases of the outputs, so that each column's parameters start near these."""
        for output, start in zip(self.outputs, parameters, strict=True):
            output.get_parameter("bias").copy_(start)
