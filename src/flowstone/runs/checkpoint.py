"""Saving and loading: JSON for the description of a flow, safetensors for its weights, and no pickle."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowstone.data.tables import Columns
from flowstone.density import Density
from flowstone.digest import digest_of
from flowstone.errors import CheckpointError, FlowstoneError, NonFiniteError, SettingError, UnknownNameError
from flowstone.execution.flat import require_density
from flowstone.files import make_folder, read_json, rename, tensors_to_bytes, to_json, write_atomically
from flowstone.recipes import RECIPES, all_recipes, build
from flowstone.runs.schema import require_schema
from flowstone.runs.weights import content_digest, read_weights, require_fitting

__all__ = [
    "FORMAT_VERSION",
    "WEIGHTS",
    "build_recorded",
    "describe",
    "load",
    "read_record",
    "reading",
    "save",
    "write_record",
]

FORMAT_VERSION = 4  # 1 had no digests
RECORD, WEIGHTS = "flow.json", "flow.safetensors"
NEXT_WEIGHTS = ".next.safetensors"  # while a density is written over another one: the weights of the new flow.json
# Arguments of recipes that files of format 1 have under another name, and those that files before a format lack, with
# the values that they had.
RENAMED = {"realnvp": {"scale_bound": "scale"}}
ADDED = {3: {"mixed": {"encoding_pieces": 16}, "embedded": {"net": "mlp"}}, 4: {"mixed": {"scaled": False}}}
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def save(density: Any, folder: Path | str, *, extra: Mapping[str, Any] | None = None) -> None:
    """Write ``flow.json`` and ``flow.safetensors`` into ``folder``, which is made if it is missing.

    Args:
        density: one that a recipe made (``density.spec`` is set); or an object that holds a density and saves itself,
            such as ``TableModel`` and ``FlowDensity``, whose ``load`` reads the folder.
        extra: further records for ``flow.json``, such as the description of the data.

    Raises:
        SettingError: no recipe made the density; make its builder one (``@flowstone.recipes.recipe``). Or its
            parameters are sharded over processes: docs/many-processes.md. Or it is no density.
        NonFiniteError: a weight is not finite.
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
    require_density("save writes a density", density)
    folder, record = Path(folder), describe(density, extra)
    weights = density.state_dict()
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise NonFiniteError(f"{name} holds NaN or infinity: nothing is written to {folder}")
    make_folder(folder)
    # A folder that holds another density is at every moment the old one or the new one.
    written = tensors_to_bytes(weights, {"digest": content_digest(record, weights)})
    write_atomically(folder / NEXT_WEIGHTS, written)
    write_record(folder, record)
    rename(folder / NEXT_WEIGHTS, folder / WEIGHTS)


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write ``flow.json``, with a digest of its own content."""
    write_atomically(folder / RECORD, (to_json({**record, "digest": _own_digest(record)}) + "\n").encode())


def describe(density: Density, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The content of ``flow.json`` for a density; SettingError where no recipe made it."""
    if density.spec is None:
        raise SettingError(
            "this density has no spec: build it by a recipe, or make its builder one with @flowstone.recipes.recipe"
        )
    record = {
        "format_version": FORMAT_VERSION,
        **density.spec,
        "event_shape": list(density.event_shape),
        "dtype": str(density.dtype).removeprefix("torch."),
        **({} if density.trained is None else {"trained": density.trained}),
        **(extra or {}),
    }
    return json.loads(to_json(record))


def load(folder: Path | str, *, device: torch.device | str = "cpu") -> Density:
    """The density that ``save`` wrote, in evaluation mode.

    Raises:
        CheckpointError: the folder is missing, damaged, not a run folder, or of a newer format; the message says which.
    """
    folder = Path(folder)
    record = read_record(folder)
    weights = _weights(folder, record)
    with reading(folder / WEIGHTS):
        density = build_recorded(_with_unseen(record))
        density.load_state_dict(weights)
    density.trained = record.get("trained")
    return density.to(device).eval()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever goes wrong where the content of a file is used becomes a CheckpointError, which names the file."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        reason = str(error) if isinstance(error, FlowstoneError) else f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{path}: cannot be used ({' '.join(reason.split())})") from error


