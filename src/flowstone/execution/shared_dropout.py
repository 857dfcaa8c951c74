"""Dropout of processes that share a batch."""

import torch
from torch import Tensor, nn

from flowstone.bijections.noise import drawn
from flowstone.execution.override import ForwardOverride
from flowstone.nets.any_order import RowDropout

__all__ = ["shared_dropout"]


def shared_dropout(density: nn.Module) -> ForwardOverride:
    """A context in which dropout draws its masks from the source that ``noise_from`` has set: a process that holds a
    part of a batch then drops the same units of each row as a single process would.

    >>> from flowstone.bijections import NoiseSource, noise_from
    >>> layer, x = nn.Dropout(0.5), torch.ones(6, 4)
    >>> with shared_dropout(layer), noise_from(torch.Generator().manual_seed(0)):
    ...     whole = layer(x)
    >>> with shared_dropout(layer), noise_from(NoiseSource(torch.Generator().manual_seed(0), slice(2, 6), 6)):
    ...     part = layer(x[2:])
    >>> torch.equal(part, whole[2:]), whole.unique().tolist()
    (True, [0.0, 2.0])
    """
    layers = (module for module in density.modules() if type(module) in (nn.Dropout, RowDropout))
    return ForwardOverride(dict.fromkeys(layers, _dropped))


def _dropped(dropout: nn.Dropout, x: Tensor) -> Tensor:
    if not dropout.training or dropout.p == 0:
        return x
    probability = 1 - dropout.p
    shape = dropout.mask_shape(x) if isinstance(dropout, RowDropout) else x.shape
    kept = drawn(_bernoulli, shape, x.device, probability=probability, dtype=x.dtype)
    return x * (kept * (1 / probability if probability else 0.0))


def _bernoulli(size, *, probability: float, generator: torch.Generator | None = None, **kind) -> Tensor:
    return torch.empty(size, **kind).bernoulli_(probability, generator=generator)
