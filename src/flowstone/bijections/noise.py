"""Noise for layers that draw some: from torch's global random state, or from a generator that is set for a while."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["NoiseSource", "drawn", "noise_from", "noise_source", "normal_like", "uniform_like"]


class NoiseSource(NamedTuple):
    """Where layers draw noise from.

    Attributes:
        generator: draws the noise.
        part: the rows of this process in a batch of ``total`` rows; None where it holds all of them. Noise is drawn for
            the whole batch, so that processes that share a batch add to each row what a single process adds to it.
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
    """The source that ``noise_from`` has set; None means torch's global random state. Compiled code uses no other."""
    return None if torch.compiler.is_compiling() else _source.get()


def uniform_like(x: Tensor) -> Tensor:
    """Numbers in [0, 1) of the shape, precision and device of x."""
    if noise_source() is None:
        return torch.rand_like(x)
    return drawn(torch.rand, x.shape, x.device, dtype=x.dtype)


def normal_like(x: Tensor) -> Tensor:
    """Standard normal numbers of the shape, precision and device of x."""
    if noise_source() is None:
        return torch.randn_like(x)
    return drawn(torch.randn, x.shape, x.device, dtype=x.dtype)


def drawn(
    draw: Callable[..., Tensor], size: Sequence[int], device: torch.device, *, rows: int = 0, **kind: Any
) -> Tensor:
    """What a function such as ``torch.rand`` draws, called as ``draw(size, …)``, from the source that is set.

    Args:
        rows: the dimension of ``size`` that counts rows. It may also count parts of rows: the same number for each row,
            and those of one row next to each other.
        kind: further arguments of ``draw``.

    >>> import torch
    >>> with noise_from(NoiseSource(torch.Generator().manual_seed(0), slice(1, 3), 4)):
    ...     drawn(torch.rand, (2, 5), torch.device("cpu")).shape
    torch.Size([2, 5])
    """
    source = noise_source()
    if source is None:
        return draw(size, device=device, **kind)
    if source.part is None:
        return draw(size, device=device, generator=source.generator, **kind)
    parts = size[rows] // max(1, source.part.stop - source.part.start)
    whole = [*size[:rows], parts * source.total, *size[rows + 1 :]]
    noise = draw(whole, device=device, generator=source.generator, **kind)
    return noise.narrow(rows, parts * source.part.start, size[rows])
