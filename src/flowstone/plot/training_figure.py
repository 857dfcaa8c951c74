"""One picture of a training: data, samples, density and losses."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from flowstone.density import Density
from flowstone.evaluation.samples import sample_rows
from flowstone.mixed import MixedDensity
from flowstone.plot.columns import ColumnScale, compare_column
from flowstone.plot.figures import SAMPLES, loss_curve, new_figure
from flowstone.plot.images import mosaic
from flowstone.plot.texts import name_axis
from flowstone.plot.vectors import density as draw_density
from flowstone.plot.vectors import density_curve, limits_of, points
from flowstone.train.history import History

__all__ = ["live_figure", "training_figure"]

COLUMNS, IMAGES = 5, 64  # that are shown of a table, and of images
GRID = 120  # points of a density, in each direction


def live_figure(
    density: Density,
    history: History,
    x: Tensor,
    *,
    context: Tensor | None = None,
    columns: Sequence[str] = (),
    levels: Mapping[str, Sequence[str]] | None = None,
    formats: Mapping[str, Callable[[float], str]] | None = None,
    entropy: float | None = None,
    seed: int = 0,
) -> Figure:
    """Data, samples and losses in one picture: for two columns points and the density, for images a sheet of samples,
    for other rows the marginals of the first five columns. Samples that are not finite are left out.

    Arguments are those of ``Live``; samples are drawn with ``seed``, so that two pictures compare.
    """
    columns = list(columns) or [f"x{index + 1}" for index in range(x.shape[1])]
    samples = _samples(density, x, context, seed)
    figure, axes = training_figure(x, samples, columns, levels, formats=formats, context=context, density=density)
    loss_curve(history, axes.flat[-1], entropy=entropy)
    return figure


def training_figure(
    x: Tensor,
    samples: Tensor,
    columns: Sequence[str],
    levels: Mapping[str, Sequence[str]] | None,
    *,
    formats: Mapping[str, Callable[[float], str]] | None = None,
    context: Tensor | None = None,
    density: Density | None = None,
) -> tuple[Figure, np.ndarray]:
    """The picture but for the losses, for which the last of its axes is left."""
    if x.ndim > 2:
        figure, axes = new_figure(1, 2, (10.4, 4.8))
        _sheet(samples[:IMAGES], axes[0, 0])
    elif len(columns) > 2 or isinstance(density, MixedDensity):
        figure, axes = _marginals(x, samples, columns[:COLUMNS], levels or {}, formats or {})
    elif len(columns) == 2:
        figure, axes = _plane(density, x, samples, columns, context)
    else:
        figure, axes = new_figure(1, 2, (9.6, 4.2))
        if density is not None and context is None:
            density_curve(density, axes[0, 0], x, column=columns[0])
        else:
            compare_column(axes[0, 0], x[:, 0], samples[:, 0], columns[0]).legend(frameon=False)
    return figure, axes


def _samples(density: Density, x: Tensor, context: Tensor | None, seed: int) -> Tensor:
    count = IMAGES if len(density.event_shape) == 3 else len(x)
    drawn = sample_rows(density, count, context, seed=seed)
    infinite = drawn.isinf() if isinstance(density, MixedDensity) else ~drawn.isfinite()
    return drawn[~infinite.flatten(1).any(1)]


def _sheet(samples: Tensor, ax: Axes) -> None:
    if len(samples):
        ax.imshow(mosaic(samples), interpolation="nearest")
    ax.set_title("samples")
    ax.set_axis_off()


def _plane(
    density: Density | None, x: Tensor, samples: Tensor, columns: Sequence[str], context: Tensor | None
) -> tuple[Figure, np.ndarray]:
    figure, axes = new_figure(1, 3, (13.2, 4.2))
    limits = limits_of(x)
    points(x, axes[0, 0], title="data", limits=limits)
    if density is not None and context is None:
        draw_density(density, axes[0, 1], limits=limits, samples=samples, grid=GRID)
    else:
        points(samples, axes[0, 1], color=SAMPLES, title="samples, given the contexts of the data", limits=limits)
    for ax in axes[0, :2]:
        name_axis(ax.xaxis, columns[0])
        name_axis(ax.yaxis, columns[1])
    return figure, axes


def _marginals(
    x: Tensor,
    samples: Tensor,
    columns: Sequence[str],
    levels: Mapping[str, Sequence[str]],
    formats: Mapping[str, Callable[[float], str]],
) -> tuple[Figure, np.ndarray]:
    panels = len(columns) + 1
    across = 2 if panels == 4 else min(3, panels)
    down = math.ceil(panels / across)
    figure, axes = new_figure(down, across, (3.7 * across, 2.7 * down))
    for index, name in enumerate(columns):
        scale = ColumnScale(x[:, index], levels.get(name), formats.get(name))
        compare_column(axes.flat[index], x[:, index], samples[:, index], name, scale)
    for ax in axes.flat[len(columns) : -1]:
        ax.set_visible(False)
    handles = axes.flat[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper left", ncols=2, fontsize=8, frameon=False)
    return figure, axes
