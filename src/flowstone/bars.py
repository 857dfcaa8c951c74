"""A progress bar of work that is counted, such as images read or rows scored."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape

from flowstone.notebook import Output, in_notebook

__all__ = ["counting_bar"]

REDRAW_NOTEBOOK = 0.5  # seconds


@contextmanager
def counting_bar(words: str, total: int, *, enabled: bool = True, rate: str = "") -> Iterator[Callable[[int], None]]:
    """Yields ``advance(count)``, which moves a bar on a terminal's stderr or in a notebook; elsewhere it does nothing.

    Args:
        words: what is done, to be shown before the bar.
        total: the count at its end.
        enabled: whether a bar is wanted.
        rate: what is counted, such as ``rows``; the bar then also shows their number, and how many are done a second.
    """
    if enabled and in_notebook():
        yield _notebook_bar(words, total, rate)
        return
    if not enabled or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

    columns: list[ProgressColumn] = [TextColumn(words), BarColumn(bar_width=24), TimeRemainingColumn()]
    if rate:
        columns.insert(2, TextColumn("{task.completed:,.0f} of {task.total:,.0f} " + rate))
        columns.insert(3, TextColumn("{task.speed:,.0f} " + rate + "/s"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(words, total=total)
        yield lambda count: bars.advance(task, count)


def _notebook_bar(words: str, total: int, rate: str) -> Callable[[int], None]:
    output, done, drawn = Output(), 0, -REDRAW_NOTEBOOK

    def advance(count: int) -> None:
        nonlocal done, drawn
        done += count
        now = time.monotonic()
        if now - drawn < REDRAW_NOTEBOOK and done < total:
            return
        drawn, said = now, f"{words}: {done:,} of {total:,} {rate}".rstrip()
        bar = f'<progress value="{done}" max="{total}" aria-label="{escape(words)}"></progress>'
        output.show({"text/plain": said, "text/html": f"<div>{bar} <code>{escape(said)}</code></div>"})

    return advance
