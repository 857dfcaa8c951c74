"""The state of a training on disk."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from flowstone.errors import CheckpointError
from flowstone.files import make_folder, read_tensors, tensors_to_bytes, write_atomically
from flowstone.train.history import History, Record

__all__ = ["TrainingState", "load_state", "save_state"]

FORMAT_VERSION = 1


@dataclass
class TrainingState:
    """All that ``fit`` needs to continue as if it had never stopped; batches depend on the step alone."""

    step: int = 0
    seconds: float = 0.0
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])  # loss, gradient norm, count since last record
    tensors: dict[str, list[Tensor]] = field(default_factory=dict)
    history: History = field(default_factory=History)
    optimizer: dict[str, Any] = field(default_factory=dict)  # of a factory's optimizer, the part that is no tensor

    def add(self, loss: float, norm: float) -> None:
        """Count one step into the means."""
        self.sums = [self.sums[0] + loss, self.sums[1] + norm, self.sums[2] + 1]

    def take_means(self) -> tuple[float, float]:
        """Mean loss and gradient norm since the last call."""
        loss, norm, count = self.sums
        self.sums = [0.0, 0.0, 0.0]
        return loss / max(count, 1), norm / max(count, 1)


def save_state(folder: Path, state: TrainingState) -> None:
    """Write ``folder/state.safetensors``: one file, so it is always whole."""
    make_folder(folder)
    tensors = {f"{name}.{index}": t for name, group in state.tensors.items() for index, t in enumerate(group)}
    record = {
        "format_version": FORMAT_VERSION,
        "step": state.step,
        "seconds": state.seconds,
        "sums": state.sums,
        "history": state.history.as_dicts(),
        "optimizer": state.optimizer,
    }
    write_atomically(folder / "state.safetensors", tensors_to_bytes(tensors, json.dumps(record)))


def load_state(folder: Path) -> TrainingState | None:
    """The state that ``save_state`` wrote, or None if there is none."""
    path = Path(folder) / "state.safetensors"
    if not path.is_file():
        return None
    tensors, text = read_tensors(path)
    groups: dict[str, list[Tensor]] = {}
    try:
        record = json.loads(text)
        for name, index in sorted((name, int(index)) for name, _, index in (key.rpartition(".") for key in tensors)):
            groups.setdefault(name, []).append(tensors[f"{name}.{index}"])
        history = History([Record(**row) for row in record["history"]])
        step, seconds, sums = record["step"], record["seconds"], record["sums"]
        return TrainingState(step, seconds, sums, groups, history, record.get("optimizer", {}))
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not a training state that Flowstone wrote ({error})") from error
