"""What the image recipes share: preprocessing of integers, padding to a size that can be halved, and the scales."""

from collections.abc import Callable, Sequence

import torch

from flowstone.bijections import Bijection, Chain, Dequantize, Interval, MultiScale, Pad, Rescale
from flowstone.errors import SettingError
from flowstone.flow import Flow
from flowstone.priors import make_prior

__all__ = ["image_flow", "prepared"]


def prepared(event_shape: Sequence[int], alpha: float | str | None, noise: Bijection | None = None) -> list[Bijection]:
    """The first links: integers 0 … 255 are dequantized and mapped to the real line by a logit; where ``alpha`` is None
    or ``"none"``, to [0, 1].
    """
    if len(event_shape) != 3 or min(event_shape) < 1:
        raise SettingError(f"event_shape={tuple(event_shape)}: wanted (channels, height, width)")
    if alpha is None or alpha == "none":
        return [Dequantize(noise, levels=256), Rescale(0.0, 256.0)]
    if isinstance(alpha, str):
        raise SettingError(f"alpha={alpha!r}: wanted a number from 0 to below 0.5, or none")
    return [Dequantize(noise, levels=256), Interval(0.0, 256.0, alpha=alpha)]


def image_flow(
    event_shape: Sequence[int],
    scales: int,
    scale: Callable[[int, int], Bijection],
    *,
    context_features: int,
    alpha: float | str | None,
    prior: str,
    noise: Bijection | None = None,
) -> Flow:
    """The links that ``prepared`` makes, then ``scale(index, channels)`` for each scale.

    Sizes that cannot be halved once a scale are padded, which leaves the likelihood that of the image (``Pad``).

    Raises:
        SettingError: there are so many scales that an image would be padded to more than four times its size.
    """
    links = prepared(event_shape, alpha, noise)
    channels, height, width = event_shape
    step = 2**scales
    if step > 4 * max(height, width):
        raise SettingError(f"scales={scales}: images of {height}x{width} would be padded to {step}x{step}")
    size = [step * -(-side // step) for side in (height, width)]
    if size != [height, width]:
        links.append(Pad(event_shape, size))
    levels = []
    for index in range(scales):
        levels.append(scale(index, channels))
        channels *= 2  # four times as many after a squeeze, of which half leave
    image = torch.Size((event_shape[0], *size))
    chain = Chain(*links, MultiScale(image, levels))
    return Flow(chain, make_prior(prior, image.numel()), context_features=context_features)
