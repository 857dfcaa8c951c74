"""Recipes: published architectures by name, each a function ``name(features, *, …) -> Flow`` in a file of its own."""

from flowstone.recipes.nice import nice
from flowstone.recipes.realnvp import realnvp
from flowstone.recipes.registry import RECIPES, build, recipe
from flowstone.recipes.spline import spline

__all__ = ["DEFAULT", "RECIPES", "build", "nice", "realnvp", "recipe", "spline"]

DEFAULT = "spline"  # what measured best per second, on toys and on tables (docs/reproductions.md)
