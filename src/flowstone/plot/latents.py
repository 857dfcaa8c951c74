"""Latents of data beside the prior."""

import math

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from flowstone.evaluation.calibration import distance_between
from flowstone.flow import Flow
from flowstone.plot.figures import DATA, SAMPLES, histogram, new_figure

__all__ = ["latent_figure"]

PANELS, ACROSS = 8, 4
MOST_BINS, LEAST_BINS, ROWS_A_BIN = 40, 8, 8
DRAWN = 4000  # of a prior without context


@torch.no_grad()
def latent_figure(flow: Flow, x: Tensor, *, context: Tensor | None = None, seed: int = 0) -> Figure:
    """Latents of rows x as filled histograms, draws of the prior as lines: their distance from the middle of the
    prior, and each feature; of many features those 7 that are farthest from the prior.
    """
    z = flow.to_latent(x, context)[0].double().cpu()
    count = DRAWN if context is None else len(x)
    drawn = flow.prior.sample(count, context, torch.Generator(flow.device).manual_seed(seed)).double().cpu()
    z, drawn = z.flatten(1), drawn.flatten(1)
    middle = drawn.mean(0)
    off = torch.tensor([distance_between(own, other) for own, other in zip(z.T, drawn.T, strict=True)])
    chosen = list(range(z.shape[1]))
    if len(chosen) >= PANELS:
        chosen = off.argsort(descending=True)[: PANELS - 1].tolist()
    panels = [("distance from the middle", (z - middle).norm(dim=1), (drawn - middle).norm(dim=1))]
    panels += [(f"z{index + 1}", z[:, index], drawn[:, index]) for index in chosen]
    if z.shape[1] == 1:
        panels = panels[1:]
    across = min(ACROSS, len(panels))
    down = math.ceil(len(panels) / across)
    figure, axes = new_figure(down, across, (max(4.0, 2.4 * across), 2.0 * down + 0.3))
    for ax, (title, own, other) in zip(axes.flat, panels, strict=False):
        _compare(ax, title, own.numpy(), other.numpy())
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    handles = axes.flat[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper right", ncols=2, fontsize=9, frameon=False)
    return figure


def _compare(ax: Axes, title: str, own: np.ndarray, prior: np.ndarray) -> None:
    low, high = np.quantile(np.concatenate((own, prior)), (0.002, 0.998))
    bins = min(MOST_BINS, max(LEAST_BINS, len(own) // ROWS_A_BIN))
    edges = np.linspace(low, high, bins + 1).tolist() if high > low else [low - 0.5, low + 0.5]
    histogram(ax, own, edges, histtype="stepfilled", alpha=0.45, color=DATA, label="latents of test rows")
    histogram(ax, prior, edges, histtype="step", linewidth=1.3, color=SAMPLES, label="prior")
    ax.set_title(title, fontsize=9)
    ax.set_yticks([])
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.tick_params(labelsize=7)
