"""Image sets by name, found in the data folder in the form their authors or the hub give them."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np

from flowstone.data.cifar import CLASSES as CIFAR_CLASSES
from flowstone.data.cifar import cifar_set
from flowstone.data.guards import naming_the_file, read_file
from flowstone.data.hub import fetch, hub_set
from flowstone.data.idx import idx_set
from flowstone.data.image_collection import EncodedImages, ImageCollection
from flowstone.data.limits import ENCODED_IMAGE
from flowstone.errors import DataError, SettingError

__all__ = ["IMAGE_SETS", "ImageSet", "find_set"]

MOST_OF_A_LIST = 1 << 26  # bytes; that of CelebA has five million
VARIABLE = "FLOWSTONE_DATA"
DIGITS = tuple("0123456789")
CLOTHES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
CELEBA = {"crop": (15, 40, 163, 188), "crop_from": (218, 178), "size": (64, 64)}  # as the RealNVP paper cuts it


@dataclass(frozen=True)
class ImageSet:
    """A set that has a name.

    Attributes:
        name: what the command line calls it, and its folder in the data folder.
        about: one line.
        forms: the files that are looked for in the folder.
        find: folder → the images in it, or None.
        hub_name: the repository to fetch it from, or None where there is none.
    """

    name: str
    about: str
    forms: str
    find: Callable[[Path], ImageCollection | None]
    hub_name: str | None


def find_set(
    name: str, data_dir: str | os.PathLike[str] | None, *, download: bool = False
) -> tuple[ImageCollection, Path]:
    """The set in the data folder, and that folder: ``data_dir``, else what FLOWSTONE_DATA says.

    Raises:
        DataError: there is no such folder, or the set is not in it; the message says what was looked for.
    """
    chosen, known = data_dir or os.environ.get(VARIABLE), IMAGE_SETS[name]
    if not chosen:
        raise DataError(
            f"{name}: where is it? {VARIABLE} is not set in the environment; to name the folder that holds {name}/ "
            "and, if it is missing there, to fetch it",
            remedy={"data_dir": "FOLDER", "download": True},
        )
    folder = Path(chosen).expanduser().resolve()
    collection = known.find(folder / name)
    if collection is None and download:
        if known.hub_name is None:
            raise SettingError(f"{name}: this set cannot be fetched; put it into {folder / name}: {known.forms}")
        fetch(name, known.hub_name, folder / name)
        collection = known.find(folder / name)
    if collection is None:
        message = f"{name}: not in {folder / name}: looked for {known.forms}"
        if known.hub_name is None or download:
            raise DataError(message)
        raise DataError(f"{message}; to fetch it", remedy={"download": True})
    return collection, folder


def _celeba(folder: Path) -> ImageCollection | None:
    pictures, partition = folder / "img_align_celeba", folder / "list_eval_partition.txt"
    if not pictures.is_dir():
        collection = hub_set(folder)
        return (
            None if collection is None else ImageCollection(folder, collection.images, parts=collection.parts, **CELEBA)
        )
    if not partition.is_file():
        raise DataError(f"{folder}: {partition.name} is missing: it says which images are for training and which not")
    with naming_the_file(partition):
        text = read_file(partition, MOST_OF_A_LIST).decode(errors="replace")
    lines = [line.split() for line in text.splitlines() if line.strip()]
    for number, line in enumerate(lines, 1):
        if len(line) != 2 or line[1] not in ("0", "1", "2"):
            raise DataError(f"{partition}: line {number} is {' '.join(line)!r}, wanted a file's name and 0, 1 or 2")
        if not _is_plain_name(line[0]):
            raise DataError(f"{partition}: line {number} names {line[0]!r}, which is not in the folder {pictures.name}")
    which = np.array([int(part) for _, part in lines])
    names = [name for name, _ in lines]
    encoded = EncodedImages(names, lambda row: read_file(pictures / names[row], ENCODED_IMAGE))
    parts = {part: np.flatnonzero(which == number) for number, part in enumerate(("train", "validation", "test"))}
    return ImageCollection(folder, encoded, parts=parts, **CELEBA)


def _is_plain_name(name: str) -> bool:
    """Whether a name in a list is that of a file in the folder, and of none elsewhere."""
    return name == PurePosixPath(name).name == PureWindowsPath(name).name and name not in ("", ".", "..")


def _digits(classes: tuple[str, ...]) -> Callable[[Path], ImageCollection | None]:
    return lambda folder: idx_set(folder, classes) or hub_set(folder, classes)


_IDX = "train-images-idx3-ubyte[.gz] and its three companions, or the hub's train-*.parquet"
IMAGE_SETS: dict[str, ImageSet] = {
    known.name: known
    for known in (
        ImageSet("mnist", "handwritten digits, grey, 28x28", _IDX, _digits(DIGITS), "ylecun/mnist"),
        ImageSet(
            "fashion-mnist", "pieces of clothing, grey, 28x28", _IDX, _digits(CLOTHES), "zalando-datasets/fashion_mnist"
        ),
        ImageSet(
            "cifar10",
            "ten kinds of things, 32x32",
            "cifar-10-batches-py/ or cifar-10-python.tar.gz, cifar-10-batches-bin/ or cifar-10-binary.tar.gz, or the "
            "hub's train-*.parquet",
            lambda folder: cifar_set(folder) or hub_set(folder, CIFAR_CLASSES),
            "uoft-cs/cifar10",
        ),
        ImageSet(
            "celeba",
            "faces, cropped as in the RealNVP paper and resized to 64x64 or the size that is chosen",
            "img_align_celeba/ with list_eval_partition.txt, or the hub's train-*.parquet",
            _celeba,
            "nielsr/CelebA-faces",
        ),
        ImageSet(
            "faces32",
            "faces, 32x32; nobody is in two parts of the split",
            "train-*.parquet with the columns img and name",
            lambda folder: hub_set(folder, groups="name"),
            None,
        ),
    )
}
