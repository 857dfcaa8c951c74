"""Pictures of vectors: densities, points, what every layer does, pairs of columns."""

import itertools
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from flowstone.bijections import DataLayer, Half, LogTails, Permutation, State
from flowstone.density import Density
from flowstone.evaluation.metrics import log_prob
from flowstone.flow import Flow
from flowstone.plot.figures import DATA, SAMPLES, new_figure

__all__ = [
    "data_latent_samples",
    "density",
    "density_curve",
    "layers",
    "limits_of",
    "marginal",
    "pair_plot",
    "points",
    "sample_figure",
]

Limits = tuple[tuple[float, float], tuple[float, float]]
SHOWN = 4000  # points in a scatter: more only make it black
PAIRED = 6  # columns in a pair plot: more cannot be read


def points(
    x: Tensor,
    ax: Axes,
    *,
    color: str | Tensor = DATA,
    title: str = "",
    limits: Limits | None = None,
    equal: bool = True,
) -> Axes:
    """A scatter of the first points of ``x (n, 2)``; ``color`` is one colour or a number for each point."""
    x = x[:SHOWN].cpu()
    shade = color if isinstance(color, str) else color[:SHOWN].cpu()
    shades = None if isinstance(color, str) else "viridis"
    ax.scatter(x[:, 0], x[:, 1], s=3, c=shade, cmap=shades, alpha=0.6, linewidths=0, rasterized=True)
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
    samples: Tensor | None = None,
    peak: float | None = None,
    grid: int = 250,
) -> Axes:
    """A density on the plane as a filled contour, with some samples on it.

    Args:
        log_density: a density on the plane, or any function ``(n, 2) -> (n,)`` in nats.
        peak: the density at the top of the colours, so that panels compare; the colour bar is left out then.
    """
    (left, right), (bottom, top) = limits
    across, up = torch.linspace(left, right, grid), torch.linspace(bottom, top, grid)
    where = torch.stack(torch.meshgrid(across, up, indexing="xy"), -1).reshape(-1, 2)
    values = log_prob(log_density, where) if isinstance(log_density, Density) else log_density(where)
    values = values.exp().reshape(grid, grid)
    # Very high values at edges would hide the rest: the levels end at a quantile.
    highest = peak or max(values.flatten().sort().values[int(0.998 * values.numel())].item(), 1e-30)
    levels = np.linspace(0, highest, 25)  # in float64: a density in large units is a very small number
    filled = ax.contourf(across, up, values.clamp_max(highest), levels=levels, cmap="viridis")
    if peak is None:
        ax.figure.colorbar(filled, ax=ax, fraction=0.046, pad=0.04, label="density", format="%.2g")
    if samples is not None:
        ax.scatter(*samples[:400].cpu().T, s=2, color="white", alpha=0.7, linewidths=0)
    ax.set(xlim=(left, right), ylim=(bottom, top), aspect=_aspect(limits), title="density and samples")
    return ax


def marginal(x: Tensor | None, samples: Tensor, ax: Axes, *, limits: tuple[float, float]) -> Axes:
    """Histograms of one column: data filled, samples as a line."""
    low, high = limits
    bins = torch.linspace(low, high, 41).tolist()
    if x is not None:
        ax.hist(x.cpu().numpy(), bins=bins, density=True, color=DATA, alpha=0.45, label="data")
    line = {"histtype": "step", "color": SAMPLES, "linewidth": 1.3}
    ax.hist(samples.cpu().numpy(), bins=bins, density=True, label="samples", **line)
    ax.set_xlim(low, high)
    ax.set_yticks([])
    return ax


def density_curve(density: Density, ax: Axes, x: Tensor, *, column: str = "x1") -> Axes:
    """A density of one feature as a curve, over a histogram of the data."""
    low, high = _range(x[:, 0], margin=0.15)
    grid = torch.linspace(low, high, 600)[:, None]
    bins = torch.linspace(low, high, 61).tolist()
    ax.hist(x[:, 0].cpu().numpy(), bins=bins, density=True, color=DATA, alpha=0.45, label="data")
    ax.plot(grid[:, 0], log_prob(density, grid).exp(), color=SAMPLES, linewidth=1.5, label="learned density")
    ax.set(xlabel=column, ylabel="density")
    ax.legend(frameon=False)
    return ax


def data_latent_samples(flow: Flow, x: Tensor, *, columns: Sequence[str] = ("x1", "x2"), seed: int = 0) -> Figure:
    """Data, its latent, and samples; the colour is the first coordinate, which shows where points go."""
    with torch.no_grad():
        latent, _ = flow.to_latent(x[:SHOWN])
    samples = flow.sample(min(len(x), SHOWN), seed=seed)
    figure, ((left, middle, right),) = new_figure(1, 3, (12, 4.2))
    limits = limits_of(x)
    low, high = x[:, 0].min().item(), x[:, 0].max().item()
    points(x, left, color=x[:, 0], title="data x", limits=limits)
    points(latent, middle, color=x[:, 0], title="latent z = f(x)", limits=limits_of(_latents(flow, seed)))
    drawn = points(samples, right, color=samples[:, 0], title="samples f⁻¹(z), z ~ prior", limits=limits)
    drawn.collections[0].set_clim(low, high)  # a stray sample does not stretch the colours
    for ax, names in ((left, columns), (middle, ("z1", "z2")), (right, columns)):
        ax.set(xlabel=names[0], ylabel=names[1])
    return figure


