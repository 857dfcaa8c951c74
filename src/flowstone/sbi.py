"""Flowstone's densities inside the library ``sbi``, for simulation-based inference."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

try:
    from sbi.neural_nets.estimators.base import ConditionalDensityEstimator, ConditionalEstimatorBuilder
except ImportError as error:
    raise ModuleNotFoundError("flowstone.sbi needs the library sbi: pip install sbi") from error

from flowstone.density import Density
from flowstone.recipes import build

__all__ = ["SbiEstimator", "density_estimator", "likelihood_estimator"]


class SbiEstimator(ConditionalDensityEstimator):
    """A conditional density as sbi's training and posteriors use it; the builders make it.

    Args:
        density: of vectors, given a context.
        condition_shape: of one condition, whose numbers in order are the context; None: ``(context_features,)``.
    """

    def __init__(self, density: Density, condition_shape: torch.Size | None = None) -> None:
        wide = torch.Size((density.context_features,))
        super().__init__(density, density.event_shape, wide if condition_shape is None else condition_shape)
        self.density = density

    def log_prob(self, input: Tensor, condition: Tensor, **_: Any) -> Tensor:
        """``(sample_dim, batch_dim, *event_shape)`` → ``(sample_dim, batch_dim)``."""
        self._check_condition_shape(condition)
        self._check_input_shape(input)
        input, condition, batch = self._broadcast_and_align(input, condition)
        rows, context = input.flatten(0, 1), condition.flatten(0, 1).flatten(1)
        found = self.density.log_prob(rows.to(self.density.data_dtype), context)
        return found.reshape(-1, batch).to(input.dtype)

    def loss(self, input: Tensor, condition: Tensor, **_: Any) -> Tensor:
        """The negative log-likelihood of each row, or what the density is trained by, ``(batch_dim,)``."""
        self._check_condition_shape(condition)
        self._check_input_shape(input)
        return -self.density(input.to(self.density.data_dtype), condition.flatten(1)).to(input.dtype)

    def sample(self, sample_shape: torch.Size, condition: Tensor, **_: Any) -> Tensor:
        """``(*sample_shape, batch_dim, *event_shape)``."""
        self._check_condition_shape(condition)
        drawn = self.density.sample(torch.Size(sample_shape).numel(), condition.flatten(1))
        return drawn.reshape(*sample_shape, len(condition), *self.input_shape).to(condition.dtype)


def density_estimator(recipe: str = "spline", **arguments: Any) -> ConditionalEstimatorBuilder[SbiEstimator]:
    """A builder of posteriors, densities of theta given x, for ``NPE(density_estimator=…)`` and its variants.

    Args:
        recipe: of a density that takes a context.
        arguments: of the recipe.

    >>> builder = density_estimator("spline", hidden=(32, 32))  # NPE(density_estimator=builder)
    >>> estimator = builder(torch.randn(50, 2), torch.randn(50, 3))
    >>> estimator.sample(torch.Size((4,)), torch.zeros(1, 3)).shape
    torch.Size([4, 1, 2])
    """
    return lambda theta, x: _estimator(recipe, arguments, theta, x)


def likelihood_estimator(recipe: str = "spline", **arguments: Any) -> ConditionalEstimatorBuilder[SbiEstimator]:
    """A builder of likelihoods, densities of x given theta, for ``NLE(density_estimator=…)``.

    Args:
        recipe, arguments: as in ``density_estimator``.

    >>> estimator = likelihood_estimator("spline", hidden=(32, 32))(torch.randn(50, 2), torch.randn(50, 3))
    >>> estimator.sample(torch.Size((4,)), torch.zeros(1, 2)).shape
    torch.Size([4, 1, 3])
    """
    return lambda theta, x: _estimator(recipe, arguments, x, theta)


def _estimator(recipe: str, arguments: Mapping[str, Any], input: Tensor, condition: Tensor) -> SbiEstimator:
    """A density of ``input`` given ``condition``, with the statistics of these rows."""
    shared = {"features": input[0].numel(), "context_features": condition[0].numel()}
    density = build(recipe, {**arguments, **shared})
    density.initialize(input.flatten(1).to(density.data_dtype), condition.flatten(1))
    return SbiEstimator(density, condition[0].shape)
