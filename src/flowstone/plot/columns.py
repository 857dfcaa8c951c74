"""Columns of a table beside those of samples, a panel each."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from flowstone.plot.figures import new_figure

__all__ = ["column_figure", "compare_column"]

PANELS, ACROSS = 24, 4  # columns that are shown, panels beside each other
BARS, BINS = 24, 40  # different values up to which each has a bar, the most frequent where there are more levels
LONG = 12  # characters of a level


def column_figure(
    data: Tensor, drawn: Tensor, columns: Sequence[str], levels: Mapping[str, Sequence[str]] | None = None
) -> Figure:
    """A panel for each of the first 24 columns: how often values come in data and in samples.

    Args:
        data, drawn: rows, ``(rows, columns)``; NaN is a gap.
        columns: their names.
        levels: of categorical columns, the names of their values 0, 1, …
    """
    shown = list(columns[:PANELS])
    across = min(ACROSS, len(shown))
    figure, axes = new_figure(
        math.ceil(len(shown) / across), across, (3.2 * across, 2.5 * math.ceil(len(shown) / across))
    )
    for index, name in enumerate(shown):
        compare_column(axes.flat[index], data[:, index], drawn[:, index], name, (levels or {}).get(name))
    for panel in axes.flat[len(shown) :]:
        panel.set_visible(False)
    figure.legend(
        *axes.flat[0].get_legend_handles_labels(), loc="outside upper right", ncols=2, fontsize=8, frameon=False
    )
    return figure


def compare_column(ax: Axes, data: Tensor, drawn: Tensor, name: str, levels: Sequence[str] | None = None) -> Axes:
    """Bars of few different values, otherwise histograms of the middle 99% of the data; gaps are a bar of their own or,
    of histograms, in the title.
    """
    rows = [part.double().cpu().numpy() for part in (data, drawn)]
    gaps = [float(np.isnan(part).mean()) for part in rows]
    values = [part[~np.isnan(part)] for part in rows]
    ax.set_title(f"{name} ({gaps[0]:.0%} gaps)" if gaps[0] else name, fontsize=9)
    ax.tick_params(labelsize=7)
    distinct, counts = np.unique(values[0], return_counts=True)
    if levels is not None or len(distinct) <= BARS:
        return _bars(ax, values, np.sort(distinct[np.argsort(-counts, kind="stable")[:BARS]]), levels)
    low, high = np.quantile(values[0], (0.005, 0.995))
    if low == high:
        low, high = values[0].min(), values[0].max()
    edges = _edges(distinct, low, high)
    for part, label, filled in zip(values, ("data", "samples"), (True, False), strict=True):
        ax.hist(
            part[(part >= low) & (part <= high)], edges.tolist(), density=True, label=label,
            alpha=0.45 if filled else 1, histtype="stepfilled" if filled else "step",
        )  # fmt: skip
    ax.set_yticks([])
    return ax


def _edges(distinct: np.ndarray, low: float, high: float) -> np.ndarray:
    """Ends of the bins: of whole numbers each bin holds as many of them."""
    if (distinct != np.round(distinct)).any():
        return np.linspace(low, high, BINS + 1)
    width = math.ceil((high - low + 1) / BINS)
    return np.arange(math.floor(low), math.ceil(high) + width + 1, width) - 0.5


def _bars(ax: Axes, values: Sequence[np.ndarray], shown: np.ndarray, levels: Sequence[str] | None) -> Axes:
    places = np.arange(len(shown))
    for side, (part, label) in enumerate(zip(values, ("data", "samples"), strict=True)):
        shares = [(part == value).mean() if len(part) else 0.0 for value in shown]
        ax.bar(places + 0.4 * side - 0.2, shares, 0.4, label=label)
    names = [levels[int(v)] if levels is not None and int(v) < len(levels) else f"{v:g}" for v in shown]
    step = max(1, len(shown) // 8) if levels is None else 1
    ax.set_xticks(
        places[::step], [name[:LONG] for name in names[::step]], rotation=0 if levels is None else 60, fontsize=6
    )
    return ax
