"""Bijections: invertible maps data → latent with their log-determinants. One concept a file."""

from flowstone.bijections.base import Bijection, Chain, Inverse
from flowstone.bijections.coupling import Coupling
from flowstone.bijections.linear import Permutation
from flowstone.bijections.pointwise import LeakyReLU, Scaling
from flowstone.bijections.preprocess import Standardize
from flowstone.bijections.spline import RQSpline
from flowstone.bijections.univariate import Additive, Affine, Univariate

__all__ = [
    "Additive",
    "Affine",
    "Bijection",
    "Chain",
    "Coupling",
    "Inverse",
    "LeakyReLU",
    "Permutation",
    "RQSpline",
    "Scaling",
    "Standardize",
    "Univariate",
]
