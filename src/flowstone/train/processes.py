"""Training in several processes: what they exchange so that all hold the same weights, bit for bit."""

from collections.abc import Iterable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from flowstone.errors import SettingError

__all__ = ["Processes"]

T = TypeVar("T")


class Processes:
    """The processes of ``torch.distributed``; where it is not initialised there is one, which sends nothing.

    Every process holds the same rows and the same settings. Of each batch it takes its own part, so that a step is the
    same however many processes share it.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
    """

    def __init__(self) -> None:
        together = dist.is_available() and dist.is_initialized()
        self.rank, self.size = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)

    def part(self, n: int) -> slice:
        """The rows that this process takes of a batch of n."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over the processes."""
        if self.size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    @torch.no_grad()
    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by that of process 0."""
        if self.size > 1:
            for tensor in tensors:
                values = tensor.detach().contiguous()
                dist.broadcast(values.view(torch.uint8) if values.dtype is torch.bool else values, 0)
                tensor.copy_(values)

    def first(self, value: T) -> T:
        """The value that process 0 has."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, 0)
        return values[0]

    def maximum(self, numbers: tuple[float, ...], device: torch.device) -> tuple[float, ...]:
        """The largest of each number in any of the processes, sent by way of the device."""
        if self.size == 1:
            return numbers
        values = torch.tensor(numbers, dtype=torch.float64, device=device)
        dist.all_reduce(values, dist.ReduceOp.MAX)
        return tuple(values.tolist())

    def require_same(self, what: str, value: Any) -> None:
        """Refuse values that differ between processes, because those would wait for each other without end."""
        if self.size == 1:
            return
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        if any(other != values[0] for other in values):
            raise SettingError(f"the processes cannot train together: their {what} differ: {values}")
