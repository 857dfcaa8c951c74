"""Shared by all pictures: the two colours, empty figures, the loss curve, and writing to files.

Colours are from the colour-blind safe Okabe-Ito set: data blue, samples vermilion.
"""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from flowstone.files import atomic_path
from flowstone.plot.fonts import complete_fonts
from flowstone.train.history import History

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["DATA", "SAMPLES", "histogram", "loss_curve", "new_figure", "png_of", "save_figure"]

DATA, SAMPLES = "#0072B2", "#D55E00"
BELOW = 3.9  # heights of a line between the axes and a legend below their ticks and label
DPI, MARGIN = 150, 0.06  # points an inch, inches around a picture


class _Figure(Figure):
    """A figure that a notebook shows where it is the value of a cell, whether pyplot was imported or not.

    Its texts may be in any script, and are shown as they are: a $ in the name of a column begins no formula.
    """

    def draw(self, renderer: RendererBase) -> None:
        complete_fonts(self)
        for text in self.findobj(Text):
            text.set_parse_math(False)  # pyright: ignore[reportAttributeAccessIssue]
        with warnings.catch_warnings(), rc_context({"text.parse_math": False}):  # for ticks made while it is drawn
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # said by complete_fonts, once
            super().draw(renderer)

    def _repr_png_(self) -> bytes:
        return png_of(self)


def new_figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, np.ndarray]:
    """A figure that no window and no global state holds, and its axes ``(rows, columns)``. A notebook shows it."""
    figure = _Figure(figsize=size, layout="compressed")
    return figure, figure.subplots(rows, columns, squeeze=False)


def histogram(ax: Axes, values: np.ndarray, edges: Sequence[float], **style: Any) -> None:
    """A histogram of bins of one width, in which an area is a share of all values, also of those outside of the bins:
    were it a share of those inside, samples of which most lie elsewhere would look right.
    """
    weight = 1 / (max(1, len(values)) * (edges[1] - edges[0]))
    inside = values[(values >= edges[0]) & (values <= edges[-1])]
    ax.hist(inside, list(edges), weights=np.full(len(inside), weight), **style)


def loss_curve(history: History, ax: Axes, *, entropy: float | None = None) -> Axes:
    """Train and validation NLL over steps; a dotted line at the entropy where it is known.

    The legend is below the axes, where it hides no curve: a figure needs room there, which
    ``plt.subplots(layout="constrained")`` makes.
    """
    steps = history.column("step")
    ax.plot(steps, history.column("train_nll"), color=DATA, label="train", linewidth=1.2)
    ax.plot(steps, history.column("val_nll"), color=SAMPLES, label="validation", linewidth=1.5)
    best = history.best
    ax.plot(
        best.step,
        best.val_nll,
        "o",
        color=SAMPLES,
        markeredgecolor="white",
        label=f"best: {best.val_nll:.4f} at step {best.step}",
    )
    if entropy is not None:
        ax.axhline(entropy, color="black", linestyle=":", linewidth=1, label=f"entropy: {entropy:.4f}")
    # The first steps are so far above the later ones that they are left out of the range.
    first = max(1, len(history) // 10) if len(history) > 3 else 0
    later = history.column("val_nll")[first:] + history.column("train_nll")[first:]
    low, high = min([*later, best.val_nll if entropy is None else entropy]), sorted(later)[int(0.97 * (len(later) - 1))]
    if high > low:
        ax.set_ylim(low - 0.08 * (high - low), high + 0.15 * (high - low))
    ax.set(xlabel="step", ylabel="NLL (nats)", title="negative log-likelihood")
    ax.legend(frameon=False, ncols=2, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=BELOW)
    return ax


def png_of(figure: Figure) -> bytes:
    """A picture in PNG, its colours reduced to a palette of 256, which takes a third of the space."""
    from PIL import Image

    packed = io.BytesIO()
    _drawn(figure).quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(packed, format="png")
    return packed.getvalue()


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a picture, all of it or nothing."""
    with atomic_path(path) as temporary:
        _drawn(figure).save(temporary, format="png")
    return path


def _drawn(figure: Figure) -> "Image.Image":
    """The picture without the white around it, but for a margin; drawn once, which a tight box would do twice."""
    from PIL import Image, ImageChops

    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    left, top, right, bottom = ImageChops.invert(image).getbbox() or (0, 0, *image.size)
    margin = round(MARGIN * DPI)
    box = (max(0, left - margin), max(0, top - margin), right + margin, bottom + margin)
    return image.crop((*box[:2], min(box[2], image.width), min(box[3], image.height)))
