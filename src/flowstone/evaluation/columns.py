"""The likelihood of a table of mixed columns, column by column, beside that of independent columns."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from flowstone.errors import SettingError
from flowstone.execution import threads_for
from flowstone.kernels import CHUNK
from flowstone.mixed import MixedDensity
from flowstone.recipes import build

__all__ = ["column_bits", "independent_columns", "require_comparable"]


@torch.no_grad()
def column_bits(density: MixedDensity, x: Tensor) -> dict[str, float]:
    r"""Mean of $-\log_2 p(x_j \mid x_i, i < j)$ of each column over the rows that have a value there; in the table's
    order, without columns that have no value in any row. The sum over columns is the NLL of rows without gaps, in bits.

    Of a continuous column it depends on the unit of the data, and may be negative; of others it is what a value costs
    to write down.
    """
    with threads_for(density, CHUNK):
        terms = density.column_log_prob(x.to(density.device)).double().cpu()
    present = ~x.isnan().cpu()
    bits = (0.0 - terms.where(present, 0.0).sum(0) / present.sum(0)) / math.log(2)
    found = zip(density.columns, bits.tolist(), present.any(0).tolist(), strict=True)
    return {column.name: value for column, value, has_values in found if has_values}


@torch.no_grad()
def independent_columns(density: MixedDensity, rows: Tensor) -> MixedDensity:
    """The density of the same columns that has each column's distribution in these rows, and no dependence.

    Its likelihoods compare with those of ``density``, because both have the same kinds and atoms.

    Raises:
        SettingError: no recipe made the density.
    """
    if density.spec is None:
        raise SettingError("a density without a spec cannot be built again: make it by a recipe")
    made: MixedDensity = build(density.spec["recipe"], density.spec["arguments"])
    made.initialize(rows)  # the biases of its net are then the marginal of each column
    for name, parameter in made.net.named_parameters():
        if name.startswith("output") and name.endswith("weight"):
            parameter.zero_()
    return made.to(density.device).eval()


def require_comparable(one: Mapping[str, object], other: Mapping[str, object]) -> None:
    """Refuse to compare likelihoods of densities whose columns are of different kinds or have different atoms: they are
    densities with respect to different measures.

    Args:
        one, other: the specs of two densities.

    Raises:
        SettingError: the message names the first column that differs.
    """
    heads = [_measures(spec) for spec in (one, other)]
    for name in dict.fromkeys([*heads[0], *heads[1]]):
        if heads[0].get(name) != heads[1].get(name):
            raise SettingError(
                f"column {name!r} is of another kind or has other atoms in the two densities: their likelihoods cannot "
                "be compared"
            )


def _measures(spec: Mapping[str, object]) -> dict[str, object]:
    """What decides the reference measure of each column."""
    arguments = spec["arguments"]
    assert isinstance(arguments, Mapping)
    heads = arguments.get("columns") or [{"name": f"x{i + 1}"} for i in range(int(arguments["features"]))]
    found = {}
    for head in heads:
        is_grid = head.get("rest", "real") == "grid"
        discrete = head.get("rest", "real") is None or is_grid
        found[head["name"]] = (tuple(head.get("atoms", ())), head.get("step") if is_grid else None, discrete)
    return found
