"""The mutation check: break every bijection on purpose, one small change at a time, and see that a law notices.

    python tests/mutants.py [--only CLASS] [--out FILE]

Mutated is every function of flowstone.bijections and flowstone.nets.made that makes, initialises or runs a map. Not
mutated is what only reports (``nearness``, ``coarse``) and what refuses bad settings (``if …: raise``); both have tests
of their own. A mutant is run by the quick laws over those cases that execute the changed line, by what properties.py
adds and by the examples in docstrings that do, until one of them fails. A mutant that none of them notices must be in
``EQUIVALENT``, with the reason why it is no bug; any other fails this script, and so does an entry of that table which
no longer occurs or is noticed after all. Before that, every function is put in its own place unchanged, and nothing may
fail: so it is the change that is noticed, not the way it is made.
"""

# ruff: noqa: T201 (a script prints)

import argparse
import ast
import copy
import doctest
import importlib
import inspect
import json
import pkgutil
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import torch

import flowstone.bijections
from cases import CASES
from flowstone.nets import made
from flowstone.testing import LAWS, Case
from properties import MORE_CASES, MORE_LAWS, PROPERTIES

NAMES = [module.name for module in pkgutil.iter_modules(flowstone.bijections.__path__)]
MODULES = [*(importlib.import_module(f"flowstone.bijections.{name}") for name in NAMES), made]
SOURCES = {module.__name__: inspect.getsource(module) for module in MODULES}  # as imported, whoever edits meanwhile
EVERY = CASES | MORE_CASES
LEFT_OUT = ("nearness", "coarse")
SEED = 0

# (class or module, function, original, mutated) and why it is the same map, or as good a one. An expression that occurs
# several times in a function is numbered.
BY_CONSTRUCTION = "set by the constructor's arguments, so a new one that is loaded into has it already"
NEWTON = "the slope of a Newton step cancels that of its start: the gradient is the same, and only dearer"
EQUIVALENT: dict[tuple[str, str, str, str], str] = {
    **{
        ("Interval", "__init__", f"self.register_buffer({it})", f"self.register_buffer({it}, persistent=False)"): (
            BY_CONSTRUCTION
        )
        for it in ("'low', bottom", "'high', top")
    },
    ("LogisticMixtureCDF", "inverse", "z.detach()", "z"): NEWTON,
    ("LogisticMixtureCDF", "inverse", "part.detach()", "part"): NEWTON,
    ("LogisticMixtureCDF", "inverse", "log_slope.detach()", "log_slope"): "its factor, reached - z, is 0 to rounding",
    ("Whiten", "initialize", "variance.flip(-1)", "variance.flip(0)"): "variance has one axis",
    ("RQSpline", "_wrap", "value + self.bound", "value - self.bound"): "the two are a whole turn apart",
    ("RQSpline", "_knots", "slopes[:1]", "slopes[:1 + 1]"): "one slope more at the end, at which no bin looks",
    ("RQSpline", "_bin", "torch.cat((index, index + 1))", "torch.cat((index + 1, index))"): (
        "the same quotient, counted from the upper corner of its bin"
    ),
    ("MADE", "__init__", "torch.zeros(context_features, dtype=torch.long)", "torch.zeros(context_features)"): (
        "degrees compare alike as whole and as real numbers"
    ),
}


# --- one small change -------------------------------------------------------------------------------------------------

Changes = Iterator[tuple[ast.expr, str | None]]

TERMS: dict[type[ast.operator], type[ast.operator] | None] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: None,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: None,
    ast.Pow: None,
    ast.MatMult: None,
    ast.BitOr: ast.BitAnd,
}
KEEPS_THE_SECOND = (ast.Add, ast.Mult, ast.MatMult, ast.BitOr)
NEGATED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.GtE,
    ast.GtE: ast.Lt,
    ast.Gt: ast.LtE,
    ast.LtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
