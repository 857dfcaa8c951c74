"""The vectors by which a net sees values: one for the option that a value is, plus features of where it lies."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowstone.mixed.column import Column
from flowstone.mixed.encoding import Encoded

__all__ = ["ColumnEmbedding"]


class ColumnEmbedding(nn.Module):
    r"""A vector for each value: $e_j(x) = a_j[\text{option of } x] + B_j \varphi(x)$.

    The options are the column's atoms, its rest, and being missing. The features φ of a column that has a rest are a
    quarter of the logit of its marginal F(x), the inverse hyperbolic sine of the distance from the median, and the
    piecewise-linear encoding of F(x) in K pieces: $\min(1, \max(0, K F - k))$ for k = 0 … K - 1 (Gorishniy, Rubachev,
    Babenko 2022). On a circle the first two are the sine and the cosine of $2 \pi F(x)$.
    """

    def __init__(self, columns: Sequence[Column], width: int, *, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces
        sizes = [column.options + 1 for column in columns]
        self.starts = [sum(sizes[:index]) for index in range(len(sizes))]
        self.sizes = sizes
        self.circles = [column.rest == "circle" for column in columns]
        rests = sum(column.rest is not None for column in columns)
        scale = 1 / math.sqrt(len(columns))
        self.options = nn.Parameter(torch.randn(sum(sizes), width).mul_(scale))
        self.features = nn.Parameter(torch.randn(rests, pieces + 2, width).mul_(scale / math.sqrt(pieces)))

    def forward(self, encoded: Encoded) -> Tensor:
        """``(rows, columns, width)``."""
        columns, rests = encoded.columns, encoded.rests
        first = torch.tensor([self.starts[index] for index in columns], device=encoded.option.device)
        last = torch.tensor([self.sizes[index] - 1 for index in columns], device=encoded.option.device)
        tokens = F.embedding(first + encoded.option.minimum(last - 1).where(~encoded.missing, last), self.options)
        if not rests:
            return tokens
        weights = self.features[encoded.places]
        features = self._features(encoded, [self.circles[columns[at]] for at in rests]).to(weights.dtype)
        features = features * ~encoded.missing[:, rests, None]
        where = torch.tensor(rests, device=tokens.device)
        placed = torch.einsum("brf,rfw->brw", features, weights)  # under autocast in low precision
        return tokens.index_add(1, where, placed.to(tokens.dtype))

    def _features(self, encoded: Encoded, circles: Sequence[bool]) -> Tensor:
        share = encoded.z.sigmoid()
        pieces = (self.pieces * share[..., None] - torch.arange(self.pieces, device=share.device)).clamp(0, 1)
        first, second = encoded.z / 4, encoded.distance.asinh()
        if any(circles):
            is_circle = torch.tensor(circles, device=share.device)
            first = torch.where(is_circle, (2 * math.pi * share).sin(), first)
            second = torch.where(is_circle, (2 * math.pi * share).cos(), second)
        return torch.cat((torch.stack((first, second), -1), pieces), -1)
