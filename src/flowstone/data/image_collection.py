"""Images before they are decoded: their names, labels and official parts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from flowstone.errors import DataError

__all__ = ["EncodedImages", "ImageCollection"]


@dataclass(frozen=True)
class EncodedImages:
    """Images in the bytes of their files: a name for each, and how to read the bytes of one."""

    names: Sequence[str]
    read: Callable[[int], bytes]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class ImageCollection:
    """The images of a set, a folder or an array.

    Attributes:
        where: the file or folder, for messages.
        images: encoded, or uint8 ``(n, H, W)`` or ``(n, H, W, C)``.
        labels: the number of each image's class, or None.
        classes: their names.
        groups: images of one group, such as the pictures of one person, are kept in one part of the split; or None.
        parts: the rows of the official ``train``, ``validation`` and ``test`` part; empty where there are none.
        crop: the rectangle to cut out first: left, top, right, bottom, of an image of ``crop_from`` (height, width).
        size: the height and width to resize to by default.
    """

    where: Path
    images: EncodedImages | np.ndarray
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    groups: np.ndarray | None = None
    parts: Mapping[str, np.ndarray] = field(default_factory=dict)
    crop: tuple[int, int, int, int] | None = None
    crop_from: tuple[int, int] | None = None
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.labels is None:
            return
        if len(self.labels) != len(self.images):
            raise DataError(f"{self.where}: {len(self.images)} images but {len(self.labels)} labels")
        beyond = np.flatnonzero((self.labels < 0) | (self.labels >= len(self.classes)))
        if len(beyond):
            row, count = beyond[0], len(self.classes)
            raise DataError(f"{self.where}: image {row + 1} has label {self.labels[row]}; there are {count} classes")

    def name(self, row: int) -> str:
        """What to call one image."""
        return self.images.names[row] if isinstance(self.images, EncodedImages) else f"image {row + 1}"
