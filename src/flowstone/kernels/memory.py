"""Freed memory is kept for the next array."""

from functools import cache

import torch

__all__ = ["keep_freed_memory"]


@cache
def keep_freed_memory() -> None:
    """Let the C library keep what is freed for the next array, instead of giving it back to the system each time and
    taking it again page by page, which takes up to a tenth of the time of training and scoring.

    glibc keeps arrays up to the size of the largest that was freed before, of at most 32 MiB. This function therefore
    frees one of that size. Nothing is written into it, so it takes no memory; other C libraries ignore it.
    """
    torch.empty((32 << 20) - (1 << 16), dtype=torch.uint8, device="cpu")
