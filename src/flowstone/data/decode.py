"""From encoded images to one array of bytes, on two threads."""

import hashlib
import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import Image

from flowstone.bars import counting_bar
from flowstone.data.image_collection import EncodedImages, ImageCollection
from flowstone.data.image_format import ImageFormat, pixels_of, shape_of, times
from flowstone.errors import DataError

__all__ = ["Decoded", "decode"]

THREADS, BLOCK, MANY = 2, 64, 2000  # threads; images that a thread decodes at once; images from which on a bar is shown

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM")  # others may start programs, as EPS does


@dataclass(frozen=True)
class Decoded:
    """``pixels (n, C, H, W)`` of the requested rows, which of these rows they are, and a digest of what was read."""

    pixels: np.ndarray
    kept: np.ndarray
    sha256: str


def decode(
    collection: ImageCollection,
    rows: np.ndarray,
    image_format: ImageFormat,
    *,
    skip_bad: bool = False,
    progress: bool = False,
) -> Decoded:
    """The images of ``rows``, in this order.

    Raises:
        DataError: some cannot be read (with ``skip_bad`` they are left out), or they differ in size and
            ``image_format`` has none.
    """
    if isinstance(collection.images, np.ndarray) and image_format == ImageFormat():
        pixels = collection.images[rows]
        planes = np.ascontiguousarray(pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2))
        return Decoded(planes, rows, hashlib.sha256(planes.data).hexdigest())
    opened, content = _openers(collection)
    shapes: list[tuple[int, int, int] | str] = [""] * len(rows)
    digests: list[bytes] = [b""] * len(rows)

    def measure(place: int) -> None:
        shapes[place] = _attempt(lambda: shape_of(opened(rows[place]), collection, image_format))

    def fill(place: int) -> None:
        def work() -> tuple[bytes, np.ndarray]:
            image = pixels_of(opened(rows[place]), collection, image_format, len(pixels[place]))
            return hashlib.sha256(content(rows[place])).digest(), image

        if isinstance(shapes[place], str):
            return
        outcome = _attempt(work)
        if isinstance(outcome, str):
            shapes[place] = outcome
        else:
            digests[place], pixels[place] = outcome

    bar = counting_bar("reading images", 2 * len(rows), enabled=progress and len(rows) >= MANY)
    with _pillow(), ThreadPoolExecutor(THREADS) as pool, bar as advance:
        _in_blocks(pool, measure, len(rows), advance)
        _judge_sizes(shapes, lambda place: opened(rows[place]).load())
        pixels = np.empty((len(rows), *_common(collection, rows, shapes)), np.uint8)
        _in_blocks(pool, fill, len(rows), advance)
    good = np.array([not isinstance(shape, str) for shape in shapes], bool)
    if not good.all() and not skip_bad:
        first = int(good.argmin())
        raise DataError(
            f"{collection.where}: {int((~good).sum())} of {len(rows)} images cannot be read, first "
            f"{collection.name(rows[first])} ({shapes[first]}); to leave them out",
            remedy={"skip_bad": True},
        )
    if not good.all():  # a colour image that is left out leaves the others grey
        channels = max((shape[0] for shape in shapes if not isinstance(shape, str)), default=1)
        pixels = pixels[good, :channels]
    return Decoded(pixels, rows[good], hashlib.sha256(b"".join(digests)).hexdigest())


T = TypeVar("T")


def _attempt(work: Callable[[], T]) -> T | str:
    """What ``work`` returns, or in one line why it could not."""
    try:
        return work()
    except Exception as error:  # a damaged file can fail in any way
        if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
            return "so many pixels that it may be a decompression bomb"
        if isinstance(error, Image.UnidentifiedImageError):
            return "not an image"
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return " ".join(reason.split()) or type(error).__name__


def _openers(collection: ImageCollection) -> tuple[Callable[[int], Image.Image], Callable[[int], bytes]]:
    """A function that opens an image, and one that reads the bytes for its digest."""
    images = collection.images
    if isinstance(images, EncodedImages):
        return lambda row: Image.open(io.BytesIO(images.read(row)), formats=FORMATS), images.read
    flat = images[..., 0] if images.ndim == 4 and images.shape[3] == 1 else images
    return lambda row: Image.fromarray(flat[row]), lambda row: images[row].tobytes()


def _judge_sizes(shapes: list[tuple[int, int, int] | str], load: Callable[[int], object]) -> None:
    """Where images differ in size, put the reason in place of the shape of each that cannot be read, until two sizes
    have one that can.
    """
    sizes, whole = {shape[1:] for shape in shapes if not isinstance(shape, str)}, set()
    for place, shape in enumerate(shapes):
        if len(sizes) > 1 and len(whole) < 2 and not isinstance(shape, str) and shape[1:] not in whole:
            outcome = _attempt(lambda place=place: load(place))
            if isinstance(outcome, str):
                shapes[place] = outcome
            else:
                whole.add(shape[1:])


def _common(
    collection: ImageCollection, rows: np.ndarray, shapes: Sequence[tuple[int, int, int] | str]
) -> tuple[int, int, int]:
    """The one shape that all images can have."""
    sizes: dict[tuple[int, int], int] = {}
    for place, shape in enumerate(shapes):
        if not isinstance(shape, str):
            sizes.setdefault(shape[1:], place)
    if len(sizes) > 1:
        (one, first), (other, second) = list(sizes.items())[:2]
        names = f"{collection.name(rows[first])} is {times(one)}, {collection.name(rows[second])} is {times(other)}"
        message = f"{collection.where}: images of {len(sizes)} sizes: {names}; to make them one, such as 32"
        raise DataError(message, remedy={"size": 32})
    channels = max((shape[0] for shape in shapes if not isinstance(shape, str)), default=1)
    height, width = next(iter(sizes), (1, 1))
    wanted, memory = len(rows) * channels * height * width, _memory()
    if wanted > memory:
        what = f"{len(rows)} images of {times((channels, height, width))} take {wanted / 1e9:.0f} GB"
        message = f"{collection.where}: {what}, this machine has {memory / 1e9:.0f}; to make them smaller, such as 32"
        raise DataError(message, remedy={"size": 32})
    return channels, height, width


def _memory() -> float:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not every system has these
        return float("inf")


def _in_blocks(pool: ThreadPoolExecutor, work: Callable[[int], None], count: int, advance: Callable[[int], None]):
    def block(start: int) -> int:
        stop = min(start + BLOCK, count)
        for place in range(start, stop):
            work(place)
        return stop - start

    for done in pool.map(block, range(0, count, BLOCK)):
        advance(done)


@contextmanager
def _pillow() -> Iterator[None]:
    """Make Pillow's warning about decompression bombs an error, and ignore its other warnings."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield
