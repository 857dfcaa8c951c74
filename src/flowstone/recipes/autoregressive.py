"""What the autoregressive recipes share: standardise, then layers that take turns in the order of the features."""

from collections.abc import Callable, Sequence

from flowstone.bijections import Autoregressive, BatchNorm, Bijection, Chain, Permutation, Standardize, Univariate
from flowstone.errors import SettingError
from flowstone.nets import MADE

__all__ = ["autoregressive_chain", "made_layer"]


def made_layer(
    features: int,
    transform: Univariate,
    *,
    context_features: int,
    hidden: Sequence[int],
    activation: str,
    residual: bool,
) -> Autoregressive:
    """An autoregressive layer whose net is a MADE."""
    net = MADE(
        features,
        transform.parameters_per_feature,
        hidden=hidden,
        context_features=context_features,
        activation=activation,
        residual=residual,
    )
    return Autoregressive(features, transform, net)


def autoregressive_chain(
    features: int, layers: int, layer: Callable[[], Bijection], *, batch_norm: bool = False
) -> Chain:
    """Standardize, then ``layers`` layers, the order of the features reversed after each, and put right at the end."""
    if features < 1 or layers < 1:
        raise SettingError(f"features={features} and layers={layers} must be at least 1")
    links: list[Bijection] = [Standardize(features)]
    for index in range(layers):
        if index:
            links += [BatchNorm(features)] if batch_norm else []
            links += [Permutation.reverse(features)] if features > 1 else []
        links.append(layer())
    if features > 1 and layers % 2 == 0:
        links.append(Permutation.reverse(features))
    return Chain(*links)