def _weights(folder: Path, record: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights that belong to the record; where a ``save`` was broken off, two files may hold them."""
    problem: CheckpointError | None = None
    for path in (folder / WEIGHTS, folder / NEXT_WEIGHTS):
        try:
            with reading(folder / RECORD):
                require_fitting(record, lambda: build_recorded(record), path)
            return read_weights(record, path)
        except CheckpointError as error:
            problem = problem or error
    assert problem is not None
    raise problem


def build_recorded(record: Mapping[str, Any]) -> Density:
    """The density that ``flow.json`` describes, with new weights."""
    recipe, arguments = record["recipe"], record["arguments"]
    if recipe not in RECIPES and recipe not in all_recipes():
        raise SettingError(
            f"{UnknownNameError('recipe', recipe, RECIPES)}; a recipe of your own is known once its module is "
            "imported, and to the command where an installed package offers it"
        )
    for version, added in ADDED.items():
        if record["format_version"] < version:
            arguments = _with_added(added, recipe, arguments)
    return build(recipe, arguments).to(DTYPES[record["dtype"]])


def _with_added(added: Mapping[str, Any], recipe: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with those that older files lack, by recipe, also of the densities that a density is made of."""

    def inner(part: Mapping[str, Any]) -> dict[str, Any]:
        return {**part, "arguments": _with_added(added, part["recipe"], part.get("arguments", {}))}

    found: dict[str, Any] = {**added.get(recipe, {}), **arguments}
    if recipe == "blend":
        found["parts"] = [inner(part) for part in found["parts"]]
    if recipe == "embedded" and found["density"] is not None:
        found["density"] = inner(found["density"])
    return found


def read_record(folder: Path | str) -> dict[str, Any]:
    """``flow.json`` as a dictionary, its digest and its schema checked, and arguments under their present names."""
    path = Path(folder) / RECORD
    if not path.exists():
        raise CheckpointError(f"{folder} is not a run folder: it holds no flow.json")
    record = read_json(path)
    if not isinstance(record, dict) or not isinstance(record.get("format_version"), int):
        raise CheckpointError(f"{path}: not a record that Flowstone wrote (it has no format_version)")
    if record["format_version"] > FORMAT_VERSION:
        newer = f"format {record['format_version']} is newer than this Flowstone reads ({FORMAT_VERSION})"
        raise CheckpointError(f"{path}: {newer}: upgrade it")
    require_schema(record, path)
    has_digest = record["format_version"] > 1 or "digest" in record
    if has_digest and record.get("digest") != _own_digest(record):
        raise CheckpointError(f"{path}: damaged or edited: its digest is not that of its content")
    renamed = RENAMED.get(record["recipe"], {}) if record["format_version"] == 1 else {}
    record["arguments"] = {renamed.get(name, name): value for name, value in record["arguments"].items()}
    return record


def _with_unseen(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """A record whose mixed columns have their probability of unseen levels. Where it lacks them, as older ones do, they
    follow from the kinds of the columns.
    """
    heads = record["arguments"].get("columns")
    schema = (record.get("data") or record.get("estimator") or {}).get("schema")
    if record["recipe"] != "mixed" or not heads or not schema:
        return record
    unseen = {
        head["name"]: {"unseen": head["unseen"]} for head in Columns.from_record(schema).heads() if "unseen" in head
    }
    columns = [{**unseen.get(head["name"], {}), **head} for head in heads]
    return {**record, "arguments": {**record["arguments"], "columns": columns}}


def _own_digest(record: Mapping[str, Any]) -> str:
    return digest_of({name: value for name, value in record.items() if name != "digest"})
