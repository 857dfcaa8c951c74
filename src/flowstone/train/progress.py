"""The progress of a training: a bar in a terminal or a notebook, lines where there is neither."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

from flowstone.notebook import Output, in_notebook
from flowstone.train.history import History
from flowstone.train.settings import ResolvedSettings

__all__ = ["Bar", "training_bar"]

Bar = Callable[[int, float, float, History], None]

REDRAW = 0.1  # seconds; drawing at every step would cost as much as a small step itself
REDRAW_NOTEBOOK = 0.5  # seconds; each is a message to the browser
LINE_EVERY = 30.0  # seconds between two lines, where no number of steps is set
SMOOTHING = 0.95  # of the training loss beside a bar: the weight of the losses before


@dataclass(frozen=True)
class _Figures:
    """The figures of a training at one step."""

    step: int
    steps: int | None
    over: float
    seconds: float
    train: float
    validation: tuple[float, int] | None  # the last one, and its step
    speed: str

    def losses(self, *, at: bool = False) -> str:
        """The losses and the speed; ``at`` adds the step of the validation."""
        val = "" if self.validation is None else f"  val {self.validation[0]:.4f}"
        step = f" (step {self.validation[1]})" if at and self.validation is not None else ""
        return f"train {self.train:.4f}{val}{step} nats  {self.speed}"

    @property
    def time(self) -> str:
        """The seconds so far, and those that are left if the training goes on as it did."""
        left = self.seconds * (1 - self.over) / self.over if 0 < self.over < 1 else 0
        return f"{_clock(self.seconds)}, {_clock(left)} left" if left else _clock(self.seconds)

    @property
    def line(self) -> str:
        of = "" if self.steps is None else f" of {self.steps}"
        return f"step {self.step}{of}  {self.losses(at=True)}  {self.time}"


class _Display:
    """Takes the figures of each step, and hands them to ``show`` when they are due.

    Args:
        show: draws them.
        every: seconds between two drawings.
        steps: steps between two drawings, instead.
        smoothing: weight of the earlier losses in the mean of the losses since the drawing before; 0 begins a new mean
            with each drawing.
        images: whether the speed is in images, of which a step has as many as a batch has rows, and not in steps.
    """

    def __init__(
        self,
        settings: ResolvedSettings,
        show: Callable[[_Figures], None],
        *,
        every: float = 0.0,
        steps: int | None = None,
        smoothing: float = 0.0,
        images: bool = False,
    ) -> None:
        self.settings, self.show, self.every, self.steps = settings, show, every, steps
        self.smoothing, self.images = smoothing, images
        self.total = self.weight = self.rate = 0.0
        self.mean = math.nan
        self.shown_at = time.monotonic()
        self.shown_step: int | None = None
        self.latest: tuple[int, float, History] | None = None
        self.waiting = False

    def update(self, step: int, seconds: float, loss: float, history: History) -> None:
        """Take the figures of a step."""
        if self.shown_step is None:
            self.shown_step = step - 1
        if (self.latest is None or step != self.latest[0]) and not math.isnan(loss):
            decay = self.smoothing or 1.0
            self.total, self.weight = decay * self.total + loss, decay * self.weight + 1
        self.latest, self.waiting = (step, seconds, history), True
        if self.steps is None:
            is_due = time.monotonic() - self.shown_at >= self.every
        else:
            is_due = step % self.steps == 0 and step != self.shown_step
        if is_due:
            self.draw()

    def draw(self) -> None:
        """Show the latest figures, unless they are shown already."""
        if not self.waiting or self.latest is None or self.shown_step is None:
            return
        (step, seconds, history), now = self.latest, time.monotonic()
        if step > self.shown_step:
            steps = (step - self.shown_step) * (self.settings.batch_size if self.images else 1)
            self.rate = steps / max(now - self.shown_at, 1e-9)
        if self.weight:
            self.mean = self.total / self.weight
        last = history.records[-1] if history.records else None
        figures = _Figures(
            step, self.settings.steps, min(1.0, self.settings.progress(step, seconds)), seconds,
            self.mean,
            None if last is None else (last.val_nll, last.step),
            f"{self.rate:,.0f} {'images' if self.images else 'steps'}/s",
        )  # fmt: skip
        self.show(figures)
        self.shown_at, self.shown_step, self.waiting = now, step, False
        if not self.smoothing:
            self.total = self.weight = 0.0


@contextmanager
def training_bar(settings: ResolvedSettings, *, enabled: bool, images: bool = False) -> Iterator[Bar]:
    """Yields ``update(step, seconds, loss, history)``, which does nothing unless ``enabled``.

    A terminal and a notebook show a bar, which ends with the last figures; ``settings.log_every`` adds a line for each
    so many steps. Elsewhere, as in the log of a batch system, there are lines alone, at most one every 30 seconds or
    every ``log_every`` steps, and one at the end. The training loss of a line is the mean since the line before. The
    speed is in steps, or in ``images``, a second.
    """
    if not enabled:
        yield lambda *_: None
        return
    with ExitStack() as stack:
        write, displays = _write_line, []
        if in_notebook():
            notebook = _NotebookBar()
            write = notebook.add_line
            displays.append(
                _Display(settings, notebook.show, every=REDRAW_NOTEBOOK, smoothing=SMOOTHING, images=images)
            )
        elif sys.stderr.isatty():
            bars = stack.enter_context(_terminal_bar())
            write = bars.write
            displays.append(_Display(settings, bars.show, every=REDRAW, smoothing=SMOOTHING, images=images))
        if settings.log_every is not None or not displays:
            lines = _Display(
                settings, lambda figures: write(figures.line), every=LINE_EVERY, steps=settings.log_every, images=images
            )
            displays.insert(0, lines)

        def update(step: int, seconds: float, loss: float, history: History) -> None:
            for display in displays:
                display.update(step, seconds, loss, history)

        try:
            yield update
        finally:
            for display in displays:
                display.draw()


def _write_line(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


class _TerminalBar:
    """A bar of the library rich."""

    def __init__(self, bars: Any) -> None:
        self.bars = bars
        self.task = bars.add_task("train", total=1.0, step=0, losses="")

    def show(self, figures: _Figures) -> None:
        self.bars.update(self.task, completed=figures.over, step=figures.step, losses=figures.losses())

    def write(self, line: str) -> None:
        """A line above the bar."""
        self.bars.console.print(line, markup=False, highlight=False)


@contextmanager
def _terminal_bar() -> Iterator[_TerminalBar]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("step {task.fields[step]}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[losses]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        yield _TerminalBar(bars)


class _NotebookBar:
    """A bar as one output of a notebook's cell, with the lines of the log above it."""

    def __init__(self) -> None:
        self.output, self.lines = Output(), []

    def add_line(self, line: str) -> None:
        self.lines.append(line)

    def show(self, figures: _Figures) -> None:
        lines = "".join(f"<br>{escape(line)}" for line in self.lines).removeprefix("<br>")
        bar = f'<progress value="{figures.over:.4f}" max="1" aria-label="training"></progress>'
        above = f"<div><code>{lines}</code></div>" if lines else ""
        html = f"{above}<div>{bar} <code>{escape(figures.line)}</code></div>"
        self.output.show({"text/plain": "\n".join([*self.lines, figures.line]), "text/html": html})


def _clock(seconds: float) -> str:
    """Seconds as minutes and seconds, or hours, minutes and seconds.

    >>> _clock(75.4), _clock(7325)
    ('1:15', '2:02:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
