"""The fused rational-quadratic spline as a function of tensors, with its gradients."""

import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from flowstone.kernels.choice import applicable, applicable_compiled
from flowstone.kernels.spline_call import backend, run

__all__ = ["fused_spline"]

Method = TypeVar("Method", bound=Callable[..., tuple[Tensor, Tensor]])


def fused_spline(plain: Method) -> Method:
    """Decorates ``RQSpline.forward`` and ``inverse``: the kernel of that name runs instead where it applies."""
    function = {"forward": _Forward, "inverse": _Inverse}[plain.__name__]
    forward = plain.__name__ == "forward"

    @wraps(plain)
    def transform(spline: Any, value: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        if _fits(spline, value, parameters):
            if torch.compiler.is_compiling():
                if forward and applicable_compiled(value, parameters):
                    from flowstone.kernels import spline_op  # takes a second, for it loads torch's compiler

                    if spline_op.is_available():
                        return spline_op.transform(spline, value, parameters)
            elif applicable(value, parameters) and _works(function, spline, plain, parameters):
                return function.apply(value, parameters, spline, plain)
        return plain(spline, value, parameters.to(value.dtype))

    return cast(Method, transform)


def _fits(spline: Any, value: Tensor, parameters: Tensor) -> bool:
    wanted = (*value.shape, spline.parameters_per_feature)
    return not spline.circular and value.dtype == torch.float32 and value.numel() > 0 and parameters.shape == wanted


def _works(function: type[torch.autograd.Function], spline: Any, plain: Callable, parameters: Tensor) -> bool:
    kind = parameters.device.type
    return backend(kind) is not None and (kind == "cpu" or _agrees(function, spline, plain, parameters))


def _agrees(function: type[torch.autograd.Function], spline: Any, plain: Callable, parameters: Tensor) -> bool:
    """Whether a kernel gives the numbers of the plain spline in float64 on this device. It is tried once, before the
    kernel is first used there, because not every kind of accelerator could be tested.
    """
    device = parameters.device
    key = (str(device), plain.__name__, spline.bins, parameters.dtype)
    if key not in _AGREED:
        try:
            error_size = _difference(function, spline, plain, device, parameters.dtype)
            trouble = "" if error_size < AGREEMENT else f"they are off by {error_size:.1e}"
        except Exception as error:
            trouble = str(error) or type(error).__name__
        if trouble:
            warnings.warn(f"splines run without fused kernels on {device}: {trouble}", stacklevel=4)
        _AGREED[key] = not trouble
    return _AGREED[key]


AGREEMENT = 1e-3
_AGREED: dict[tuple[str, str, int, torch.dtype], bool] = {}


def _difference(
    function: type[torch.autograd.Function], spline: Any, plain: Callable, device: torch.device, dtype: torch.dtype
) -> float:
    """The largest error of values and gradients, relative to 1 plus their size (in bfloat16: to its resolution)."""
    both = []
    with torch.inference_mode(False), torch.enable_grad():
        generator = torch.Generator().manual_seed(0)
        value = spline.bound * torch.randn(300, generator=generator, device="cpu")
        parameters = torch.randn(300, spline.parameters_per_feature, generator=generator, device="cpu").to(dtype)
        for wide in (False, True):
            x = value.to(device, torch.float64 if wide else torch.float32).requires_grad_()
            raw = parameters.to(device, torch.float64 if wide else dtype).requires_grad_()
            outputs = plain(spline, x, raw) if wide else function.apply(x, raw, spline, plain)
            gradients = torch.autograd.grad(outputs, (x, raw), [torch.ones_like(output) for output in outputs])
            both.append([t.detach().double() for t in (*outputs, gradients[0], gradients[1].to(dtype))])
    precise = AGREEMENT if dtype == torch.float32 else 2 * torch.finfo(dtype).eps
    scales = (1.0, 1.0, 1.0, AGREEMENT / precise)
    return max(scale * ((a - b).abs() / (1 + b.abs())).max().item() for scale, a, b in zip(scales, *both, strict=True))


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, parameters: Tensor, spline: Any, plain: Callable) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(x, parameters)
        ctx.spline, ctx.plain = spline, plain
        return run("transform", spline, (x,), parameters, along_y=False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor):
        x, parameters = ctx.saved_tensors
        if torch.is_grad_enabled() or not applicable(*gradients):
            return *_plain_gradients(ctx, (x, parameters), gradients), None, None
        return *_gradients(ctx.spline, x, parameters, *gradients), None, None


class _Inverse(torch.autograd.Function):
    r"""With $x = f^{-1}(z; \theta)$ and L the log-slope of f: $dx = (dz - f_\theta\, d\theta) / f'$, and the log-slope
    of the inverse, −L, changes by $-L_x\, dx - L_\theta\, d\theta$.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, parameters: Tensor, spline: Any, plain: Callable) -> tuple[Tensor, Tensor]:
        x, log_slope = run("transform", spline, (z,), parameters, along_y=True)
        ctx.save_for_backward(z, parameters, log_slope)
        ctx.spline, ctx.plain = spline, plain
        return x, log_slope

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor):
        z, parameters, log_slope = ctx.saved_tensors
        if torch.is_grad_enabled() or not applicable(*gradients):
            return *_plain_gradients(ctx, (z, parameters), gradients), None, None
        g_x, g_log = gradients
        through_slope, _ = _gradients(ctx.spline, z, parameters, torch.zeros_like(g_x), -g_log, along_y=True)
        g_z = (g_x + through_slope) * log_slope.exp()
        _, g_parameters = _gradients(ctx.spline, z, parameters, -g_z, -g_log, along_y=True)
        return g_z, g_parameters, None, None


def _plain_gradients(ctx: Any, inputs: tuple[Tensor, Tensor], gradients: tuple[Tensor, ...]):
    """Gradients by the plain arithmetic, which can be differentiated again and computed in batches."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        value, parameters = (v.view_as(v) if v.requires_grad else v.detach().requires_grad_() for v in inputs)
        outputs = ctx.plain(ctx.spline, value, parameters.to(value.dtype))
        return torch.autograd.grad(outputs, (value, parameters), gradients, create_graph=create_graph)


def _gradients(spline: Any, value: Tensor, parameters: Tensor, g_z: Tensor, g_log: Tensor, *, along_y: bool = False):
    """The gradients of data → latent by x and parameters; ``value`` is x or, with ``along_y``, z."""
    return run("backward", spline, (value, g_z, g_log), parameters, along_y=along_y)
