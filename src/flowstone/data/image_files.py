"""Images of the user's own: a folder of files, or an array in .npy or .npz."""

import itertools
import os
from pathlib import Path

import numpy as np

from flowstone.data.guards import files_under, naming_the_file, read_file
from flowstone.data.image_collection import EncodedImages, ImageCollection
from flowstone.data.limits import ENCODED_IMAGE, FILES
from flowstone.data.npy import read_npy, read_npy_header, read_npz
from flowstone.errors import DataError

__all__ = ["IMAGE_ENDINGS", "array_file", "holds_images", "image_folder"]

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")

MOST_LABELS = 1 << 20


def holds_images(path: Path) -> bool:
    """Whether the path is a folder, an image, an .npz, or an .npy of more dimensions than a table."""
    ending = path.suffix.lower()
    if ending != ".npy" or not path.is_file():
        return path.is_dir() or ending in (*IMAGE_ENDINGS, ".npz")
    try:
        with path.open("rb") as stream:
            return len(read_npy_header(stream).shape) in (3, 4)
    except (OSError, DataError):
        return False  # the reader of tables then says what is wrong with it


def image_folder(folder: Path) -> ImageCollection:
    """The images anywhere in a folder, in the order of their paths; what is hidden or no image is passed over.

    Where every image is in a folder of the first level, the names of these folders are the labels.
    """
    if folder.is_file():
        raise DataError(f"{folder}: one image; a source is a folder of them")
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    with naming_the_file(folder):
        files = [path.relative_to(folder) for path in itertools.islice(files_under(folder), FILES + 1)]
    if len(files) > FILES:
        raise DataError(f"{folder}: more than {FILES} files, which is more than is read")
    files = sorted(path for path in files if not any(part.startswith(".") for part in path.parts))
    files = [path for path in files if (folder / path).is_file()]
    images = [path for path in files if path.suffix.lower() in IMAGE_ENDINGS]
    if not images:
        what = f"none of its {len(files)} files is an image" if files else "the folder is empty"
        raise DataError(f"{folder}: {what}; images are {', '.join(IMAGE_ENDINGS)}")
    names = [os.fsencode(path).decode(errors="replace") for path in images]  # a name may be no text
    encoded = EncodedImages(names, lambda row: read_file(folder / images[row], ENCODED_IMAGE))
    if any(len(path.parts) != 2 for path in images):
        return ImageCollection(folder, encoded)
    classes, labels = np.unique([name.split(os.sep)[0] for name in names], return_inverse=True)
    return ImageCollection(folder, encoded, labels, tuple(classes.tolist()))


def array_file(path: Path) -> ImageCollection:
    """An .npy of images, or an .npz of ``x`` (or of one array alone) and, perhaps, labels ``y``: numbers from 0."""
    if path.suffix.lower() == ".npz":
        arrays = read_npz(path, "x", "y")
    else:
        with naming_the_file(path, ".npy"), path.open("rb") as stream:
            arrays = {"x": read_npy(stream, path.stat().st_size)}
    x = arrays["x"]
    if x.dtype != np.uint8 or x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[3] not in (1, 3)) or 0 in x.shape:
        wanted = "uint8 (n, H, W), (n, H, W, 1) or (n, H, W, 3)"
        raise DataError(f"{path}: expected images, {wanted}, got {x.dtype} {x.shape}")
    y = arrays.get("y")
    if y is None:
        return ImageCollection(path, x)
    if y.dtype.kind not in "iu" or y.ndim != 1:
        raise DataError(f"{path}: expected labels y as whole numbers (n,), got {y.dtype} {y.shape}")
    highest = int(y.max(initial=0))
    if highest >= MOST_LABELS:
        raise DataError(f"{path}: label {highest}: labels y are numbers from 0 to at most {MOST_LABELS - 1}")
    return ImageCollection(path, x, y.astype(np.int64), tuple(map(str, range(highest + 1))))
