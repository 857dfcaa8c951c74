"""A mixture of Gaussians."""

from flowstone.bijections import Standardize
from flowstone.errors import SettingError
from flowstone.flow import Flow
from flowstone.priors import GaussianMixture
from flowstone.recipes.registry import recipe

__all__ = ["gaussian_mixture"]


@recipe
def gaussian_mixture(features: int, *, context_features: int = 0, components: int = 16) -> Flow:
    """A mixture of Gaussians with full covariances, of standardised features: a flow whose only bijection is affine.

    Expectation-maximization sets it when ``fit`` begins, with as many of the components as held-out rows want
    (``flowstone.priors.GaussianMixture``); training goes on from there.

    Args:
        features: the number of columns.
        context_features: 0: there is no conditional one.
        components: of the mixture; 1 is a Gaussian.

    >>> import flowstone
    >>> flowstone.recipes.gaussian_mixture(2, components=3).sample(3, seed=0).shape
    torch.Size([3, 2])
    """
    if context_features:
        raise SettingError(f"context_features={context_features}: a mixture of Gaussians takes no context")
    return Flow(Standardize(features), GaussianMixture(features, components=components))
