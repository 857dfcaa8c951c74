"""Saving and loading: JSON for what a flow is, safetensors for its weights. No pickle anywhere."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from flowstone.errors import CheckpointError, FlowstoneError, SettingError
from flowstone.files import make_folder, to_json, write_atomically
from flowstone.flow import Flow
from flowstone.history import History, Record
from flowstone.recipes import build

__all__ = ["FORMAT_VERSION", "TrainingState", "describe", "load", "load_state", "read_record", "save", "save_state"]

FORMAT_VERSION = 1
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def save(flow: Flow, folder: Path | str, *, extra: Mapping[str, Any] | None = None) -> None:
    """Write ``flow.json`` and ``flow.safetensors`` into ``folder``, which is made if it is missing.

    Args:
        flow: a flow that a recipe made (``flow.spec`` is set).
        extra: more to record in ``flow.json``, such as the description of the data.

    Raises:
        SettingError: the flow was put together by hand; give it a recipe (``@flowstone.recipes.recipe``).
        OutputError: the folder cannot be written.

    >>> import flowstone, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     flowstone.save(flowstone.nice(2), folder)
    ...     flowstone.load(folder).spec["recipe"]
    'nice'
    """
    folder, record = Path(folder), describe(flow, extra)
    make_folder(folder)
    # Weights first: a folder with flow.json is whole.
    write_atomically(folder / "flow.safetensors", _to_bytes(flow.state_dict()))
    write_atomically(folder / "flow.json", (to_json(record) + "\n").encode())


def describe(flow: Flow, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What ``flow.json`` says of a flow; SettingError where it was put together by hand."""
    if flow.spec is None:
        raise SettingError(
            "this flow has no spec: build it by a recipe, or make its builder one with @flowstone.recipes.recipe"
        )
    return {
        "format_version": FORMAT_VERSION,
        **flow.spec,
        "event_shape": list(flow.event_shape),
        "dtype": str(flow.dtype).removeprefix("torch."),
        **(extra or {}),
    }


def load(folder: Path | str, *, device: torch.device | str = "cpu") -> Flow:
    """The flow that ``save`` wrote, in evaluation mode.

    Raises:
        CheckpointError: the folder is missing, damaged, not a run folder, or of a newer format; the message says which.
    """
    folder = Path(folder)
    record = read_record(folder)
    try:
        flow = build(record["recipe"], record["arguments"])
    except FlowstoneError as error:
        raise CheckpointError(f"{folder / 'flow.json'}: {error}") from error
    flow.to(DTYPES[record["dtype"]])
    tensors, _ = _read_tensors(folder / "flow.safetensors")
    try:
        flow.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{folder / 'flow.safetensors'}: does not fit flow.json ({reason})") from error
    return flow.to(device).eval()


def read_record(folder: Path | str) -> dict[str, Any]:
    """``flow.json`` as a dictionary, its format checked."""
    path = Path(folder) / "flow.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} is not a run folder: it holds no flow.json")
    try:
        record = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path}: not a record that Flowstone wrote ({error})") from error
    if not isinstance(record, dict) or not isinstance(record.get("format_version"), int):
        raise CheckpointError(f"{path}: not a record that Flowstone wrote (it has no format_version)")
    if record["format_version"] > FORMAT_VERSION:
        newer = f"format {record['format_version']} is newer than this Flowstone reads ({FORMAT_VERSION})"
        raise CheckpointError(f"{path}: {newer}: upgrade it")
    for key, kind in {"recipe": str, "arguments": dict, "event_shape": list, "dtype": str}.items():
        if not isinstance(record.get(key), kind):
            raise CheckpointError(f"{path}: {key} is {record.get(key)!r}, which Flowstone does not write")
    if record["dtype"] not in DTYPES:
        raise CheckpointError(f"{path}: dtype is {record['dtype']!r}; known: {', '.join(DTYPES)}")
    return record


# --- the state of a training, for --resume ----------------------------------------------------------------------------


@dataclass
class TrainingState:
    """All that ``fit`` needs to go on as if it had never stopped; batches follow from the step."""

    step: int = 0
    seconds: float = 0.0
    sums: list[float] = field(
        default_factory=lambda: [0.0, 0.0, 0.0]
    )  # loss, gradient norm, count since the last record
    tensors: dict[str, list[Tensor]] = field(default_factory=dict)
    history: History = field(default_factory=History)

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
    }
    write_atomically(folder / "state.safetensors", _to_bytes(tensors, json.dumps(record)))


def load_state(folder: Path) -> TrainingState | None:
    """What ``save_state`` wrote; None where there is none yet."""
    path = Path(folder) / "state.safetensors"
    if not path.is_file():
        return None
    tensors, text = _read_tensors(path)
    groups: dict[str, list[Tensor]] = {}
    try:
        record = json.loads(text)
        for key in sorted(tensors, key=lambda key: (key.partition(".")[0], int(key.partition(".")[2]))):
            groups.setdefault(key.partition(".")[0], []).append(tensors[key])
        history = History([Record(**row) for row in record["history"]])
        return TrainingState(record["step"], record["seconds"], record["sums"], groups, history)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not a training state that Flowstone wrote ({error})") from error


def _to_bytes(tensors: Mapping[str, Tensor], record: str = "") -> bytes:
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return tensors_to_bytes(whole, metadata={"record": record})


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], str]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in list(file.keys())}, (file.metadata() or {}).get(
                "record", ""
            )
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
