"""Every example is a test: docstrings in src, and the Python and shell blocks of the README and docs."""

import io
import itertools
import os
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
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser
from sybil.parsers.rest import DocTestParser

from flowstone.cli import main

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
    words, said = shlex.split(line, comments=True), io.TextIOWrapper(io.BytesIO(), write_through=True)
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


# Each file by its path: in Sybil, src/**/*.py is one folder deep.
docstrings = Sybil(
    parsers=[DocTestParser()], patterns=[str(path.relative_to(ROOT)) for path in ROOT.glob("src/**/*.py")]
)
documents = Sybil(
    parsers=[PythonCodeBlockParser(), CodeBlockParser("sh", run_shell)],
    patterns=["README.md", "docs/*.md"],
    setup=enter_folder,
    teardown=leave_folder,
)
pytest_collect_file = (docstrings + documents).pytest()
