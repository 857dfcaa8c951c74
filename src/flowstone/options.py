"""Options: fields of a settings dataclass that carry their own help, from which flags and docstrings are made."""

from collections.abc import Iterable
from dataclasses import MISSING, Field, dataclass, field, fields
from textwrap import fill
from typing import Any

from flowstone.errors import UnknownNameError

__all__ = ["Option", "describe_options", "option", "options_of", "require_options"]


@dataclass(frozen=True)
class Option:
    """One option of a settings class.

    Attributes:
        default: ``dataclasses.MISSING`` where a value is required.
        choices: the values that are allowed, where only some are.
        applies_to: the kinds of data for which the option has a meaning; empty for all kinds.
    """

    name: str
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    applies_to: tuple[str, ...] = ()


def option(default: Any, help: str, *, choices: Iterable[str] = (), applies_to: Iterable[str] = ()) -> Any:
    """A dataclass field with its help in a sentence or two of plain English, which names no command-line flag.

    With ``dataclasses.MISSING`` as its default the field is required.
    """
    metadata = {"help": help, "choices": tuple(choices), "applies_to": tuple(applies_to)}
    return field(default=default, metadata=metadata)


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


def require_options(kind: str, settings: type, names: Iterable[str]) -> None:
    """Require that each name is that of an option of the settings class.

    Raises:
        UnknownNameError: one is not; the message holds the nearest option.
    """
    known = [each.name for each in fields(settings)]
    for name in names:
        if name not in known:
            raise UnknownNameError(kind, name, known)


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
            f"{each.name}: {each.help}" + ("" if each.default is MISSING else f" Default: {each.default!r}."),
            width=120,
            initial_indent=indent + " " * 4,
            subsequent_indent=indent + " " * 8,
            break_on_hyphens=False,
        )
        for each in options_of(settings)
    ]
    return "\n".join([f"{indent}Args:", *lines])


def _option_of(each: Field) -> Option:
    return Option(each.name, each.default, **each.metadata)
