"""Whether a fused kernel may replace the plain arithmetic."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor
from torch.autograd import forward_ad

__all__ = ["applicable", "applicable_compiled", "kernels"]

_enabled = os.environ.get("FLOWSTONE_KERNELS", "").lower() not in ("off", "0", "false", "no")


@contextmanager
def kernels(enabled: bool) -> Iterator[None]:
    """A context that switches the fused kernels on or, with False, off, for the whole process."""
    global _enabled  # noqa: PLW0603
    before, _enabled = _enabled, enabled
    try:
        yield
    finally:
        _enabled = before


def applicable(*values: Tensor) -> bool:
    """Whether these are ordinary tensors of one device, in float32 or bfloat16, and nothing traces or transforms the
    arithmetic: no ``torch.compile``, ``torch.jit.trace``, ``make_fx``, ``torch.func``, forward-mode derivative or batch
    of gradients.
    """
    return (
        _allowed()
        and all(type(v) in _ORDINARY and v.dtype in _PRECISIONS and v.device.type in _DEVICES for v in values)
        and len({v.device for v in values}) == 1
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch._C._len_torch_dispatch_stack()
        and not any(map(is_legacy_batchedtensor, values))
    )


def applicable_compiled(*values: Tensor) -> bool:
    """Whether ``torch.compile`` may call a kernel as an operator: under the conditions of ``applicable``, of vectors on
    the CPU. Exported programs run without this library, so they never contain the operator.
    """
    return (
        _allowed()
        and all(v.dtype in _PRECISIONS and v.device.type == "cpu" for v in values)
        and values[0].ndim == 2
        and not torch.compiler.is_exporting()
    )


def _allowed() -> bool:
    return _enabled and not torch._C._are_functorch_transforms_active() and forward_ad._current_level < 0


_ORDINARY = (Tensor, torch.nn.Parameter)
_DEVICES = ("cpu", "cuda")
_PRECISIONS = (torch.float32, torch.bfloat16)