# At one point only, which no continuous map notices: but the degrees of masks are whole numbers.
AT_THE_BORDER: dict[type[ast.cmpop], type[ast.cmpop]] = {ast.Gt: ast.GtE, ast.GtE: ast.Gt}
DROPPED = {
    *("abs", "argsort", "atan", "clamp", "clamp_min", "cumsum", "detach", "exp", "flip", "floor", "log", "log_softmax"),
    *("log1p", "logsigmoid", "max", "minimum", "nextafter", "norm", "remainder", "reversed", "sigmoid", "sign"),
    *("clamp_max", "softmax", "softplus", "sqrt", "square", "tanh", "to", "tril", "triu"),
}
OTHER_NAME = {"exp": "expm1", "expm1": "exp", "log": "log1p", "log1p": "log", "sum": "mean", "amin": "amax"}
OTHER_NAME |= {"amax": "amin", "tril": "triu", "triu": "tril", "std_mean": "var_mean"}
EXCHANGED = {"where", "permute", "cat", "stack", "lerp", "addcmul", "addmm", "nextafter"}
# Whose log-det is 0 whatever x is: scaling it or turning it round changes nothing.
VOLUME_IS_KEPT = ("Additive", "Permutation", "Householder", "Squeeze", "Flatten", "Dequantize.inverse", "Pad.inverse")


def binary(node: ast.BinOp) -> Changes:
    kind = type(node.op)
    if kind not in TERMS:
        return
    other = TERMS[kind]
    if other:
        yield ast.BinOp(node.left, other(), node.right), None
    yield node.left, None
    if isinstance(node.op, KEEPS_THE_SECOND):
        yield node.right, None


def unary(node: ast.UnaryOp) -> Changes:
    if not isinstance(node.operand, ast.Constant):
        yield node.operand, None


def compared(node: ast.Compare) -> Changes:
    kind = type(node.ops[0])
    if len(node.ops) == 1 and kind in NEGATED:
        yield ast.Compare(node.left, [NEGATED[kind]()], node.comparators), None


def either(node: ast.BoolOp) -> Changes:
    for value in node.values:
        yield value, None


def transposed(node: ast.Attribute) -> Changes:
    if node.attr == "T":
        yield node.value, None


def called(node: ast.Call) -> Changes:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    of_a_module = isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") in ("torch", "F", "math")
    if name in DROPPED:
        yield (node.func.value if isinstance(node.func, ast.Attribute) and not of_a_module else node.args[0]), None
    if name in OTHER_NAME and isinstance(node.func, ast.Attribute):
        yield ast.Call(ast.Attribute(node.func.value, OTHER_NAME[name]), node.args, node.keywords), None
    if name in EXCHANGED:
        yield from exchanged(node)
    yield from left_behind(node, name)
    for place, value in enumerate([*node.args, *(k.value for k in node.keywords)]):
        for number in other_numbers(value):
            changed = copy.deepcopy(node)
            if place < len(node.args):
                changed.args[place] = number
            else:
                changed.keywords[place - len(node.args)].value = number
            yield changed, None


def left_behind(node: ast.Call, name: str) -> Changes:
    """A buffer that is not saved, or is none; a tensor made where torch makes them and as it makes them."""
    if name == "register_buffer":
        keywords = [k for k in node.keywords if k.arg != "persistent"]
        if keywords == node.keywords:
            yield ast.Call(node.func, node.args, [*keywords, ast.keyword("persistent", ast.Constant(False))]), None
        yield ast.Call(ast.Name("setattr"), [ast.Name("self"), *node.args], []), None
    if name in ("new_zeros", "new_empty"):
        yield ast.Call(ast.Attribute(ast.Name("torch"), name.removeprefix("new_")), node.args, []), None
    for keyword in node.keywords:
        if keyword.arg in ("dtype", "device"):
            yield ast.Call(node.func, node.args, [k for k in node.keywords if k is not keyword]), None


