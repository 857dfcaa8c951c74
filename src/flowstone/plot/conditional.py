"""Densities given a context: how they change with it."""

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from flowstone.density import Density
from flowstone.plot.figures import new_figure
from flowstone.plot.vectors import density as draw_density
from flowstone.plot.vectors import limits_of, log_prob_at

__all__ = ["conditional_figure"]

GIVEN = (0.1, 0.5, 0.9)  # quantiles of the context for which a density on the plane is drawn
GRID = 140  # points of the plane along each side
ACROSS, UP = 60, 160  # values of the context, and of the column
NEAR = 0.1  # share of the rows, those with the nearest context, that are drawn over a density


def conditional_figure(
    density: Density, x: Tensor, context: Tensor, columns: Sequence[str], context_columns: Sequence[str]
) -> Figure:
    """The density of one or two columns as the first column of the context changes; others stay at their medians.

    Of one column: its density at each value of the context, side by side, with the data on it. Of two: a density on
    the plane for the context at its 10%, 50% and 90% quantiles, with the rows whose context is nearest.
    """
    if len(columns) == 1:
        return _of_one(density, x[:, 0].double().cpu(), context, columns[0], context_columns[0])
    figure, axes = new_figure(1, len(GIVEN), (9.6, 3.6))
    limits = limits_of(x)
    first = context[:, 0].double().cpu()
    values = [first.quantile(share).item() for share in GIVEN]
    given = [_context(context, value) for value in values]
    peak = max(log_prob_at(density, x[:500], row).exp().quantile(0.98).item() for row in given)
    for ax, value, row in zip(axes[0], values, given, strict=True):
        near = (first - value).abs().argsort()[: max(20, int(NEAR * len(first)))]
        near = near.to(x.device)
        draw_density(density, ax, limits=limits, context=row, samples=x[near], peak=peak, grid=GRID)
        ax.set(xlabel=columns[0], ylabel=columns[1] if ax is axes[0, 0] else "")
        ax.set_title(f"given {context_columns[0]} = {value:.4g}", fontsize=10)
    return figure


def _of_one(density: Density, x: Tensor, context: Tensor, column: str, given: str) -> Figure:
    first = context[:, 0].double().cpu()
    low, high = (x.quantile(share).item() for share in (0.002, 0.998))
    margin = 0.08 * (high - low)
    up = torch.linspace(low - margin, high + margin, UP, dtype=torch.float64)
    across = torch.linspace(first.quantile(0.01).item(), first.quantile(0.99).item(), ACROSS, dtype=torch.float64)
    columns = [log_prob_at(density, up[:, None], _context(context, value)).exp() for value in across.tolist()]
    figure, ((ax,),) = new_figure(1, 1, (5.6, 4.0))
    values = torch.stack(columns, 1).cpu().numpy()
    mesh = ax.pcolormesh(across.numpy(), up.numpy(), values, cmap="viridis", shading="auto")
    ax.scatter(first[:1000], x[:1000], s=3, color="white", alpha=0.6, linewidths=0)
    ax.set(
        xlim=(across[0].item(), across[-1].item()),
        ylim=(up[0].item(), up[-1].item()),
        xlabel=f"given {given}",
        ylabel=column,
    )
    ax.set_title(f"density of {column} at each {given}; points are data", fontsize=10)
    figure.colorbar(mesh, ax=ax, label="density")
    return figure


def _context(context: Tensor, value: float) -> Tensor:
    """The medians of a context, but for this value of its first column."""
    row = context.median(0).values.clone()
    row[0] = value
    return row
