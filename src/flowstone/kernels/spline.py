"""The fused rational-quadratic spline as a function of tensors, with its gradients."""

import math
from collections.abc import Callable
from functools import cache, wraps
from types import ModuleType
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from flowstone.kernels.choice import applicable
from flowstone.kernels.threads import shared

__all__ = ["fused_spline"]

Method = TypeVar("Method", bound=Callable[..., tuple[Tensor, Tensor]])


def fused_spline(plain: Method) -> Method:
    """A method of ``RQSpline``, ``forward`` or ``inverse``, that runs the kernel of its name where that applies."""
    function = {"forward": _Forward, "inverse": _Inverse}[plain.__name__]

    @wraps(plain)
    def transform(spline: Any, value: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        fits = not spline.circular and value.numel() and value.shape == parameters.shape[:-1]
        if fits and applicable(value, parameters) and value.dtype == torch.float32 and _compiled():
            return function.apply(value, parameters, spline, plain)
        return plain(spline, value, parameters.to(value.dtype))

    return cast(Method, transform)


@cache
def _compiled() -> ModuleType | None:
    """The kernels, or None where numba is not installed or has no place for what it compiles."""
    try:
        from flowstone.kernels import spline_cpu
    except (ImportError, RuntimeError):
        return None
    return spline_cpu


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, parameters: Tensor, spline: Any, plain: Callable) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(x, parameters)
        ctx.spline, ctx.plain = spline, plain
        return _run("forward", spline, (x,), parameters)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor):
        x, parameters = ctx.saved_tensors
        if torch.is_grad_enabled():
            return *_differentiable(ctx, (x, parameters), gradients), None, None
        return *_gradients(ctx.spline, x, parameters, *gradients), None, None


class _Inverse(torch.autograd.Function):
    r"""With $x = f^{-1}(z; \theta)$ and L the log-slope of f: $dx = (dz - f_\theta\, d\theta) / f'$, and the log-slope
    of the inverse, −L, changes by $-L_x\, dx - L_\theta\, d\theta$.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, parameters: Tensor, spline: Any, plain: Callable) -> tuple[Tensor, Tensor]:
        x, log_slope = _run("inverse", spline, (z,), parameters)
        ctx.save_for_backward(z, parameters, x, log_slope)
        ctx.spline, ctx.plain = spline, plain
        return x, log_slope

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor):
        z, parameters, x, log_slope = ctx.saved_tensors
        if torch.is_grad_enabled():
            return *_differentiable(ctx, (z, parameters), gradients), None, None
        g_x, g_log = gradients
        through_slope, _ = _gradients(ctx.spline, x, parameters, torch.zeros_like(g_x), -g_log)
        g_z = (g_x + through_slope) * log_slope.exp()
        _, g_parameters = _gradients(ctx.spline, x, parameters, -g_z, -g_log)
        return g_z, g_parameters, None, None


def _gradients(spline: Any, x: Tensor, parameters: Tensor, g_z: Tensor, g_log: Tensor) -> tuple[Tensor, Tensor]:
    return _run("backward", spline, (x, g_z, g_log), parameters)


def _differentiable(ctx: Any, inputs: tuple[Tensor, ...], gradients: tuple[Tensor, ...]):
    """Gradients that have gradients themselves: those of the plain arithmetic."""
    again = tuple(v.view_as(v) if v.requires_grad else v.detach().requires_grad_() for v in inputs)
    return torch.autograd.grad(
        ctx.plain(ctx.spline, again[0], again[1].to(again[0].dtype)), again, gradients, create_graph=True
    )


def _run(name: str, spline: Any, values: tuple[Tensor, ...], parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Call a kernel: two results, of the shapes of the value and, of ``backward``, of the parameters."""
    stored, inner, back = _stored(parameters)
    values = tuple(value.contiguous() for value in values)
    first = torch.empty_like(values[0])
    second = torch.empty_like(stored if name == "backward" else first)
    flat = [_array(tensor) for tensor in (values[0], stored, *values[1:], first, second)]
    kernel = getattr(_compiled(), name)
    zero_slope = math.log(math.expm1(1 - spline.min_slope))
    settings = (np.float32(v) for v in (spline.bound, spline.min_size, spline.min_slope, zero_slope))
    tail = (np.uint64(inner), np.uint64(spline.bins), *settings)
    shared(lambda begin, end: kernel(*flat, np.uint64(begin), np.uint64(end), *tail), first.numel())
    return first, back(second) if name == "backward" else second


def _array(tensor: Tensor) -> np.ndarray:
    """The tensor's memory; of bfloat16, which numpy does not know, the bits."""
    flat = tensor.detach().view(-1)
    return (flat.view(torch.int16) if flat.dtype == torch.bfloat16 else flat).numpy()


def _stored(parameters: Tensor) -> tuple[Tensor, int, Callable[[Tensor], Tensor]]:
    """Parameters as they lie in memory, ``(outer, P, inner)`` or ``(outer, P)``; inner; the way back to their shape.

    A convolution's channels come before the pixels: ``(batch, features, P, height, width)`` seen with P last.
    """
    if parameters.ndim > 3:
        pixels = parameters.movedim(-1, 2)
        return pixels.contiguous(), math.prod(pixels.shape[3:]), lambda stored: stored.movedim(2, -1)
    return parameters.contiguous(), 1, lambda stored: stored
