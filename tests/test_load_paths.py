"""Nothing that is loaded can run code: the source names nothing that could, and loading is watched by an audit hook."""

import ast
import gzip
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet
import pytest
import torch

import flowstone
from flowstone import FlowOutlierDetector

SOURCE = Path(flowstone.__file__).parent

# --- the source -------------------------------------------------------------------------------------------------------

# What runs what it reads, starts programs, or loads code by a name: modules with all that is in them, and functions. A
# name that is put together as the program runs is not seen here; the audit hook below sees what it does.
RUNNING = {
    *("_pickle", "cloudpickle", "code", "codeop", "ctypes", "dill", "imp", "importlib", "joblib", "jsonpickle"),
    *("marshal", "multiprocessing", "pickle", "pkgutil", "pty", "runpy", "shelve", "subprocess", "yaml", "builtins"),
    *("torch.hub", "torch.jit.load", "torch.load", "torch.package", "torch.serialization", "torch.utils.cpp_extension"),
    *("numpy.ctypeslib", "numpy.load", "numpy.lib.format", "numpy.lib.npyio", "pandas.eval", "pandas.read_pickle"),
    *("os.fork", "os.forkpty", "os.popen", "os.posix_spawn", "os.posix_spawnp", "os.startfile", "os.system"),
    *(f"os.{kind}{how}" for kind in ("exec", "spawn") for how in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")),
    *("asyncio.create_subprocess_exec", "asyncio.create_subprocess_shell", "types.CodeType", "types.FunctionType"),
}
BUILT_IN = {"eval", "exec", "compile", "__import__", "breakpoint"}


def uses(code: str) -> set[str]:
    """The names among these two that some code uses, by whatever alias it has for them."""
    tree = ast.parse(code)
    homes, found, dotted = {}, set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                first = each.name.partition(".")[0]
                homes[each.asname or first] = each.name if each.asname else first
                found.add(each.name)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            for each in node.names:
                homes[each.asname or each.name] = f"{node.module}.{each.name}"
                found.add(f"{node.module}.{each.name}")
        elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Load):
            dotted.add(ast.unparse(node))
    dotted = {name for name in dotted if name.replace(".", "").isidentifier()}
    for name in dotted:
        first, dot, rest = name.partition(".")
        if first in homes:
            found.add(f"{homes[first]}{dot}{rest}")
    within = {name for name in found if any(name == each or name.startswith(f"{each}.") for each in RUNNING)}
    return within | ((BUILT_IN - set(homes)) & dotted)


# The uses that are allowed, by file, each with its reason. What is allowed and not used is an error, too.
ALLOWED = {
    "cli/unexpected.py": {
        "importlib": "the version and the address to report to, of Flowstone itself",
        "importlib.metadata": "see above",
        "importlib.metadata.PackageNotFoundError": "see above",
        "importlib.metadata.metadata": "see above",
        "importlib.metadata.version": "see above",
    },
    "cli/values.py": {"importlib.util.find_spec": "whether scikit-learn is installed"},
    "data/cifar.py": {
        "pickle": "CIFAR-10 comes as pickles: find_class gives a stand-in for each name or refuses the file",
        "pickle.Unpickler": "see above",
        "pickle.UnpicklingError": "see above",
    },
    "data/hub.py": {
        "importlib": "imports huggingface_hub, a fixed name",
        "importlib.import_module": "see above",
    },
    "data/npy.py": {
        "numpy.lib.format": "the header of a .npy, a literal, gives a dtype; one of Python objects is refused",
        "numpy.lib.format.descr_to_dtype": "see above",
    },
    "export.py": {"importlib.util.find_spec": "whether onnx, onnxscript and onnxruntime are installed"},
    "kernels/spline_call.py": {
        "importlib.import_module": "imports one of two modules of Flowstone, which the code names",
        "importlib.util.find_spec": "whether numba or Triton is installed",
    },
    "kernels/spline_cpu.py": {
        "ctypes": "the layout of a kernel's arguments",
        "ctypes.Structure": "see above",
        "ctypes.c_float": "see above",
        "ctypes.c_uint64": "see above",
    },
    "kernels/threads.py": {
        "ctypes": "runs a kernel that numba compiled from Flowstone's source on OpenMP's threads",
        "ctypes.CDLL": "the libraries that this process has loaded: it is given no path",
        "ctypes.byref": "see above",
    },
    "lazy.py": {"importlib.import_module": "imports a module of Flowstone, whose name is in the source"},
    "recipes/registry.py": {
        "importlib.metadata.entry_points": "recipes of installed packages: no name of a file is imported (SECURITY.md)"
    },
    "runs/machine.py": {
        "importlib.metadata.PackageNotFoundError": "versions of packages that are named in the source",
        "importlib.metadata.version": "see above",
    },
    "streaming/ray.py": {"importlib.util.find_spec": "whether Ray is installed"},
}


