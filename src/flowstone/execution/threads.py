"""On how many threads."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["threads_for", "threads_wanted"]

SMALL_LAYER = 2e7  # multiply-adds in one layer's product below which a second thread costs more than it brings


def threads_wanted(model: nn.Module, batch: int) -> int:
    """One thread while the largest layer of ``model`` is small for this batch; otherwise torch's own number."""
    largest = max((parameter.numel() for parameter in model.parameters()), default=0)
    # A convolution does its work at every pixel, of which the first squeeze leaves a quarter.
    places = max(1, math.prod(getattr(model, "event_shape", ())[1:]) // 4)
    return 1 if batch * largest * places < SMALL_LAYER else torch.get_num_threads()


@contextmanager
def threads_for(model: nn.Module, batch: int) -> Iterator[None]:
    """On as many as ``threads_wanted`` says; afterwards as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads_wanted(model, batch))
    try:
        yield
    finally:
        torch.set_num_threads(before)
