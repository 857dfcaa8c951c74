"""Bijections: invertible maps data → latent with their log-determinants. One concept a file."""

from flowstone.bijections.autoregressive import Autoregressive
from flowstone.bijections.base import Bijection, Chain, Inverse, State, walk
from flowstone.bijections.conditioned import Conditioned
from flowstone.bijections.coupling import Coupling, Partial
from flowstone.bijections.dequantize import Dequantize
from flowstone.bijections.domain import Interval, Logit, Positive, Rescale
from flowstone.bijections.linear import Householder, InvertibleConv1x1, LULinear, Permutation
from flowstone.bijections.mixture_cdf import LogisticMixtureCDF
from flowstone.bijections.multiscale import Flatten, MultiScale, Squeeze, checkerboard
from flowstone.bijections.noise import NoiseSource, noise_from, noise_source
from flowstone.bijections.normalization import ActNorm, BatchNorm
from flowstone.bijections.pad import Pad
from flowstone.bijections.pointwise import LeakyReLU, LogTails, Scaling
from flowstone.bijections.preprocess import Standardize, Whiten
from flowstone.bijections.regression import Regression
from flowstone.bijections.spline import RQSpline
from flowstone.bijections.statistics import DataLayer
from flowstone.bijections.tails import CompressTails
from flowstone.bijections.univariate import Additive, Affine, Univariate

__all__ = [
    "ActNorm",
    "Additive",
    "Affine",
    "Autoregressive",
    "BatchNorm",
    "Bijection",
    "Chain",
    "CompressTails",
    "Conditioned",
    "Coupling",
    "DataLayer",
    "Dequantize",
    "Flatten",
    "Householder",
    "Interval",
    "Inverse",
    "InvertibleConv1x1",
    "LULinear",
    "LeakyReLU",
    "LogTails",
    "LogisticMixtureCDF",
    "Logit",
    "MultiScale",
    "NoiseSource",
    "Pad",
    "Partial",
    "Permutation",
    "Positive",
    "RQSpline",
    "Regression",
    "Rescale",
    "Scaling",
    "Squeeze",
    "Standardize",
    "State",
    "Univariate",
    "Whiten",
    "checkerboard",
    "noise_from",
    "noise_source",
    "walk",
]
