"""A progress bar of work that is counted, such as images read or rows scored."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["counting_bar"]


@contextmanager
def counting_bar(words: str, total: int, *, enabled: bool = True, rate: str = "") -> Iterator[Callable[[int], None]]:
    """Yields ``advance(count)``, which moves a bar on stderr, if that is a terminal; without one it does nothing.

    Args:
        words: what is done, before the bar.
        total: the count at its end.
        enabled: whether a bar is wanted.
        rate: what is counted, as in ``rows``: how many are done and how many in a second is then shown behind the bar.
    """
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
