"""Calls a kernel of the spline: chooses it by device and hands it the parameters in their order in memory."""

import math
import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, cast

from torch import Tensor

__all__ = ["backend", "run"]

BACKENDS = {"cpu": ("numba", "spline_cpu"), "cuda": ("triton", "spline_gpu")}


@cache
def backend(device: str) -> ModuleType | None:
    """The kernels for a kind of device, or None where their compiler is not installed or does not work."""
    compiler, module = BACKENDS[device]
    if find_spec(compiler) is None:
        return None
    try:
        kernels = import_module(f"flowstone.kernels.{module}")
        if module == "spline_cpu":
            kernels.kernel("transform")  # compiled now, so that a failure is noticed here
        return kernels
    except Exception as error:
        warnings.warn(f"{compiler} does not work here ({error}): splines run without fused kernels", stacklevel=4)
        return None


def run(name: str, spline: Any, values: tuple[Tensor, ...], parameters: Tensor, *, along_y: bool):
    """Call a kernel. Its two results are shaped like the value; the second one of ``backward``, like the parameters."""
    order = _order(parameters)
    if order:
        values, parameters = tuple(value.permute(order) for value in values), parameters.permute(*order, -1)
    values = tuple(value.contiguous() for value in values)
    stored, inner, restore = _stored(parameters)
    zero_slope = math.log(math.expm1(1 - spline.min_slope))
    kernels = cast(ModuleType, backend(stored.device.type))
    first, second = kernels.run(name, spline, values, stored, inner, zero_slope, along_y=along_y)
    if name == "backward":
        second = restore(second)
    if not order:
        return first, second  # not views, so that the caller may write into them
    again = [order.index(axis) for axis in range(len(order))]
    return first.permute(again), second.permute(*again, *range(len(order), second.ndim))


def _order(parameters: Tensor) -> list[int]:
    """All axes but the last one in their order in memory, where channels come last (``torch.channels_last``), else [].

    In that order the parameters lie like a table's: ``(batch, height, width, features, P)``.
    """
    if parameters.ndim <= 3 or parameters.is_contiguous():
        return []
    moved = [0, *range(2, parameters.ndim - 1), 1]
    return moved if parameters.permute(*moved, -1).is_contiguous() else []


def _stored(parameters: Tensor) -> tuple[Tensor, int, Callable[[Tensor], Tensor]]:
    """Contiguous parameters, ``(outer, P, inner)`` or ``(outer, P)``; inner; a function that restores their shape.

    A convolution writes ``(batch, features, P, height, width)``, of which the parameters are a view with P last.
    """
    if parameters.ndim > 3 and not parameters.is_contiguous():
        pixels = parameters.movedim(-1, 2)
        return pixels.contiguous(), math.prod(pixels.shape[3:]), lambda stored: stored.movedim(2, -1)
    return parameters.contiguous(), 1, lambda stored: stored
