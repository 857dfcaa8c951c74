"""CIFAR-10 in the two forms of its authors: pickled batches and binary batches, unpacked or in their archive."""

import io
import math
import pickle
import pickletools
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from flowstone.data.guards import naming_the_file, read_file
from flowstone.data.image_collection import ImageCollection
from flowstone.data.limits import MEMBER, MEMBERS
from flowstone.data.tables.streams import open_bytes
from flowstone.errors import DataError

__all__ = ["CLASSES", "cifar_set"]

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SHAPE = (3, 32, 32)
RECORD = 1 + math.prod(SHAPE)  # a label and an image
BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")

NO_CONTAINERS = ("STRING", "UNICODE", "UNICODE8", "BYTES", "BYTES8", "GLOBAL", "REDUCE")  # what these opcodes make
MOST_KEPT = 1_000_000  # values that a pickle numbers, to repeat them


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
        with naming_the_file(path):
            content = read_file(path, MEMBER)
        yield str(path), content


def _packed(archive: Path, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """The members of these names in the order of ``names``, read without unpacking the archive."""
    contents: dict[str, bytes] = {}
    names = list(names)
    with (
        naming_the_file(archive, ".tar.gz"),
        open_bytes(archive) as stream,
        tarfile.open(fileobj=stream, mode="r|") as file,
    ):
        for number, member in enumerate(file, start=1):
            if number > MEMBERS:
                raise DataError(f"more than {MEMBERS} members, which is more than is read")
            if member.name in names:
                contents[member.name] = _content(file, member)
    for name in names:
        if name not in contents:
            raise DataError(f"{archive}: {name} is missing in it")
        yield f"{archive}: {name}", contents[name]


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        raise DataError(f"{member.name} is no regular file in it, but a link or the like")
    if member.size > MEMBER:
        raise DataError(f"{member.name} has {member.size} bytes in it; at most {MEMBER} are read")
    stream = archive.extractfile(member)
    return b"" if stream is None else stream.read()


def _binary(where: str, content: bytes) -> Batch:
    if not content or len(content) % RECORD:
        raise DataError(f"{where}: {len(content)} bytes are no whole number of records of {RECORD}")
    records = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
    return records[:, 1:], records[:, 0].astype(np.int64)


def _pickled(where: str, content: bytes) -> Batch:
    try:
        _require_plain(content)
        batch = _Plain(io.BytesIO(content), encoding="bytes").load()
        named = {_text(key): value for key, value in batch.items() if isinstance(key, str | bytes)}
        pixels, numbers = named["data"].array(), named["labels"]
        if not isinstance(numbers, list) or not all(type(number) is int for number in numbers):
            raise pickle.UnpicklingError("its labels are no list of whole numbers")
        labels = np.array(numbers, np.int64)
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


def _require_plain(content: bytes) -> None:
    """Refuse a pickle that is small and takes all memory or time: by a huge place in the memo, which is allocated, or
    by containers that hold one container many times, whose hashes take time without end.
    """
    kept: dict[int, bool] = {}  # places in the memo: whether a container is there
    is_container = True
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            place = len(kept) if argument is None else int(argument)
            if place > MOST_KEPT:
                raise pickle.UnpicklingError(f"it numbers a value {place}; at most {MOST_KEPT} are read")
            kept[place] = is_container
        elif opcode.name in ("GET", "BINGET", "LONG_BINGET", "DUP"):
            if argument is None or kept.get(int(argument), True):
                raise pickle.UnpicklingError("it holds one container twice, which no CIFAR-10 batch does")
            is_container = False
        else:
            is_container = not opcode.name.endswith(NO_CONTAINERS)


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
