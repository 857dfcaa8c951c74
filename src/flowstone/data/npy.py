"""Arrays in NumPy's files, .npy and .npz, read within limits: no pickles, nothing allocated that is not there."""

import ast
import math
import os
import zipfile
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from flowstone.data.guards import naming_the_file, read_at_most, require_file_or_folder
from flowstone.data.limits import HEADER, MEMBERS, most_unpacked
from flowstone.errors import DataError

__all__ = ["read_npy", "read_npy_header", "read_npz"]

MAGIC = b"\x93NUMPY"
LENGTH_BYTES = {1: 2, 2: 4, 3: 4}  # of the number that tells how long the header is, by version


class Header(NamedTuple):
    """The header of a .npy file."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran_order: bool

    @property
    def size(self) -> int:
        """Bytes of the array."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_npy_header(stream: IO[bytes]) -> Header:
    """The shape and type of the array in a .npy stream, which is then at the beginning of its values.

    Raises:
        DataError: the stream is no .npy, its header is longer than ``HEADER``, or it holds Python objects.
    """
    magic = read_at_most(stream, 8)
    width = LENGTH_BYTES.get(magic[6]) if len(magic) == 8 and magic.startswith(MAGIC) else None
    if width is None:
        raise DataError("cannot be read as .npy: its first bytes are not those of one")
    length = int.from_bytes(read_at_most(stream, width), "little")
    if length > HEADER:
        raise DataError(f"cannot be read as .npy: its header has {length} characters; at most {HEADER} are read")
    text = read_at_most(stream, length).decode("utf-8" if magic[6] == 3 else "latin1", "replace")
    try:
        found = _parsed(text)
    except Exception as error:  # literal_eval, and the parsing of types, raise many kinds of errors
        raise DataError("cannot be read as .npy: its header is damaged") from error
    if found.dtype.hasobject:
        raise DataError("cannot be read: it holds Python objects (a pickle)")
    return found


def _parsed(text: str) -> Header:
    fields: dict[str, Any] = ast.literal_eval(text.strip())
    shape, fortran = fields["shape"], fields["fortran_order"]
    if not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError(f"shape {shape!r}")
    return Header(shape, np.lib.format.descr_to_dtype(fields["descr"]), bool(fortran))


def read_npy(stream: IO[bytes], most: int) -> np.ndarray:
    """The array in a .npy stream.

    Args:
        most: bytes that the stream can hold: the size of the file, or what its size allows it to unpack to.

    Raises:
        DataError: as ``read_npy_header``, or the stream is shorter than its header tells.
    """
    header = read_npy_header(stream)
    if header.size > most:
        raise DataError(f"its header tells of {header.size} bytes; there are at most {most}")
    values = read_at_most(stream, header.size)
    if len(values) < header.size:
        raise DataError(f"cut off: {len(values)} bytes of the {header.size} its header tells of")
    order = "F" if header.fortran_order else "C"
    return np.ndarray(header.shape, header.dtype, buffer=values, order=order)


def read_npz(path: Path, wanted: str, *others: str) -> dict[str, np.ndarray]:
    """Arrays of an .npz by name; the archive's other members are not unpacked.

    Args:
        wanted: the name of the array that must be there; where the archive holds one array alone, that one is taken.
        others: names of arrays that are read where they are there.

    Raises:
        DataError: the archive cannot be read, or ``wanted`` is not in it.
    """
    require_file_or_folder(path)
    with naming_the_file(path, ".npz"), zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        if len(names) > MEMBERS:
            raise DataError(f"{len(names)} arrays; at most {MEMBERS} are read")
        if wanted not in names and len(names) != 1:
            held = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
            raise DataError(f"no array {wanted!r}: it has {held or 'none'}")
        members = {wanted: wanted if wanted in names else names[0]}
        members |= {name: name for name in others if name in names and name not in members.values()}
        arrays, left = {}, most_unpacked(os.path.getsize(path))
        for name, member in members.items():
            with archive.open(f"{member}.npy") as stream:
                arrays[name] = read_npy(stream, left)
            left -= arrays[name].nbytes
        return arrays
