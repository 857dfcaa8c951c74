"""A function through torch.compile, where that works."""

import warnings
from collections.abc import Callable
from functools import wraps
from typing import TypeVar

import torch

__all__ = ["compiled"]

Result = TypeVar("Result")


def compiled(function: Callable[..., Result], *, graphs: bool = False) -> Callable[..., Result]:
    """``function`` in one graph, compiled when it is first called: seconds, of deep flows a minute.

    ``graphs``: on a CUDA device its kernels are launched as one CUDA graph, too, and what a call returned, gradients
    among it, is written over by the next one. Of no effect elsewhere.

    Where it cannot be (no C++ compiler, a bijection that breaks the graph), one warning, and ``function`` as it is.
    """
    from torch._dynamo.exc import TorchDynamoException

    try:
        mode = "reduce-overhead" if graphs else None
        quick, works = torch.compile(function, fullgraph=True, dynamic=False, mode=mode), True
    except RuntimeError as error:  # a Python or a system that it is not for
        warnings.warn(f"not compiled, goes on without: {error}", stacklevel=2)
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
                warnings.warn(f"not compiled, goes on without: {reason}", stacklevel=2)
        return function(*inputs)

    return run
