"""How many rows are computed at a time where no gradient is recorded."""

from collections.abc import Iterator
from functools import cache

import torch

__all__ = ["CHUNK", "chunks"]

# With fewer rows the small steps between matrix products count, with more the activations leave the caches; a GPU wants
# more to do. Of long rows (images) as many as make so many numbers.
CHUNK, GPU_CHUNK = 8192, 65_536
NUMBERS, GPU_NUMBERS = 2**17, 2**23


def chunks(n: int, event_shape: torch.Size, device: torch.device) -> Iterator[slice]:
    """Slices of n rows of that shape; of no rows an empty one.

    >>> [(rows.start, rows.stop) for rows in chunks(10_000, torch.Size((2,)), torch.device("cpu"))]
    [(0, 8192), (8192, 10000)]
    """
    _keep_freed_memory()
    rows, numbers = (CHUNK, NUMBERS) if device.type == "cpu" else (GPU_CHUNK, GPU_NUMBERS)
    size = max(1, min(rows, numbers // event_shape.numel()))
    return (slice(start, min(start + size, n)) for start in range(0, max(n, 1), size))


@cache
def _keep_freed_memory() -> None:
    """Let the C library keep what is freed for the next array, instead of giving it back to the system each time and
    taking it again page by page, which takes as long as a tenth of the arithmetic of scoring.

    glibc keeps arrays up to the size of the largest that was ever freed, of at most 32 MiB: so one of that size is
    freed. Nothing is written into it, so it takes no memory; other C libraries ignore it.
    """
    torch.empty((32 << 20) - (1 << 16), dtype=torch.uint8, device="cpu")
