"""Finds the first layer that is not finite when a loss or a gradient is not."""

import torch
from torch import Tensor, nn

from flowstone.data import Rows
from flowstone.density import Density

__all__ = ["OVERFLOW", "first_bad_gradient", "first_bad_output"]

OVERFLOW = "every gradient is finite, their norm overflows"


def first_bad_output(density: Density, rows: Rows) -> str:
    """Run the batch again and name the first module whose output is not finite."""
    if not (rows.x.isfinite() | (rows.x.isnan() & density.accepts_gaps)).all():
        return "the batch itself holds NaN or infinity"
    bad: list[str] = []
    names = {module: name for name, module in density.named_modules()}

    def record(module: nn.Module, _, output) -> None:
        values = output if isinstance(output, tuple | list) else (output,)
        tensors = [value for value in values if isinstance(value, Tensor)]
        if not bad and not all(value.isfinite().all() for value in tensors):
            bad.append(f"first bad output: {names[module]}, {type(module).__name__}")

    hooks = [module.register_forward_hook(record) for module in density.modules()]
    try:
        with torch.no_grad():
            density.log_prob(rows.x, rows.context)
    finally:
        for hook in hooks:
            hook.remove()
    return bad[0] if bad else "first bad output: the prior's log-density"


def first_bad_gradient(density: Density) -> str:
    """The parameter nearest to the data whose gradient is not finite."""
    for name, parameter in density.named_parameters():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            return f"first bad gradient: {name}"
    return OVERFLOW
