"""Options: a field of a settings dataclass that carries its own help, from which flags and documents follow."""

from collections.abc import Iterable
from dataclasses import Field, dataclass, field, fields
from textwrap import fill
from typing import Any

__all__ = ["Option", "describe_options", "option", "options_of"]


@dataclass(frozen=True)
class Option:
    """One option of a settings class: its name, default, help and, where only some values are allowed, these."""

    name: str
    default: Any
    help: str
    choices: tuple[str, ...] = ()


def option(default: Any, help: str, *, choices: Iterable[str] = ()) -> Any:
    """A dataclass field with its help in a sentence or two of plain English, which names no command-line flag."""
    return field(default=default, metadata={"help": help, "choices": tuple(choices)})


def options_of(settings: type) -> tuple[Option, ...]:
    """The options of a settings class, in the order in which it lists them.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Settings:
    ...     steps: int = option(3000, "Training steps at most.")
    >>> [(each.name, each.default) for each in options_of(Settings)]
    [('steps', 3000)]
    """
    return tuple(_option_of(each) for each in fields(settings))


def describe_options(settings: type, *, indent: str = "") -> str:
    """The options of a settings class as a list for its docstring: a name, its default, its help.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Settings:
    ...     steps: int = option(3000, "Training steps at most.")
    >>> describe_options(Settings).splitlines()
    ['Args:', '    steps: Training steps at most. Default: 3000.']
    """
    lines = [
        fill(
            f"{each.name}: {each.help} Default: {each.default!r}.",
            width=120,
            initial_indent=indent + " " * 4,
            subsequent_indent=indent + " " * 8,
            break_on_hyphens=False,
        )
        for each in options_of(settings)
    ]
    return "\n".join([f"{indent}Args:", *lines])


def _option_of(each: Field) -> Option:
    return Option(each.name, each.default, each.metadata.get("help", ""), each.metadata.get("choices", ()))
