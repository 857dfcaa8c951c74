"""Images: data beside samples, and what becomes of them."""

from markupsafe import Markup

from flowstone.plot import png_of
from flowstone.plot.images import sheets
from flowstone.report.markup import join, picture
from flowstone.report.subject import Subject

__all__ = ["images"]

SHOWN = 64
CAPTIONS = {
    "samples": ("Images of the data, and samples", "Data on the left, samples on the right."),
    "labels": ("Samples of each label", "Samples given each label, a row for each."),
    "temperatures": (
        "Samples at three temperatures",
        "The same latents, scaled by the temperature: 1 is the model itself, below it samples are nearer to the mode.",
    ),
    "nearest": (
        "Samples and the training images nearest to them",
        "On the left a sample, beside it the training images nearest to it by distance of pixels: copies would show.",
    ),
    "interpolation": ("Interpolations between latents", "Between the latents of the four images at the corners."),
    "scales": (
        "Images whose latents are drawn anew, scale by scale",
        "Latents of fine scales are drawn anew from panel to panel; what stays is held by the coarse ones.",
    ),
    "reconstructions": ("Images, and the same after both directions", "There and back: the difference should be zero."),
    "likely": (
        "The most and the least likely test images",
        "Of the test images, at most 1,000, those most and those least likely.",
    ),
}


def images(subject: Subject) -> Markup | None:
    """The pictures of images. None of rows of columns."""
    if not subject.images or not subject.can_sample:
        return None
    if subject.dataset is None:
        image = png_of(sheets([("samples", subject.samples[:SHOWN])]))
        return picture(image, f"Samples alone: {SHOWN} images.")
    return join(
        picture(image, f"{alt}: a sheet of images.", caption)
        for name, (alt, caption) in CAPTIONS.items()
        if (image := subject.picture(name)) is not None
    )
