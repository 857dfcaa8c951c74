"""Training: fit to data, fit to a density, and what they are made of."""

from flowstone.train.density import DensityFit, Weighted, fit_to_density, importance_sample
from flowstone.train.loop import fit

__all__ = ["DensityFit", "Weighted", "fit", "fit_to_density", "importance_sample"]
