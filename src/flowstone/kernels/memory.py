"""Memory that is freed and wanted again at once."""

from functools import cache

import torch

__all__ = ["keep_freed_memory"]


@cache
def keep_freed_memory() -> None:
    """Let the C library keep what is freed for the next array, instead of giving it back to the system each time and
    taking it again page by page, which takes up to a tenth of the time of training and scoring.

    glibc keeps arrays up to the size of the largest that was ever freed, of at most 32 MiB: so one of that size is
    freed. Nothing is written into it, so it takes no memory; other C libraries ignore it.
    """
    torch.empty((32 << 20) - (1 << 16), dtype=torch.uint8, device="cpu")
