"""Pictures of images: samples, temperatures, reconstructions, interpolations, scales, likelihoods."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from flowstone.bijections import MultiScale, walk
from flowstone.density import Density
from flowstone.evaluation.metrics import bits_per_dim, log_prob
from flowstone.files import atomic_path
from flowstone.flow import Flow
from flowstone.plot.figures import new_figure
from flowstone.plot.texts import shortened_all

__all__ = [
    "image_figure",
    "interpolation_figure",
    "label_figure",
    "likelihood_figure",
    "mosaic",
    "nearest_figure",
    "reconstruction_figure",
    "save_mosaic",
    "scale_figure",
    "sheets",
    "temperature_figure",
]

ROW = 8  # images in a row
LABELS, LONG = 10, 14  # labels that are shown, and characters of each
TEMPERATURES = (0.6, 0.8, 1.0)
BETWEEN = 0.05  # of the width of a panel: more than between two images
COMPARED = 20_000  # training images that are compared with a sample


def mosaic(x: Tensor, *, columns: int | None = None) -> np.ndarray:
    """Images ``(n, C, H, W)`` of values 0 … 255 in rows, a white line between them: uint8 ``(…, …, 3)``.

    >>> mosaic(torch.zeros(4, 1, 8, 8), columns=2).shape
    (17, 17, 3)
    """
    columns = columns or min(len(x), max(ROW, math.isqrt(len(x))))
    rows = -(-len(x) // columns)
    height, width = x.shape[2] + 1, x.shape[3] + 1
    sheet = np.full((rows * height - 1, columns * width - 1, 3), 255, np.uint8)
    for index, image in enumerate(x.clamp(0, 255).byte().cpu().permute(0, 2, 3, 1).numpy()):
        top, left = index // columns * height, index % columns * width
        sheet[top : top + height - 1, left : left + width - 1] = image
    return sheet


def save_mosaic(x: Tensor, path: Path) -> Path:
    """Write images side by side, pixel by pixel, all of it or nothing."""
    from PIL import Image

    with atomic_path(path) as temporary:
        Image.fromarray(mosaic(x)).save(temporary)
    return path


def sheets(panels: Sequence[tuple[str, Tensor]], *, columns: int = ROW, width: float = 4.7) -> Figure:
    """Mosaics side by side, each under its title."""
    rows, side = -(-len(panels[0][1]) // columns), panels[0][1].shape[2] / panels[0][1].shape[3]
    height = width * side * rows / columns + 0.4
    figure, (axes,) = new_figure(1, len(panels), (width * len(panels), height))
    figure.get_layout_engine().set(wspace=BETWEEN)  # pyright: ignore[reportOptionalMemberAccess, reportCallIssue]
    for ax, (title, images) in zip(axes, panels, strict=True):
        ax.imshow(mosaic(images, columns=columns), interpolation="nearest")
        ax.set_title(title, fontsize=10)
        ax.set_axis_off()
    return figure


def image_figure(x: Tensor, samples: Tensor) -> Figure:
    """Data on the left, samples on the right."""
    return sheets([("data", x), ("samples", samples)])


def label_figure(model: Density, labels: Sequence[str], *, seed: int = 0) -> Figure:
    """Samples given each of the first 10 labels, a row for each; the context is one-hot."""
    shown = list(labels[:LABELS])
    given = torch.eye(len(labels), device=model.device)[: len(shown)]
    drawn = model.sample(ROW, given, seed=seed).transpose(0, 1)
    height, width = drawn.shape[-2:]
    size = 4.6 * height * len(shown) / (width * ROW)
    figure, ((ax,),) = new_figure(1, 1, (5.4, size + 0.4))
    ax.imshow(mosaic(drawn.flatten(0, 1), columns=ROW), interpolation="nearest")
    middles = [(height + 1) * row + (height - 1) / 2 for row in range(len(shown))]
    ax.set_yticks(middles, shortened_all(shown, LONG))
    ax.tick_params(length=0)
    ax.set(xticks=[], title="samples given their label")
    ax.spines[:].set_visible(False)
    return figure


def temperature_figure(flow: Flow, n: int, *, context: Tensor | None = None, seed: int = 0) -> Figure:
    """The same latents at several temperatures: cooler is nearer to the mode, 1 is the model."""
    drawn = [(f"temperature {t:g}", _drawn(flow, n, context, seed, t)) for t in TEMPERATURES]
    return sheets(drawn, width=3.15)


@torch.no_grad()
def reconstruction_figure(flow: Flow, x: Tensor, *, context: Tensor | None = None) -> Figure:
    """Images, the same images after both directions, and the difference, which should be zero."""
    back = flow.from_latent(flow.to_latent(x, context)[0], context)[0]
    off = (back - x.to(back)).abs()
    worst = off.max().item()
    return sheets([("data", x), ("f⁻¹(f(x))", back), (f"difference (at most {worst:g})", 255 * (off > 0))], width=3.15)


@torch.no_grad()
def interpolation_figure(flow: Flow, x: Tensor, *, context: Tensor | None = None) -> Figure:
    r"""Between the latents of four images, which are the corners (Dinh et al. 2016, section 4.2).

    $$ z = \cos\phi\,(\cos\phi'\, z_1 + \sin\phi'\, z_2) + \sin\phi\,(\cos\phi'\, z_3 + \sin\phi'\, z_4), \quad
       0 \le \phi, \phi' \le \pi / 2 $$

    Given a context, all have that of the first image, and the other corners are images with the same where there are.
    """
    if context is not None:
        alike = (context == context[0]).all(1)
        x = torch.cat((x[alike], x[~alike]))
    given = None if context is None else context[:1]
    corners, _ = flow.to_latent(x[:4], None if given is None else given.expand(4, -1))
    angle = torch.linspace(0, math.pi / 2, ROW, device=corners.device, dtype=corners.dtype)
    down, across = (part.flatten()[:, None] for part in torch.meshgrid(angle, angle, indexing="ij"))
    top = across.cos() * corners[0] + across.sin() * corners[1]
    bottom = across.cos() * corners[2] + across.sin() * corners[3]
    z = down.cos() * top + down.sin() * bottom
    between, _ = flow.from_latent(z, None if given is None else given.expand(len(z), -1))
    return sheets([("between the latents of the corners", between)], width=6.0)


@torch.no_grad()
def scale_figure(flow: Flow, x: Tensor, *, context: Tensor | None = None, seed: int = 0) -> Figure | None:
    """Images with the latents of a scale, and of all finer ones, drawn anew (Dinh et al. 2016, appendix D).

    None where the flow has one scale.
    """
    scales = next((layer for layer in walk(flow.bijection) if isinstance(layer, MultiScale)), None)
    if scales is None or len(scales.leaving) < 2:
        return None
    z, _ = flow.to_latent(x, context)
    generator = torch.Generator(flow.device).manual_seed(seed)
    fresh = flow.prior.sample(len(z), context, generator)
    panels, redrawn = [("data", x)], 0
    for index, shape in enumerate(scales.leaving[:-1]):
        redrawn += shape.numel()
        mixed = torch.cat((fresh[:, :redrawn], z[:, redrawn:]), 1)
        share = f"{100 * (1 - redrawn / z.shape[1]):.3g}% of the latents kept"
        panels.append((f"scale {index + 1} anew, {share}", flow.from_latent(mixed, context)[0]))
    return sheets(panels, width=3.15)


def nearest_figure(samples: Tensor, x: Tensor, *, count: int = 5) -> Figure:
    """Samples, each with the nearest images of ``x`` by distance of pixels, which show whether samples are copies."""
    x = x[:COMPARED]
    flat = samples.flatten(1).float().cpu()
    nearest = torch.cdist(flat, x.flatten(1).float().cpu()).topk(min(count, len(x)), largest=False).indices
    rows = torch.cat((samples[:, None].cpu().float(), x.cpu()[nearest].float()), 1)
    title = "a sample, and training images nearest to it"
    return sheets([(title, rows.flatten(0, 1))], columns=nearest.shape[1] + 1, width=4.0)


def likelihood_figure(flow: Flow, x: Tensor, *, context: Tensor | None = None) -> Figure:
    """The most and the least likely of some images."""
    bits = torch.tensor([bits_per_dim(-score, x[0].numel()) for score in log_prob(flow, x, context).tolist()])
    order, few = bits.argsort(), min(32, len(x) // 2)
    likely, unlikely = order[:few], order[-few:].flip(0)
    return sheets(
        [
            (f"most likely: {_span(bits[likely])} bits/dim", x[likely]),
            (f"least likely: {_span(bits[unlikely])} bits/dim", x[unlikely]),
        ]
    )


def _span(bits: Tensor) -> str:
    return f"{bits.min().item():.2f} … {bits.max().item():.2f}"


def _drawn(flow: Flow, n: int, context: Tensor | None, seed: int, temperature: float = 1.0) -> Tensor:
    if context is None:
        return flow.sample(n, seed=seed, temperature=temperature)
    return flow.sample(1, context[:n], seed=seed, temperature=temperature)[0]