def exchanged(node: ast.Call) -> Changes:
    """Each two neighbours among the arguments, or among the parts of a tuple that is the first argument."""
    parts = node.args[0].elts if node.args and isinstance(node.args[0], ast.Tuple) else node.args
    last = len(parts) - (2 if ast.unparse(node.func) == "torch.addcmul" else 1)  # its last two commute
    for i in range(last):
        order = [*parts[:i], parts[i + 1], parts[i], *parts[i + 2 :]]
        args: list[ast.expr] = [ast.Tuple(order, ast.Load()), *node.args[1:]] if parts is not node.args else order
        yield ast.Call(node.func, args, node.keywords), None


def other_numbers(value: ast.expr) -> Iterator[ast.expr]:
    """0 ↔ 1, -1 → 0: the axes and diagonals."""
    text = ast.unparse(value)
    if text in ("0", "1", "-1"):
        yield ast.Constant(1 if text == "0" else 0)


def indexed(node: ast.Subscript) -> Changes:
    """Each bound of a slice one further, each index another one."""
    parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    for place, part in enumerate(parts):
        for changed in other_slices(part) if isinstance(part, ast.Slice) else other_numbers(part):
            new = [*parts[:place], changed, *parts[place + 1 :]]
            index = ast.Tuple(new, ast.Load()) if isinstance(node.slice, ast.Tuple) else new[0]
            yield ast.Subscript(node.value, index, ast.Load()), None


def other_slices(part: ast.Slice) -> Iterator[ast.expr]:
    for bound in ("lower", "upper"):
        if (value := getattr(part, bound)) is not None:
            changed = copy.copy(part)
            setattr(changed, bound, ast.BinOp(value, ast.Add(), ast.Constant(1)))
            yield changed


RULES: dict[type[ast.AST], Callable[[Any], Changes]] = {
    ast.BinOp: binary,
    ast.UnaryOp: unary,
    ast.Compare: compared,
    ast.BoolOp: either,
    ast.Attribute: transposed,
    ast.Call: called,
    ast.Subscript: indexed,
}


def results(value: ast.expr, owner: str, function: str) -> Changes:
    """What ``forward`` and ``inverse`` return, spoilt."""
    changes = ["out + 0.0001, log_det", "out, log_det + 0.0001"]
    if owner not in VOLUME_IS_KEPT and f"{owner}.{function}" not in VOLUME_IS_KEPT:
        changes += ["out, 1.01 * log_det", "out, 0 * log_det", "out, -log_det"]
    for change in changes:
        yield ast.parse(f"(lambda out, log_det: ({change}))(*{ast.unparse(value)})", mode="eval").body, change


def condition(value: ast.expr) -> Changes:
    if not isinstance(value, (ast.Compare, ast.UnaryOp)):
        yield ast.UnaryOp(ast.Not(), value), None


# --- every place where it can be made ---------------------------------------------------------------------------------


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
    """The mutated function in the place of the real one, in its class or in every module that knows it."""
    home = getattr(mutant.module, mutant.owner, None)
    made = mutated(mutant, home)
    if home is not None:
        spots = [home]
    else:
        real = vars(mutant.module)[mutant.function]
        known = [module for name, module in sys.modules.items() if name.startswith("flowstone")]
        spots = [module for module in known if vars(module).get(mutant.function) is real]
    kept = [vars(spot)[mutant.function] for spot in spots]
    try:
        for spot in spots:
            setattr(spot, mutant.function, made)
        yield
    finally:
        for spot, real in zip(spots, kept, strict=True):
            setattr(spot, mutant.function, real)


def mutated(mutant: Mutant, home: type | None) -> Any:
    """The function itself, in the globals of its module; what is around it gives ``super()`` its class."""
    inner = "\n".join(f"    {line}" for line in mutant.source.splitlines())
    found: dict[str, Any] = {}
    code = f"def around(__class__):\n{inner}\n    return {mutant.function}"
    exec(compile(code, str(mutant), "exec"), vars(mutant.module), found)
    return found["around"](home)


# --- the checks -------------------------------------------------------------------------------------------------------

Law = Callable[[Case, int, float], None]

