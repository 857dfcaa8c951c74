"""Columns of a table beside those of samples, a panel each."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from torch import Tensor

from flowstone.data.dataset import FEW
from flowstone.data.times import TimeFormat
from flowstone.plot.figures import DATA, SAMPLES, histogram, new_figure
from flowstone.plot.texts import number_text, scale_note, shortened, shortened_all
from flowstone.plot.times import time_labels, time_ticks

__all__ = ["ColumnScale", "column_figure", "compare_column"]

PANELS, ACROSS = 24, 4  # columns that are shown, panels beside each other
BINS = 40
LONG, TITLE = 12, 26  # characters of a level, and of a name
NAMED = 8  # ticks of few values that have a label
WIDE, NARROW = 36, 24  # characters along an axis in a panel of its own, and among pairs


class ColumnScale:
    """How the values of one column lie along an axis: few different values or levels side by side, others as numbers.

    Args:
        values: of the data, ``(rows,)``, NaN for gaps.
        levels: of a categorical column, the names of its values 0, 1, …
        written: how a number is written, for columns such as dates; with one of ``Dataset.formats`` an axis of dates
            has ticks at round dates.
    """

    def __init__(
        self,
        values: Tensor,
        levels: Sequence[str] | None = None,
        written: Callable[[float], str] | None = None,
    ) -> None:
        present = _present(values)
        distinct, counts = np.unique(present, return_counts=True)
        self.levels, self.written = levels, written
        self.names = None if levels is None else shortened_all(levels, LONG)
        self.few: np.ndarray | None = None  # the values that have a place of their own
        if levels is not None or len(distinct) <= min(FEW, len(present) // 4):
            self.few = np.sort(distinct[np.argsort(-counts, kind="stable")[:FEW]])
        low, high = np.quantile(present, (0.005, 0.995)) if len(present) else (0.0, 1.0)
        if low == high:
            low, high = (present.min(), present.max()) if len(present) else (0.0, 1.0)
        if low == high:
            low, high = low - 0.5, high + 0.5
        self.low, self.high = float(low), float(high)
        self.edges = _edges(distinct, self.low, self.high)

    def places(self, values: Tensor, *, seed: int = 0) -> np.ndarray:
        """Where values lie along the axis, ``(rows,)``, NaN where there is none; where there are few different values,
        a little beside their place, so that points do not hide each other.
        """
        x = values.double().cpu().numpy()
        if self.few is None:
            return x
        if not len(self.few):
            return np.full(len(x), np.nan)
        index = np.searchsorted(self.few, x).clip(max=len(self.few) - 1)
        chance = np.random.default_rng(seed).uniform(-0.3, 0.3, len(x))
        return np.where(self.few[index] == x, index + chance, np.nan)

    def limits(self) -> tuple[float, float]:
        """The ends of the axis."""
        if self.few is not None:
            return -0.7, len(self.few) - 0.3
        margin = 0.05 * (self.high - self.low)
        return self.low - margin, self.high + margin

    def label(self, ax: Axes, which: Literal["x", "y"], *, size: float = 7, most: int = NAMED) -> str:
        """Ticks and their labels on the ``"x"`` or the ``"y"`` axis, whose limits are set already.

        Returns:
            What the ticks leave out, such as `` (×1e6)``, to stand beside the name of the column.
        """
        axis = ax.xaxis if which == "x" else ax.yaxis
        slanted: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if which == "x" else {}
        if isinstance(self.written, TimeFormat):
            places, names = self._times(self.written, WIDE if most == NAMED else NARROW)
            if which == "y":  # its first line is then at the tick
                names = ["\n" * name.count("\n") + name for name in names]
            axis.set_ticks(places, names, fontsize=size)
            return ""
        if self.few is None:
            axis.set_major_locator(MaxNLocator(4 if most == NAMED and not self.written else 3))
            if self.written:
                axis.set_major_formatter(FuncFormatter(lambda value, _: (self.written or str)(value)))
            ax.tick_params(which, labelsize=size, **({"rotation": 30} if self.written and which == "x" else {}))
            return scale_note(axis)
        names = [self._name(value) for value in self.few]
        longest = max(map(len, names), default=0)
        words = self.levels is not None or longest > 3
        crowded = words and len(names) > most  # words are upright then, for the highest bar must have its name
        flat = not crowded and min(most, len(names)) * (longest + 2) <= (WIDE if most == NAMED else NARROW)
        if crowded:
            most, size, slanted = 5 * most // 2, size - 1, {"rotation": 90} if which == "x" else {}
        step = max(1, math.ceil(len(names) / most))
        axis.set_ticks(range(0, len(names), step), names[::step], fontsize=size, **({} if flat else slanted))
        return ""

    def draw(self, ax: Axes, data: Tensor | None, drawn: Tensor) -> Axes:
        """Bars of few values, otherwise histograms: data filled, samples as a line or beside."""
        parts = [(data, "data", DATA), (drawn, "samples", SAMPLES)]
        for side, (values, label, color) in enumerate(parts):
            if values is None:
                continue
            present = _present(values)
            if self.few is not None:
                shares = [(present == value).mean() if len(present) else 0.0 for value in self.few]
                ax.bar(np.arange(len(self.few)) + 0.4 * side - 0.2, shares, 0.4, label=label, color=color)
                continue
            filled = {"histtype": "stepfilled", "alpha": 0.45} if side == 0 else {"histtype": "step", "linewidth": 1.3}
            histogram(ax, present, self.edges.tolist(), label=label, color=color, **filled)
        ax.set_xlim(*self.limits())
        ax.set_yticks([])
        return ax

    def _times(self, written: TimeFormat, wide: int) -> tuple[Sequence[float], list[str]]:
        """Places and labels of a few moments, or spans of time, on an axis for so many characters."""
        if self.few is None:
            return time_ticks(written, *self.limits(), wide)
        step = max(1, math.ceil(len(self.few) / (wide // 8)))
        return range(0, len(self.few), step), time_labels(written, self.few[::step].tolist())

    def _name(self, value: float) -> str:
        if self.names is not None:
            return self.names[int(value)] if int(value) < len(self.names) else "(others)"
        return shortened(self.written(value) if self.written else number_text(value, self.high - self.low), LONG)


def column_figure(
    data: Tensor,
    drawn: Tensor,
    columns: Sequence[str],
    levels: Mapping[str, Sequence[str]] | None = None,
    formats: Mapping[str, Callable[[float], str]] | None = None,
) -> Figure:
    """A panel for each of the first 24 columns: how often values come in data and in samples.

    Args:
        data, drawn: rows, ``(rows, columns)``; NaN is a gap.
        columns: their names.
        levels: of categorical columns, the names of their values 0, 1, …
        formats: of columns such as dates, how their numbers are written.
    """
    shown = list(columns[:PANELS])
    across = min(ACROSS, len(shown))
    down = math.ceil(len(shown) / across)
    figure, axes = new_figure(down, across, (max(4.0, 2.4 * across), 2.1 * down + 0.3))
    titles = shortened_all(shown, TITLE)
    for index, name in enumerate(shown):
        scale = ColumnScale(data[:, index], (levels or {}).get(name), (formats or {}).get(name))
        compare_column(axes.flat[index], data[:, index], drawn[:, index], titles[index], scale)
    for panel in axes.flat[len(shown) :]:
        panel.set_visible(False)
    handles = axes.flat[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper right", ncols=2, fontsize=9, frameon=False)
    return figure


def compare_column(ax: Axes, data: Tensor, drawn: Tensor, name: str, scale: ColumnScale | None = None) -> Axes:
    """One column of data and of samples; gaps are in the title."""
    scale = scale or ColumnScale(data)
    gaps = [part.isnan().double().mean().item() for part in (data, drawn)]
    scale.draw(ax, data, drawn)
    title = f"{shortened(name, TITLE)}{scale.label(ax, 'x')}"
    ax.set_title(f"{title}\ngaps: {gaps[0]:.1%}, samples {gaps[1]:.1%}" if any(gaps) else title, fontsize=9)
    return ax


def _present(values: Tensor) -> np.ndarray:
    x = values.double().cpu().numpy()
    return x[np.isfinite(x)]


def _edges(distinct: np.ndarray, low: float, high: float) -> np.ndarray:
    """Ends of the bins; for values on a grid, each bin holds the same number of grid points."""
    gaps = np.diff(distinct)
    step = gaps.min() if len(gaps) else 0.0
    count = (high - low) / step if step else np.inf
    if count > 20 * BINS or not np.allclose(gaps / step, np.round(gaps / step), atol=1e-3):
        return np.linspace(low, high, BINS + 1)
    width = math.ceil((count + 1) / BINS) * step
    first = distinct[np.searchsorted(distinct, low)]  # on the grid, as quantiles may not be
    return np.arange(first, high + width, width) - step / 2
