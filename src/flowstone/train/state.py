"""The state of a training on disk."""

import errno
import json
import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec
from torch import Tensor

from flowstone.digest import digest_of
from flowstone.errors import CheckpointError
from flowstone.files import atomic_path, make_folder, read_tensors, rename, tensors_to_bytes
from flowstone.train.history import History, Record

__all__ = ["TrainingState", "load_state", "save_state"]

FORMAT_VERSION = 2  # 1 had no digests
STATE, PREVIOUS = "state.safetensors", "previous.safetensors"
# Errors of the system that say nothing of the state: missing rights, too many open files, too little memory.
REFUSED = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM)


@dataclass
class TrainingState:
    """All that ``fit`` needs to continue as if it had never stopped; batches depend on the step alone."""

    step: int = 0
    seconds: float = 0.0
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])  # loss, gradient norm, count since last record
    tensors: dict[str, list[Tensor]] = field(default_factory=dict)
    history: History = field(default_factory=History)
    optimizer: dict[str, Any] = field(default_factory=dict)  # of a factory's optimizer, the part that is no tensor
    subject: dict[str, Any] = field(default_factory=dict)  # what is trained, and a digest of the held-out rows
    direct: bool | None = None  # whether gradients are computed directly; None before the first step

    def add(self, loss: float, norm: float) -> None:
        """Count one step into the means."""
        self.sums = [self.sums[0] + loss, self.sums[1] + norm, self.sums[2] + 1]

    def take_means(self) -> tuple[float, float]:
        """Mean loss and gradient norm since the last call."""
        loss, norm, count = self.sums
        self.sums = [0.0, 0.0, 0.0]
        return loss / max(count, 1), norm / max(count, 1)


def save_state(folder: Path, state: TrainingState) -> None:
    """Write ``folder/state.safetensors``: one file, so it is always whole. The one before becomes ``previous``."""
    make_folder(folder)
    tensors = {f"{name}.{index}": t for name, group in state.tensors.items() for index, t in enumerate(group)}
    record = {
        "format_version": FORMAT_VERSION,
        "subject": state.subject,
        "step": state.step,
        "seconds": state.seconds,
        "sums": state.sums,
        "history": state.history.as_dicts(),
        "recoveries": state.history.recoveries,
        "optimizer": state.optimizer,
        "direct": state.direct,
    }
    metadata = {"record": json.dumps(record), "digest": digest_of(record, tensors)}
    with atomic_path(folder / STATE) as temporary:
        temporary.write_bytes(tensors_to_bytes(tensors, metadata))
        if (folder / STATE).exists():
            rename(folder / STATE, folder / PREVIOUS)


def load_state(folder: Path) -> TrainingState | None:
    """The last state that ``save_state`` wrote, or None if there is none; where it is damaged, the one before.

    Raises:
        CheckpointError: both are damaged; the message is of the last. Or the last may be whole, but the system does not
            let it be read, or its format is newer than this Flowstone reads.
    """
    problem: CheckpointError | None = None
    for path in (Path(folder) / STATE, Path(folder) / PREVIOUS):
        try:
            if not _is_there(path):
                continue
            state = _read(path)
        except _MayBeWholeError:
            raise
        except CheckpointError as error:
            problem = problem or error
            continue
        if problem is not None:
            warnings.warn(f"{problem}; the training goes on from {path}, step {state.step}", stacklevel=2)
        return state
    if problem is not None:
        raise problem
    return None


class _MayBeWholeError(CheckpointError):
    """A state cannot be read, although it may be whole."""


def _is_there(path: Path) -> bool:
    """Whether there is something of this name; what the system refuses to open may be whole."""
    try:
        os.lstat(path)
        os.close(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)))
    except OSError as error:
        if error.errno in REFUSED:
            raise _MayBeWholeError(f"{path}: cannot be read ({error.strerror})") from error
        return os.path.lexists(path)
    return True


def _read(path: Path) -> TrainingState:
    tensors, metadata = read_tensors(path)
    groups: dict[str, list[Tensor]] = {}
    try:
        content = json.loads(metadata.get("record", ""))
        record = msgspec.convert(content, _Record, strict=True)
        for name, index in sorted((name, int(index)) for name, _, index in (key.rpartition(".") for key in tensors)):
            groups.setdefault(name, []).append(tensors[f"{name}.{index}"])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a training state that Flowstone wrote ({error})") from error
    if record.format_version > FORMAT_VERSION:
        newer = f"format {record.format_version} is newer than this Flowstone reads: upgrade it"
        raise _MayBeWholeError(f"{path}: {newer}")
    digest = metadata.get("digest")
    if (record.format_version > 1 or digest is not None) and digest != digest_of(content, tensors):
        raise CheckpointError(f"{path}: damaged: its digest is not that of its content")
    history = History(record.history, recoveries=record.recoveries)
    return TrainingState(
        record.step,
        record.seconds,
        record.sums,
        groups,
        history,
        record.optimizer,
        record.subject,
        record.direct,
    )


class _Record(msgspec.Struct):
    """What the header of the file holds."""

    format_version: int
    step: Annotated[int, msgspec.Meta(ge=0)]
    seconds: float
    sums: Annotated[list[float], msgspec.Meta(min_length=3, max_length=3)]
    history: list[Record]
    recoveries: list[str] = []
    optimizer: dict[str, Any] = {}
    subject: dict[str, Any] = {}
    direct: bool | None = False  # states of older versions do not say it
