"""A mixture of Gaussians."""

from flowstone.bijections import Chain, Regression, Standardize
from flowstone.flow import Flow
from flowstone.priors import GaussianMixture
from flowstone.recipes.registry import recipe

__all__ = ["gaussian_mixture"]


@recipe
def gaussian_mixture(features: int, *, context_features: int = 0, components: int = 16) -> Flow:
    """A mixture of Gaussians with full covariances, of standardised features: a flow whose only bijection is affine.

    With a context it is the mixture of the residuals of a linear regression on the context (``bijections.Regression``).
    Expectation-maximization sets it when ``fit`` begins, with a number of components that is chosen on held-out rows
    (``flowstone.priors.GaussianMixture``); training goes on from there.

    Args:
        features: the number of columns.
        context_features: width of a context.
        components: the largest number of components of the mixture; 1 is a Gaussian.

    >>> import flowstone
    >>> flowstone.recipes.gaussian_mixture(2, components=3).sample(3, seed=0).shape
    torch.Size([3, 2])
    """
    standardize, prior = Standardize(features), GaussianMixture(features, components=components)
    if not context_features:
        return Flow(standardize, prior)
    chain = Chain(standardize, Regression(features, context_features))
    return Flow(chain, prior, context_features=context_features)
