"""Ctrl-C, and a cluster's notice that it is going to end the process, during a training."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["EXIT_STATUS", "STOPPED_BY", "stop_signal"]

# ``History.stopped`` of a training that one of these signals ends.
STOPPED_BY = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
EXIT_STATUS = {stopped: 128 + number for number, stopped in STOPPED_BY.items()}  # as of a process that the signal ends


@contextmanager
def stop_signal() -> Iterator[Callable[[], int]]:
    """Yields a function that returns the number of the signal that arrived, SIGINT or SIGTERM, or 0; a step then ends
    undisturbed.

    A second signal of the kind does at once what it would have done without this. Outside the main thread, where Python
    allows no handler, the function never reports one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    arrived = 0

    def note(number: int, _frame: object) -> None:
        nonlocal arrived
        arrived = number
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.signal(number, note) for number in STOPPED_BY}
    try:
        yield lambda: arrived
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
