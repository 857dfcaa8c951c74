"""Modules that for a while run otherwise."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import MethodType
from typing import Any

from torch import nn

__all__ = ["Replaced"]


class Replaced(AbstractContextManager):
    """While it is entered, a module runs ``forwards[module](module, …)``; afterwards what it ran before.

    It can be entered again and again, once a training step, and within itself, always with the same functions:
    ``torch.compile`` would compile others anew. It is for one thread, and the last one entered is the first one left.
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
                del module.forward  # that of its class is back
            else:
                module.forward = forward
