"""Pictures of vectors: densities, points, what every layer does, pairs of columns."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from flowstone.bijections import DataLayer, LogTails, Partial, Permutation, State
from flowstone.density import Density
from flowstone.evaluation.metrics import log_prob
from flowstone.flow import Flow
from flowstone.plot.directions import direction_colors
from flowstone.plot.figures import DATA, SAMPLES, histogram, new_figure
from flowstone.plot.pairs import pair_plot
from flowstone.plot.texts import name_axis

__all__ = [
    "data_latent_samples",
    "density",
    "density_curve",
    "layers",
    "limits_of",
    "log_prob_at",
    "points",
    "sample_figure",
]

Limits = tuple[tuple[float, float], tuple[float, float]]
SHOWN = 4000  # points in a scatter: more only make it black
ACROSS = 5  # panels of layers beside each other


def points(
    x: Tensor,
    ax: Axes,
    *,
    color: str | np.ndarray = DATA,
    title: str = "",
    limits: Limits | None = None,
    equal: bool = True,
) -> Axes:
    """A scatter of the first points of ``x (n, 2)``; ``color`` is one colour, or one for each point."""
    rows = x[:SHOWN].cpu().numpy()  # matplotlib reads a tensor number by number
    shade = color if isinstance(color, str) else color[:SHOWN]
    ax.scatter(rows[:, 0], rows[:, 1], s=3, c=shade, alpha=0.6, linewidths=0, rasterized=True)
    ax.set_title(title)
    if limits is not None:
        ax.set(xlim=limits[0], ylim=limits[1])
    if equal and (limits is None or _aspect(limits) == "equal"):
        ax.set_aspect("equal", adjustable="box" if limits is not None else "datalim")
    return ax


def density(
    log_density: Density | Callable[[Tensor], Tensor],
    ax: Axes,
    *,
    limits: Limits,
    context: Tensor | None = None,
    samples: Tensor | None = None,
    peak: float | None = None,
    grid: int = 250,
) -> Axes:
    """A density on the plane as a filled contour, with some samples on it.

    Args:
        log_density: a density on the plane, or any function ``(n, 2) -> (n,)`` in nats.
        context: of a conditional density, the row ``(context_features,)`` at which it is drawn.
        peak: the density at the top of the colours, so that panels compare; the colour bar is left out then.
    """
    (left, right), (bottom, top) = limits
    across, up = (torch.linspace(*ends, grid, dtype=torch.float64) for ends in limits)
    where = torch.stack(torch.meshgrid(across, up, indexing="xy"), -1).reshape(-1, 2)
    if isinstance(log_density, Density):
        values = log_prob_at(log_density, where, context)
    else:
        values = log_density(where.to(torch.get_default_dtype()))
    values = values.exp().reshape(grid, grid)
    # Very high values at edges would hide the rest: the levels end at a quantile.
    highest = peak or max(values.flatten().sort().values[int(0.998 * values.numel())].item(), 1e-30)
    levels = np.linspace(0, highest, 25)  # in float64: a density in large units is a very small number
    filled = ax.contourf(across, up, values.clamp_max(highest), levels=levels, cmap="viridis")
    if peak is None:
        bar = ax.figure.colorbar(filled, ax=ax, fraction=0.046, pad=0.04, ticks=MaxNLocator(6))
        name_axis(bar.ax.yaxis, "density")
    if samples is not None:
        ax.scatter(*samples[:400].cpu().T, s=2, color="white", alpha=0.7, linewidths=0)
    ax.set(xlim=(left, right), ylim=(bottom, top), aspect=_aspect(limits))
    ax.set_title("density" if samples is None else "density and samples")
    return ax


def log_prob_at(density: Density, places: Tensor, context: Tensor | None = None) -> Tensor:
    """The log-density at places of a picture, ``(n, columns)``, given one row of context.

    The places are in float64: in single precision those of seconds since 1970 would be one and the same.
    """
    given = None if context is None else context.expand(len(places), -1)
    return log_prob(density, places.to(density.data_dtype), given)


def density_curve(density: Density, ax: Axes, x: Tensor, *, column: str = "x1") -> Axes:
    """A density of one feature as a curve, over a histogram of the data."""
    low, high = _range(x[:, 0], margin=0.15)
    grid = torch.linspace(low, high, 600, dtype=torch.float64)[:, None]
    bins = torch.linspace(low, high, 61, dtype=torch.float64).tolist()
    histogram(ax, x[:, 0].cpu().numpy(), bins, color=DATA, alpha=0.45, label="data")
    ax.plot(grid[:, 0], log_prob_at(density, grid).exp(), color=SAMPLES, linewidth=1.5, label="learned density")
    ax.legend(frameon=False)
    name_axis(ax.xaxis, column)
    name_axis(ax.yaxis, "density")
    return ax


def data_latent_samples(flow: Flow, x: Tensor, *, columns: Sequence[str] = ("x1", "x2"), seed: int = 0) -> Figure:
    """Data, its latent, and samples; the colour is the direction of a point's latent, which shows where points go."""
    x = x[:SHOWN]
    with torch.no_grad():
        latent, _ = flow.to_latent(x)
        drawn = _latents(flow, seed)
        samples = flow.from_latent(drawn[: len(x)])[0]
    middle = drawn.mean(0)
    figure, ((left, center, right),) = new_figure(1, 3, (9.6, 3.6))
    limits = limits_of(x)
    own, other = direction_colors(latent, middle), direction_colors(drawn, middle)
    points(x, left, color=own, title="data x", limits=limits)
    points(latent, center, color=own, title="latent z = f(x)", limits=limits_of(drawn))
    points(samples, right, color=other[: len(x)], title="samples f⁻¹(z), z ~ prior", limits=limits)
    for ax, names in ((left, columns), (center, ("z1", "z2")), (right, columns)):
        name_axis(ax.xaxis, names[0])
        name_axis(ax.yaxis, names[1])
    return figure


