"""Every example is a test: docstrings in src, and the Python and shell blocks of the README and docs."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser
from sybil.parsers.rest import DocTestParser

torch.set_num_threads(1)
ROOT = Path(__file__).parent


def run_shell(example: Example) -> None:
    """Run a block of shell lines in the document's folder; `make` and set-up lines are tested by being used."""
    lines = [line for line in example.parsed.splitlines() if not line.startswith(("make ", "git ", "pip ", "cd "))]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    script = "set -e\n" + "\n".join(lines)
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"{script}\nexited with {done.returncode}\n{done.stderr}")


def enter_folder(namespace: dict) -> None:
    """Each document has an empty folder, with one small table in it, to itself."""
    import tempfile

    namespace["home"], namespace["folder"] = os.getcwd(), tempfile.TemporaryDirectory()
    os.chdir(namespace["folder"].name)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(400, 3, generator=generator).cumsum(1).tolist()
    Path("table.csv").write_text("height,weight,age\n" + "\n".join(",".join(map(str, row)) for row in rows) + "\n")


def leave_folder(namespace: dict) -> None:
    os.chdir(namespace["home"])
    namespace["folder"].cleanup()


docstrings = Sybil(parsers=[DocTestParser()], patterns=["src/**/*.py"])
documents = Sybil(
    parsers=[PythonCodeBlockParser(), CodeBlockParser("sh", run_shell)],
    patterns=["README.md", "docs/*.md"],
    setup=enter_folder,
    teardown=leave_folder,
)
pytest_collect_file = (docstrings + documents).pytest()