FIRST = ("round_trip", "log_dets_cancel", "log_det_of_jacobian", "triangular", "shapes", "rows_do_not_mix")
GRADIENTS, DEVICE = ("gradients_are_finite",), ("device_follows",)
LATER = ("gradients_are_finite", "precision_follows", "saved_is_loaded", "copies_are_apart")
IN_FLOAT32 = ("round_trip", "log_dets_cancel", "rows_do_not_mix", "gradients_are_finite")


@dataclass
class Check:
    """Something that may notice a mutant: a law over a case, a property, an example."""

    law: str
    run: Callable[[], object]
    reach: frozenset[tuple[str, int]] = field(default=frozenset(), repr=False)
    dtype: torch.dtype = torch.float64

    def fails(self) -> str | None:
        """How, if it does."""
        torch.manual_seed(SEED)
        torch.set_default_dtype(self.dtype)
        try:
            self.run()
        except AssertionError:
            return self.law
        except Exception:
            return "an exception"
        return None

    def touches(self, mutant: Mutant) -> bool:
        return any((mutant.file, line) in self.reach for line in mutant.lines)


FILES = {str(module.__file__) for module in MODULES}


def reached(run: Callable[[], object]) -> frozenset[tuple[str, int]]:
    """The lines of the mutated modules that ``run`` executes."""
    lines: set[tuple[str, int]] = set()

    def look(frame: FrameType, event: str, _: object):
        if frame.f_code.co_filename not in FILES:
            return None
        if event == "line":
            lines.add((frame.f_code.co_filename, frame.f_lineno))
        return look

    sys.settrace(look)
    try:
        run()
    finally:
        sys.settrace(None)
    return frozenset(lines)


def by_size() -> list[str]:
    """The cases, the simplest first: a mutant of theirs is noticed there soonest."""
    return sorted(EVERY, key=lambda name: sum(1 for _ in EVERY[name].bijection().modules()))


def named(names: Iterable[str]) -> dict[str, Law]:
    return {name: LAWS[name] for name in names}


def over_cases(
    laws: Mapping[str, Law], spreads: Iterable[float], reach: dict[str, frozenset], **more
) -> Iterator[Check]:
    for name in by_size():
        for spread in spreads:
            for name_of_law, law in laws.items():
                yield Check(name_of_law, partial(law, EVERY[name], SEED, spread), reach[name], **more)


def example(thing: Any, module: ModuleType) -> Check:
    tests = doctest.DocTestFinder(recurse=False).find(thing, thing.__name__, globs={})

    def run() -> None:
        for test in tests:
            test.globs = dict(vars(module))
            runner = doctest.DocTestRunner(verbose=False)
            assert not runner.run(test, out=lambda _: None, clear_globs=False).failed

    return Check("documented example", run, reached(run), torch.float32)


def examples() -> Iterator[Check]:
    for module in MODULES:
        for name in getattr(module, "__all__", ()):
            if ">>>" in (getattr(module, name).__doc__ or ""):
                yield example(getattr(module, name), module)


def all_checks() -> list[Check]:
    """In the order in which they are tried: what is quick and notices most comes first."""
    torch.set_default_dtype(torch.float64)
    reach = {name: reached(partial(whole, name)) for name in EVERY}
    return [
        *over_cases(named(FIRST), (1.0,), reach),
        *over_cases({law.__name__: law for law in MORE_LAWS}, (1.0,), reach),
        *(Check("property", run, reached(run)) for run in PROPERTIES.values()),
        *over_cases(named(GRADIENTS), (1.0,), reach),
        *over_cases(named(FIRST), (0.1, 30.0), reach),
        *examples(),
        *over_cases(named(LATER), (3.0,), reach),
        *over_cases(named(IN_FLOAT32), (1.0,), reach, dtype=torch.float32),
        *over_cases(named(DEVICE), (1.0,), reach),
    ]


def whole(name: str) -> None:
    """All that a law may call."""
    for law in ("shapes", "round_trip", "gradients_are_finite"):
        LAWS[law](EVERY[name], SEED, 3.0)