@torch.no_grad()
def layers(flow: Flow, x: Tensor, *, seed: int = 0, most: int = 8) -> Figure:
    """The state after every layer: data → latent, and below it samples ← latent; all panels have the same axes, but for
    the data where it lies elsewhere. The colour is the direction of a point's latent.

    Args:
        most: layers that are shown; of more some are left out.
    """
    x = x[:SHOWN]
    drawn = _latents(flow, seed)
    middle = drawn.mean(0)
    there, back = flow.states(x), flow.inverse_states(drawn[: len(x)])[::-1]
    colors = direction_colors(there[-1].value, middle), direction_colors(drawn[: len(x)], middle)
    steps = _some(_visible(there), most + 1)
    shared = _shared_limits([state[index].value for _, index in steps[1:] for state in (there, back)])
    limits = [_start_limits(x, shared), *[shared] * (len(steps) - 1)]
    blocks = math.ceil(len(steps) / ACROSS)
    across = math.ceil(len(steps) / blocks)
    figure, axes = new_figure(2 * blocks, across, (1.9 * across + 0.3, 4.1 * blocks))
    for place, (title, index) in enumerate(steps):
        block, column = divmod(place, across)
        for row, (states, color) in enumerate(zip((there, back), colors, strict=True)):
            ax = axes[2 * block + row, column]
            points(states[index].value, ax, color=color, title="" if row else title, limits=limits[place])
            ax.title.set_fontsize(9)
            beside = bool(column) and limits[place] == limits[place - 1]
            ax.tick_params(labelsize=7, labelbottom=bool(row), labelleft=not beside)
            for axis, shows in ((ax.xaxis, row), (ax.yaxis, not beside)):
                axis.offsetText.set(fontsize=7, visible=bool(shows))
    for ax in axes.flat[: 2 * blocks * across]:
        ax.set_visible(bool(ax.collections))
    for block in range(blocks):
        axes[2 * block, 0].set_ylabel("data → latent", fontsize=9)
        axes[2 * block + 1, 0].set_ylabel("samples ← latent", fontsize=9)
    return figure


