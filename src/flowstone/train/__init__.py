"""Training: fit to data, fit to a density, and what they are made of.

Names are imported when they are first used, so that ``flowstone.train.settings`` is read without waiting for torch.
"""

from typing import TYPE_CHECKING

from flowstone.lazy import lazy_names

if TYPE_CHECKING:
    from flowstone.train.density import DensityFit, Weighted, fit_to_density, importance_sample
    from flowstone.train.forensics import Evidence, read_evidence
    from flowstone.train.loop import fit
    from flowstone.train.settings import Settings

__all__ = [
    "DensityFit",
    "Evidence",
    "Settings",
    "Weighted",
    "fit",
    "fit_to_density",
    "importance_sample",
    "read_evidence",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    __all__,
    {
        "density": ["DensityFit", "Weighted", "fit_to_density", "importance_sample"],
        "forensics": ["Evidence", "read_evidence"],
        "loop": ["fit"],
        "settings": ["Settings"],
    },
)
