"""Reading files, and writing them completely or not at all."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowstone.errors import CheckpointError, OutputError

if TYPE_CHECKING:
    from torch import Tensor

try:
    import fcntl
except ImportError:  # Windows has none, and temporary files of killed programs stay there
    fcntl = None

__all__ = [
    "UNFINISHED",
    "atomic_folder",
    "atomic_path",
    "make_folder",
    "only_writer",
    "read_bytes",
    "read_header",
    "read_json",
    "read_tensors",
    "remove_unfinished",
    "rename",
    "require_inside",
    "require_regular",
    "tensors_to_bytes",
    "to_json",
    "write_atomically",
]

MOST_RECORD = 1 << 26  # bytes
UNFINISHED = ".writing-"  # how the temporary names begin


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` to write to; renamed to ``path`` if the block ends well, removed if not.

    Before that, temporary files for the same ``path`` whose programs were killed are deleted.

    Raises:
        OutputError: the folder is missing or cannot be written.
    """
    path = Path(path)
    with _temporary(path, tempfile.mkstemp, path.stem, path.suffix) as temporary:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        rename(temporary, path)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """As ``atomic_path``, of a folder; the folders above it are made where they are missing.

    Raises:
        OutputError: it cannot be written, or a file or a folder that is not empty has this name.
    """
    folder = Path(folder)
    make_folder(folder.parent)
    with _temporary(folder, _make_temporary_folder, folder.name, "") as temporary:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        rename(temporary, folder)


@contextmanager
def _temporary(path: Path, make: Callable[..., tuple[int, str]], stem: str, suffix: str) -> Iterator[Path]:
    """A file or folder beside ``path`` that is locked while the block runs, and then removed if it is still there."""
    prefix = f"{UNFINISHED}{stem[:50]}-"
    try:
        _remove_abandoned(path.parent, re.compile(f"{re.escape(prefix)}[a-z0-9_]{{8}}{re.escape(suffix)}"))
        while True:
            handle, name = make(dir=path.parent, prefix=prefix, suffix=suffix)
            _lock(handle, wait=True)
            if _is_still(handle, name):
                break
            os.close(handle)  # another program took it for one that was left, in the moment before it was locked
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
    temporary = Path(name)
    if fcntl is None:
        os.close(handle)  # Windows renames no file that is open
    try:
        yield temporary
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        _remove(temporary)
        if fcntl is not None:
            os.close(handle)


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """A context in which no other process writes a folder, which is made where it is missing.

    Raises:
        OutputError: another process is writing it, or it cannot be made.
    """
    make_folder(folder)
    if fcntl is None:
        yield
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror}") from error
    try:
        if _is_locked(handle) or not _is_still(handle, folder):  # another one may just have removed it
            raise OutputError(f"{folder}: another command writes it")
        yield
    finally:
        os.close(handle)


def remove_unfinished(folder: Path) -> None:
    """Delete what programs that were killed had begun to write in a folder and those below it."""
    for path in sorted(folder.rglob(f"{UNFINISHED}*")):
        _remove_if_abandoned(path)


def _remove_abandoned(folder: Path, name: re.Pattern[str]) -> None:
    """Delete what programs that were killed had begun to write in a folder by names of this form."""
    try:
        with os.scandir(folder) as entries:
            found = [Path(entry.path) for entry in entries if name.fullmatch(entry.name)]
    except OSError:  # what the folder holds is not for this user to see
        return
    for path in found:
        _remove_if_abandoned(path)


