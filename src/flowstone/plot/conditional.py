"""Densities given a context: how they change with it."""

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from flowstone.density import Density
from flowstone.plot.columns import ColumnScale
from flowstone.plot.figures import new_figure
from flowstone.plot.texts import name_axis, number_text, shortened
from flowstone.plot.vectors import density as draw_density
from flowstone.plot.vectors import limits_of, log_prob_at

__all__ = ["conditional_figure"]

GIVEN = (0.1, 0.5, 0.9)  # quantiles of the context for which a density on the plane is drawn
GRID = 140  # points of the plane along each side
ACROSS, UP = 60, 160  # values of the context, and of the column
NEAR, FEWEST = 0.1, 20  # rows that are drawn over a density: the share with the nearest context, and how many at least
POINTS = 1000  # that are drawn at most
BRIGHTEST = 0.998  # quantile of the densities at the top of the colours: a few higher ones would hide the rest
NAME = 30  # characters of a name in a title
OTHERS = "others given at their medians; points: rows near to that"


def conditional_figure(
    density: Density, x: Tensor, context: Tensor, columns: Sequence[str], context_columns: Sequence[str]
) -> Figure:
    """The density of one or two columns as the first column of the context changes; others stay at their medians.

    Of one column: its density at each value of the context, side by side. Of two: a density on the plane for the
    context at its 10%, 50% and 90% quantiles. The points are data whose context is nearest to that of the density;
    where a context of one column runs along the axis, all data.
    """
    draw = _of_one if len(columns) == 1 else _of_two
    return draw(density, x, context.double().cpu(), columns, context_columns)


def _of_one(
    density: Density, x: Tensor, context: Tensor, columns: Sequence[str], context_columns: Sequence[str]
) -> Figure:
    first, values = context[:, 0], x[:, 0].double().cpu()
    up = torch.linspace(*_wider(values, (0.002, 0.998), 0.08), UP, dtype=torch.float64)
    scale = ColumnScale(first)
    if scale.few is None:
        given = torch.linspace(*_wider(first, (0.01, 0.99), 0.0), ACROSS, dtype=torch.float64)
        left, right = given[0].item(), given[-1].item()
    else:  # a place for each value, as between them there are no data
        given = torch.from_numpy(scale.few)
        left, right = 0.0, len(given) - 1.0
    shown = [log_prob_at(density, up[:, None], _context(context, value)).exp() for value in given.tolist()]
    image = torch.stack(shown, 1).cpu()
    highest = max(image.flatten().sort().values[int(BRIGHTEST * image.numel())].item(), 1e-30)
    figure, ((ax,),) = new_figure(1, 1, (5.6, 4.0))
    half = 0.5 * (right - left) / (len(given) - 1) if len(given) > 1 else 0.5
    extent = (left - half, right + half, up[0].item(), up[-1].item())
    drawn = ax.imshow(
        image.numpy(), origin="lower", aspect="auto", extent=extent, vmin=0, vmax=highest, interpolation="nearest"
    )
    rows = torch.arange(len(first)) if context.shape[1] == 1 else _nearest(context[:, 1:], _medians(context)[1:])
    rows = rows[:POINTS]
    ax.scatter(scale.places(first[rows]), values[rows], s=3, color="white", alpha=0.6, linewidths=0)
    ax.set(xlim=extent[:2], ylim=extent[2:])
    if scale.few is not None:
        scale.label(ax, "x", size=9)
    name_axis(ax.xaxis, f"given {context_columns[0]}")
    name_axis(ax.yaxis, columns[0])
    title = f"density of {shortened(columns[0], NAME)} at each {shortened(context_columns[0], NAME)}"
    ax.set_title(f"{title}; points are data" if context.shape[1] == 1 else f"{title}\n{OTHERS}", fontsize=10)
    bar = figure.colorbar(drawn, ax=ax)
    name_axis(bar.ax.yaxis, "density")
    return figure


def _of_two(
    density: Density, x: Tensor, context: Tensor, columns: Sequence[str], context_columns: Sequence[str]
) -> Figure:
    figure, axes = new_figure(1, len(GIVEN), (9.6, 3.6))
    limits, first = limits_of(x), context[:, 0]
    values = [first.quantile(share).item() for share in GIVEN]
    given = [_context(context, value) for value in values]
    peak = max(log_prob_at(density, x[:500], row).exp().quantile(0.98).item() for row in given)
    for ax, value, row in zip(axes[0], values, given, strict=True):
        near = _nearest(context, row).to(x.device)
        draw_density(density, ax, limits=limits, context=row, samples=x[near], peak=peak, grid=GRID)
        name_axis(ax.xaxis, columns[0])
        name_axis(ax.yaxis, columns[1] if ax is axes[0, 0] else "")
        written = number_text(value, (first.max() - first.min()).item())
        ax.set_title(f"given {shortened(context_columns[0], NAME)} = {written}", fontsize=10)
    if context.shape[1] > 1:
        figure.suptitle(OTHERS, fontsize=10)
    return figure


def _context(context: Tensor, value: float) -> Tensor:
    """The medians of a context, but for this value of its first column."""
    row = _medians(context)
    row[0] = value
    return row


def _medians(context: Tensor) -> Tensor:
    return context.median(0).values.clone()


def _wider(values: Tensor, shares: tuple[float, float], margin: float) -> tuple[float, float]:
    low, high = (values.quantile(share).item() for share in shares)
    return low - margin * (high - low), high + margin * (high - low)


def _nearest(context: Tensor, place: Tensor) -> Tensor:
    """The rows whose context is nearest to a place, in deviations of the columns."""
    away = ((context - place) / context.std(0).clamp_min(1e-30)).norm(dim=1)
    return away.argsort()[: max(FEWEST, int(NEAR * len(away)))]
