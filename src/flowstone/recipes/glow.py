"""Glow (Kingma and Dhariwal 2018), for vectors and for images."""

from collections.abc import Sequence

from flowstone.bijections import (
    ActNorm,
    Affine,
    Bijection,
    Chain,
    Coupling,
    InvertibleConv1x1,
    LULinear,
    Squeeze,
    Standardize,
)
from flowstone.errors import SettingError
from flowstone.flow import Flow
from flowstone.nets import ConvNet
from flowstone.nets.initialization import scale_at_depth
from flowstone.priors import make_prior
from flowstone.recipes.couplings import vector_coupling
from flowstone.recipes.images import image_flow
from flowstone.recipes.registry import recipe

__all__ = ["glow"]


@recipe
def glow(
    features: int | None = None,
    *,
    context_features: int = 0,
    event_shape: Sequence[int] | None = None,
    couplings: int = 8,
    hidden: Sequence[int] | None = None,
    scales: int | None = None,
    channels: int | None = None,
    alpha: float | str | None = None,
    activation: str = "relu",
    prior: str = "normal",
) -> Flow:
    """Glow: steps of activation normalization, a learned mixing of the features, an affine coupling.

    For vectors (``features``) the mixing is an ``LULinear`` and the net an MLP of widths ``hidden`` (128, 128). For
    images (``event_shape=(channels, height, width)``, integers 0 … 255) there are ``scales`` (3, or as often as both
    sides can be halved) of a squeeze and ``couplings`` steps each with 1x1 convolutions, and half of the channels
    leaves after every scale, transformed by a last coupling whose net sees what stays (the learned split prior); the
    nets are three convolutions of ``channels`` (64) channels. Images are dequantized and mapped to the real line by a
    logit (``alpha``, 0.05), or only scaled with ``alpha="none"``, as in the paper; the log-scale is softly bounded,
    where the paper takes a sigmoid. The paper reports 3.35 bits/dim on CIFAR-10 with 3 scales of 32 steps and 512
    channels.

    Args:
        features: the number of columns of vectors.
        context_features: width of a context, 0 for none.
        event_shape: ``(channels, height, width)`` of images.
        couplings: the number of steps; for images, of each scale.
        hidden: widths of the hidden layers of each net, for vectors.
        scales, channels, alpha: for images, see above.
        activation: of the nets.
        prior: ``"normal"``, ``"logistic"``, ``"student"`` or ``"mixture"``.

    Raises:
        SettingError: both or none of ``features`` and ``event_shape`` are given, or an argument is for the other one.

    >>> import flowstone
    >>> flowstone.glow(3, couplings=2).sample(4, seed=0).shape
    torch.Size([4, 3])
    >>> flowstone.glow(event_shape=(1, 4, 4), scales=2, couplings=2, channels=8).sample(4, seed=0).shape
    torch.Size([4, 1, 4, 4])
    """
    if (features is None) == (event_shape is None):
        raise SettingError("glow takes either features (vectors) or event_shape (images)")
    if event_shape is None:
        assert features is not None
        _refuse("vectors", scales=scales, channels=channels, alpha=alpha)
        chain = _vectors(features, couplings, hidden or (128, 128), context_features, activation)
        return Flow(chain, make_prior(prior, features), context_features=context_features)
    _refuse("images", hidden=hidden)
    depth = _most_scales(event_shape) if scales is None else scales

    def scale(index: int, width: int) -> Chain:
        width, net = 4 * width, channels or 64
        steps = [_image_step(width, turn, net, context_features, activation) for turn in range(couplings)]
        last = [] if index + 1 == depth else [_image_coupling(width, net, context_features, activation, swap=False)]
        return Chain(Squeeze(), *steps, *last)

    squeezed = 0.05 if alpha is None else alpha
    return image_flow(event_shape, depth, scale, context_features=context_features, alpha=squeezed, prior=prior)


def _refuse(kind: str, **arguments: object) -> None:
    """Refuse arguments that are for the other kind of data."""
    for name, value in arguments.items():
        if value is not None:
            raise SettingError(f"{name}={value}: glow for {kind} has no such setting")


def _vectors(features: int, couplings: int, hidden: Sequence[int], context_features: int, activation: str) -> Chain:
    links: list[Bijection] = [Standardize(features)]
    for index in range(couplings):
        coupling = vector_coupling(
            features,
            lambda features: Affine(features, scale="soft"),
            swap=features > 1 and index % 2 == 1,
            context_features=context_features,
            hidden=hidden,
            activation=activation,
            output_scale=scale_at_depth(couplings),
        )
        links += [ActNorm(features), LULinear(features), coupling]
    return Chain(*links)


def _most_scales(event_shape: Sequence[int]) -> int:
    return max((scales for scales in (1, 2, 3) if all(side % 2**scales == 0 for side in event_shape[1:])), default=1)


def _image_step(width: int, index: int, hidden: int, context_features: int, activation: str) -> Chain:
    coupling = _image_coupling(width, hidden, context_features, activation, swap=index % 2 == 1)
    return Chain(ActNorm(width), InvertibleConv1x1(width), coupling)


def _image_coupling(width: int, hidden: int, context_features: int, activation: str, *, swap: bool) -> Coupling:
    kept, changed = Coupling.sizes(width, swap=swap)
    net = ConvNet(kept, 2 * changed, hidden=hidden, context_features=context_features, activation=activation)
    return Coupling(width, Affine((changed, 1, 1), scale="soft"), net, swap=swap)
