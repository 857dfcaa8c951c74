"""The sections of a report, a file a concept; ``SECTIONS`` is their order in the page.

A section is a function from the subject to HTML, or to None where it has nothing to say about such a density. A new one
is a file with such a function, named here.
"""

from collections.abc import Callable

from markupsafe import Markup

from flowstone.report.sections.again import again
from flowstone.report.sections.calibration import calibration
from flowstone.report.sections.check import check
from flowstone.report.sections.columns import columns
from flowstone.report.sections.figures import figures
from flowstone.report.sections.images import images
from flowstone.report.sections.latents import latents
from flowstone.report.sections.layers import layers
from flowstone.report.sections.least_likely import least_likely
from flowstone.report.sections.rows import rows
from flowstone.report.sections.settings import settings
from flowstone.report.sections.synthetic import synthetic
from flowstone.report.sections.training import training
from flowstone.report.subject import Subject

__all__ = ["SECTIONS"]

SECTIONS: dict[str, Callable[[Subject], Markup | None]] = {
    "Figures": figures,
    "Training": training,
    "Data and samples": rows,
    "Images and samples": images,
    "Latents and prior": latents,
    "Layer by layer": layers,
    "Least likely": least_likely,
    "Calibration": calibration,
    "Synthetic rows": synthetic,
    "Columns": columns,
    "Check": check,
    "Settings and machine": settings,
    "How to do it again": again,
}
