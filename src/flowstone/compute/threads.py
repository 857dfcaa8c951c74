"""On how many threads."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["threads_for"]

SMALL_LAYER = 2e7  # multiply-adds in one layer's product below which a second thread costs more than it brings


@contextmanager
def threads_for(model: nn.Module, batch: int) -> Iterator[int]:
    """One thread while the largest layer of ``model`` is small for this batch; otherwise torch's own number."""
    before = torch.get_num_threads()
    largest = max((parameter.numel() for parameter in model.parameters()), default=0)
    # A convolution does its work at every pixel, of which the first squeeze leaves a quarter.
    places = max(1, math.prod(getattr(model, "event_shape", ())[1:]) // 4)
    if batch * largest * places < SMALL_LAYER:
        torch.set_num_threads(1)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
