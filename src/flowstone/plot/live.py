"""Pictures of a density while it trains: on a page that reloads itself, or in a notebook."""

import base64
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import torch
from matplotlib.figure import Figure
from torch import Tensor

from flowstone.density import Density
from flowstone.errors import OutputError
from flowstone.files import write_atomically
from flowstone.notebook import Output, in_notebook
from flowstone.plot.figures import png_of
from flowstone.plot.training_figure import live_figure, training_figure
from flowstone.plot.training_page import state_of, training_page
from flowstone.train.history import History
from flowstone.validation import require_number

__all__ = ["Live"]

SHARE = 0.05  # of the training's time that drawing may take
FIRST = 1.0  # assumed cost of the first picture in seconds, where it was not measured
ALONE = 1.5  # assumed cost of a picture, as a multiple of that of drawing the data alone
BUSIER = 2.0  # times the cost of the last picture for which there must be time
ROWS = 2000  # that are shown
EVERY = 3.0  # seconds between two writings of the page without a new picture


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
        formats: of columns such as dates, how their numbers are written.
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
        formats: Mapping[str, Callable[[float], str]] | None = None,
        entropy: float | None = None,
        page: Path | str | None = None,
        title: str = "training",
        share: float = SHARE,
    ) -> None:
        require_number("share", share, above=0, below=1)
        self.x, self.context = x[:ROWS].cpu(), None if context is None else context[:ROWS]
        self.columns = list(columns) or [f"x{index + 1}" for index in range(x.shape[1])]
        self.levels, self.formats, self.entropy, self.title = levels, formats, entropy, title
        self.page = None if page is None else Path(page)
        self.output = Output() if page is None and in_notebook() else None
        self.budget = _Budget(share)
        self.latest: tuple[Density, History] | None = None
        self.picture: str | None = None
        self.written: float | None = None  # seconds of training at the last writing of the page

    def __call__(self, density: Density, history: History) -> None:
        """Draw, if there is time for it; or else write the figures, if there is time for that."""
        self.latest, seconds = (density, history), history.records[-1].seconds
        if self.page is None and self.output is None:
            return
        if self.budget.allows_picture(seconds):
            with self.budget.measured("picture"):
                self._draw(density, history)
                self._show(history, running=True)
        elif self.page is not None and (self.written is None or self.budget.allows_page(seconds, self.written)):
            with self.budget.measured("page"):
                self._show(history, running=True)
        else:
            return
        self.written = seconds

    def __enter__(self) -> "Live":
        """Draw the data alone, before the clock of the training starts, to know what a picture costs here."""
        if self.page is not None or self.output is not None:
            for _ in range(2):  # the first one also loads fonts
                started = time.perf_counter()
                png_of(self._alone())
                self.budget.costs["picture"] = ALONE * (time.perf_counter() - started)
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

    def _alone(self) -> Figure:
        """The data in place of samples too, before there is a density."""
        x, formats, context = self.x, self.formats, self.context
        return training_figure(x, x, self.columns, self.levels, formats=formats, context=context)[0]

    def _draw(self, density: Density, history: History) -> None:
        devices = [density.device] if density.device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(devices):
            figure = live_figure(
                density, history, self.x, context=self.context, columns=self.columns, levels=self.levels,
                formats=self.formats, entropy=self.entropy,
            )  # fmt: skip
        self.picture = base64.b64encode(png_of(figure)).decode()

    def _show(self, history: History, *, running: bool, ended: str = "") -> None:
        if self.output is not None and self.picture is not None:
            self.output.show({"image/png": self.picture, "text/plain": state_of(history)})
        if self.page is None:
            return
        share = self.budget.spent / max(history.records[-1].seconds, 1e-9)
        content = training_page(self.title, history, self.picture, ended=None if running else ended, share=share)
        try:
            write_atomically(self.page, content.encode())
        except OutputError as error:
            warnings.warn(f"{error}; the training goes on without this page", stacklevel=2)
            self.page = None


class _Budget:
    """The time that drawing may take, as a share of the time of the training so far.

    Attributes:
        spent: seconds that drawing has taken.
        costs: the assumed cost in seconds of the next ``picture``, or of a ``page`` with new figures alone: that of the
            last one.
    """

    def __init__(self, share: float) -> None:
        self.share, self.spent = share, 0.0
        self.costs = {"picture": FIRST, "page": 0.0}

    def allows_picture(self, seconds: float) -> bool:
        """Whether there is time for a picture after so many seconds of training, even if the machine gets busier."""
        return self.spent + BUSIER * self.costs["picture"] <= self.share * seconds

    def allows_page(self, seconds: float, written: float) -> bool:
        """Whether there is time for new figures, where a page is of ``written``; half of the share is for pictures."""
        old = seconds - written >= max(EVERY, 2 * self.costs["page"] / self.share)
        return old and self.spent + self.costs["page"] <= self.share * seconds

    @contextmanager
    def measured(self, kind: str) -> Iterator[None]:
        """Counts the time that is spent inside, on a ``picture`` or a ``page``."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.costs[kind] = time.perf_counter() - started
            self.spent += self.costs[kind]