# --- the run ----------------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What became of the mutants of one class."""

    caught: Counter[str] = field(default_factory=Counter)
    equivalent: list[Mutant] = field(default_factory=list)
    survivors: list[Mutant] = field(default_factory=list)

    @property
    def total(self) -> int:
        return self.caught.total() + len(self.equivalent) + len(self.survivors)


def noticed(mutant: Mutant, checks: list[Check]) -> str | None:
    with alive(mutant):
        return next((law for check in checks if check.touches(mutant) and (law := check.fails())), None)


def unchanged(module: ModuleType) -> Iterator[Mutant]:
    for owner, function in functions(module):
        yield Mutant(module, owner, function.name, "", "", function.lineno, range(0), ast.unparse(function), "")


def nothing_fails_unchanged(checks: list[Check]) -> None:
    with ExitStack() as stack:
        for module in MODULES:
            for each in unchanged(module):
                stack.enter_context(alive(each))
        broken = {law for check in checks if (law := check.fails())}
    if broken:
        sys.exit(f"without any change these fail: {', '.join(sorted(broken))}")


def run(only: str | None) -> tuple[dict[str, Tally], list[str]]:
    """The tally of each class, and what is wrong with the table of equivalents."""
    chosen = [mutant for module in MODULES for mutant in mutants(module) if only in (None, mutant.owner)]
    if not chosen:
        sys.exit(f"nothing to mutate in {only}")
    checks = all_checks()
    nothing_fails_unchanged(checks)
    tallies: dict[str, Tally] = {}
    wrong: list[str] = []
    left = {key for key in EQUIVALENT if only in (None, key[0])}
    for mutant in chosen:
        tally = tallies.setdefault(mutant.owner, Tally())
        law = noticed(mutant, checks)
        if law:
            tally.caught[law] += 1
        elif mutant.key in EQUIVALENT:
            tally.equivalent.append(mutant)
        else:
            tally.survivors.append(mutant)
            print(f"SURVIVES {mutant}\n    {mutant.text}", flush=True)
        if law and mutant.key in EQUIVALENT:
            wrong.append(f"called equivalent, but noticed by {law}: {mutant}")
        left.discard(mutant.key)
    return tallies, wrong + [f"called equivalent, but does not occur: {key}" for key in sorted(left)]


def summary(tallies: dict[str, Tally], seconds: float) -> dict[str, Any]:
    """All of it as JSON knows it."""
    laws = sum((tally.caught for tally in tallies.values()), Counter())
    everyone = [mutant for tally in tallies.values() for mutant in tally.equivalent]
    return {
        "torch": torch.__version__.split("+")[0],
        "seconds": round(seconds),
        "mutants": sum(tally.total for tally in tallies.values()),
        "laws": dict(laws.most_common()),
        "classes": {
            owner: {
                "mutants": tally.total,
                "caught": tally.caught.total(),
                "equivalent": len(tally.equivalent),
                "survivors": [f"{mutant}" for mutant in tally.survivors],
                "laws": dict(tally.caught.most_common()),
            }
            for owner, tally in tallies.items()
        },
        "equivalent": [[*mutant.key, EQUIVALENT[mutant.key]] for mutant in everyone],
    }


def show(found: dict[str, Any]) -> None:
    print(f"{'class':20} mutants caught equivalent survive  caught by")
    for owner, row in found["classes"].items():
        laws = ", ".join(f"{law} {count}" for law, count in row["laws"].items())
        counts = f"{row['mutants']:7} {row['caught']:6} {row['equivalent']:10} {len(row['survivors']):7}"
        print(f"{owner:20} {counts}  {laws}")
    caught = sum(found["laws"].values())
    print(f"{found['mutants']} mutants, {caught} caught, in {found['seconds']} s: {found['laws']}")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", metavar="CLASS", help="mutate this class (or module of helper functions) alone")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the result as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    started = time.perf_counter()
    tallies, wrong = run(options.only)
    found = summary(tallies, time.perf_counter() - started)
    show(found)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    for line in wrong:
        print(line)
    return 1 if wrong or any(tally.survivors for tally in tallies.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