def test_the_source_uses_nothing_that_runs_what_is_read():
    used = {str(path.relative_to(SOURCE)): uses(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))}
    assert {file: found for file, found in used.items() if found} == {file: set(ALLOWED[file]) for file in ALLOWED}


@pytest.mark.parametrize(
    ("code", "used"),
    [
        ("import torch\ntorch.load(path, weights_only=True)", "torch.load"),
        ("from torch import load as read\nread(path)", "torch.load"),
        ("import pickle as p\np.loads(content)", "pickle.loads"),
        ("def f():\n    from pickle import loads", "pickle.loads"),
        ("import numpy as np\nnp.load(path)", "numpy.load"),
        ("import os\nos.system(text)", "os.system"),
        ("from os import execv", "os.execv"),
        ("import subprocess", "subprocess"),
        ("import yaml\nyaml.load(text)", "yaml.load"),
        ("from importlib import import_module", "importlib.import_module"),
        ("import importlib.util as u\nu.spec_from_file_location('a', path)", "importlib.util.spec_from_file_location"),
        ("eval(text)", "eval"),
        ("run = exec", "exec"),
        ("x = [__import__(name) for name in names]", "__import__"),
        ("compile(text, 'a', 'exec')", "compile"),
    ],
)
def test_what_could_run_code_is_seen_in_the_source(code, used):
    assert used in uses(code)


@pytest.mark.parametrize(
    "code",
    [
        "import re\nre.compile(text)",
        "import torch\ntorch.compile(f), flow.eval(), flow.load(path)",
        "class S:\n    compile: bool = False",
        "import os\nos.path.exists(path)",
        "code = 1\ncode + 1",
    ],
)
def test_what_cannot_is_not(code):
    assert not uses(code)


# --- loading, watched -------------------------------------------------------------------------------------------------

