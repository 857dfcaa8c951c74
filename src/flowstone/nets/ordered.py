"""A masked conditioner that computes the parameters of each column from the columns before it, in one order."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowstone.nets.initialization import initialize_output
from flowstone.nets.made import MaskedLinear, MaskedNet

__all__ = ["OrderedNet"]


class OrderedNet(MaskedNet):
    r"""A masked residual net over vectors of columns: the parameters of all columns in one pass.

    The vector of column j has degree j = 1 … D, hidden units have degrees 0 … D - 1 in equal parts, and the context
    degree 0; a unit sees units of lower or equal degree, the parameters of column j units of lower degree than j
    (Germain et al. 2015, with the residual blocks of Durkan and Nash 2019).

    Args:
        outputs: the number of parameters of each column.
        vector: width of a column's vector.
        width, blocks: of the residual blocks.
        context_features: width of the context.

    >>> import torch
    >>> net = OrderedNet([2, 3], vector=4, width=8, blocks=1)
    >>> [tuple(parameters.shape) for parameters in net(torch.randn(5, 2, 4))]
    [(5, 2), (5, 3)]
    """

    def __init__(
        self, outputs: Sequence[int], *, vector: int, width: int, blocks: int, context_features: int = 0
    ) -> None:
        super().__init__()
        self.sizes = list(outputs)
        self.vector, self.width, self.context_features = vector, width, context_features
        seen, units, parameters = self._degrees()
        self.input = MaskedLinear(seen, units)
        self.blocks = nn.ModuleList(_block(units) for _ in range(blocks))
        self.dropout = nn.Dropout(0.0)
        self.output = MaskedLinear(units, parameters, strict=True)
        initialize_output(self.output, 0.1)

    def _degrees(self) -> tuple[Tensor, Tensor, Tensor]:
        """The degrees of the inputs, of the hidden units and of the parameters."""
        own = torch.arange(1, len(self.sizes) + 1)
        context = torch.zeros(self.context_features, dtype=torch.long)
        seen = torch.cat((own.repeat_interleave(self.vector), context))
        units = torch.arange(self.width) * len(self.sizes) // self.width
        return seen, units, own.repeat_interleave(torch.tensor(self.sizes), output_size=sum(self.sizes))

    def set_masks(self) -> None:
        seen, units, parameters = self._degrees()
        self.input.set_degrees(seen, units)
        for layer in self.blocks.modules():
            if isinstance(layer, MaskedLinear):
                layer.set_degrees(units, units)
        self.output.set_degrees(units, parameters)

    def forward(self, tokens: Tensor, context: Tensor | None = None) -> list[Tensor]:
        """Parameters of each column from those before it; ``tokens`` are zeros where a value is absent."""
        return list(self.output(self._hidden(tokens, context)).split(self.sizes, 1))

    def column(self, tokens: Tensor, index: int, context: Tensor | None = None) -> Tensor:
        """Parameters of one column alone."""
        rows = slice(sum(self.sizes[:index]), sum(self.sizes[: index + 1]))
        weight = self.output.weight[rows] * self.output.mask[rows]
        return F.linear(self._hidden(tokens, context), weight, self.output.bias[rows])

    def _hidden(self, tokens: Tensor, context: Tensor | None) -> Tensor:
        seen = tokens.flatten(1)
        h = self.input(seen if context is None else torch.cat((seen, context), 1))
        for block in self.blocks:
            h = h + block(h)
        return self.dropout(h.relu())

    @torch.no_grad()
    def set_start(self, parameters: Sequence[Tensor]) -> None:
        """Set the bias of the output, so that each column's parameters start near these."""
        self.output.bias.copy_(torch.cat(list(parameters)))


def _block(units: Tensor) -> nn.Sequential:
    last = MaskedLinear(units, units)
    nn.init.uniform_(last.weight, -1e-2, 1e-2)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.ReLU(), MaskedLinear(units, units), nn.ReLU(inplace=True), nn.Dropout(0.0), last)