@torch.no_grad()
def layers(flow: Flow, x: Tensor, *, seed: int = 0, most: int = 8) -> Figure:
    """The state after every layer: data → latent above, and latent → data below, from right to left.

    The colour is the first coordinate of the point in the data, which shows where points go. All panels have the same
    axes, except that the data have their own where their units are far from those of the latent.
    """
    x = x[:SHOWN]
    there = flow.states(x)
    back = flow.inverse_states(_latents(flow, seed)[: len(x)])[::-1]
    shown = _visible(there)
    chosen = sorted({round(i * (len(shown) - 1) / most) for i in range(most + 1)}) if len(shown) > most else None
    steps = [shown[i] for i in chosen] if chosen else shown
    figure, axes = new_figure(2, len(steps), (2.3 * len(steps), 5.2))
    both = {index: torch.cat((there[index].value, back[index].value)) for _, index in steps}
    limits = _shared_limits(list(both.values()))
    low, high = x[:, 0].min().item(), x[:, 0].max().item()
    for column, (title, index) in enumerate(steps):
        for row, (states, start) in enumerate(((there, x), (back, back[0].value))):
            ax, color = axes[row, column], start[:, 0]
            points(states[index].value, ax, color=color, title="" if row else title, limits=limits[column])
            ax.collections[0].set_clim(low, high)  # a stray sample does not stretch the colours
            ax.tick_params(labelsize=7)
            if column and limits[column] == limits[column - 1]:
                ax.tick_params(labelleft=False)
    axes[0, 0].set_ylabel("data → latent", fontsize=12)
    axes[1, 0].set_ylabel("samples ← latent", fontsize=12)
    return figure


def _shared_limits(panels: Sequence[Tensor]) -> list[Limits]:
    """One frame for all panels; the first, of the data, has its own where the units differ by more than threefold."""
    (first, *rest), inner = panels, _around(panels[1:])
    together = _around(panels)
    if _width(together) > 3 * _width(limits_of(first)) or _width(together) > 3 * _width(inner):
        return [limits_of(first)] + [inner] * len(rest)
    return [together] * len(panels)


def _around(panels: Sequence[Tensor]) -> Limits:
    """The frame that holds the frame of each panel."""
    frames = [limits_of(panel) for panel in panels]
    (left, right), (bottom, top) = (
        (min(frame[side][0] for frame in frames), max(frame[side][1] for frame in frames)) for side in (0, 1)
    )
    return (left, right), (bottom, top)


def _width(limits: Limits) -> float:
    return max(high - low for low, high in limits)


def _visible(states: Sequence[State]) -> list[tuple[str, int]]:
    """Title and index of the data and of each state that looks different from the one before.

    Scaling of the data and permutations are shown with the layer that follows them.
    """
    steps = [("data", 0)]
    for index, state in enumerate(states[1:], 1):
        if not isinstance(state.layer, DataLayer | LogTails | Permutation) or index + 1 == len(states):
            layer = state.layer.bijection if isinstance(state.layer, Half) else state.layer
            steps.append((f"{len(steps)} {type(layer).__name__}", index))
    return steps


def pair_plot(x: Tensor | None, samples: Tensor, columns: Sequence[str]) -> Figure:
    """Pairs of columns: marginals on the diagonal, data above it, samples below it; without x samples alone."""
    count = min(len(columns), PAIRED)
    size = (1.9 * count + 0.6, 1.9 * count + 0.8)
    figure, axes = new_figure(count, count, size)
    few = min(1500, len(samples), len(samples) if x is None else len(x))  # as many of both, so that they compare
    ranges = [_range((samples if x is None else x)[:, index]) for index in range(count)]
    for row, column in itertools.product(range(count), repeat=2):
        ax = axes[row, column]
        shown, color = (x, DATA) if row < column else (samples, SAMPLES)
        if row == column:
            marginal(None if x is None else x[:, row], samples[:, row], ax, limits=ranges[row])
        elif shown is None:
            ax.set_axis_off()
        else:
            limits = (ranges[column], ranges[row])
            points(shown[:few, [column, row]], ax, color=color, limits=limits, equal=False)
        ax.tick_params(labelsize=6, labelbottom=row == count - 1, labelleft=column == 0 and row != 0)
        if row == count - 1:
            ax.set_xlabel(columns[column], fontsize=8)
        if column == 0:
            ax.set_ylabel(columns[row], fontsize=8)
    more = f" (the first {count} of {len(columns)} columns)" if count < len(columns) else ""
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False)
    title = "samples" if x is None else "data above, samples below"
    figure.suptitle(title + more, x=0.02, ha="left", fontsize=9)
    return figure


def sample_figure(x: Tensor, columns: Sequence[str]) -> Figure:
    """Samples alone: a histogram for one column, a scatter for two, all pairs for more."""
    if len(columns) > 2:
        return pair_plot(None, x, columns)
    figure, ((ax,),) = new_figure(1, 1, (5.2, 5.2))
    if len(columns) == 2:
        points(x, ax, color=SAMPLES, limits=limits_of(x))
        ax.set(xlabel=columns[0], ylabel=columns[1])
    else:
        ax.hist(x[:, 0].cpu(), bins=60, color=SAMPLES)
        ax.set(xlabel=columns[0], ylabel="samples")
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
