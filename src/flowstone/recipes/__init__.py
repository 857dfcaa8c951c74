"""Recipes: published architectures by name, each a function ``name(features, *, …) -> Density`` in its own file."""

from flowstone.recipes.blend import blend
from flowstone.recipes.embedded import embedded
from flowstone.recipes.gaussian_mixture import gaussian_mixture
from flowstone.recipes.glow import glow
from flowstone.recipes.iaf import iaf
from flowstone.recipes.maf import maf
from flowstone.recipes.maf_spline import maf_spline
from flowstone.recipes.mixed import mixed
from flowstone.recipes.nice import nice
from flowstone.recipes.nice_image import nice_image
from flowstone.recipes.realnvp import realnvp
from flowstone.recipes.realnvp_image import realnvp_image
from flowstone.recipes.registry import RECIPES, all_recipes, build, recipe, shape_arguments
from flowstone.recipes.spline import spline

__all__ = [
    "DEFAULT",
    "IMAGE_DEFAULT",
    "MIXED_DEFAULT",
    "RECIPES",
    "all_recipes",
    "blend",
    "build",
    "embedded",
    "gaussian_mixture",
    "glow",
    "iaf",
    "maf",
    "maf_spline",
    "mixed",
    "nice",
    "nice_image",
    "realnvp",
    "realnvp_image",
    "recipe",
    "shape_arguments",
    "spline",
]

DEFAULT = "spline"  # the best per second of training, on toys and on tables (docs/reproductions.md)
IMAGE_DEFAULT = "realnvp_image"  # the best per second on held-out training images of MNIST
MIXED_DEFAULT = "mixed"  # for tables with categories, gaps, or values that hold mass
