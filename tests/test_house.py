"""The shape of the house: who may import whom, and that what is visible is what is meant and documented."""

import ast
import importlib
import importlib.util
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import TypeVar

import pytest

import flowstone

SOURCE = Path(flowstone.__file__).parent
# From the ground up. A room imports from rooms on floors below it alone: so bijections and nets never meet.
FLOORS = (
    ("errors",),
    ("validation", "options", "files", "kernels"),
    ("nets", "bijections", "priors", "data"),
    ("density", "transform"),
    ("distribution",),
    ("flow", "mixed"),
    ("execution",),
    ("recipes",),
    ("evaluation",),
    ("testing",),
    ("train",),
    ("runs", "plot"),
    ("learn",),
    ("cli",),
)
FLOOR = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}


def modules() -> list[str]:
    found = pkgutil.walk_packages([str(SOURCE)], "flowstone.")
    return sorted(module.name for module in found if not module.name.endswith("__main__"))


def imports_of(name: str) -> set[str]:
    """Modules of the project that this one imports, anywhere in it."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    found = set()
    for node in ast.walk(ast.parse(Path(spec.origin).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("flowstone"):
            parts = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {part if part in ALL else node.module for part in parts}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("flowstone")}
    return found - {name}


ALL = set(modules())
IMPORTS = {name: imports_of(name) for name in ALL}
COMPILERS = {  # not on every machine
    "flowstone.kernels.spline_cpu": "numba",
    "flowstone.kernels.spline_gpu": "triton",
}
LOADABLE = {name for name in ALL if name not in COMPILERS or importlib.util.find_spec(COMPILERS[name])}


def room(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else None


def test_every_room_has_a_floor():
    assert {room(module) for module in ALL} == set(FLOOR)


@pytest.mark.parametrize("module", sorted(ALL))
def test_imports_run_downward(module):
    here = room(module)
    assert here is not None
    for other in IMPORTS[module]:
        there = room(other)
        if there is None:  # flowstone itself: its version is all that may be asked for
            assert module == "flowstone.cli"
            continue
        assert here == there or FLOOR[there] < FLOOR[here], f"{module} imports {other}, which does not live below it"


@pytest.mark.parametrize(
    "here", ["bijections", "nets", "priors", "flow", "mixed", "density", "distribution", "recipes"]
)
def test_the_model_imports_nothing_that_executes_judges_or_stores(here):
    above = {"execution", "evaluation", "testing", "train", "runs", "plot", "cli", "data"}
    imported = {room(other) for module in ALL if room(module) == here for other in IMPORTS[module]}
    assert not imported & above
    assert imported <= set(FLOOR)


def test_bijections_know_no_nets():
    assert "nets" not in {room(other) for module in ALL if room(module) == "bijections" for other in IMPORTS[module]}


def test_no_two_files_import_each_other_in_a_ring():
    state: dict[str, int] = {}

    def visit(module: str, path: tuple[str, ...]) -> None:
        if state.get(module) == 1:
            pytest.fail(" -> ".join((*path, module)))
        if state.get(module) == 2:
            return
        state[module] = 1
        for other in IMPORTS.get(module, ()):
            visit(other, (*path, module))
        state[module] = 2

    for module in ALL:
        visit(module, ())


@pytest.mark.parametrize("name", ["flowstone", *(m for m in sorted(ALL) if m.count(".") == 1 and m != "flowstone.cli")])
def test_all_is_what_is_visible_and_documented(name):
    module = importlib.import_module(name)
    assert module.__doc__
    assert list(module.__all__) == sorted(module.__all__, key=lambda n: (not n.isupper(), not n[0].isupper(), n))
    for public in module.__all__:
        thing = getattr(module, public)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert inspect.getdoc(thing), f"{name}.{public} has no docstring"
    own = {n for n, thing in vars(module).items() if getattr(thing, "__module__", None) == name}
    own -= {n for n in own if isinstance(vars(module)[n], TypeVar)}
    assert {n for n in own if not n.startswith("_")} <= set(module.__all__), f"{name}: public, but not in __all__"


def test_what_is_visible_at_the_top_is_what_all_says():
    code = "import flowstone; print(*(n for n in vars(flowstone) if not n.startswith('_')), sep='\\n')"
    fresh = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert set(fresh) <= {"importlib", "TYPE_CHECKING"}  # nothing is there before it is asked for
    assert dir(flowstone) == sorted(flowstone.__all__)
    assert all(getattr(flowstone, name) is not None for name in flowstone.__all__)


def test_public_methods_are_documented():
    for name in LOADABLE:
        module = importlib.import_module(name)
        for public in getattr(module, "__all__", ()):
            thing = getattr(module, public)
            if not inspect.isclass(thing):
                continue
            for method, function in inspect.getmembers(thing, inspect.isfunction):
                ours = function.__module__ == name
                if ours and not method.startswith("_"):
                    assert inspect.getdoc(function), f"{name}.{public}.{method} has no docstring"


def test_names_at_the_top_are_not_hidden_by_modules_of_the_same_name():
    for name in LOADABLE:
        importlib.import_module(name)
    for public in ("fit", "evaluate", "save", "load", "nice", "realnvp", "spline", "recipe"):
        assert inspect.isfunction(getattr(flowstone, public)), public


def test_help_needs_no_torch():
    code = (
        "import sys\n"
        "from flowstone.cli import app\n"
        "app(['--help'], result_action='return_value')\n"
        "heavy = {'torch', 'numpy', 'pyarrow', 'matplotlib', 'sklearn'} & set(sys.modules)\n"
        "sys.exit(f'--help imports {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_the_library_prints_nothing_and_unpickles_nothing():
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in {"torch.load", "pickle.load", "pickle.loads", "eval", "exec"}, path
                assert called != "print" or "cli" in path.parts, path
