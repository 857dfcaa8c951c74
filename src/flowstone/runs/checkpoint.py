"""Saving and loading: JSON for the description of a flow, safetensors for its weights, and no pickle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from flowstone.density import Density
from flowstone.errors import CheckpointError, FlowstoneError, SettingError
from flowstone.execution.flat import require_whole
from flowstone.files import make_folder, read_tensors, tensors_to_bytes, to_json, write_atomically
from flowstone.recipes import build

__all__ = ["FORMAT_VERSION", "build_recorded", "describe", "load", "read_record", "save"]

FORMAT_VERSION = 1
# Arguments of recipes that older files have under another name.
RENAMED = {"realnvp": {"scale_bound": "scale"}}
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def save(density: Any, folder: Path | str, *, extra: Mapping[str, Any] | None = None) -> None:
    """Write ``flow.json`` and ``flow.safetensors`` into ``folder``, which is made if it is missing.

    Args:
        density: one that a recipe made (``density.spec`` is set); or what has a density and saves itself, such as
            ``TableModel`` and ``FlowDensity``, whose ``load`` reads the folder.
        extra: more to record in ``flow.json``, such as the description of the data.

    Raises:
        SettingError: no recipe made the density; make its builder one (``@flowstone.recipes.recipe``). Or its
            parameters are sharded over processes: docs/many-processes.md.
        OutputError: the folder cannot be written.

    >>> import flowstone, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     flowstone.save(flowstone.nice(2), folder)
    ...     flowstone.load(folder).spec["recipe"]
    'nice'
    """
    if not isinstance(density, Density) and hasattr(density, "save"):
        density.save(folder)
        return
    require_whole(density)
    folder, record = Path(folder), describe(density, extra)
    make_folder(folder)
    # The weights come first, so that a folder with flow.json is complete.
    write_atomically(folder / "flow.safetensors", tensors_to_bytes(density.state_dict()))
    write_atomically(folder / "flow.json", (to_json(record) + "\n").encode())


def describe(density: Density, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The content of ``flow.json`` for a density; SettingError where no recipe made it."""
    if density.spec is None:
        raise SettingError(
            "this density has no spec: build it by a recipe, or make its builder one with @flowstone.recipes.recipe"
        )
    return {
        "format_version": FORMAT_VERSION,
        **density.spec,
        "event_shape": list(density.event_shape),
        "dtype": str(density.dtype).removeprefix("torch."),
        **(extra or {}),
    }


def load(folder: Path | str, *, device: torch.device | str = "cpu") -> Density:
    """The density that ``save`` wrote, in evaluation mode.

    Raises:
        CheckpointError: the folder is missing, damaged, not a run folder, or of a newer format; the message says which.
    """
    folder = Path(folder)
    record = read_record(folder)
    try:
        density = build_recorded(record)
    except FlowstoneError as error:
        raise CheckpointError(f"{folder / 'flow.json'}: {error}") from error
    tensors, _ = read_tensors(folder / "flow.safetensors")
    try:
        density.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{folder / 'flow.safetensors'}: does not fit flow.json ({reason})") from error
    return density.to(device).eval()


def build_recorded(record: Mapping[str, Any]) -> Density:
    """The density that ``flow.json`` describes, with new weights."""
    return build(record["recipe"], record["arguments"]).to(DTYPES[record["dtype"]])


def read_record(folder: Path | str) -> dict[str, Any]:
    """``flow.json`` as a dictionary, its format checked, and arguments under their present names."""
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
    renamed = RENAMED.get(record["recipe"], {})
    record["arguments"] = {renamed.get(name, name): value for name, value in record["arguments"].items()}
    return record
