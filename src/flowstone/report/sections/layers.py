"""What each layer does to points of the plane."""

from markupsafe import Markup

from flowstone.report.markup import picture
from flowstone.report.subject import Subject

__all__ = ["layers"]


def layers(subject: Subject) -> Markup | None:
    """Points after every layer, both ways, of a flow on the plane. None of other densities.

    What shows layers of such a flow by other means, such as a page that can be played with, belongs into this section.
    """
    image = subject.picture("layers")
    if image is None:
        return None
    alt = "Layer by layer: points from data to latent, and from latent to samples, a panel for each layer."
    return picture(
        image,
        alt,
        "Above, test points go from the data to the latent; below, draws of the prior come back. A point has "
        "the colour of the direction of its latent, in all panels.",
    )
