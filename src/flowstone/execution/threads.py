"""The number of threads that a model runs on."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["thread_count", "threads_for"]

SHARE = 4e6  # multiply-adds of a layer below which another thread costs more time than it saves


def thread_count(model: nn.Module, batch: int) -> int:
    """One thread for each 4 million multiply-adds of the largest layer of ``model``; at most torch's own number."""
    largest = max((parameter.numel() for parameter in model.parameters()), default=0)
    # A convolution multiplies at every pixel; the first squeeze leaves a quarter of the pixels.
    places = max(1, math.prod(getattr(model, "event_shape", ())[1:]) // 4)
    return max(1, min(torch.get_num_threads(), int(batch * largest * places / SHARE)))


@contextmanager
def threads_for(model: nn.Module, batch: int) -> Iterator[None]:
    """A context in which torch uses ``thread_count(model, batch)`` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(thread_count(model, batch))
    try:
        yield
    finally:
        torch.set_num_threads(before)
