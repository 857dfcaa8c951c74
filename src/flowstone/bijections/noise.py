"""Noise for layers that draw some: from torch's global random state, or from a generator that is set for a while."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["NoiseSource", "noise_from", "noise_source", "normal_like", "uniform_like"]


class NoiseSource(NamedTuple):
    """Where layers draw noise from.

    Attributes:
        generator: draws the noise.
        part: the rows that are at hand, of a batch of ``total`` rows; None where all are. Noise is drawn for the whole
            batch, so that processes which share a batch add to each row what one process adds to it.
        total: rows of the whole batch.
    """

    generator: torch.Generator
    part: slice | None = None
    total: int = 0

    def clone(self) -> "NoiseSource":
        """A source that draws the same from here on."""
        return self._replace(generator=self.generator.clone_state())


_source: ContextVar[NoiseSource | None] = ContextVar("source", default=None)


@contextmanager
def noise_from(source: torch.Generator | NoiseSource) -> Iterator[None]:
    """Layers that draw noise draw it from ``source``, in this thread alone; the global random state stays as it is.

    >>> import torch
    >>> from flowstone.bijections import Dequantize, NoiseSource, noise_from
    >>> x = torch.zeros(5, 3)
    >>> with noise_from(torch.Generator().manual_seed(0)):
    ...     one, _ = Dequantize()(x)
    >>> with noise_from(torch.Generator().manual_seed(0)):
    ...     two, _ = Dequantize()(x)
    >>> with noise_from(NoiseSource(torch.Generator().manual_seed(0), slice(3, 5), 5)):
    ...     part, _ = Dequantize()(x[3:])
    >>> torch.equal(one, two), torch.equal(one[3:], part)
    (True, True)
    """
    token = _source.set(NoiseSource(source) if isinstance(source, torch.Generator) else source)
    try:
        yield
    finally:
        _source.reset(token)


def noise_source() -> NoiseSource | None:
    """What ``noise_from`` has set, None for torch's global random state."""
    return _source.get()


def uniform_like(x: Tensor) -> Tensor:
    """Numbers in [0, 1) of the shape, precision and device of x."""
    return _drawn(torch.rand, torch.rand_like, x)


def normal_like(x: Tensor) -> Tensor:
    """Standard normal numbers of the shape, precision and device of x."""
    return _drawn(torch.randn, torch.randn_like, x)


def _drawn(draw: Callable[..., Tensor], draw_like: Callable[..., Tensor], x: Tensor) -> Tensor:
    source = None if torch.compiler.is_compiling() else _source.get()
    if source is None:
        return draw_like(x)
    rows = len(x) if source.part is None else source.total
    noise = draw((rows, *x.shape[1:]), generator=source.generator, dtype=x.dtype, device=x.device)
    return noise if source.part is None else noise[source.part]
