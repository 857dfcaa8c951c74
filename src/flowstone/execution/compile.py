"""Compiles a function by ``torch.compile`` where that works."""

import warnings
from collections.abc import Callable
from functools import wraps
from typing import TypeVar

import torch

__all__ = ["compiled"]

Result = TypeVar("Result")


def compiled(function: Callable[..., Result], *, graphs: bool = False) -> Callable[..., Result]:
    """``function`` as one graph. Its first call compiles it, which takes seconds, for deep flows a minute.

    Where it cannot be compiled (no C++ compiler, a bijection that breaks the graph), it warns once and runs
    ``function`` itself.

    Args:
        graphs: on a CUDA device, launch all kernels as one CUDA graph. Each call then overwrites what the call before
            it returned, gradients included. Of no effect on other devices.
    """
    from torch._dynamo.exc import TorchDynamoException

    try:
        mode = "reduce-overhead" if graphs else None
        quick, works = torch.compile(function, fullgraph=True, dynamic=False, mode=mode), True
    except RuntimeError as error:  # torch.compile does not support this Python or system
        warnings.warn(f"not compiled, continuing without: {error}", stacklevel=2)
        return function

    @wraps(function)
    def run(*inputs) -> Result:
        nonlocal works
        if works:
            try:
                if graphs:
                    torch.compiler.cudagraph_mark_step_begin()
                return quick(*inputs)
            except TorchDynamoException as error:
                works = False
                reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
                warnings.warn(f"not compiled, continuing without: {reason}", stacklevel=2)
        return function(*inputs)

    return run
