"""What the autoregressive recipes share: standardise, then layers between which the order of the features reverses."""

from collections.abc import Sequence

from flowstone.bijections import (
    Autoregressive,
    BatchNorm,
    Bijection,
    Chain,
    Inverse,
    Permutation,
    Standardize,
    Univariate,
)
from flowstone.flow import Flow
from flowstone.nets import MADE
from flowstone.nets.initialization import OUTPUT_SCALE, scale_at_depth
from flowstone.priors import make_prior

__all__ = ["autoregressive_flow"]


def autoregressive_flow(
    features: int,
    layers: int,
    transform: Univariate,
    *,
    context_features: int,
    hidden: Sequence[int],
    activation: str,
    residual: bool,
    prior: str,
    batch_norm: bool = False,
    inverse: bool = False,
    output_scale: float = OUTPUT_SCALE,
) -> Flow:
    """Standardize, then ``layers`` layers with a MADE each, and between them the features in reversed order.

    A last reversal restores the order. With ``inverse`` every layer runs in the other direction.
    """
    links: list[Bijection] = [Standardize(features)]
    for index in range(layers):
        if index:
            links += [BatchNorm(features)] if batch_norm else []
            links += [Permutation.reverse(features)] if features > 1 else []
        net = MADE(
            features,
            transform.parameters_per_feature,
            hidden=hidden,
            context_features=context_features,
            activation=activation,
            residual=residual,
            output_scale=scale_at_depth(layers, output_scale),
        )
        layer = Autoregressive(features, transform, net)
        links.append(Inverse(layer) if inverse else layer)
    if features > 1 and layers % 2 == 0:
        links.append(Permutation.reverse(features))
    return Flow(Chain(*links), make_prior(prior, features), context_features=context_features)
