"""IDX: the files of MNIST and of sets in its form, with .gz or without."""

import math
import struct
from pathlib import Path

import numpy as np

from flowstone.data.guards import naming_the_file, read_at_most
from flowstone.data.image_collection import ImageCollection
from flowstone.data.image_format import times
from flowstone.data.limits import most_unpacked
from flowstone.data.tables.streams import open_bytes
from flowstone.errors import DataError

__all__ = ["idx_set", "read_idx"]

FILES = {"train": "train", "test": "t10k"}
BYTES = 0x08  # the type of the values; the magic number is this and the number of dimensions


def idx_set(folder: Path, classes: tuple[str, ...]) -> ImageCollection | None:
    """The four files of a set in MNIST's form; None where the first of them is not there."""
    if _file(folder, "train-images-idx3-ubyte") is None:
        return None
    images, labels = [], []
    for start in FILES.values():
        paths = [_file(folder, name) for name in (f"{start}-images-idx3-ubyte", f"{start}-labels-idx1-ubyte")]
        if None in paths:
            missing = f"{start}-{'images-idx3' if paths[0] is None else 'labels-idx1'}-ubyte"
            raise DataError(f"{folder}: {missing} is missing, with .gz or without")
        pictures, names = (read_idx(path, n) for path, n in zip(paths, (3, 1), strict=True) if path is not None)
        if len(pictures) != len(names):
            raise DataError(f"{paths[1]}: {len(names)} labels, but {paths[0]} holds {len(pictures)} images")
        images.append(pictures)
        labels.append(names)
    if images[0].shape[1:] != images[1].shape[1:]:
        sizes = " and ".join(times(part.shape[1:]) for part in images)
        raise DataError(f"{folder}: the training and the test images differ in size: {sizes}")
    rows = np.arange(sum(map(len, images)))
    train, test = np.split(rows, [len(images[0])])
    together = np.concatenate(labels).astype(np.int64)
    return ImageCollection(folder, np.concatenate(images), together, classes, parts={"train": train, "test": test})


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The bytes of one file as an array of so many dimensions.

    Raises:
        DataError: not IDX, of other dimensions, cut off, or too long.
    """
    with naming_the_file(path, "IDX"), open_bytes(path) as file:
        head = bytes(read_at_most(file, 4 + 4 * dimensions))
        magic = int.from_bytes(head[:4], "big")
        if magic != BYTES << 8 | dimensions:
            wanted = f"0x{BYTES << 8 | dimensions:08x} ({dimensions} dimensions of bytes)"
            raise DataError(f"{path}: the magic number is 0x{magic:08x}, wanted {wanted}")
        shape = struct.unpack(f">{dimensions}I", head[4:].ljust(4 * dimensions, b"\0"))
        wanted = len(head) + math.prod(shape)
        body = read_at_most(
            file, min(math.prod(shape), most_unpacked(path.stat().st_size)) + 1
        )  # one byte more shows that a file is too long
    size = len(head) + len(body)
    if len(head) < 4 + 4 * dimensions or size < wanted:
        raise DataError(f"{path}: cut off: {size} bytes of the {max(wanted, 4 + 4 * dimensions)} its header tells of")
    if size > wanted:
        raise DataError(f"{path}: longer than the {wanted} bytes its header tells of")
    return np.frombuffer(body, np.uint8).reshape(shape)


def _file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)
