"""Modules that run another forward for a while."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from threading import Lock, RLock
from types import MethodType
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from torch.nn.modules import module as torch_module

__all__ = ["ForwardOverride", "has_hooks", "hooks_of", "hooks_of_all_modules"]

# Dictionaries of torch: the hooks on all modules.
GLOBAL_HOOKS = [f"_global_{kind}_hooks" for kind in ("forward_pre", "forward", "backward_pre", "backward")]
_locks: "WeakKeyDictionary[nn.Module, Any]" = WeakKeyDictionary()  # one for each module that was ever overridden
_making = Lock()


class ForwardOverride(AbstractContextManager):
    """A context in which a module runs ``forwards[module](module, …)`` instead of its own forward.

    It can be entered many times, such as once a training step, and within itself, always with the same functions:
    ``torch.compile`` would compile others anew. Contexts are left in reverse order. A thread that enters one waits
    until no other thread is in a context of the same modules; a thread that calls them outside does not wait, and
    runs the other forward, too.
    """

    def __init__(self, forwards: Mapping[nn.Module, Callable]) -> None:
        self.forwards = {module: MethodType(forward, module) for module, forward in forwards.items()}
        self.before: list[dict[nn.Module, Any]] = []
        with _making:
            self._locks = [_locks.setdefault(module, RLock()) for module in sorted(self.forwards, key=id)]

    def __enter__(self) -> None:
        for lock in self._locks:
            lock.acquire()
        self.before.append({module: vars(module).get("forward") for module in self.forwards})
        for module, forward in self.forwards.items():
            module.forward = forward

    def __exit__(self, *_: object) -> None:
        for module, forward in self.before.pop().items():
            if forward is None:
                del module.forward  # the forward of its class is visible again
            else:
                module.forward = forward
        for lock in self._locks:
            lock.release()


def has_hooks(module: nn.Module) -> bool:
    """Whether hooks see what goes into and out of a module: it must then be called as a module."""
    return any(hooks_of(module)) or any(hooks_of_all_modules())


def hooks_of(module: nn.Module) -> list[Mapping]:
    """The dictionaries in which torch keeps the hooks on a module; they stay the same while hooks come and go."""
    return [module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks]


def hooks_of_all_modules() -> list[Mapping]:
    """The dictionaries in which torch keeps the hooks on all modules."""
    return [getattr(torch_module, name) for name in GLOBAL_HOOKS]
