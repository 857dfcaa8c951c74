"""Training: fit to data, fit to a density, and what they are made of.

Names are imported when they are first used, so that ``flowstone.train.settings`` is read without waiting for torch.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowstone.train.density import DensityFit, Weighted, fit_to_density, importance_sample
    from flowstone.train.loop import fit
    from flowstone.train.settings import Settings

_HOME = {
    "DensityFit": "density",
    "Settings": "settings",
    "Weighted": "density",
    "fit": "loop",
    "fit_to_density": "density",
    "importance_sample": "density",
}

__all__ = ["DensityFit", "Settings", "Weighted", "fit", "fit_to_density", "importance_sample"]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'flowstone.train' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"flowstone.train.{_HOME[name]}"), name)
    globals()[name] = value
    return value
