"""What each layer does to points of the plane."""

from markupsafe import Markup

from flowstone.playground import walk_section
from flowstone.report.markup import join, picture
from flowstone.report.subject import Subject
from flowstone.runs.frames import has_frames, read_frames

__all__ = ["layers"]


def layers(subject: Subject) -> Markup | None:
    """Points after every layer, both ways, of a flow on the plane, and a walk through them. None of other densities."""
    image = subject.picture("layers")
    if image is None:
        return None
    alt = "Layer by layer: points from data to latent, and from latent to samples, a panel for each layer."
    still = picture(
        image,
        alt,
        "Above, points of the data go from the data to the latent; below, draws of the prior come back. A point has "
        "the colour of the direction of its latent, in all panels.",
    )
    return join((still, _walk(subject)))


def _walk(subject: Subject) -> Markup:
    density = subject.density
    if not has_frames(density) or density.stochastic or subject.dataset is None:
        return Markup()
    frames = read_frames(subject.run.folder)
    section = walk_section(density, subject.shown.x, columns=subject.columns, frames=frames, seed=subject.seed)
    return Markup("<h3>A walk through them</h3>") + Markup(section)
