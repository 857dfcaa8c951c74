"""Layers in the data's own units: they keep statistics of the data in float64, whatever the flow's precision."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from flowstone.bijections.base import Bijection

__all__ = ["LARGEST", "DataLayer", "is_coarse"]

LARGEST, SMALLEST = 1e37, 1e-36  # what float32 still holds, with a little to spare
COARSE = 1000.0  # standard deviations from 0 beyond which float32 resolves a column badly


class DataLayer(Bijection):
    """A first layer of a flow. ``forward`` computes in float64 and returns z in the flow's precision, so that
    timestamps and integers keep their digits. ``inverse`` computes in float64, too; it returns the flow's precision, or
    float64 where ``needs_float64`` says that float32 cannot hold the data.
    """

    accepts_any_dtype = True
    needs_float64 = False
    _reference: Tensor

    def __init__(self, features: int | None = None, latent_features: int | None = None) -> None:
        super().__init__(features, latent_features)
        self._statistics: list[str] = []
        self.register_buffer("_reference", torch.zeros(()), persistent=False)  # carries the flow's precision

    @property
    def dtype(self) -> torch.dtype:
        """The flow's precision."""
        return self._reference.dtype

    @property
    def data_dtype(self) -> torch.dtype:
        """The precision of what ``inverse`` returns."""
        return torch.float64 if self.needs_float64 else self.dtype

    def register_statistic(self, name: str, value: Tensor) -> None:
        """Register a buffer that stays in float64."""
        self._statistics.append(name)
        self.register_buffer(name, value.double())

    def statistics_changed(self) -> None:
        """Called after statistics were set or loaded; sets what follows from them."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "DataLayer":
        before = {name: self._buffers[name] for name in self._statistics}
        super()._apply(fn, recurse)
        for name, value in before.items():
            device = self._reference.device
            assert value is not None
            self._buffers[name] = torch.empty_like(value, device=device) if value.is_meta else value.to(device)
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        for name in self._statistics:
            setattr(self, name, getattr(self, name).double())  # ``assign=True`` may have put float32 there
        self.statistics_changed()


def is_coarse(centre: Tensor, width: Tensor) -> bool:
    """Whether float32 cannot hold columns with this centre and width, or leaves them few digits."""
    far = centre.abs() > COARSE * width
    return bool((far | (width > LARGEST) | (width < SMALLEST) | (centre.abs() > LARGEST)).any())
