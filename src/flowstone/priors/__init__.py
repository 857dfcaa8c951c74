"""Priors: the distribution of the latent z."""

from collections.abc import Sequence

from flowstone.priors.base import Prior
from flowstone.priors.conditional import ClassConditional
from flowstone.priors.mixture import GaussianMixture
from flowstone.priors.simple import Logistic, StandardNormal, StudentT, Uniform
from flowstone.priors.wrapped import FromTorch
from flowstone.validation import require_choice

__all__ = [
    "PRIORS",
    "ClassConditional",
    "FromTorch",
    "GaussianMixture",
    "Logistic",
    "Prior",
    "StandardNormal",
    "StudentT",
    "Uniform",
    "make_prior",
]

PRIORS = {"normal": StandardNormal, "logistic": Logistic, "student": StudentT, "mixture": GaussianMixture}


def make_prior(name: str, event_shape: int | Sequence[int]) -> Prior:
    """Make the prior called ``name``."""
    require_choice("prior", name, PRIORS)
    return PRIORS[name](event_shape)
