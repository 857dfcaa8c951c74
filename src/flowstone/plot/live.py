"""What a density has come to while it trains: a page that shows itself anew, or a picture in a notebook."""

import base64
import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from flowstone.density import Density
from flowstone.errors import OutputError
from flowstone.files import write_atomically
from flowstone.mixed import MixedDensity
from flowstone.notebook import Output, html_table, in_notebook
from flowstone.plot.columns import ColumnScale, compare_column
from flowstone.plot.figures import SAMPLES, loss_curve, new_figure, png_of
from flowstone.plot.images import mosaic
from flowstone.plot.vectors import density as draw_density
from flowstone.plot.vectors import density_curve, limits_of, points
from flowstone.train.history import History
from flowstone.validation import require_number

__all__ = ["Live", "live_figure"]

SHARE = 0.05  # of the training's time that drawing may take
FIRST = 1.0  # seconds that the first picture is taken to cost, before one was drawn
REFRESH = 3  # seconds after which a browser reads the page again
COLUMNS, ROWS, IMAGES = 5, 2000, 64  # that are shown of a table, and of images
GRID = 120  # points of a density, in each direction
RECORDS = 8  # of the history, in the table of the page


class Live:
    """Pictures of a training while it runs: samples, density and losses. ``fit`` calls it after each validation.

    They go to ``page``, an HTML file that a browser opens from disk and that reads itself again every 3 seconds until
    the training has ended; or, in a notebook, below the cell. A picture is drawn only where all drawing together stays
    below ``share`` of the time so far, so that the first one comes after some seconds. The weights that are learned are
    those of a training without it. If the page can no longer be written, the training warns and goes on without it.

    Args:
        x: rows of data to show beside samples, ``(n, *event_shape)``.
        context: of a conditional density, a row for each row of x; samples are drawn given these.
        columns: names of the columns; x1, x2, … if there are none.
        levels: of categorical columns, the names of their values 0, 1, …
        entropy: of the data, in nats, where it is known.
        page: the file to write; None shows pictures in a notebook alone.
        title: of the page.
        share: the fraction of the training's time that drawing may take.

    >>> import flowstone, torch
    >>> flow, x = flowstone.nice(2, couplings=2, hidden=(16,)), torch.randn(400, 2)
    >>> with flowstone.plot.Live(x) as live:
    ...     history = flowstone.fit(flow, x, steps=20, progress=False, watch=live)
    """

    def __init__(
        self,
        x: Tensor,
        *,
        context: Tensor | None = None,
        columns: Sequence[str] = (),
        levels: Mapping[str, Sequence[str]] | None = None,
        entropy: float | None = None,
        page: Path | str | None = None,
        title: str = "training",
        share: float = SHARE,
    ) -> None:
        require_number("share", share, above=0, below=1)
        self.x, self.context = x[:ROWS].cpu(), None if context is None else context[:ROWS]
        self.columns = list(columns) or [f"x{index + 1}" for index in range(x.shape[1])]
        self.levels, self.entropy, self.title = levels, entropy, title
        self.page = None if page is None else Path(page)
        self.output = Output() if page is None and in_notebook() else None
        self.budget = _Budget(share)
        self.latest: tuple[Density, History] | None = None
        self.picture: str | None = None

    def __call__(self, density: Density, history: History) -> None:
        """Draw, if there is time for it."""
        first, self.latest = self.latest is None, (density, history)
        if self.page is None and self.output is None:
            return
        if self.budget.allows(history.records[-1].seconds):
            with self.budget.measured(picture=True):
                self._draw(density, history)
                self._show(history, running=True)
        elif first:
            with self.budget.measured(picture=False):
                self._show(history, running=True)

    def __enter__(self) -> "Live":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Draw the end, which the page then keeps."""
        if self.latest is None or (self.page is None and self.output is None):
            return
        density, history = self.latest
        modes = {module: module.training for module in density.modules()}
        density.eval()
        self._draw(density, history)
        for module, training in modes.items():
            module.training = training
        self._show(history, running=False, ended=history.stopped if kind is None else f"ended by {kind.__name__}")

    def _draw(self, density: Density, history: History) -> None:
        devices = [density.device] if density.device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(devices):
            figure = live_figure(
                density, history, self.x, context=self.context, columns=self.columns, levels=self.levels,
                entropy=self.entropy,
            )  # fmt: skip
        self.picture = base64.b64encode(png_of(figure)).decode()

    def _show(self, history: History, *, running: bool, ended: str = "") -> None:
        if self.output is not None and self.picture is not None:
            self.output.show({"image/png": self.picture, "text/plain": _state(history)})
        if self.page is None:
            return
        share = self.budget.spent / max(history.records[-1].seconds, 1e-9)
        content = _page(self.title, history, self.picture, ended=None if running else ended, share=share)
        try:
            write_atomically(self.page, content.encode())
        except OutputError as error:
            warnings.warn(f"{error}; the training goes on without this page", stacklevel=2)
            self.page = None


class _Budget:
    """The time that drawing may take, as a share of the time of the training so far.

    Attributes:
        spent: seconds that drawing has taken.
        expected: seconds that the next picture is taken to cost: what the last one did.
    """

    def __init__(self, share: float) -> None:
        self.share, self.spent, self.expected = share, 0.0, FIRST

    def allows(self, seconds: float) -> bool:
        """Whether there is time for a picture after so many seconds of training."""
        return self.spent + self.expected <= self.share * seconds

    @contextmanager
    def measured(self, *, picture: bool) -> Iterator[None]:
        """Counts the time that is spent inside."""
        started = time.perf_counter()
        try:
            yield
        finally:
            cost = time.perf_counter() - started
            self.spent += cost
            if picture:
                self.expected = cost


def live_figure(
    density: Density,
    history: History,
    x: Tensor,
    *,
    context: Tensor | None = None,
    columns: Sequence[str] = (),
    levels: Mapping[str, Sequence[str]] | None = None,
    entropy: float | None = None,
    seed: int = 0,
) -> Figure:
    """Data, samples and losses in one picture: for two columns points and the density, for images a sheet of samples,
    for other rows the marginals of the first five columns. Samples that are not finite are left out.

    Arguments are those of ``Live``; samples are drawn with ``seed``, so that two pictures compare.
    """
    columns = list(columns) or [f"x{index + 1}" for index in range(x.shape[1])]
    samples = _samples(density, x, context, seed)
    if len(density.event_shape) == 3:
        figure, axes = new_figure(1, 2, (10.4, 4.8))
        _sheet(samples, axes[0, 0])
    elif isinstance(density, MixedDensity) or len(columns) > 2:
        figure, axes = _marginals(x, samples, columns[:COLUMNS], levels or {})
    elif len(columns) == 2:
        figure, axes = _plane(density, x, samples, columns, context)
    else:
        figure, axes = new_figure(1, 2, (9.6, 4.2))
        if context is None:
            density_curve(density, axes[0, 0], x, column=columns[0])
        else:
            compare_column(axes[0, 0], x[:, 0], samples[:, 0], columns[0]).legend(frameon=False)
    loss_curve(history, axes.flat[-1], entropy=entropy)
    return figure


def _samples(density: Density, x: Tensor, context: Tensor | None, seed: int) -> Tensor:
    count = IMAGES if len(density.event_shape) == 3 else len(x)
    if context is not None:
        drawn = density.sample(1, context[:count].to(density.device), seed=seed)[0]
    elif isinstance(density, MixedDensity):
        drawn = density.sample(count, seed=seed, gaps=True)
    else:
        drawn = density.sample(count, seed=seed)
    infinite = drawn.isinf() if isinstance(density, MixedDensity) else ~drawn.isfinite()
    return drawn[~infinite.flatten(1).any(1)].cpu()


def _sheet(samples: Tensor, ax: Axes) -> None:
    if len(samples):
        ax.imshow(mosaic(samples), interpolation="nearest")
    ax.set_title("samples")
    ax.set_axis_off()


def _plane(
    density: Density, x: Tensor, samples: Tensor, columns: Sequence[str], context: Tensor | None
) -> tuple[Figure, np.ndarray]:
    figure, axes = new_figure(1, 3, (13.2, 4.2))
    limits = limits_of(x)
    points(x, axes[0, 0], title="data", limits=limits)
    if context is None:
        draw_density(density, axes[0, 1], limits=limits, samples=samples, grid=GRID)
    else:
        points(samples, axes[0, 1], color=SAMPLES, title="samples, given the contexts of the data", limits=limits)
    for ax in axes[0, :2]:
        ax.set(xlabel=columns[0], ylabel=columns[1])
    return figure, axes


def _marginals(
    x: Tensor, samples: Tensor, columns: Sequence[str], levels: Mapping[str, Sequence[str]]
) -> tuple[Figure, np.ndarray]:
    panels = len(columns) + 1
    across = 2 if panels == 4 else min(3, panels)
    down = math.ceil(panels / across)
    figure, axes = new_figure(down, across, (3.7 * across, 2.7 * down))
    for index, name in enumerate(columns):
        scale = ColumnScale(x[:, index], levels.get(name))
        compare_column(axes.flat[index], x[:, index], samples[:, index], name, scale)
    for ax in axes.flat[len(columns) : -1]:
        ax.set_visible(False)
    handles = axes.flat[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper left", ncols=2, fontsize=8, frameon=False)
    return figure, axes


def _state(history: History) -> str:
    last, best = history.records[-1], history.best
    return (
        f"step {last.step}, {last.seconds:.1f} s: train {last.train_nll:.4f}, validation {last.val_nll:.4f} nats; "
        f"best validation {best.val_nll:.4f} at step {best.step}"
    )


def _page(title: str, history: History, picture: str | None, *, ended: str | None, share: float) -> str:
    """The page; ``ended`` says how the training ended, None while it runs."""
    state, written = _state(history), datetime.now(UTC).strftime("%H:%M:%S UTC")
    shown = "<p>The first picture comes when there is time for it.</p>"
    if picture is not None:
        about = f"Samples of {title}, and its losses. {state}"
        image = f'<img src="data:image/png;base64,{picture}" alt="{escape(about)}">'
        shown = f'<div class="wide" role="region" aria-label="pictures" tabindex="0">{image}</div>'
    recent = History(history.records[-RECORDS:])
    table = html_table(
        [(r.step, f"{r.seconds:.1f}", f"{r.train_nll:.4f}", f"{r.val_nll:.4f}") for r in reversed(recent.records)],
        header=("step", "seconds", "train (nats)", "validation (nats)"),
        caption="the last validations",
    )
    running = ended is None
    return PAGE.format(
        title=escape(title), style=STYLE, shown=shown, state=escape(state), table=table, written=written,
        reading=READING.format(seconds=REFRESH, milliseconds=1000 * REFRESH) if running else "",
        button=BUTTON if running else "", word="training" if running else escape(f"training {ended}"),
        share=f"{100 * share:.1f}",
    )  # fmt: skip


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: {word}</title>
{style}{reading}</head>
<body>
<main>
<h1>{title}</h1>
<p class="state"><strong>{word}</strong> {state}</p>
{shown}
{table}
<p class="note">Written at {written}. Pictures took {share}% of the time of the training.</p>
{button}</main>
</body>
</html>
"""
STYLE = """<style>
:root { color-scheme: light dark; }
body { margin: 0; font: 16px/1.5 system-ui, sans-serif; background: Canvas; color: CanvasText; }
main { max-width: 1240px; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.3rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
.state strong { border: 1px solid currentColor; border-radius: 4px; padding: 0 .4em; margin-right: .3em; }
.wide { overflow-x: auto; }
img { width: 100%; min-width: 46rem; height: auto; background: white; border-radius: 6px; }
table { border-collapse: collapse; margin-top: 1rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; }
th, td { text-align: right; padding: .1rem 1rem .1rem 0; }
button { font: inherit; padding: .3em .8em; }
</style>
"""
# Without scripts the page reads itself anew all the same, and cannot be held.
READING = """<noscript><meta http-equiv="refresh" content="{seconds}"></noscript>
<script>
const held = () => sessionStorage.getItem("held") === "yes";
setInterval(() => {{ if (!held()) location.reload(); }}, {milliseconds});
</script>
"""
BUTTON = """<button type="button" id="hold"></button>
<script>
const button = document.getElementById("hold");
const label = () => { button.textContent = held() ? "Go on" : "Hold this page"; };
button.addEventListener("click", () => { sessionStorage.setItem("held", held() ? "no" : "yes"); label(); });
label();
</script>
"""
