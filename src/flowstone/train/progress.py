"""The progress bar of a training: step, train and validation NLL, rate, time left."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flowstone.train.history import History
from flowstone.train.settings import ResolvedSettings

__all__ = ["Bar", "training_bar"]

Bar = Callable[[int, float, float, History], None]

REDRAW = 0.1  # seconds; drawing at every step would cost as much as a small step itself


@contextmanager
def training_bar(settings: ResolvedSettings, *, enabled: bool, images: bool = False) -> Iterator[Bar]:
    """Yields ``update(step, seconds, loss, history)``, which does nothing unless ``enabled``.

    The bar shows the speed in steps, or in ``images``, a second.
    """
    if not enabled:
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    speed = "{task.fields[rate]:.0f} " + ("images/s" if images else "steps/s")
    columns = (
        TextColumn("step {task.fields[step]}"),
        BarColumn(bar_width=24),
        TextColumn("train {task.fields[train]:.4f}  val {task.fields[val]:.4f} nats  " + speed),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task("train", total=1.0, step=0, train=math.nan, val=math.nan, rate=0.0)
        smooth, drawn, last_step, last_time = math.nan, 0.0, None, time.monotonic()

        def update(step: int, seconds: float, loss: float, history: History) -> None:
            nonlocal smooth, drawn, last_step, last_time
            smooth = loss if math.isnan(smooth) else 0.95 * smooth + 0.05 * loss
            now, over = time.monotonic(), settings.progress(step, seconds)
            if now - drawn < REDRAW and over < 1:
                return
            done = 0 if last_step is None else (step - last_step) * (settings.batch_size if images else 1)
            rate = done / max(now - last_time, 1e-9)
            val = history.records[-1].val_nll if history.records else math.nan
            bars.update(task, completed=min(over, 1.0), step=step, train=smooth, val=val, rate=rate)
            drawn, last_step, last_time = now, step, now

        yield update
