"""Every example is a test: docstrings in src, and the Python and shell blocks of the README and docs."""

import inspect
import io
import itertools
import os
import re
import shlex
import subprocess
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels for GPUs are tested without one; read when Triton is imported

import torch
from sybil import Example, Sybil
from sybil.parsers import myst
from sybil.parsers.markdown import CodeBlockParser
from sybil.parsers.rest import DocTestParser
from sybil.sybil import SybilCollection

from flowstone.cli import app, main
from flowstone.cli.values import settings_of
from flowstone.recipes import RECIPES

torch.set_num_threads(1)
for backend in (torch.cuda, torch.xpu, torch.mtia):
    if not backend.is_available():  # each would keep the whole stack as text at every torch.manual_seed
        vars(backend)["manual_seed_all"] = lambda _: None
ROOT = Path(__file__).parent


def run_shell(example: Example) -> None:
    """Run a block of shell lines in the document's folder; `make` and set-up lines are tested by being used.

    Plain lines of the command run in this process, which has imported torch already.
    """
    lines = [line for line in example.parsed.splitlines() if not line.startswith(("make ", "pip ", ". .venv"))]
    for plain, group in itertools.groupby(lines, _is_plain):
        if plain:
            for line in group:
                _run_command(line)
        else:
            _run_lines(list(group))


def _is_plain(line: str) -> bool:
    return line.startswith("flowstone ") and not set(line.partition(" #")[0]) & set("|<>*?$`;&\\'\"")


def _run_command(line: str) -> None:
    line = re.sub(r"--steps (\d+)", lambda steps: f"--steps {max(int(steps[1]) // 10, 4)}", line)
    line = re.sub(r"--minutes \S+", "--steps 20", line)  # tests train by steps, whatever the clock says
    words, said = shlex.split(line, comments=True), io.TextIOWrapper(io.BytesIO(), write_through=True)
    if words[1] == "train" and not {"--steps", "--epochs", "--minutes", "--resume"} & set(words):
        words += ["--steps", "30"]  # whole trainings with the default number take most of a minute
    with patch.object(sys, "argv", words), redirect_stdout(said), redirect_stderr(said):
        try:
            main()
        except SystemExit as error:
            if error.code:
                told = said.buffer.getvalue().decode()
                raise AssertionError(f"{line}\nexited with {error.code}\n{told}") from error


def _run_lines(lines: list[str]) -> None:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # what activate does
    script = "set -e\n" + "\n".join(lines)
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"{script}\nexited with {done.returncode}\n{done.stderr}")


def enter_folder(namespace: dict) -> None:
    """Each document has an empty folder to itself, with the examples in it, as in a clone."""
    from flowstone.plot import figures

    namespace["home"], namespace["folder"] = os.getcwd(), tempfile.TemporaryDirectory()
    namespace["dpi"], figures.DPI = figures.DPI, 50  # small pictures are drawn faster
    os.chdir(namespace["folder"].name)
    Path("examples").symlink_to(ROOT / "examples")


def leave_folder(namespace: dict) -> None:
    """Back to where the tests were started."""
    from flowstone.plot import figures

    figures.DPI = namespace["dpi"]
    os.chdir(namespace["home"])
    namespace["folder"].cleanup()


def run_page_cell(example: Example) -> None:
    """Run Python of a page; estimators have a tenth of the time that it gives them."""
    source = re.sub(r"\btime_limit=(\d+)", lambda limit: f"time_limit={int(limit[1]) / 10}", example.parsed)
    _run_cell(example, source)


def run_small_cell(example: Example) -> None:
    """Run a cell of a tutorial with few steps of training; ``make docs`` runs all of them."""
    source = re.sub(r"\b(steps ?= ?)[\d_]+", r"\g<1>4", example.parsed)
    _run_cell(example, source)


def _run_cell(example: Example, source: str) -> None:
    lines = "\n" * (example.line + example.parsed.line_offset - 1)  # so that a traceback names the line of the page
    exec(compile(lines + source, example.path, "exec", dont_inherit=True), example.namespace)


def parse_commands(example: Example) -> None:
    """Parse the commands of a tutorial: their names, flags and recipe arguments exist. Those of the README are run."""
    for line in example.parsed.splitlines():
        program, *words = shlex.split(line, comments=True)
        assert program == "flowstone", line
        _, bound, _ = app.parse_args(words, print_error=False, exit_on_error=False)
        if recipe := bound.arguments.get("flow"):
            known = inspect.signature(RECIPES[recipe]).parameters
            assert set(settings_of(bound.arguments.get("recipe_arguments", []))) <= set(known), line


def leave_tutorial(namespace: dict) -> None:
    """Back to where the tests were started, without the figures of the page."""
    import matplotlib.pyplot as plt

    plt.close("all")
    leave_folder(namespace)


# Each file by its path: in Sybil, src/**/*.py is one folder deep.
docstrings = Sybil(
    parsers=[DocTestParser()], patterns=[str(path.relative_to(ROOT)) for path in ROOT.glob("src/**/*.py")]
)
documents = Sybil(
    parsers=[CodeBlockParser("python", run_page_cell), CodeBlockParser("sh", run_shell)],
    patterns=["README.md", "docs/*.md", "docs/how-to/*.md"],
    setup=enter_folder,
    teardown=leave_folder,
)
tutorials = Sybil(
    parsers=[myst.CodeBlockParser("python", run_small_cell), CodeBlockParser("sh", parse_commands)],
    patterns=["docs/tutorials/*.md"],
    setup=enter_folder,
    teardown=leave_tutorial,
)
pytest_collect_file = SybilCollection([docstrings, documents, tutorials]).pytest()