def _some(steps: list[tuple[str, int]], most: int) -> list[tuple[str, int]]:
    """At most so many of the steps, the first and the last among them."""
    if len(steps) <= most:
        return steps
    return [steps[round(place * (len(steps) - 1) / (most - 1))] for place in range(most)]


def _shared_limits(values: Sequence[Tensor]) -> Limits:
    """One square frame around nearly all points of all layers."""
    ends = torch.stack(
        [value.double().quantile(torch.tensor([0.005, 0.995], dtype=torch.float64), 0) for value in values]
    )
    low, high = ends.min().item(), ends.max().item()
    margin = 0.12 * (high - low)
    side = (low - margin, high + margin)
    return side, side


def _start_limits(x: Tensor, shared: Limits) -> Limits:
    """The frame of the data: that of the layers where the data fill a fair part of it, else their own."""
    own = limits_of(x)
    inside = all(shared[axis][0] <= own[axis][0] and own[axis][1] <= shared[axis][1] for axis in (0, 1))
    wide = all(own[axis][1] - own[axis][0] >= 0.3 * (shared[axis][1] - shared[axis][0]) for axis in (0, 1))
    return shared if inside and wide else own


def _visible(states: Sequence[State]) -> list[tuple[str, int]]:
    """Title and index of the data and of each state that looks different from the one before.

    Scaling of the data and permutations are shown with the layer that follows them.
    """
    steps = [("data", 0)]
    for index, state in enumerate(states[1:], 1):
        if not isinstance(state.layer, DataLayer | LogTails | Permutation) or index + 1 == len(states):
            layer = state.layer.bijection if isinstance(state.layer, Partial) else state.layer
            steps.append((f"{len(steps)} {type(layer).__name__}", index))
    return steps


def sample_figure(x: Tensor, columns: Sequence[str]) -> Figure:
    """Samples alone: a histogram for one column, a scatter for two, all pairs for more."""
    if len(columns) > 2:
        return pair_plot(None, x, columns)
    figure, ((ax,),) = new_figure(1, 1, (5.2, 5.2))
    if len(columns) == 2:
        points(x, ax, color=SAMPLES, limits=limits_of(x))
        name_axis(ax.yaxis, columns[1])
    else:
        ax.hist(x[:, 0].cpu(), bins=60, color=SAMPLES)
        ax.set_ylabel("samples")
    name_axis(ax.xaxis, columns[0])
    return figure


def _range(values: Tensor, *, margin: float = 0.05) -> tuple[float, float]:
    """The range of nearly all values, without outliers."""
    values = values[:100_000].double()
    low, high = values.quantile(0.001).item(), values.quantile(0.999).item()
    if high <= low:
        low, high = low - 0.5, high + 0.5
    return low - margin * (high - low), high + margin * (high - low)


def limits_of(x: Tensor) -> Limits:
    """A frame around nearly all points: a square, so that shapes keep their shape, unless one column is far wider."""
    ranges = [_range(x[:, index], margin=0.08) for index in (0, 1)]
    widths = [high - low for low, high in ranges]
    if max(widths) > 3 * min(widths):
        return ranges[0], ranges[1]
    half = max(widths) / 2
    middles = [(low + high) / 2 for low, high in ranges]
    return (middles[0] - half, middles[0] + half), (middles[1] - half, middles[1] + half)


def _aspect(limits: Limits) -> Literal["equal", "auto"]:
    widths = [high - low for low, high in limits]
    return "auto" if max(widths) > 3 * min(widths) else "equal"


def _latents(flow: Flow, seed: int) -> Tensor:
    return flow.prior.sample(SHOWN, generator=torch.Generator(flow.device).manual_seed(seed))
