"""CIFAR-10 in the two forms of its authors: pickled batches and binary batches, unpacked or in their archive."""

import io
import math
import pickle
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from flowstone.data.image_collection import ImageCollection
from flowstone.errors import DataError

__all__ = ["CLASSES", "cifar_set"]

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SHAPE = (3, 32, 32)
RECORD = 1 + math.prod(SHAPE)  # a label and an image
BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")


def cifar_set(folder: Path) -> ImageCollection | None:
    """The batches in ``folder``, in whichever form is there; None where there is none."""
    forms = (
        ("cifar-10-batches-py", "cifar-10-python.tar.gz", "", _pickled),
        ("cifar-10-batches-bin", "cifar-10-binary.tar.gz", ".bin", _binary),
    )
    for unpacked, archive, ending, read in forms:
        inside, packed, names = folder / unpacked, folder / archive, [f"{name}{ending}" for name in BATCHES]
        if inside.is_dir():
            return _together(inside, (read(*batch) for batch in _unpacked(inside, names)))
        if packed.is_file():
            return _together(packed, (read(*batch) for batch in _packed(packed, [f"{unpacked}/{n}" for n in names])))
    return None


Batch = tuple[np.ndarray, np.ndarray]


def _together(where: Path, batches: Iterable[Batch]) -> ImageCollection:
    images, labels = zip(*batches, strict=True)
    rows = np.arange(sum(map(len, images)))
    train, test = np.split(rows, [len(rows) - len(images[-1])])
    pixels = np.concatenate(images).reshape(-1, *SHAPE).transpose(0, 2, 3, 1)
    return ImageCollection(where, pixels, np.concatenate(labels), CLASSES, parts={"train": train, "test": test})


def _unpacked(folder: Path, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    for name in names:
        path = folder / name
        if not path.is_file():
            raise DataError(f"{folder}: {name} is missing")
        yield str(path), path.read_bytes()


def _packed(archive: Path, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """The members of these names in the order of ``names``, read without unpacking the archive."""
    contents: dict[str, bytes] = {}
    names = list(names)
    try:
        with tarfile.open(archive) as file:
            for member in file:
                if member.name in names and (stream := file.extractfile(member)) is not None:
                    contents[member.name] = stream.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{archive}: cannot be read ({error})") from error
    for name in names:
        if name not in contents:
            raise DataError(f"{archive}: {name} is missing in it")
        yield f"{archive}: {name}", contents[name]


def _binary(where: str, content: bytes) -> Batch:
    if not content or len(content) % RECORD:
        raise DataError(f"{where}: {len(content)} bytes are no whole number of records of {RECORD}")
    records = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
    return records[:, 1:], records[:, 0].astype(np.int64)


def _pickled(where: str, content: bytes) -> Batch:
    try:
        batch = _Plain(io.BytesIO(content), encoding="bytes").load()
        named = {_text(key): value for key, value in batch.items()}
        pixels, labels = named["data"].array(), np.array(named["labels"], np.int64)
    except pickle.UnpicklingError as error:
        raise DataError(f"{where}: {error}") from error
    except Exception as error:  # a damaged pickle can fail in any way
        raise DataError(f"{where}: not a batch of CIFAR-10 ({type(error).__name__}: {error})") from error
    if pixels.ndim != 2 or pixels.shape[1] != RECORD - 1 or labels.shape != pixels.shape[:1]:
        wanted = f"images (n, {RECORD - 1}) and n labels"
        raise DataError(f"{where}: expected {wanted}, got {pixels.shape} and {labels.shape}")
    return pixels, labels


# --- pickles, without running what is in them -------------------------------------------------------------------------


class _Type:
    """The stand-in for numpy's dtype in a pickle: a name."""

    def __init__(self, name: Any, *_: object) -> None:
        self.name = _text(name)

    def __setstate__(self, state: object) -> None:
        """Ignore byte order and the like, which bytes do not have."""


class _Array:
    """The stand-in for numpy's array in a pickle: a shape and bytes."""

    def __setstate__(self, state: tuple) -> None:
        _, self.shape, self.kind, self.fortran, self.raw = state

    def array(self) -> np.ndarray:
        if self.kind.name not in ("u1", "|u1") or self.fortran:
            raise pickle.UnpicklingError(f"its array is of type {self.kind.name!r}, wanted bytes ('u1')")
        return np.frombuffer(self.raw, np.uint8).reshape(self.shape)


def _new_array(*_: object) -> _Array:
    return _Array()


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in {encoding!r}, wanted latin1")
    return text.encode("latin1")


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


class _Plain(pickle.Unpickler):
    """Reads dictionaries, lists, strings, numbers and arrays of bytes; anything else in a pickle is refused, not run.

    Not even numpy's own functions are called: stand-ins take their arguments.
    """

    ADMITTED = {  # noqa: RUF012
        ("numpy.core.multiarray", "_reconstruct"): _new_array,
        ("numpy._core.multiarray", "_reconstruct"): _new_array,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Type,
        ("_codecs", "encode"): _latin1,
    }

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name in the pickle."""
        if (module, name) not in self.ADMITTED:
            raise pickle.UnpicklingError(f"the pickle asks for {module}.{name}, which no CIFAR-10 batch needs: not run")
        return self.ADMITTED[module, name]
