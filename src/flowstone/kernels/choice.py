"""Whether a fused kernel may stand in for the plain arithmetic."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor
from torch.autograd import forward_ad

__all__ = ["applicable", "applicable_compiled", "kernels"]

_wanted = os.environ.get("FLOWSTONE_KERNELS", "").lower() not in ("off", "0", "false", "no")


@contextmanager
def kernels(wanted: bool) -> Iterator[None]:
    """Fused kernels or, with False, the plain arithmetic alone; for the whole process."""
    global _wanted  # noqa: PLW0603
    before, _wanted = _wanted, wanted
    try:
        yield
    finally:
        _wanted = before


def applicable(*values: Tensor) -> bool:
    """Whether these are ordinary tensors of one device, in float32 or bfloat16, and nobody is looking into the
    arithmetic: no ``torch.compile``, ``torch.func``, forward-mode derivative or batch of gradients.
    """
    return (
        _unseen()
        and all(type(v) in _ORDINARY and v.dtype in _PRECISIONS and v.device.type in _DEVICES for v in values)
        and len({v.device for v in values}) == 1
        and not torch.compiler.is_compiling()
        and not any(map(is_legacy_batchedtensor, values))
    )


def applicable_compiled(*values: Tensor) -> bool:
    """Whether ``torch.compile`` may take a kernel as an operator of its own: of vectors, on the CPU, as above; and not
    in what is exported, which is for others.
    """
    return (
        _unseen()
        and all(v.dtype in _PRECISIONS and v.device.type == "cpu" for v in values)
        and values[0].ndim == 2
        and not torch.compiler.is_exporting()
    )


def _unseen() -> bool:
    return _wanted and not torch._C._are_functorch_transforms_active() and forward_ad._current_level < 0


_ORDINARY = (Tensor, torch.nn.Parameter)
_DEVICES = ("cpu", "cuda")
_PRECISIONS = (torch.float32, torch.bfloat16)
