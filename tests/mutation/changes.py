"""One small change to an expression: a sign, a factor, a term, a comparison, an axis, a bound of a slice, a clamp."""

import ast
import copy
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["AT_THE_BORDER", "RULES", "Changes", "condition", "results"]

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
# A change at one point only, which no check of a continuous map notices; but the degrees of masks are whole numbers.
AT_THE_BORDER: dict[type[ast.cmpop], type[ast.cmpop]] = {ast.Gt: ast.GtE, ast.GtE: ast.Gt}
DROPPED = {
    *("abs", "argsort", "atan", "clamp", "clamp_min", "cumsum", "detach", "exp", "flip", "floor", "log", "log_softmax"),
    *("log1p", "logsigmoid", "max", "minimum", "nextafter", "norm", "remainder", "reversed", "sigmoid", "sign"),
    *("clamp_max", "softmax", "softplus", "sqrt", "square", "tanh", "to", "tril", "triu"),
}
OTHER_NAME = {"exp": "expm1", "expm1": "exp", "log": "log1p", "log1p": "log", "sum": "mean", "amin": "amax"}
OTHER_NAME |= {"amax": "amin", "tril": "triu", "triu": "tril", "std_mean": "var_mean"}
EXCHANGED = {"where", "permute", "cat", "stack", "lerp", "addcmul", "addmm", "nextafter"}
# Their log-det is 0 for every x: scaling it or changing its sign changes nothing.
VOLUME_IS_KEPT = (
    "Additive", "Permutation", "Householder", "Regression", "Squeeze", "Flatten", "Dequantize.inverse", "Pad.inverse"
)  # fmt: skip


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
    if name == "register_statistic":
        yield ast.Call(ast.Attribute(ast.Name("self"), "register_buffer"), node.args, []), None
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
    """Changes to the results of ``forward`` and ``inverse``."""
    changes = ["out + 0.0001, log_det", "out, log_det + 0.0001"]
    if owner not in VOLUME_IS_KEPT and f"{owner}.{function}" not in VOLUME_IS_KEPT:
        changes += ["out, 1.01 * log_det", "out, 0 * log_det", "out, -log_det"]
    for change in changes:
        yield ast.parse(f"(lambda out, log_det: ({change}))(*{ast.unparse(value)})", mode="eval").body, change


def condition(value: ast.expr) -> Changes:
    if not isinstance(value, (ast.Compare, ast.UnaryOp)):
        yield ast.UnaryOp(ast.Not(), value), None
