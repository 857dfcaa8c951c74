"""The conversion of images to arrays, in this order:

- An image is rotated as its EXIF orientation says; of an animation the first frame is taken.
- Values of 16 bits become 8 bits (the upper ones), palettes and other colour spaces RGB, transparent pixels white.
- It is cropped as its set says.
- With ``gray`` it gets one channel (Pillow's L: 0.299 R + 0.587 G + 0.114 B).
- With ``size`` its shorter side is resized and its longer one cropped around the middle, by the mean over each new
  pixel's area (Pillow's BOX).

Where all images are grey they keep one channel, else all get three.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from flowstone.data.image_collection import ImageCollection

__all__ = ["RESIZED", "ImageFormat", "pixels_of", "shape_of", "times"]

RESIZED = "centre crop to the target's proportions, mean over areas (BOX)"
GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N")
ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)  # those in which width and height change places; others may stand there


@dataclass(frozen=True)
class ImageFormat:
    """The format that images are converted to; None and False leave size and colours as they are."""

    size: tuple[int, int] | None = None
    gray: bool = False


def shape_of(image: Image.Image, collection: ImageCollection, image_format: ImageFormat) -> tuple[int, int, int]:
    """Channels, height and width as they will be, from the image's header alone."""
    sideways = image.getexif().get(ORIENTATION) in SIDEWAYS
    if sideways and image.format == "TIFF":  # Pillow rotates TIFF files itself when they are read
        image.load()
        sideways = False
    height, width = (image.width, image.height) if sideways else (image.height, image.width)
    if collection.crop is not None:
        if (height, width) != collection.crop_from:
            raise ValueError(
                f"it is {height}x{width}; the crop of {collection.where.name} is for {times(collection.crop_from)}"
            )
        height, width = collection.crop[3] - collection.crop[1], collection.crop[2] - collection.crop[0]
    channels = 1 if image_format.gray or image.mode in GREY else 3
    return channels, *(image_format.size or (height, width))


def pixels_of(image: Image.Image, collection: ImageCollection, image_format: ImageFormat, channels: int) -> np.ndarray:
    """The pixels, ``(channels, height, width)``, uint8."""
    image = _plain(ImageOps.exif_transpose(image))
    image = image.convert("L" if channels == 1 else "RGB")
    if collection.crop is not None:
        image = image.crop(collection.crop)
    if image_format.size is not None and (image.height, image.width) != image_format.size:
        height, width = image_format.size
        image = ImageOps.fit(image, (width, height), Image.Resampling.BOX)
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _plain(image: Image.Image) -> Image.Image:
    """The image as L or RGB, with eight bits and without transparency."""
    grey = image.mode in GREY
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() >= 2**16:
            raise ValueError("values of more than 16 bits")
        return Image.fromarray((values >> 8).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating-point values, of which none is known to be white")
    if not image.has_transparency_data:
        return image.convert("L" if grey else "RGB")
    image = image.convert("LA" if grey else "RGBA")
    paper = Image.new("L" if grey else "RGB", image.size, "white")
    paper.paste(image.convert(paper.mode), mask=image.getchannel("A"))
    return paper


def times(shape: Sequence[int] | None) -> str:
    """A shape as people write it.

    >>> times((3, 32, 32))
    '3x32x32'
    """
    return "x".join(map(str, shape or ()))
