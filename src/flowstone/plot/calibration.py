"""Pictures of calibration: where held-out values lie among draws of the density."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flowstone.evaluation.calibration import Calibration
from flowstone.plot.figures import DATA, SAMPLES, new_figure
from flowstone.plot.texts import shortened, shortened_all

__all__ = ["calibration_figure", "coverage_curve", "rank_histogram"]

PANELS, ACROSS = 11, 4  # columns that are shown, panels beside each other
MOST_BINS, LEAST_BINS, ROWS_A_BIN = 20, 5, 15
NAME = 26  # characters of a column's name
WITHIN = 2.576  # deviations within which 99% of a normal distribution lie


def calibration_figure(found: Calibration, columns: Sequence[str]) -> Figure:
    """The coverage of regions of highest density, and a histogram of ranks for each of the first 11 columns."""
    shown = shortened_all(columns[:PANELS], NAME)
    across = min(ACROSS, len(shown) + 1)
    down = math.ceil((len(shown) + 1) / across)
    figure, axes = new_figure(down, across, (max(4.0, 2.4 * across), 2.3 * down))
    coverage_curve(found, axes.flat[0])
    for index, name in enumerate(shown):
        rank_histogram(found.ranks[:, index].numpy(), axes.flat[index + 1], name, pool=found.pool)
    for panel in axes.flat[len(shown) + 1 :]:
        panel.set_visible(False)
    return figure


def coverage_curve(found: Calibration, ax: Axes) -> Axes:
    """The share of held-out rows inside the region of highest density of each probability; grey: 99% of what a right
    density shows by chance.
    """
    levels = found.levels[~found.levels.isnan()].numpy()
    wanted = np.linspace(0, 1, 101)
    ax.set_title("coverage", fontsize=9)
    ax.tick_params(labelsize=7)
    ax.set_xlabel("probability of the region", fontsize=8)
    ax.set_ylabel("held-out rows in it", fontsize=8)
    ax.set(xlim=(0, 1), ylim=(0, 1), xticks=[0, 0.5, 1])
    if len(levels):
        spread = WITHIN * np.sqrt(wanted * (1 - wanted) / found.effective(len(levels)))
        ax.fill_between(wanted, wanted - spread, wanted + spread, color="0.85", linewidth=0)
        ax.plot(wanted, np.searchsorted(np.sort(levels), wanted, side="right") / len(levels), color=SAMPLES)
    ax.plot([0, 1], [0, 1], color="black", linestyle=":", linewidth=1)
    return ax


def rank_histogram(ranks: np.ndarray, ax: Axes, name: str, *, pool: int | None = None) -> Axes:
    """How often each rank comes; grey: 99% of what a right density shows by chance in one bar, also by the chance that
    all ranks share where they are among one pool of so many draws.
    """
    ranks = ranks[~np.isnan(ranks)]
    bins = min(MOST_BINS, max(LEAST_BINS, len(ranks) // ROWS_A_BIN))
    counts, edges = np.histogram(ranks, bins, (0, 1))
    expected = len(ranks) / bins
    shared = 0.0 if pool is None else len(ranks) / pool
    spread = WITHIN * math.sqrt(expected * (1 - 1 / bins) * (1 + shared))
    ax.axhspan(max(0.0, expected - spread), expected + spread, color="0.85", linewidth=0)
    ax.stairs(counts, edges, color=DATA, fill=True, alpha=0.6)
    ax.set_title(shortened(name, NAME), fontsize=9)
    ax.set_xlabel("rank among draws", fontsize=8)
    ax.set(xlim=(0, 1), xticks=[0, 0.5, 1], yticks=[])
    ax.tick_params(labelsize=7)
    return ax
