"""The levels of packages and what each may import, and that ``__all__`` is what is visible and documented."""

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
# From the lowest. A package imports only from packages on lower levels, so bijections and nets are independent.
LEVELS = (
    ("errors", "lazy", "notebook"),
    ("validation", "options", "files", "digest", "bars", "kernels"),
    ("nets", "bijections", "priors", "data"),
    ("density", "transform"),
    ("distribution",),
    ("flow", "mixed", "blend", "embedded"),
    ("execution",),
    ("recipes",),
    ("evaluation",),
    ("testing",),
    ("train",),
    ("runs", "plot", "export"),
    ("table_model", "sbi", "playground"),
    ("estimators", "streaming"),
    ("report",),
    ("cli",),
)
LEVEL = {package: level for level, packages in enumerate(LEVELS) for package in packages}


def modules() -> list[str]:
    walked = pkgutil.walk_packages([str(SOURCE)], "flowstone.")
    return sorted(module.name for module in walked if not module.name.endswith("__main__"))


def imports_of(name: str) -> set[str]:
    """Modules of the project that this one imports, anywhere in it."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    imported = set()
    for node in ast.walk(ast.parse(Path(spec.origin).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("flowstone"):
            parts = {f"{node.module}.{alias.name}" for alias in node.names}
            imported |= {part if part in ALL else node.module for part in parts}
        elif isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names if alias.name.startswith("flowstone")}
    return imported - {name}


ALL = set(modules())
IMPORTS = {name: imports_of(name) for name in ALL}
OPTIONAL = {  # not on every machine
    "flowstone.kernels.spline_cpu": "numba",
    "flowstone.kernels.spline_gpu": "triton",
    "flowstone.sbi": "sbi",
}
LOADABLE = {name for name in ALL if name not in OPTIONAL or importlib.util.find_spec(OPTIONAL[name])}


def package_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else None


def test_every_package_has_a_level():
    assert {package_of(module) for module in ALL} == set(LEVEL)


@pytest.mark.parametrize("module", sorted(ALL))
def test_imports_run_downward(module):
    here = package_of(module)
    assert here is not None
    for other in IMPORTS[module]:
        there = package_of(other)
        if there is None:  # flowstone itself, of which only the version may be imported
            assert module == "flowstone.cli"
            continue
        assert here == there or LEVEL[there] < LEVEL[here], f"{module} imports {other}, which is not on a lower level"


@pytest.mark.parametrize(
    "here", ["bijections", "nets", "priors", "flow", "mixed", "density", "distribution", "recipes"]
)
def test_the_model_imports_nothing_that_executes_judges_or_stores(here):
    above = {"execution", "evaluation", "testing", "train", "runs", "plot", "cli", "data"}
    imported = {package_of(other) for module in ALL if package_of(module) == here for other in IMPORTS[module]}
    assert not imported & above
    assert imported <= set(LEVEL)


def test_bijections_know_no_nets():
    imports = {other for module in ALL if package_of(module) == "bijections" for other in IMPORTS[module]}
    assert "nets" not in map(package_of, imports)


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


@pytest.mark.parametrize("name", ["flowstone", "flowstone.data", "flowstone.train"])
def test_lazy_names_are_what_all_says(name):
    code = f"import {name}; print(*(n for n in vars({name}) if not n.startswith('_')), sep='\\n')"
    fresh = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert set(fresh) <= {"TYPE_CHECKING", "lazy", "lazy_names"}  # names are imported when they are first used
    module = importlib.import_module(name)
    assert dir(module) == sorted(module.__all__)
    assert all(getattr(module, public) is not None for public in module.__all__)
    with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'unknown'"):
        _ = module.unknown


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


def test_the_library_prints_nothing():
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called != "print" or "cli" in path.parts, path