def _remove_if_abandoned(path: Path) -> None:
    """Delete a temporary file or folder whose lock is free; where there are no locks, it stays."""
    for way in (os.O_RDWR, os.O_RDONLY):  # a folder can only be read
        try:
            handle = os.open(path, way | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        except OSError:
            continue
        try:
            if _lock(handle, wait=False) and _is_still(handle, path):
                _remove(path)
        finally:
            os.close(handle)
        return


def _lock(handle: int, *, wait: bool) -> bool:
    """Take the system's lock on an open file, which ends with its process; whether it was taken."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:  # another process has it, or this disk has no locks
        return False
    return True


def _is_locked(handle: int) -> bool:
    """Whether another process has the system's lock on an open file; else this one has it, if the disk has locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # pyright: ignore[reportOptionalMemberAccess]
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _is_still(handle: int, path: Path | str) -> bool:
    """Whether an open file is the one at ``path``."""
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except OSError:
        return False


def _make_temporary_folder(**names: Any) -> tuple[int, str]:
    """As ``tempfile.mkstemp``, of a folder."""
    name = tempfile.mkdtemp(**names)
    return os.open(name, os.O_RDONLY), name


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are missing; OutputError if that cannot be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
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


def rename(path: Path, name: Path) -> None:
    """Give the file ``path`` another name in its folder, in place of the file that has it; it lasts through a crash."""
    try:
        path.replace(name)
        if os.name == "posix":  # elsewhere a folder cannot be told to reach the disk
            handle = os.open(name.parent, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
    except OSError as error:
        raise OutputError(f"cannot write {name}: {error.strerror or error}") from error


def require_regular(path: Path) -> None:
    """Require a regular file inside its own folder: no pipe or device, which may never end, and no link out of it.

    Raises:
        CheckpointError: the path is none such, is missing, or may not be read.
    """
    try:
        real = path.resolve(strict=True)
        if not real.is_file():
            raise CheckpointError(f"{path}: cannot be read (it is no regular file)")
        if not real.is_relative_to(path.parent.resolve()):
            raise CheckpointError(f"{path}: cannot be read (it is a link out of its folder)")
        real.open("rb").close()  # without rights this fails, with the system's reason
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error


def require_inside(path: Path) -> None:
    """Refuse to write where a link leads out of the folder that holds ``path``; one that leads nowhere is refused, too.

    Raises:
        OutputError: it is such a link.
    """
    try:
        if not path.is_symlink() or path.resolve(strict=True).is_relative_to(path.parent.resolve()):
            return
        reason = "it is a link out of its folder"
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
    raise OutputError(f"cannot write {path}: {reason}")


def read_bytes(path: Path) -> bytes:
    """The bytes of a record, which are at most ``MOST_RECORD``.

    Raises:
        CheckpointError: the file is missing, too large, cannot be read, or is no regular file in its own folder.
    """
    require_regular(path)
    try:
        with path.open("rb") as file:
            content = file.read(MOST_RECORD + 1)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    if len(content) > MOST_RECORD:
        size = path.stat().st_size
        raise CheckpointError(f"{path}: {size} bytes are more than a record can have ({MOST_RECORD})")
    return content


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        CheckpointError: ``read_bytes`` refuses it, or it is damaged or nested too deep.
    """
    content = read_bytes(path)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON that Flowstone wrote ({error})") from error


def tensors_to_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file of ``tensors``, with texts by name in its header; the order of several texts is not fixed."""
    from safetensors.torch import save

    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return save(on_cpu, metadata=dict(metadata or {"format": "pt"}))


def read_header(path: Path) -> tuple[dict[str, tuple[Any, tuple[int, ...]]], str | None]:
    """Of a safetensors file, precision and shape of each tensor and the digest among its texts, or None.

    Raises:
        CheckpointError: the file is missing, damaged or not a safetensors file.
    """
    with _opened(path) as file:
        kinds = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118, it is no dictionary
        found = {name: (_dtype(kind.get_dtype()), tuple(kind.get_shape())) for name, kind in kinds.items()}
        return found, (file.metadata() or {}).get("digest")


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file, and the texts in its header by name.

    Raises:
        CheckpointError: the file is missing, damaged or not a safetensors file.
    """
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in list(file.keys())}, file.metadata() or {}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file, open."""
    from safetensors import SafetensorError, safe_open

    require_regular(path)
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error


def _dtype(name: str) -> Any:
    """The dtype of torch with this name in a safetensors file."""
    import torch

    letters = {"F": "float", "BF": "bfloat", "I": "int", "U": "uint", "BOOL": "bool"}
    kind = name.rstrip("0123456789")
    dtype = getattr(torch, letters.get(kind, "") + name.removeprefix(kind), None)
    if dtype is None:
        raise ValueError(f"precision {name} is unknown")
    return dtype


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
