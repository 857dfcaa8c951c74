"""Noise for layers that draw some: from torch's global random state, or from a generator that is set for a while."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

__all__ = ["noise_from", "noise_generator", "normal_like", "uniform_like"]

_generator: ContextVar[torch.Generator | None] = ContextVar("generator", default=None)


@contextmanager
def noise_from(generator: torch.Generator) -> Iterator[None]:
    """Layers that draw noise draw it from ``generator``, in this thread alone; the global random state stays as it is.

    >>> import torch
    >>> from flowstone.bijections import Dequantize, noise_from
    >>> x = torch.zeros(1, 3)
    >>> with noise_from(torch.Generator().manual_seed(0)):
    ...     one, _ = Dequantize()(x)
    >>> with noise_from(torch.Generator().manual_seed(0)):
    ...     two, _ = Dequantize()(x)
    >>> torch.equal(one, two)
    True
    """
    token = _generator.set(generator)
    try:
        yield
    finally:
        _generator.reset(token)


def noise_generator() -> torch.Generator | None:
    """The generator that ``noise_from`` has set, None for torch's global random state."""
    return _generator.get()


def uniform_like(x: Tensor) -> Tensor:
    """Numbers in [0, 1) of the shape, precision and device of x."""
    generator = None if torch.compiler.is_compiling() else _generator.get()
    if generator is None:
        return torch.rand_like(x)
    return torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device)


def normal_like(x: Tensor) -> Tensor:
    """Standard normal numbers of the shape, precision and device of x."""
    generator = None if torch.compiler.is_compiling() else _generator.get()
    if generator is None:
        return torch.randn_like(x)
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
