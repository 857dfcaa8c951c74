"""Latents of test rows beside the prior."""

from markupsafe import Markup

from flowstone.flow import Flow
from flowstone.plot import latent_figure, png_of
from flowstone.report.markup import picture
from flowstone.report.subject import Subject

__all__ = ["latents"]


def latents(subject: Subject) -> Markup | None:
    """Histograms of latents and of the prior. None of a density that has no latents, and without data."""
    test = subject.test
    if not isinstance(subject.density, Flow) or test is None:
        return None
    device = subject.density.device
    context = None if test.context is None else test.context.to(device)
    figure = latent_figure(subject.density, test.x.to(device), context=context, seed=subject.seed)
    alt = f"Latents of {len(test)} test rows beside draws of the prior: a histogram for each of the features shown."
    return picture(
        png_of(figure),
        alt,
        "If the density is right, the latents of rows that were not learned follow the prior: filled and line agree.",
    )
