"""The density of a table of mixed columns."""

from collections.abc import Mapping, Sequence
from typing import Any

from flowstone.mixed import ColumnEmbedding, Encoder, Heads, MixedDensity, columns_of
from flowstone.nets import AnyOrderNet, OrderedNet
from flowstone.recipes.registry import recipe
from flowstone.validation import require_choice, require_integer

__all__ = ["mixed"]

ORDERS = ("any", "given")
WIDTHS = {"any": 128, "given": 192}
VECTOR = 32  # width of a column's vector where the order is fixed


@recipe
def mixed(
    features: int,
    *,
    columns: Sequence[Mapping[str, Any]] | None = None,
    context_features: int = 0,
    order: str = "any",
    width: int | None = None,
    blocks: int = 2,
    bins: int = 16,
    pieces: int = 128,
    encoding_pieces: int = 48,
    scaled: bool = True,
) -> MixedDensity:
    """A density of rows of categories, integers, numbers, angles and gaps, one column after the other.

    Args:
        features: the number of columns.
        columns: what each column is, a record with the fields of ``flowstone.mixed.Column``; None: real numbers.
        context_features: width of a context.
        order: ``any``: any columns may be given any others (``AnyOrderNet``). ``given``: columns follow
            from those before them alone, which trains and scores several times as fast (``OrderedNet``).
        width, blocks: of the net; a width of None is 128 in any order, and 192 in a given one.
        bins: of the splines of the conditional distributions.
        pieces: of the marginal distribution functions, at most.
        encoding_pieces: how many pieces the piecewise-linear encoding has by which the net sees a number.
        scaled: in any order, whether each column scales what it reads of the others (``AnyOrderNet``).

    >>> import torch
    >>> columns = [{"name": "sex", "atoms": [0, 1], "rest": None}, {"name": "height", "rest": "positive"}]
    >>> density = mixed(2, columns=columns, width=16)
    >>> density.log_prob(torch.tensor([[1.0, 0.5], [0.0, float("nan")]])).shape
    torch.Size([2])
    """
    require_choice("order", order, ORDERS)
    width = WIDTHS[order] if width is None else width
    require_integer("blocks", blocks)
    described = columns_of(features, columns)
    heads = Heads(described, Encoder(described, pieces), bins)
    if order == "any":
        embedding = ColumnEmbedding(described, width, pieces=encoding_pieces)
        net = AnyOrderNet(heads.widths(), width=width, blocks=blocks, context_features=context_features, scaled=scaled)
    else:
        embedding = ColumnEmbedding(described, VECTOR, pieces=encoding_pieces)
        net = OrderedNet(heads.widths(), vector=VECTOR, width=width, blocks=blocks, context_features=context_features)
    return MixedDensity(described, net, heads, embedding, context_features=context_features)
