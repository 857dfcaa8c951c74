"""Flowstone: learn a probability distribution from data, with an exact likelihood, and sample from it.

    flow = flowstone.spline(features=2)
    flowstone.fit(flow, x)
    flow.log_prob(x), flow.sample(1000)

Names are imported when they are first used, so that the command's help need not wait for torch.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowstone import bijections, data, errors, nets, plot, priors, recipes, testing
    from flowstone.data.tables import kinds_of
    from flowstone.density import Density
    from flowstone.evaluation.check import check
    from flowstone.evaluation.metrics import bits_per_dim, evaluate, grid_integral
    from flowstone.flow import Flow
    from flowstone.recipes import glow, iaf, maf, maf_spline, nice, nice_image, realnvp, realnvp_image, recipe, spline
    from flowstone.runs.checkpoint import load, save
    from flowstone.train import fit, fit_to_density, importance_sample
    from flowstone.train.history import History
    from flowstone.transform import BijectionTransform

__version__ = "0.1.0"

_HOME = {
    "BijectionTransform": "transform",
    "Density": "density",
    "Flow": "flow",
    "History": "train.history",
    "bits_per_dim": "evaluation.metrics",
    "check": "evaluation.check",
    "evaluate": "evaluation.metrics",
    "fit": "train",
    "fit_to_density": "train",
    "glow": "recipes",
    "grid_integral": "evaluation.metrics",
    "iaf": "recipes",
    "importance_sample": "train",
    "kinds_of": "data.tables",
    "load": "runs.checkpoint",
    "maf": "recipes",
    "maf_spline": "recipes",
    "nice": "recipes",
    "nice_image": "recipes",
    "realnvp": "recipes",
    "realnvp_image": "recipes",
    "recipe": "recipes",
    "save": "runs.checkpoint",
    "spline": "recipes",
}
_ROOMS = ("bijections", "data", "errors", "nets", "plot", "priors", "recipes", "testing")

__all__ = [
    "BijectionTransform",
    "Density",
    "Flow",
    "History",
    "bijections",
    "bits_per_dim",
    "check",
    "data",
    "errors",
    "evaluate",
    "fit",
    "fit_to_density",
    "glow",
    "grid_integral",
    "iaf",
    "importance_sample",
    "kinds_of",
    "load",
    "maf",
    "maf_spline",
    "nets",
    "nice",
    "nice_image",
    "plot",
    "priors",
    "realnvp",
    "realnvp_image",
    "recipe",
    "recipes",
    "save",
    "spline",
    "testing",
]


def __getattr__(name: str):
    if name in _HOME:
        value = getattr(importlib.import_module(f"flowstone.{_HOME[name]}"), name)
    elif name in _ROOMS:
        value = importlib.import_module(f"flowstone.{name}")
    else:
        raise AttributeError(f"module 'flowstone' has no attribute {name!r}")
    globals()[name] = value  # next time it is found without asking, and a submodule of the same name cannot hide it
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
