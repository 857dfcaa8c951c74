"""Modules that run another forward for a while."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import MethodType
from typing import Any

from torch import nn
from torch.nn.modules.module import _has_any_global_hook

__all__ = ["ForwardOverride", "has_hooks"]


class ForwardOverride(AbstractContextManager):
    """A context in which a module runs ``forwards[module](module, …)`` instead of its own forward.

    It can be entered many times, such as once a training step, and within itself, always with the same functions:
    ``torch.compile`` would compile others anew. It is for one thread; contexts are left in reverse order.
    """

    def __init__(self, forwards: Mapping[nn.Module, Callable]) -> None:
        self.forwards = {module: MethodType(forward, module) for module, forward in forwards.items()}
        self.before: list[dict[nn.Module, Any]] = []

    def __enter__(self) -> None:
        self.before.append({module: vars(module).get("forward") for module in self.forwards})
        for module, forward in self.forwards.items():
            module.forward = forward

    def __exit__(self, *_: object) -> None:
        for module, forward in self.before.pop().items():
            if forward is None:
                del module.forward  # the forward of its class is visible again
            else:
                module.forward = forward


def has_hooks(module: nn.Module) -> bool:
    """Whether hooks see what goes into and out of a module: it must then be called as a module."""
    own = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    return bool(own or _has_any_global_hook())
