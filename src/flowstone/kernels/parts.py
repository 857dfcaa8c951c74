"""Parts of a computation on several threads, each as it would be computed alone."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

import torch

__all__ = ["computed_parts"]

P = TypeVar("P")
T = TypeVar("T")

MOST_WORKERS = 8  # threads of Python beyond which they wait for each other


def computed_parts(function: Callable[[P], T], parts: Sequence[P], device: torch.device) -> list[T]:
    """What the function returns for each part, in order, without gradients.

    On a CPU several parts are computed at once, on as many threads as torch uses, which they share. A network of small
    layers then keeps all cores busy, where threads within each operation would wait for one another most of the time.
    How many threads compute a part does not depend on how many parts there are: it can change the last bits.
    """
    threads = torch.get_num_threads()
    if threads < 2 or device.type != "cpu" or _bound_to_thread():
        with torch.no_grad():
            return [function(part) for part in parts]
    inference, workers = torch.is_inference_mode_enabled(), min(threads, MOST_WORKERS)
    each = threads // workers

    def run(part: P) -> T:
        with torch.inference_mode(inference), torch.no_grad():
            return function(part)

    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(each,))
    try:
        if len(parts) == 1:
            torch.set_num_threads(each)
            return [run(parts[0])]
        found = [pool.submit(copy_context().run, run, part) for part in parts]
        return [one.result() for one in found]
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # threads that begin later take the number that was set last


def _bound_to_thread() -> bool:
    """Whether something changes the arithmetic of this thread alone: autocast, tracing, modes, ``torch.func``."""
    return bool(
        torch.is_autocast_enabled("cpu")
        or torch.jit.is_tracing()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._are_functorch_transforms_active()
    )
