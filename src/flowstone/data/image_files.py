"""Images of the user's own: a folder of files, or an array in .npy or .npz."""

import zipfile
from pathlib import Path

import numpy as np

from flowstone.data.image_collection import EncodedImages, ImageCollection
from flowstone.errors import DataError

__all__ = ["IMAGE_ENDINGS", "array_file", "holds_images", "image_folder"]

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def holds_images(path: Path) -> bool:
    """Whether the path is a folder, an image, an .npz, or an .npy of more dimensions than a table."""
    ending = path.suffix.lower()
    if ending != ".npy" or not path.is_file():
        return path.is_dir() or ending in (*IMAGE_ENDINGS, ".npz")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False).ndim in (3, 4)
    except (OSError, ValueError, EOFError):
        return False  # the reader of tables then says what is wrong with it


def image_folder(folder: Path) -> ImageCollection:
    """The images anywhere in a folder, in the order of their paths; what is hidden or no image is passed over.

    Where every image is in a folder of the first level, the names of these folders are the labels.
    """
    if folder.is_file():
        raise DataError(f"{folder}: one image; a source is a folder of them")
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    files = [path.relative_to(folder) for path in folder.rglob("*")]
    files = sorted(path for path in files if not any(part.startswith(".") for part in path.parts))
    files = [path for path in files if (folder / path).is_file()]
    images = [path for path in files if path.suffix.lower() in IMAGE_ENDINGS]
    if not images:
        what = f"none of its {len(files)} files is an image" if files else "the folder is empty"
        raise DataError(f"{folder}: {what}; images are {', '.join(IMAGE_ENDINGS)}")
    encoded = EncodedImages([str(path) for path in images], lambda row: (folder / images[row]).read_bytes())
    if any(len(path.parts) != 2 for path in images):
        return ImageCollection(folder, encoded)
    classes, labels = np.unique([path.parts[0] for path in images], return_inverse=True)
    return ImageCollection(folder, encoded, labels, tuple(classes.tolist()))


def array_file(path: Path) -> ImageCollection:
    """An .npy of images, or an .npz of ``x`` (or of one array alone) and, perhaps, labels ``y``: numbers from 0."""
    try:
        with np.load(path, allow_pickle=False) if path.suffix.lower() == ".npz" else path.open("rb") as file:
            arrays = dict(file) if isinstance(file, np.lib.npyio.NpzFile) else {"x": np.load(file, allow_pickle=False)}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from error
    x = arrays.get("x", next(iter(arrays.values())) if len(arrays) == 1 else None)
    if x is None:
        raise DataError(f"{path}: no array 'x': it has {', '.join(arrays) or 'none'}")
    if x.dtype != np.uint8 or x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[3] not in (1, 3)) or 0 in x.shape:
        wanted = "uint8 (n, H, W), (n, H, W, 1) or (n, H, W, 3)"
        raise DataError(f"{path}: expected images, {wanted}, got {x.dtype} {x.shape}")
    y = arrays.get("y")
    if y is None:
        return ImageCollection(path, x)
    if y.dtype.kind not in "iu" or y.ndim != 1:
        raise DataError(f"{path}: expected labels y as whole numbers (n,), got {y.dtype} {y.shape}")
    return ImageCollection(path, x, y.astype(np.int64), tuple(map(str, range(int(y.max(initial=0)) + 1))))
