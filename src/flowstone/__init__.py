"""Flowstone: learn a probability distribution from data, with an exact likelihood, and sample from it.

    flow = flowstone.spline(features=2)
    flowstone.fit(flow, x)
    flow.log_prob(x), flow.sample(1000)

Names are imported when they are first used, so that ``flowstone --help`` need not wait for torch.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowstone import bijections, data, errors, nets, plot, priors, recipes
    from flowstone.checkpoint import load, save
    from flowstone.flow import Flow
    from flowstone.history import History
    from flowstone.metrics import bits_per_dim, evaluate, grid_integral
    from flowstone.recipes import nice, realnvp, recipe, spline
    from flowstone.train import fit

__version__ = "0.1.0"

_HOME = {
    "Flow": "flow",
    "History": "history",
    "bits_per_dim": "metrics",
    "evaluate": "metrics",
    "fit": "train",
    "grid_integral": "metrics",
    "load": "checkpoint",
    "nice": "recipes",
    "realnvp": "recipes",
    "recipe": "recipes",
    "save": "checkpoint",
    "spline": "recipes",
}
_ROOMS = ("bijections", "data", "errors", "nets", "plot", "priors", "recipes")

__all__ = [
    "Flow",
    "History",
    "bijections",
    "bits_per_dim",
    "data",
    "errors",
    "evaluate",
    "fit",
    "grid_integral",
    "load",
    "nets",
    "nice",
    "plot",
    "priors",
    "realnvp",
    "recipe",
    "recipes",
    "save",
    "spline",
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
