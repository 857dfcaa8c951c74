"""Stores the state of a training in a folder, and restores it."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from flowstone.density import Density
from flowstone.errors import CheckpointError, NonFiniteError
from flowstone.train.forensics import keep_evidence
from flowstone.train.held_out import HeldOut
from flowstone.train.optimizer import FactoryOptimizer, Optimizer
from flowstone.train.processes import Processes
from flowstone.train.state import TrainingState, load_state, save_state
from flowstone.train.weights import Weights, copy_into

__all__ = ["Store"]


class Store:
    """The folder in which a training keeps its state; with None for a folder nothing is kept.

    Of several processes the first one reads and writes.

    Args:
        subject: by name, plain values that tell what is trained on which rows; a state in which one of them differs is
            refused.

    Attributes:
        saved: when the state was last written, in seconds of ``time.monotonic``.
    """

    def __init__(
        self,
        folder: Path | str | None,
        weights: Weights,
        optimizer: Optimizer | FactoryOptimizer,
        held_out: HeldOut,
        processes: Processes,
        subject: Mapping[str, Any],
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        self.subject = dict(subject)
        self.weights, self.optimizer, self.held_out, self.processes = weights, optimizer, held_out, processes
        self.saved = time.monotonic()

    def load(self) -> TrainingState:
        """The stored state, with the weights set to it; a new one where none is stored.

        Raises:
            CheckpointError: it is damaged, or of another density or optimizer.
        """
        state = self._read()
        if state is None:
            return TrainingState(subject=self.subject)
        for name, now in self.subject.items():
            if state.subject.get(name, now) != now:
                raise CheckpointError(
                    f"{self.folder}: the training state there is of another flow or other rows: {name}"
                )
        tensors = {name: list(group) for name, group in state.tensors.items()}
        try:
            for name, into in self.weights.tensors().items():
                names = self.weights.buffer_names
                copy_into(into, _matching(tensors[name], names, into) if "buffer" in name else tensors[name])
            self.optimizer.restore(self.weights, tensors, state.optimizer)
        except (CheckpointError, KeyError, IndexError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{self.folder}: the training state there is of another flow or optimizer ({error})"
            ) from error
        state.subject = self.subject
        self.held_out.restore(tensors)
        module = self.weights.module
        module.load_state_dict(module.state_dict())  # so that layers derive again what depends on their buffers
        return state

    def save(self, state: TrainingState) -> None:
        """Write the state."""
        self.saved = time.monotonic()
        if self.folder is None or self.processes.rank:
            return
        tensors, state.optimizer = self.optimizer.state(self.weights)
        state.tensors = self.weights.tensors() | self.held_out.tensors() | tensors
        save_state(self.folder, state)

    def keep_evidence(self, error: NonFiniteError, density: Density) -> Path | None:
        """Write what was not finite, and the rows and weights with which it happens again; returns where."""
        if self.folder is None or self.processes.rank:
            return None
        return keep_evidence(self.folder / "not-finite", error, density)

    def _read(self) -> TrainingState | None:
        if self.folder is None:
            return None
        state, problem = None, None
        if self.processes.rank == 0:
            try:
                state = load_state(self.folder)
            except CheckpointError as error:
                problem = error
        state, problem = self.processes.first((state, problem))
        if problem is not None:
            raise problem
        return state


def _matching(saved: list[Tensor], names: list[str], buffers: list[Tensor]) -> list[Tensor]:
    """The saved values of these buffers. States of format 1 may lack those of ``CompressTails``, which then stay, and
    may hold a number for the precision of each prior or layer, which is left out.
    """
    if [tensor.shape for tensor in saved] == [tensor.shape for tensor in buffers]:
        return saved
    wanted = [(name, buffer) for name, buffer in zip(names, buffers, strict=True) if ".tails." not in f".{name}"]
    kept: list[Tensor] = []
    for tensor in saved:
        is_marker = tensor.ndim == 0 and tensor.is_floating_point()
        if not (is_marker and (len(kept) == len(wanted) or wanted[len(kept)][1].shape != tensor.shape)):
            kept.append(tensor)
    values = dict(zip((name for name, _ in wanted), kept, strict=True))
    return [values.get(name, buffer) for name, buffer in zip(names, buffers, strict=True)]
