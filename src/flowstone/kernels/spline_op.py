"""The fused spline as a custom operator: ``torch.compile`` cannot trace the kernels, but it can call an operator."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.library import custom_op

from flowstone.kernels.spline_call import backend, run

__all__ = ["Shape", "is_available", "transform"]


class Shape(NamedTuple):
    """The numbers of a spline that a kernel needs."""

    bins: int
    bound: float
    min_size: float
    min_slope: float


@torch.compiler.assume_constant_result
def is_available() -> bool:
    """Whether there are kernels for the CPU; evaluated once for each graph."""
    return backend("cpu") is not None


def transform(spline: Any, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Data → latent, and the log-slope."""
    return _transform(x, parameters, [spline.bins, spline.bound, spline.min_size, spline.min_slope])


def _run(name: str, shape: Sequence[float], values: tuple[Tensor, ...], parameters: Tensor) -> tuple[Tensor, Tensor]:
    bins, *others = shape
    return run(name, Shape(int(bins), *others), values, parameters.contiguous(), along_y=False)


@custom_op("flowstone::spline", mutates_args=(), device_types="cpu")
def _transform(x: Tensor, parameters: Tensor, shape: Sequence[float]) -> tuple[Tensor, Tensor]:
    return _run("transform", shape, (x,), parameters)


@custom_op("flowstone::spline_backward", mutates_args=(), device_types="cpu")
def _backward(
    x: Tensor, parameters: Tensor, g_z: Tensor, g_log: Tensor, shape: Sequence[float]
) -> tuple[Tensor, Tensor]:
    return _run("backward", shape, (x, g_z, g_log), parameters)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG001
    x, parameters, ctx.shape = inputs
    ctx.save_for_backward(x, parameters)


def _gradients(ctx: Any, g_z: Tensor, g_log: Tensor) -> tuple[Any, ...]:
    return *_backward(*ctx.saved_tensors, g_z, g_log, ctx.shape), None


def _empty_like(value: Tensor) -> Tensor:
    return torch.empty_like(value, memory_format=torch.contiguous_format)


_transform.register_fake(lambda x, *_: (_empty_like(x), _empty_like(x)))
_backward.register_fake(lambda x, parameters, *_: (_empty_like(x), _empty_like(parameters)))
_transform.register_autograd(_gradients, setup_context=_keep)
