"""Recipes by name: functions of plain arguments that build a density and record on it how it was built."""

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any, ParamSpec, TypeVar

from flowstone.density import Density
from flowstone.errors import SettingError, UnknownNameError
from flowstone.validation import plain, require_bool, require_integer, require_number, require_sizes

__all__ = ["RECIPES", "all_recipes", "build", "recipe", "shape_arguments"]

P = ParamSpec("P")
D = TypeVar("D", bound=Density)

RECIPES: dict[str, Callable[..., Any]] = {}
COUNTS = ("features", "couplings", "layers", "scales", "channels", "width", "pieces", "encoding_pieces")  # above 0
MAY_BE_ZERO = ("context_features", "blocks")
SIZES = ("event_shape", "hidden", "embedding")


def recipe(function: Callable[P, D]) -> Callable[P, D]:
    """Decorate ``name(features, *, …) -> Density``: registers it and records name + arguments as its ``spec``.

    The arguments must be plain (numbers, strings, tuples of them), because the record is written as JSON; numbers and
    arrays of NumPy become Python's own. One number where several may stand, as in ``hidden=64``, is a tuple of one.

    Raises:
        SettingError: another module has registered a recipe of this name; from a recipe: an argument is no number of
            columns, layers or units, or not a finite number, or not True or False, as its annotation requires.
    """
    return _register(function.__name__, function)


def _register(name: str, function: Callable[P, D]) -> Callable[P, D]:
    if name in RECIPES and inspect.unwrap(RECIPES[name]).__module__ != function.__module__:
        raise SettingError(f"recipe {name!r} is already registered by {inspect.unwrap(RECIPES[name]).__module__}")
    signature = _signature(function)

    @functools.wraps(function)
    def recorded(*args: P.args, **kwargs: P.kwargs) -> D:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        for key, value in bound.arguments.items():
            bound.arguments[key] = _checked(signature.parameters[key], value)
        density = function(*bound.args, **bound.kwargs)
        density.spec = {"recipe": name, "arguments": dict(bound.arguments)}
        return density

    RECIPES[name] = recorded
    return recorded


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    """The signature with its annotations, which are strings in a module that imports them from ``__future__``."""
    try:
        return inspect.signature(function, eval_str=True)
    except NameError:  # an annotation for type checkers alone
        return inspect.signature(function)


def _checked(parameter: inspect.Parameter, value: Any) -> Any:
    """An argument of a recipe as a plain value."""
    name, value, kind, default = parameter.name, plain(value), parameter.annotation, parameter.default
    if value is None or value is default or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        return value
    if kind in (int, int | None, parameter.empty) and name in (*COUNTS, *MAY_BE_ZERO):
        require_integer(name, value, at_least=0 if name in MAY_BE_ZERO or default == 0 else 1)
    elif kind in (float, float | None):
        require_number(name, value)
    elif kind in (bool, bool | None) or isinstance(default, bool):
        require_bool(name, value)
    elif name in SIZES:
        sizes = require_sizes(name, value)
        value = value if type(value) in (list, tuple) else sizes
    elif isinstance(value, int) and (isinstance(default, tuple) or "Sequence[int]" in str(kind)):
        value = (value,)
    return value


@functools.cache
def all_recipes() -> Mapping[str, Callable[..., Any]]:
    """Flowstone's recipes and those of installed packages, whose entry points ``flowstone.recipes`` are imported once.

    A package offers its recipe by ``[project.entry-points."flowstone.recipes"]``, ``name = "package.module:function"``.
    One that cannot be imported is left out with a warning.
    """
    for point in entry_points(group="flowstone.recipes"):
        try:
            function = point.load()
            if RECIPES.get(point.name) is not function:  # the import has not registered it, as it is a plain function
                _register(point.name, inspect.unwrap(function))
        except Exception as error:
            warnings.warn(f"recipe {point.name!r} of {point.value} cannot be loaded: {error}", stacklevel=2)
    return RECIPES


def shape_arguments(name: str, event_shape: Sequence[int]) -> dict[str, Any]:
    """The argument by which recipe ``name`` takes the shape of its data: ``features`` or, of images, ``event_shape``.

    >>> shape_arguments("glow", (3, 32, 32))
    {'event_shape': [3, 32, 32]}
    """
    recipes = all_recipes()
    if name not in recipes:
        raise UnknownNameError("recipe", name, recipes)
    what = "features" if len(event_shape) == 1 else "event_shape"
    able = sorted(known for known, function in recipes.items() if what in inspect.signature(function).parameters)
    if name not in able:
        kind = "vectors" if what == "features" else f"images ({'x'.join(map(str, event_shape))})"
        raise SettingError(f"recipe {name!r} is not for {kind}; these are: {', '.join(able)}")
    return {what: event_shape[0] if what == "features" else list(event_shape)}


def build(name: str, arguments: Mapping[str, Any]) -> Any:
    """Build the density of recipe ``name``.

    Raises:
        UnknownNameError: there is no such recipe, or an argument is none of its own; the message names the nearest one.
        SettingError: the recipe cannot be built with these arguments.
    """
    if name not in RECIPES and name not in all_recipes():
        raise UnknownNameError("recipe", name, RECIPES)
    known = inspect.signature(RECIPES[name]).parameters
    for argument in arguments:
        if argument not in known:
            raise UnknownNameError(f"argument of recipe {name!r}:", argument, known)
    try:
        return RECIPES[name](**arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, SettingError):
            raise
        settings = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        reason = " ".join(str(error).split())
        raise SettingError(f"recipe {name!r} cannot be built with {settings}: {reason}") from error
