"""Options as flags: those of a settings class become flags of a command, those of a remedy flags in a message."""

import functools
import inspect
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from cyclopts import Parameter

from flowstone.errors import DataWarning, FlowstoneError, SettingError
from flowstone.options import Option, options_of

__all__ = ["flag_of", "message_of", "select", "with_flags"]

Command = TypeVar("Command", bound=Callable[..., None])
LONGEST = 2000  # characters of a message; names of thousands of columns are cut
NAME = re.compile(r'\s*(?:"((?:[^"]|"")*)"\s*|([^,]*))(?:,|$)')  # one in a list of names, quoted or plain
PAIR = re.compile(r"(.+)=([\w-]+\s*(?:\(.*\))?)", re.DOTALL)
SWITCHES = ("resume",)  # options that take a value in the library, but are switches in the command


def with_flags(settings: type, *names: str, group: str | None = None) -> Callable[[Command], Command]:
    """Give a command a flag for each option of a settings class.

    The command receives the options that the user gave, as arguments of their names or in ``**options``; the settings
    class knows the defaults, but for one that the command itself gives. An option that several classes have, such as a
    seed, is one flag, with the help of all.

    Args:
        settings: a dataclass whose fields are made by ``flowstone.options.option``.
        names: the options to take, where not all.
        group: the heading of the flags in the help.
    """
    hints = get_type_hints(settings)
    chosen = {each.name: each for each in options_of(settings) if not names or each.name in names}

    def decorate(command: Command) -> Command:
        before = inspect.signature(command).parameters
        after = {name: each for name, each in before.items() if each.kind is not each.VAR_KEYWORD}
        made = vars(command).get("made_of_options", frozenset())
        for name, each in chosen.items():
            after[name] = _with_more_help(after[name], each) if name in made else _parameter(each, hints[name], group)
            if name in before and name not in made:
                after[name] = after[name].replace(default=before[name].default)

        @functools.wraps(command)
        def run(*args: Any, **options: Any) -> None:
            command(*args, **options)

        vars(run)["made_of_options"] = made | chosen.keys()
        vars(run)["__signature__"] = inspect.Signature(sorted(after.values(), key=lambda each: each.kind))
        run.__annotations__ = {name: each.annotation for name, each in after.items()}
        return run  # pyright: ignore[reportReturnType]

    return decorate


def select(settings: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a command that belong to a settings class, with names as lists and pairs as dictionaries."""
    hints = get_type_hints(settings)
    chosen = {each.name: options[each.name] for each in options_of(settings) if each.name in options}
    return {name: _taken_apart(name, value, hints[name]) for name, value in chosen.items()}


def flag_of(name: str, value: Any) -> str:
    """The flag that gives an option a value, as one would type it in a shell.

    >>> flag_of("drop_missing", True), flag_of("dequantize", False), flag_of("exclude", ["a", "b c"])
    ('--drop-missing', '--no-dequantize', "--exclude 'a,b c'")
    """
    word = name.replace("_", "-")
    if value is False:
        return f"--no-{word}"
    if value is True or name in SWITCHES:
        return f"--{word}"
    if isinstance(value, Mapping):
        return shlex.join([f"--{word}", *(f"{key}={each}" for key, each in value.items())])
    written = _written(value)
    return f"--{word}{'=' if written.startswith('-') else ' '}{shlex.quote(written)}"


def message_of(error: FlowstoneError | DataWarning) -> str:
    """The message of an error or a doubt in one line, its remedy as flags."""
    flags = " ".join(flag_of(name, value) for name, value in error.remedy.items())
    problem = error.problem if len(error.problem) <= LONGEST else f"{error.problem[:LONGEST]} …"
    return " ".join(f"{problem}{': ' if flags else ''}{flags}".split())


def _parameter(each: Option, hint: Any, group: str | None) -> inspect.Parameter:
    about, kind = each.help, _plain_type(hint)
    if each.default not in (MISSING, None, (), True, False):
        about += f" Default: {each.default}."
    negative = () if each.default is False else None
    if each.default is MISSING:
        annotation = Annotated[kind, Parameter(help=about)]
        return inspect.Parameter(each.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=annotation)
    several = _is_pairs(hint)
    parameter = Parameter(help=about, negative=() if several else negative, consume_multiple=several or None)
    shown = ([] if group is None else [Parameter(group=group)]) + [parameter]
    annotation = Annotated[kind | None, *shown]
    return inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _with_more_help(before: inspect.Parameter, each: Option) -> inspect.Parameter:
    """The same flag with the help of another option added."""
    kind, *shown = get_args(before.annotation)
    both = f"{shown[-1].help} {each.help}"
    annotation = Annotated[kind, *shown, Parameter(help=both)]
    return before.replace(annotation=annotation)


def _plain_type(hint: Any) -> Any:
    """The type of a flag's value: text if the option may be text or names of columns, else a number or a switch."""
    if _is_pairs(hint):
        return list[str]
    kinds = get_args(hint) or (hint,)
    return str if str in kinds else next((kind for kind in (bool, float, int) if kind in kinds), str)


def _is_names(hint: Any) -> bool:
    return get_origin(hint) is not None and get_args(hint) == (str,)


def _is_pairs(hint: Any) -> bool:
    return get_args(hint) == (str, str)


def _taken_apart(name: str, value: Any, hint: Any) -> Any:
    if _is_pairs(hint):
        return _pairs(name, value)
    return _names(value) if _is_names(hint) else value


def _pairs(name: str, words: Sequence[str]) -> dict[str, str]:
    """``name=kind`` words as a dictionary; a name may hold ``=`` itself.

    >>> _pairs("kinds", ["price=positive", "size=ordinal(S,M,L)"])
    {'price': 'positive', 'size': 'ordinal(S,M,L)'}
    """
    pairs: dict[str, str] = {}
    for word in words:
        match = PAIR.fullmatch(word)
        if match is None:
            raise SettingError(f"--{name} {word!r}: expected column=kind, such as price=positive")
        if match[1] in pairs:
            raise SettingError(f"--{name} {match[1]}: given twice, as {pairs[match[1]]} and as {match[2]}")
        pairs[match[1]] = match[2]
    return pairs


def _names(text: str) -> list[str]:
    """``a,b`` as a list; a name that holds a comma or ends in a space is put between double quotes.

    >>> _names('a, "b,c"')
    ['a', 'b,c']
    """
    names = ((match[1], match[2].strip() if match[2] else "") for match in NAME.finditer(text))
    return [plain if quoted is None else quoted.replace('""', '"') for quoted, plain in names if quoted or plain]


def _written(value: Any) -> str:
    """A value as ``_names`` reads it."""
    if not isinstance(value, list | tuple):
        return str(value)
    return ",".join(map(_quoted, value))


def _quoted(name: str) -> str:
    is_plain = name == name.strip() and "," not in name and '"' not in name
    return name if is_plain else '"' + name.replace('"', '""') + '"'
