"""Modules that for a while run otherwise."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from torch import nn

__all__ = ["Replaced"]


class Replaced(AbstractContextManager):
    """While it is entered, ``module.forward`` is what ``forwards`` says; afterwards it is what it was.

    It can be entered again and again, once a training step, always with the same functions: ``torch.compile`` would
    compile others anew.
    """

    def __init__(self, forwards: Mapping[nn.Module, Callable]) -> None:
        self.forwards = forwards
        self.before: list[tuple[nn.Module, Any]] = []

    def __enter__(self) -> None:
        for module, forward in self.forwards.items():
            self.before.append((module, vars(module).get("forward")))
            module.forward = forward

    def __exit__(self, *_: object) -> None:
        while self.before:
            module, forward = self.before.pop()
            if forward is None:
                del module.forward  # that of its class is back
            else:
                module.forward = forward
