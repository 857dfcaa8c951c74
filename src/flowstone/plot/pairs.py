"""Pairs of columns: data and samples, each pair twice, and the marginals."""

import itertools
from collections.abc import Callable, Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from flowstone.plot.columns import ColumnScale
from flowstone.plot.figures import DATA, SAMPLES, new_figure
from flowstone.plot.texts import shortened_all

__all__ = ["most_dependent", "pair_plot"]

PAIRED = 6  # columns in a pair plot: more cannot be read
POINTS, RANKED = 1500, 5000  # rows that are drawn, and whose ranks are compared
LONG = 18  # characters of a name
NARROWEST = 4.6  # inches in which the title and the legend have room beside each other


def pair_plot(
    x: Tensor | None,
    samples: Tensor,
    columns: Sequence[str],
    *,
    levels: Mapping[str, Sequence[str]] | None = None,
    formats: Mapping[str, Callable[[float], str]] | None = None,
    note: str = "",
) -> Figure:
    """Pairs of columns: marginals on the diagonal, data above it, samples below it; without x samples alone.

    Few different values, and levels, are bars on the diagonal, and bands of points beside it.

    Args:
        x, samples: rows, ``(rows, columns)``; NaN is a gap, and a row is missing from the pairs where it has one.
        levels: of categorical columns, the names of their values 0, 1, …
        formats: of columns such as dates, how their numbers are written.
        note: what the title says besides, such as which columns these are.
    """
    count = min(len(columns), PAIRED)
    size = max(NARROWEST, 1.5 * count + 0.5)
    figure, axes = new_figure(count, count, (size, size + 0.3))
    shown = samples if x is None else x
    scales = [
        ColumnScale(shown[:, index], (levels or {}).get(name), (formats or {}).get(name))
        for index, name in enumerate(columns[:count])
    ]
    names = shortened_all(columns[:count], LONG)
    few = min(POINTS, len(samples), len(samples) if x is None else len(x))  # as many of both, so that they compare
    for row, column in itertools.product(range(count), repeat=2):
        ax = axes[row, column]
        rows, color = (x, DATA) if row < column else (samples, SAMPLES)
        if row == column:
            scales[row].draw(ax, None if x is None else x[:, row], samples[:, row])
        elif rows is None:
            ax.set_axis_off()
        else:
            across = scales[column].places(rows[:few, column])
            up = scales[row].places(rows[:few, row], seed=1)
            ax.scatter(across, up, s=3, c=color, alpha=0.5, linewidths=0, rasterized=True)
            ax.set(xlim=scales[column].limits(), ylim=scales[row].limits())
        if row == count - 1:
            note = scales[column].label(ax, "x", most=5)
            ax.set_xlabel(f"{names[column]}{note}", fontsize=8)
        else:
            ax.set_xticks([])
        beside = ""
        if column == 0 and row:
            beside = scales[row].label(ax, "y", most=5)
        else:
            ax.set_yticks([])
        if column == 0:
            ax.set_ylabel(f"{names[row]}{beside}", fontsize=8)
    more = f" (the first {count} of {len(columns)} columns)" if count < len(columns) else ""
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper right", ncols=2, frameon=False, fontsize=9)
    figure.align_labels()
    title = "samples" if x is None else "data above, samples below"
    figure.suptitle(title + more + note, x=0.02, ha="left", fontsize=10)
    return figure


def most_dependent(x: Tensor, count: int = PAIRED) -> list[int]:
    """So many columns of x ``(rows, columns)`` with the strongest rank correlations, in the order of the table; NaN is
    a gap, which counts as the median.
    """
    width = x.shape[1]
    if width <= count:
        return list(range(width))
    values = x[:RANKED].double().cpu()
    filled = values.where(~values.isnan(), values.nanmedian(0).values)
    ranks = torch.stack([_ranks(column) for column in filled.nan_to_num().T])
    strength = torch.corrcoef(ranks).abs().nan_to_num().fill_diagonal_(0)
    chosen = list(divmod(int(strength.argmax()), width))
    while len(chosen) < count:
        beside = strength[chosen].amax(0)
        beside[chosen] = -1
        chosen.append(int(beside.argmax()))
    return sorted(chosen)


def _ranks(column: Tensor) -> Tensor:
    """Ranks in which equal values have the mean of theirs; an order among them would be that of the rows, and so be
    shared by columns that have nothing in common.
    """
    _, place, counts = column.unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - counts / 2)[place]