# Runs in a process of its own, in the folder of what is loaded. It tells which of ``REFUSED`` happened outside imports
# while everything was loaded, and while a run folder was loaded with a function planted in the reading of JSON.
WATCHED = """
import ast, ctypes, json, marshal, os, pickle, subprocess, sys
from pathlib import Path
import numpy, torch
import flowstone.runs.checkpoint, flowstone.train.state
from flowstone import FlowDensity, FlowOutlierDetector, TableModel
from flowstone.data import read_table
from flowstone.data.npy import read_npz

REFUSED = {
    "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.startfile", "subprocess.Popen",
    "pty.spawn", "pickle.find_class", "marshal.load", "marshal.loads", "code.__new__", "function.__new__",
    "ctypes.dlopen", "socket.connect", "exec", "compile",
}
PLANTED = {
    "pickle.loads": lambda: pickle.loads(Path("object.pickle").read_bytes()),
    "torch.load": lambda: torch.load("object.pt", weights_only=False),
    "numpy.load": lambda: numpy.load("object.npy", allow_pickle=True),
    "exec": lambda: exec(Path("code.py").read_text()),
    "eval": lambda: eval("1 + 1"),
    "os.system": lambda: os.system("true"),
    "subprocess.run": lambda: subprocess.run(["true"]),
    "marshal.loads": lambda: marshal.loads(marshal.dumps(1)),
    "ctypes.CDLL": lambda: ctypes.CDLL(None),
}
events = set()

def importing(frame):
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False

def hook(event, arguments):
    if event not in REFUSED or importing(sys._getframe(1)):
        return
    if event != "compile" or sys._getframe(1).f_code is not ast.parse.__code__:  # a literal is parsed, and not run
        events.add(event)

def told():
    found = sorted(events)
    events.clear()
    return found

sys.addaudithook(hook)
flowstone.load("flow")
flowstone.runs.Run("flow").density()
assert flowstone.train.state.load_state(Path("flow/resume")) is not None
TableModel.load("table")
FlowDensity.load("detector")
FlowOutlierDetector.load("detector")
for name in ("t.csv", "t.csv.gz", "t.parquet", "t.arrow", "t.jsonl", "t.npy"):
    assert len(read_table(name)) == 4, name
assert len(read_npz(Path("images.npz"), "images")["images"]) == 4
results = {"nothing": told()}
read = flowstone.runs.checkpoint.read_json
for name, function in PLANTED.items():
    flowstone.runs.checkpoint.read_json = lambda path: (function(), read(path))[1]
    flowstone.load("flow")
    results[name] = told()
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Everything that Flowstone loads, made small."""
    inside, x = tmp_path_factory.mktemp("loaded"), torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    flow = flowstone.nice(2, couplings=2, hidden=(8,))
    flowstone.fit(flow, x, steps=2, progress=False, resume=inside / "flow" / "resume")
    flowstone.save(flow, inside / "flow")
    rows = pa.table({"a": [1.5, 2.5, 3.5, 4.0], "b": ["x", "y", "x", "y"]})
    many = pa.concat_tables([rows] * 25)
    flowstone.learn(many, steps=2, progress=False).save(inside / "table")
    FlowOutlierDetector(models="gaussian", random_state=0).fit(x.numpy()).save(inside / "detector")
    pyarrow.csv.write_csv(rows, inside / "t.csv")
    (inside / "t.csv.gz").write_bytes(gzip.compress((inside / "t.csv").read_bytes()))
    pyarrow.parquet.write_table(rows, inside / "t.parquet")
    pyarrow.feather.write_feather(rows, inside / "t.arrow")
    (inside / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows.to_pylist()))
    np.save(inside / "t.npy", np.ones((4, 2)))
    np.savez(inside / "images.npz", images=np.zeros((4, 2, 2), np.uint8))
    (inside / "object.pickle").write_bytes(pickle.dumps(Path("x")))
    np.save(inside / "object.npy", np.array([Path("x")], dtype=object), allow_pickle=True)
    torch.save({"a": x}, inside / "object.pt")
    (inside / "code.py").write_text("x = 1")
    return inside


@pytest.fixture(scope="module")
def told(folder) -> dict[str, list[str]]:
    """The events by what was planted."""
    words = [sys.executable, "-c", WATCHED]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_loading_runs_nothing(told):
    assert told["nothing"] == []


@pytest.mark.parametrize(
    ("planted", "event"),
    [
        ("pickle.loads", "pickle.find_class"),
        ("torch.load", "pickle.find_class"),
        ("numpy.load", "pickle.find_class"),
        ("exec", "exec"),
        ("eval", "exec"),
        ("os.system", "os.system"),
        ("subprocess.run", "subprocess.Popen"),
        ("marshal.loads", "marshal.loads"),
        ("ctypes.CDLL", "ctypes.dlopen"),
    ],
)
def test_what_is_planted_on_the_way_is_noticed(told, planted, event):
    assert event in told[planted]
