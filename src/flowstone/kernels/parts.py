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
    """
    threads = torch.get_num_threads()
    workers = min(threads, len(parts), MOST_WORKERS)
    if workers < 2 or device.type != "cpu" or _bound_to_thread():
        with torch.no_grad():
            return [function(part) for part in parts]
    inference = torch.is_inference_mode_enabled()

    def run(part: P) -> T:
        with torch.inference_mode(inference), torch.no_grad():
            return function(part)

    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads // workers,))
    try:
        found = [pool.submit(copy_context().run, run, part) for part in parts]
        return [each.result() for each in found]
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
