"""Flowstone: learn a probability distribution from data, with an exact likelihood, and sample from it.

    flow = flowstone.spline(features=2)
    flowstone.fit(flow, x)
    flow.log_prob(x), flow.sample(1000)

Names are imported when they are first used, so that the command's help need not wait for torch.
"""

from typing import TYPE_CHECKING

from flowstone.lazy import lazy_names

if TYPE_CHECKING:
    from flowstone import bijections, data, errors, nets, plot, priors, recipes, testing
    from flowstone.data.tables import kinds_of
    from flowstone.density import Density
    from flowstone.estimators import FlowDensity, FlowOutlierDetector
    from flowstone.evaluation.check import check
    from flowstone.evaluation.metrics import bits_per_dim, evaluate, grid_integral
    from flowstone.export import export_onnx
    from flowstone.flow import Flow
    from flowstone.recipes import glow, iaf, maf, maf_spline, nice, nice_image, realnvp, realnvp_image, recipe, spline
    from flowstone.runs.checkpoint import load, save
    from flowstone.runs.hub import pull, push
    from flowstone.table_model import TableModel, learn
    from flowstone.train import fit, fit_to_density, importance_sample
    from flowstone.train.history import History
    from flowstone.transform import BijectionTransform

__version__ = "0.1.0"

__all__ = [
    "BijectionTransform",
    "Density",
    "Flow",
    "FlowDensity",
    "FlowOutlierDetector",
    "History",
    "TableModel",
    "bijections",
    "bits_per_dim",
    "check",
    "data",
    "errors",
    "evaluate",
    "export_onnx",
    "fit",
    "fit_to_density",
    "glow",
    "grid_integral",
    "iaf",
    "importance_sample",
    "kinds_of",
    "learn",
    "load",
    "maf",
    "maf_spline",
    "nets",
    "nice",
    "nice_image",
    "plot",
    "priors",
    "pull",
    "push",
    "realnvp",
    "realnvp_image",
    "recipe",
    "recipes",
    "save",
    "spline",
    "testing",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    __all__,
    {
        "data.tables": ["kinds_of"],
        "density": ["Density"],
        "estimators": ["FlowDensity", "FlowOutlierDetector"],
        "evaluation.check": ["check"],
        "evaluation.metrics": ["bits_per_dim", "evaluate", "grid_integral"],
        "export": ["export_onnx"],
        "flow": ["Flow"],
        "recipes": [
            "glow", "iaf", "maf", "maf_spline", "nice", "nice_image", "realnvp", "realnvp_image", "recipe", "spline",
        ],
        "runs.checkpoint": ["load", "save"],
        "runs.hub": ["pull", "push"],
        "table_model": ["TableModel", "learn"],
        "train": ["fit", "fit_to_density", "importance_sample"],
        "train.history": ["History"],
        "transform": ["BijectionTransform"],
    },
)  # fmt: skip
