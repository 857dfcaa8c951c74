"""Packages whose names are imported when they are first used."""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

__all__ = ["lazy_names"]


def lazy_names(
    package: str, names: Sequence[str], homes: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of such a package.

    Args:
        package: the name of the package.
        names: its ``__all__``.
        homes: the names that each of its modules defines. Names that are in none of them are modules themselves.
    """
    module_of = {name: module for module, defined in homes.items() for name in defined}

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = import_module(f"{package}.{module_of.get(name, name)}")
        value = getattr(module, name) if name in module_of else module
        setattr(sys.modules[package], name, value)  # so that a submodule of the same name cannot hide it
        return value

    return get, lambda: sorted(names)
