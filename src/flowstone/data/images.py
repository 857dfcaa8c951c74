"""From a name, a folder or an array to images that a flow can learn: found, decoded, split."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from flowstone.data.dataset import Dataset
from flowstone.data.decode import decode
from flowstone.data.guards import require_file_or_folder
from flowstone.data.image_collection import ImageCollection
from flowstone.data.image_files import array_file, holds_images, image_folder
from flowstone.data.image_format import RESIZED, ImageFormat, times
from flowstone.data.image_sets import IMAGE_SETS, find_set
from flowstone.data.limits import CLASSES
from flowstone.data.request import IMAGES, MIN_ROWS, DataRequest
from flowstone.data.rows import Rows
from flowstone.errors import DataError, SettingError

__all__ = ["NamedRows", "are_images", "context_of", "folder_of", "open_images", "read_images"]

MOST_VALIDATION = 5000
LABEL = "label"


def are_images(source: str) -> bool:
    """Whether a source is a set of images, by its name or by what is there."""
    return source in IMAGE_SETS or holds_images(Path(source))


def open_images(request: DataRequest, *, progress: bool = False) -> Dataset:
    """``open_source`` for images."""
    collection, folder = _find(request.source, request.data_dir, request.download)
    _check_context(collection, request.context)
    image_format = ImageFormat(cast("tuple[int, int] | None", request.size) or collection.size, request.gray)
    parts = _split(collection, request.seed)
    decoded = decode(
        collection, np.concatenate(list(parts.values())), image_format, skip_bad=request.skip_bad, progress=progress
    )
    kept = {name: int(np.isin(rows, decoded.kept).sum()) for name, rows in parts.items()}
    _check_counts(collection, kept)
    ends = np.cumsum(list(kept.values())).tolist()
    context_rows = _one_hot(collection, decoded.kept) if request.context else None
    rows = Rows(torch.from_numpy(decoded.pixels), context_rows)
    train, validation, test = (
        rows.take(slice(end - count, end)) for end, count in zip(ends, kept.values(), strict=True)
    )
    channels, height, width = decoded.pixels.shape[1:]
    source = request.source if folder else str(Path(request.source).resolve())
    resolved = replace(request, source=source, size=image_format.size, data_dir=folder)
    description = {
        "kind": IMAGES,
        **resolved.as_record(IMAGES),
        "channels": channels,
        "height": height,
        "width": width,
        "bits": 8,
        "resized": RESIZED if image_format.size else None,
        "classes": list(collection.classes),
        "rows": kept,
        "left_out": sum(map(len, parts.values())) - len(decoded.kept),
        "sha256": _digest(collection, decoded.kept, decoded.sha256),
    }
    columns = tuple(f"{LABEL}={name}" for name in collection.classes) if request.context else ()
    return Dataset((), columns, train, validation, test, description)


@dataclass(frozen=True)
class NamedRows:
    """Images with a name for each."""

    names: list[str]
    rows: Rows


def read_images(
    source: str,
    description: Mapping[str, Any],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    skip_bad: bool = False,
) -> NamedRows:
    """All images of a source, in the format of ``description``; of a set with an official test part, that part.

    Raises:
        DataError: the images cannot be read, have another shape, or a class that ``description`` does not know.
    """
    size = description["size"]
    collection, _ = _find(source, folder_of(description, data_dir), False)
    rows = collection.parts.get("test", np.arange(len(collection.images)))
    decoded = decode(
        collection, rows, ImageFormat(tuple(size) if size else None, description["gray"]), skip_bad=skip_bad
    )
    if not len(decoded.kept):
        raise DataError(f"{collection.where}: none of its {len(rows)} images can be read")
    pixels, wanted = decoded.pixels, tuple(description[side] for side in ("channels", "height", "width"))
    if pixels.shape[1] == 1 and wanted[0] == 3:
        pixels = pixels.repeat(3, 1)
    if pixels.shape[1:] != wanted:
        raise DataError(
            f"{collection.where}: images of {times(pixels.shape[1:])}; the flow has learned {times(wanted)}"
        )
    given = None
    if description["context"]:
        _check_context(collection, description["context"])
        given = context_of(
            [collection.classes[label] for label in _labels(collection)[decoded.kept]], description["classes"]
        )
    return NamedRows([collection.name(row) for row in decoded.kept], Rows(torch.from_numpy(pixels), given))


def folder_of(description: Mapping[str, Any], data_dir: str | os.PathLike[str] | None) -> str | os.PathLike[str] | None:
    """The data folder: the given one, else the recorded one, else None for that of the environment."""
    before = description.get("data_dir")
    return data_dir or (before if before and Path(before).is_dir() else None)


def context_of(labels: Sequence[str], classes: Sequence[str]) -> Tensor:
    """One-hot rows ``(n, classes)`` of labels by name.

    >>> context_of(["dog"], ["cat", "dog"])
    tensor([[0., 1.]])
    """
    for label in labels:
        if label not in classes:
            raise DataError(f"label {label!r} is not among those the flow has learned: {', '.join(classes)}")
    return one_hot(torch.tensor([classes.index(label) for label in labels]), len(classes)).float()


def _find(source: str, data_dir: str | os.PathLike[str] | None, download: bool) -> tuple[ImageCollection, Path | None]:
    """The images, and the data folder where they are a set."""
    if source in IMAGE_SETS:
        return find_set(source, data_dir, download=download)
    if download:
        raise SettingError(f"download=True: {source!r} is no set that has a name ({', '.join(IMAGE_SETS)})")
    path = Path(source)
    require_file_or_folder(path)
    if path.suffix.lower() in (".npy", ".npz") and not path.is_dir():
        return array_file(path), None
    return image_folder(path), None


def _check_context(collection: ImageCollection, context: Sequence[str]) -> None:
    for name in context:
        if name != LABEL:
            raise SettingError(f"context {name!r}: images have one that can be given, {LABEL!r}")
        if collection.labels is None:
            raise DataError(
                f"{collection.where}: no labels: a set without them, a folder whose images are not each directly in a "
                "subfolder, which is their label, or an .npz without an array y"
            )
        if len(collection.classes) > CLASSES:
            raise DataError(
                f"{collection.where}: {len(collection.classes)} classes; at most {CLASSES} can be the context"
            )


def _check_counts(collection: ImageCollection, kept: Mapping[str, int]) -> None:
    total = sum(kept.values())
    if total < MIN_ROWS or min(kept.values()) < 2:
        counts = ", ".join(f"{count} for {name}" for name, count in kept.items())
        needed = f"at least {MIN_ROWS} are needed, and 2 in each part ({counts})"
        raise DataError(f"{collection.where}: {total} image{'s' * (total != 1)}; {needed}")


def _split(collection: ImageCollection, seed: int) -> dict[str, np.ndarray]:
    """Rows of each part: the official parts; where there is no test part, a tenth each, with groups kept together."""
    generator = np.random.default_rng(seed)
    if "test" in collection.parts:
        train, test = collection.parts["train"], collection.parts["test"]
        validation = collection.parts.get("validation")
        if validation is None:
            validation, train = np.split(generator.permutation(train), [min(len(train) // 10, MOST_VALIDATION)])
    else:
        groups = np.arange(len(collection.images)) if collection.groups is None else collection.groups
        _, member, counts = np.unique(groups, return_inverse=True, return_counts=True)
        order = generator.permutation(len(counts))
        middle = np.empty(len(counts))  # the middle of each group in the shuffled order
        middle[order] = np.cumsum(counts[order]) - counts[order] / 2
        tenth = len(member) // 10
        test, validation, train = (
            np.flatnonzero((low <= middle[member]) & (middle[member] < high))
            for low, high in ((0, tenth), (tenth, 2 * tenth), (2 * tenth, len(member)))
        )
    return {"train": np.sort(train), "validation": np.sort(validation), "test": np.sort(test)}


def _labels(collection: ImageCollection) -> np.ndarray:
    assert collection.labels is not None
    return collection.labels


def _one_hot(collection: ImageCollection, rows: np.ndarray) -> Tensor:
    return one_hot(torch.from_numpy(_labels(collection)[rows]), len(collection.classes)).float()


def _digest(collection: ImageCollection, rows: np.ndarray, pixels: str) -> str:
    """A digest of the images as they were read, and of their labels."""
    digest = hashlib.sha256(pixels.encode())
    if collection.labels is not None:
        digest.update(collection.labels[rows].astype(np.int64).tobytes())
    return digest.hexdigest()
