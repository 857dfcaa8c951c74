"""Training in several processes: what they exchange so that all hold the same weights, bit for bit."""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from flowstone.errors import FlowstoneError, ProcessLostError, SettingError

__all__ = ["Processes", "require_one_process", "started_processes"]

T = TypeVar("T")


class Processes:
    """The processes of ``torch.distributed``; where it is not initialised there is one, which sends nothing.

    Every process holds the same rows and the same settings. Of each batch it takes its own part, so that a step is the
    same however many processes share it. Whatever they exchange, all of them call the same methods in the same order.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.

    Raises:
        SettingError: a launcher has started several processes, and nothing has joined them.
        ProcessLostError: by every method that exchanges something: another process has ended, or does not answer.
    """

    def __init__(self) -> None:
        together = dist.is_available() and dist.is_initialized()
        self.rank, self.size = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
        if not together and (started := started_processes()) > 1:
            raise SettingError(
                f"this is one of {started} processes (WORLD_SIZE={started}), and they are not joined: each would train "
                f"a flow of its own. Call torch.distributed.init_process_group() first, or unset WORLD_SIZE"
            )

    def part(self, n: int) -> slice:
        """The rows that this process takes of a batch of n."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over the processes."""
        if self.size > 1:
            with self._exchange():
                for work in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
                    work.wait()  # pyright: ignore[reportOptionalMemberAccess]

    @torch.no_grad()
    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by that of process 0."""
        if self.size > 1:
            with self._exchange():
                for tensor in tensors:
                    values = tensor.detach().contiguous()
                    dist.broadcast(values.view(torch.uint8) if values.dtype is torch.bool else values, 0)
                    tensor.copy_(values)

    def first(self, value: T) -> T:
        """The value that process 0 has."""
        if self.size == 1:
            return value
        values = [value]
        with self._exchange():
            dist.broadcast_object_list(values, 0)
        return values[0]

    def from_first(self, function: Callable[[], T]) -> T:
        """What the function returns in process 0, which alone calls it; its error is raised in all of them."""
        result = self.together(lambda: function() if self.rank == 0 else None)
        return self.first(result)  # pyright: ignore[reportReturnType]

    def together(self, function: Callable[[], T]) -> T:
        """What the function returns in this process. Where it fails in any of them it fails in all, so that none waits
        for one that has ended. The function exchanges nothing.
        """
        if self.size == 1:
            return function()
        result: Any = None
        problem, error = None, None
        try:
            result = function()
        except Exception as caught:
            error, problem = caught, str(caught) if isinstance(caught, FlowstoneError) else repr(caught)
        problems = self._all(problem)
        if error is not None:
            raise error
        for rank, other in enumerate(problems):
            if other is not None:
                raise FlowstoneError(f"process {rank}: {other}")
        return result

    def maximum(self, numbers: tuple[float, ...], device: torch.device) -> tuple[float, ...]:
        """The largest of each number in any of the processes, sent by way of the device."""
        if self.size == 1:
            return numbers
        values = torch.tensor(numbers, dtype=torch.float64, device=device)
        with self._exchange():
            dist.all_reduce(values, dist.ReduceOp.MAX)
            return tuple(values.tolist())

    def require_same(self, what: str, value: Callable[[], Any]) -> None:
        """Refuse values that differ between processes, because those would wait for each other without end."""
        if self.size > 1:
            values = self._all(value())
            if any(other != values[0] for other in values):
                raise SettingError(f"the processes cannot train together: their {what} differ: {values}")

    def _all(self, value: T) -> list[T]:
        """The value of each process."""
        values: list[Any] = [None] * self.size
        with self._exchange():
            dist.all_gather_object(values, value)
        return values

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # what gloo and NCCL raise where a connection is closed or time is over
            reason = re.sub(r"^\[\S*\] ", "", " ".join(str(error).split())).partition(". ")[0]
            raise ProcessLostError(
                f"process {self.rank} of {self.size}: another process has ended, or does not answer ({reason})"
            ) from error


def require_one_process(what: str) -> None:
    """Refuse work that processes cannot share, where there are several."""
    if (size := Processes().size) > 1:
        raise SettingError(f"{what} works in one process, and here are {size}")


def started_processes() -> int:
    """How many processes a launcher such as torchrun has started, this one among them."""
    number = os.environ.get("WORLD_SIZE", "")
    return max(1, int(number)) if number.isdecimal() else 1
