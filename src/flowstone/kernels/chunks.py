"""How many rows are computed at a time where no gradient is recorded."""

from collections.abc import Iterator

import torch

__all__ = ["CHUNK", "chunks", "rows_at_once"]

# Smaller chunks spend more of their time between matrix products, larger ones do not fit the caches; a GPU needs more
# rows at once. Chunks of long rows (images) hold at most NUMBERS numbers.
CHUNK, GPU_CHUNK = 8192, 65_536
NUMBERS, GPU_NUMBERS = 2**17, 2**23


def rows_at_once(event_shape: torch.Size, device: torch.device) -> int:
    """How many rows of that shape make a chunk."""
    rows, numbers = (CHUNK, NUMBERS) if device.type == "cpu" else (GPU_CHUNK, GPU_NUMBERS)
    return max(1, min(rows, numbers // event_shape.numel()))


def chunks(n: int, event_shape: torch.Size, device: torch.device) -> Iterator[slice]:
    """Slices of n rows of that shape; an empty one if there are no rows.

    >>> [(rows.start, rows.stop) for rows in chunks(10_000, torch.Size((2,)), torch.device("cpu"))]
    [(0, 8192), (8192, 10000)]
    """
    size = rows_at_once(event_shape, device)
    return (slice(start, min(start + size, n)) for start in range(0, max(n, 1), size))
