"""The weights of a training: those that a step changes, their average, and the best average so far."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from flowstone.execution.flat import FlatParameters

__all__ = ["Weights", "clones", "copy_into"]


class Weights:
    """Arrays of trainable parameters with their exponential moving average, and the best of the averages.

    Buffers (running statistics) belong to the weights with which they were collected: the best ones are kept, too.

    Attributes:
        arrays: the parameters that training changes, one array for each ``FlatParameters``.
        averages: their exponential moving averages.
        best: the averages that were best on validation.
        best_buffers: the module's buffers that belong to them.
    """

    def __init__(self, module: nn.Module, flats: Sequence[FlatParameters]) -> None:
        self.module, self.flats = module, flats
        self.arrays: list[Tensor] = [flat.array for flat in flats]
        saved = module.state_dict(keep_vars=True)
        self.buffer_names = [name for name, _ in module.named_buffers() if name in saved]
        self.averages = clones(self.arrays)
        self.best, self.best_buffers = clones(self.arrays), clones(self.buffers)

    @property
    def buffers(self) -> list[Tensor]:
        """The buffers of the module that it saves; ``Module.to`` puts others in their place."""
        buffers = dict(self.module.named_buffers())
        return [buffers[name] for name in self.buffer_names]

    @torch.no_grad()
    def average(self, decay: float, step: int) -> None:
        """Update the averages by the arrays; in the first steps with a lower decay, which forgets the start sooner."""
        torch._foreach_lerp_(self.averages, self.arrays, 1 - min(decay, (1 + step) / (10 + step)))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """A context in which the module holds the averages, in evaluation mode."""
        raw = clones(self.arrays)
        copy_into(self.arrays, self.averages)
        self.module.eval()
        try:
            yield
        finally:
            self.module.train()
            copy_into(self.arrays, raw)

    def are_finite(self) -> bool:
        """Whether the averages hold neither NaN nor infinity."""
        return all(bool(average.isfinite().all()) for average in self.averages)

    def keep_as_best(self) -> None:
        """Take the present averages as the best so far."""
        copy_into(self.best, self.averages)
        copy_into(self.best_buffers, self.buffers)

    def restore_best(self) -> None:
        """Leave the module with the best averages, in evaluation mode."""
        copy_into(self.arrays, self.best)
        copy_into(self.buffers, self.best_buffers)
        self.module.eval()

    def go_back_to_best(self) -> None:
        """Let the training go on from the best averages."""
        self.restore_best()
        copy_into(self.averages, self.best)
        self.module.train()

    def views(self, arrays: Sequence[Tensor]) -> list[Tensor]:
        """Views of arrays that are laid out like those of the parameters, with the shapes of the parameters."""
        return [view for flat, array in zip(self.flats, arrays, strict=True) for view in flat.views(array)]

    def tensors(self) -> dict[str, list[Tensor]]:
        """All tensors by name, as the state of a training stores them; writing into them changes the weights."""
        return {
            "raw": self.views(self.arrays),
            "buffer": self.buffers,
            "average": self.views(self.averages),
            "best": self.views(self.best),
            "best_buffer": self.best_buffers,
        }


def clones(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies without gradients."""
    return [tensor.detach().clone() for tensor in tensors]


@torch.no_grad()
def copy_into(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy each source into its target.

    Raises:
        ValueError: their number or a shape differs (``copy_`` alone would broadcast).
    """
    for target, source in zip(targets, sources, strict=True):
        if target.shape != source.shape:
            raise ValueError(f"{tuple(source.shape)} instead of {tuple(target.shape)}")
        target.copy_(source)
