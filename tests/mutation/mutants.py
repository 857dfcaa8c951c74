"""Every place in the modules where a small change can be made, and the changed function in the place of its own."""

import ast
import importlib
import inspect
import pkgutil
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

from torch.distributions import biject_to, transform_to

import flowstone.bijections
from flowstone.bijections import Bijection, base
from flowstone.execution import direct as direct_gradients
from flowstone.execution import direct_layers
from flowstone.nets import made
from mutation.changes import AT_THE_BORDER, RULES, Changes, condition, results

__all__ = ["MODULES", "Mutant", "alive", "mutants", "unchanged"]

NAMES = [module.name for module in pkgutil.iter_modules(flowstone.bijections.__path__)]
MODULES = [
    *(importlib.import_module(f"flowstone.bijections.{name}") for name in NAMES),
    made,
    direct_gradients,
    direct_layers,
]
SOURCES = {module.__name__: inspect.getsource(module) for module in MODULES}  # as imported, whoever edits meanwhile
DIRECTIONS = {"forward", "inverse"}
# What only reports, prints or refuses has tests of its own.
LEFT_OUT = {
    *("saturation", "extra_repr", "__repr__", "__init_subclass__", "_check_features", "is_coarse"),
    *("applies", "_are_plain"),
}


@dataclass
class Place:
    """An expression in a function: where it hangs, and the lines that must run for it to matter."""

    parent: ast.AST
    slot: str
    index: int | None
    lines: range

    def get(self) -> Any:
        value = getattr(self.parent, self.slot)
        return value if self.index is None else value[self.index]

    def put(self, value: ast.AST) -> None:
        if self.index is None:
            setattr(self.parent, self.slot, value)
        else:
            getattr(self.parent, self.slot)[self.index] = value


def places(parent: ast.AST, lines: range) -> Iterator[Place]:
    for slot, value in ast.iter_fields(parent):
        if slot in ("decorator_list", "annotation", "returns"):
            continue
        for index, child in enumerate(value) if isinstance(value, list) else ((None, value),):
            if isinstance(child, (ast.arguments, ast.Raise)) or not isinstance(child, ast.AST) or is_guard(child):
                continue
            place = Place(parent, slot, index, own_lines(child) if isinstance(child, ast.stmt) else lines)
            if isinstance(child, ast.expr):
                yield place
            yield from places(child, place.lines)


def is_guard(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.body[-1], ast.Raise)


def own_lines(statement: ast.stmt) -> range:
    """Without those of the statements inside it."""
    header = getattr(statement, "test", None) or getattr(statement, "iter", None) or statement
    return range(statement.lineno, (header.end_lineno or statement.lineno) + 1)


def alternatives(place: Place, owner: str, function: str) -> Changes:
    node = place.get()
    if type(node) in RULES:
        yield from RULES[type(node)](node)
    if owner in ("MaskedLinear", "MADE") and isinstance(node, ast.Compare) and type(node.ops[0]) in AT_THE_BORDER:
        yield ast.Compare(node.left, [AT_THE_BORDER[type(node.ops[0])]()], node.comparators), None
    if isinstance(place.parent, (ast.If, ast.IfExp)) and place.slot == "test":
        yield from condition(node)
    if (
        isinstance(place.parent, ast.Return)
        and function in ("forward", "inverse")
        and owner not in ("MADE", "MaskedLinear")
        and not owner.startswith("_")
    ):
        yield from results(node, owner, function)


@dataclass(frozen=True)
class Mutant:
    """One change to one function of a class, or of a module."""

    module: ModuleType
    owner: str
    function: str
    before: str
    after: str
    line: int
    lines: range
    source: str
    text: str

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.owner, self.function, self.before, self.after

    @property
    def file(self) -> str:
        return str(self.module.__file__)

    def __str__(self) -> str:
        return f"{Path(self.file).name}:{self.line} {self.owner}.{self.function}: {self.before}  →  {self.after}"


def functions(module: ModuleType) -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in ast.parse(SOURCES[module.__name__]).body:
        for inner in node.body if isinstance(node, ast.ClassDef) else [node]:
            if isinstance(inner, ast.FunctionDef) and inner.name not in LEFT_OUT:
                yield node.name if isinstance(node, ast.ClassDef) else module.__name__.rpartition(".")[2], inner


def mutants(module: ModuleType) -> Iterator[Mutant]:
    lines = SOURCES[module.__name__].splitlines()
    for owner, function in functions(module):
        seen, sources = Counter(), {ast.unparse(function)}
        for place in list(places(function, range(function.lineno, function.lineno + 1))):
            original = place.get()
            for changed, name in list(alternatives(place, owner, function.name)):
                place.put(changed)
                source = ast.unparse(function)
                place.put(original)
                before, after = ("the result", name) if name else (ast.unparse(original), ast.unparse(changed))
                if source in sources:
                    continue
                sources.add(source)
                seen[before, after] += 1
                count = seen[before, after]
                before = f"{before} #{count}" if count > 1 else before
                text = lines[original.lineno - 1].strip()
                yield Mutant(module, owner, function.name, before, after, original.lineno, place.lines, source, text)


@contextmanager
def alive(mutant: Mutant) -> Iterator[None]:
    """The mutated function in the place of the real one, wherever it is known."""
    definer = getattr(mutant.module, mutant.owner, None)
    home = definer if isinstance(definer, type) else None  # a module may import another of its own name
    with ExitStack() as stack:
        for registry in (biject_to, transform_to):  # which a decorator may put the mutant in
            stack.enter_context(patch.dict(registry._registry))
        for owner, name, function in list(spots_of(mutant, home, mutated(mutant, home))):
            stack.callback(setattr, owner, name, vars(owner)[name])
            setattr(owner, name, function)
        yield


def spots_of(mutant: Mutant, home: type | None, made: Any) -> Iterator[tuple[Any, str, Any]]:
    """Its class, or every module that knows it; directions of bijections wrapped as the base class wraps them."""
    name = mutant.function
    if home is not None:
        wrapped = name in DIRECTIONS and issubclass(home, Bijection) and home is not Bijection
        yield home, name, base._checked(made) if wrapped else made
        return
    real = vars(mutant.module)[name]
    for known, module in list(sys.modules.items()):
        if known.startswith("flowstone") and vars(module).get(name) is real:
            yield module, name, made
    if real is base._checked:
        for kind in subclasses(Bijection):
            for direction in DIRECTIONS & vars(kind).keys():
                yield kind, direction, made(inspect.unwrap(vars(kind)[direction]))


def subclasses(kind: type) -> Iterator[type]:
    for direct in kind.__subclasses__():
        yield direct
        yield from subclasses(direct)


def mutated(mutant: Mutant, home: type | None) -> Any:
    """The function itself, in the globals of its module; what is around it gives ``super()`` its class."""
    inner = "\n".join(f"    {line}" for line in mutant.source.splitlines())
    namespace: dict[str, Any] = {}
    code = f"def around(__class__):\n{inner}\n    return {mutant.function}"
    exec(compile(code, str(mutant), "exec"), vars(mutant.module), namespace)
    return namespace["around"](home)


def unchanged(module: ModuleType) -> Iterator[Mutant]:
    for owner, function in functions(module):
        yield Mutant(module, owner, function.name, "", "", function.lineno, range(0), ast.unparse(function), "")
