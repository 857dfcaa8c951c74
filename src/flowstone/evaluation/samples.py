"""Samples to stand beside rows of data."""

from torch import Tensor

from flowstone.density import Density
from flowstone.mixed import MixedDensity

__all__ = ["sample_rows"]


def sample_rows(density: Density, n: int, context: Tensor | None = None, *, seed: int = 0) -> Tensor:
    """Samples in the form of rows of data, ``(n, *event_shape)``, on the CPU.

    With a context there is one sample for each of its first n rows. Without one, samples of a mixed density have gaps
    where the density models them.

    >>> import torch, flowstone
    >>> sample_rows(flowstone.nice(2), 5).shape
    torch.Size([5, 2])
    >>> sample_rows(flowstone.nice(2, context_features=1), 3, torch.zeros(4, 1)).shape
    torch.Size([3, 2])
    """
    if context is not None:
        return density.sample(1, context[:n].to(density.device), seed=seed)[0].cpu()
    if isinstance(density, MixedDensity):
        return density.sample(n, seed=seed, gaps=True).cpu()
    return density.sample(n, seed=seed).cpu()
