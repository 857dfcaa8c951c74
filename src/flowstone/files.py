"""Reading files, and writing them completely or not at all."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowstone.errors import CheckpointError, OutputError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["atomic_path", "make_folder", "read_tensors", "tensors_to_bytes", "to_json", "write_atomically"]


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` to write to; renamed to ``path`` if the block ends well, removed if not.

    Raises:
        OutputError: the folder is missing or cannot be written.
    """
    path = Path(path)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
        os.close(handle)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(folder: Path, *, new: bool = False) -> None:
    """Make a folder and those above it; with ``new``, OutputError where it exists already."""
    try:
        folder.mkdir(parents=True, exist_ok=not new)
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror}") from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``: all of it or nothing."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def to_json(content: Mapping[str, Any]) -> str:
    """Readable JSON; a NaN or infinity, which JSON cannot express, becomes null."""

    def plain(value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return None
        if isinstance(value, Mapping):
            return {key: plain(inner) for key, inner in value.items()}
        return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value

    return json.dumps(plain(content), indent=2, allow_nan=False)


def tensors_to_bytes(tensors: Mapping[str, Tensor], record: str = "") -> bytes:
    """A safetensors file of ``tensors``, with ``record`` in its header."""
    from safetensors.torch import save

    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return save(on_cpu, metadata={"record": record})


def read_tensors(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a safetensors file, and the record in its header.

    Raises:
        CheckpointError: the file is missing, damaged or not a safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in list(file.keys())}
            return tensors, (file.metadata() or {}).get("record", "")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
