"""Checks of arguments where they enter: each raises one line that names the argument, its value and what is allowed."""

import math
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

from flowstone.errors import SettingError, UnknownNameError

__all__ = [
    "as_integer",
    "plain",
    "require_bool",
    "require_choice",
    "require_given",
    "require_instance",
    "require_integer",
    "require_number",
    "require_seed",
    "require_sizes",
]

MOST_SEED = 2**63 - 1


def require_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Require that ``value`` is one of ``choices``.

    Raises:
        UnknownNameError: it is not; the message holds the nearest choice.
    """
    choices = tuple(choices)
    if not isinstance(value, str) or value not in choices:
        raise UnknownNameError(name, str(value), choices)


def require_bool(name: str, value: Any) -> None:
    """Require that ``value`` is True or False."""
    if not isinstance(value, bool):
        raise SettingError(f"{name}={value!r} must be True or False")


def require_instance(wanted: str, value: Any, kinds: type | tuple[type, ...]) -> None:
    """Require an object of one of these classes; ``wanted`` begins the message, such as "Inverse takes a bijection"."""
    if not isinstance(value, kinds):
        given = f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
        raise SettingError(f"{wanted}, got {given}")


def as_integer(value: Any) -> Any:
    """A whole number of NumPy as Python's own; anything else as it is."""
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value


def require_integer(name: str, value: Any, *, at_least: int = 1) -> None:
    """Require that ``value`` is a whole number, at least ``at_least``."""
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < at_least:
        raise SettingError(f"{name}={value!r} must be a whole number, at least {at_least}")


def require_sizes(name: str, values: Any) -> tuple[int, ...]:
    """Whole numbers, each at least 1, such as the widths of layers or the sides of an image; one number stands for a
    tuple of one.

    Raises:
        SettingError: something else is there.
    """
    values = plain(values)
    sizes = tuple(map(plain, values)) if isinstance(values, Iterable) else (values,)
    if not all(type(size) is int and size > 0 for size in sizes):
        raise SettingError(f"{name}={sizes} must be whole numbers, at least 1")
    return sizes


def require_seed(name: str, value: Any) -> None:
    """Require that ``value`` is a seed: a whole number from 0 to 2**63 - 1, the largest that generators take."""
    require_integer(name, value, at_least=0)
    if value > MOST_SEED:
        raise SettingError(f"{name}={value} must be below 2**63")


def require_number(
    name: str, value: Any, *, above: float | None = None, at_least: float | None = None, below: float | None = None
) -> None:
    """Require that ``value`` is a finite number in the given range."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise SettingError(f"{name}={value!r} must be a finite number")
    number = float(value)
    limits = []
    if above is not None:
        limits.append((number > above, "must be positive" if above == 0 else f"must be above {above:g}"))
    if at_least is not None:
        limits.append((number >= at_least, "cannot be negative" if at_least == 0 else f"must be at least {at_least:g}"))
    if below is not None:
        limits.append((number < below, f"must be below {below:g}"))
    for holds, message in limits:
        if not holds:
            raise SettingError(f"{name}={value} {message}")


def plain(value: Any) -> Any:
    """Numbers and arrays of NumPy or torch, also in sequences and mappings, as Python's own, which JSON can hold."""
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    return value.tolist() if hasattr(value, "tolist") else value


def require_given(given: Any) -> None:
    """Refuse what is not values by column."""
    if not isinstance(given, Mapping):
        raise SettingError(f"given is a {type(given).__name__}; expected values by column, such as {{'age': 40}}")
