"""Run a command in this process, and say what is wrong with how it ended and with what it left behind."""

import hashlib
import io
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pyarrow.csv
import pyarrow.parquet
from PIL import Image

from flowstone.cli import main
from flowstone.cli.unexpected import UNEXPECTED
from fuzz.cases import Case

__all__ = ["Verdict", "judge"]

KNOWN = re.compile(
    r"flowstone: warning: |left out \d+ rows|repeated values, so|for a verdict on|.*these are the figures of"
)
WRITTEN_ALL_THE_SAME = ("is written, but", "not finite", "is NaN", "interrupted")  # errors after which files are whole


@dataclass(frozen=True)
class Verdict:
    """How a case ended.

    Attributes:
        status: the exit status.
        problems: what is wrong, each beginning with one of the kinds in ``KINDS``.
        said: the last line on standard error.
    """

    status: int
    problems: tuple[str, ...]
    said: str


def judge(case: Case, folder: Path) -> Verdict:
    """Run a case whose files are in ``folder``."""
    before, there = _digests(folder), case.out is not None and case.out.exists()
    with _streams(case) as (out, err), _temporary_folder(folder) as temporary:
        status = _status(case.words)
        shown = out.buffer.getvalue(), err.buffer.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    lines = shown[1].decode(errors="replace").splitlines()
    problems = [*_words_wrong(status, lines, temporary), *_left_behind(folder, before, temporary)]
    if case.out is not None and status is not None:
        problems += _output_wrong(case, status, lines, before, there=there)
    return Verdict(status, tuple(problems), lines[-1][:300] if lines else "")


def _status(words: list[str]) -> int:
    before = sys.argv
    sys.argv = ["flowstone", *words]
    try:
        with warnings.catch_warnings():
            main()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    finally:
        sys.argv = before
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _words_wrong(status: int, lines: list[str], temporary: Path) -> Iterator[str]:
    if status == UNEXPECTED:
        trace = next(temporary.glob("flowstone-error-*"), None)
        yield "traceback: " + (trace.read_text(errors="replace")[-1500:] if trace else lines[-1])
    elif status not in (0, 1, 2):
        yield f"status: {status}"
    if any("Traceback (most" in line or "Exception ignored" in line for line in lines):
        yield "traceback: on standard error: " + " | ".join(lines)[-1500:]
    if status == 1:
        others = [line for line in lines if not KNOWN.match(line)]
        if len(others) != 1 or not others[0].startswith("flowstone: "):
            yield f"lines: {len(others)} lines on standard error: {' | '.join(others)[:500]}"


def _left_behind(folder: Path, before: Mapping[str, str], temporary: Path) -> Iterator[str]:
    after = _digests(folder)
    for name, digest in before.items():
        drawn = name.startswith("run/plots") or name == "run/report.html"
        if not name.startswith("out") and not drawn and after.get(name) != digest:
            yield f"half-written: {name} has changed"
    for name in after:
        hidden = Path(name).name.startswith(".") and not name.endswith("resume/.lock")  # the lock's file stays
        if (name not in before and hidden) or ".parts/" in name:
            yield f"half-written: {name} is left behind"
    for path in temporary.iterdir():
        if not path.name.startswith("flowstone-error-") and path.name.startswith("flowstone"):
            yield f"half-written: {path.name} is left behind among temporary files"


def _output_wrong(
    case: Case, status: int, lines: list[str], before: Mapping[str, str], *, there: bool
) -> Iterator[str]:
    assert case.out is not None
    name, is_whole = case.out.name, any(word in line for line in lines for word in WRITTEN_ALL_THE_SAME)
    if status == 0 and case.words[0] == "train":
        missing = [n for n in ("flow.json", "flow.safetensors", "metrics.json") if not (case.out / n).is_file()]
        if missing and "--help" not in case.words and "-h" not in case.words:
            yield f"half-written: {name} has no {missing[0]}"
    elif status == 0 and "--out" in case.words and not {"--help", "-h"} & {*case.words}:
        try:
            _read(case.out)
        except Exception as error:  # whatever its reader says of it
            yield f"half-written: {name} cannot be read ({error})"
    elif status != 0 and not is_whole:
        changed = case.out.is_file() and _digests(case.out.parent).get(name) != before.get(name)
        if changed or (case.out.exists() and not there):
            yield f"half-written: {name} is there after status {status}"


def _read(path: Path) -> None:
    if path.suffix == ".parquet":
        pyarrow.parquet.read_table(path)
    elif path.suffix == ".csv":
        pyarrow.csv.read_csv(path, parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True))
    elif path.suffix == ".onnx":
        onnx.checker.check_model(onnx.load(path))
    elif path.is_dir():  # a playground
        assert "</html>" in (path / "index.html").read_text(encoding="utf-8")
    elif path.suffix == ".npz":
        with np.load(path) as arrays:
            dict(arrays)
    else:
        with Image.open(path) as image:
            image.verify()


def _digests(folder: Path) -> dict[str, str]:
    """Of the regular files in a folder, by their names within it."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            found[os.fsdecode(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@contextmanager
def _streams(case: Case) -> Iterator[tuple[io.TextIOWrapper, io.TextIOWrapper]]:
    before = sys.stdin, sys.stdout, sys.stderr
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    sys.stdin, sys.stdout, sys.stderr = io.TextIOWrapper(io.BytesIO(case.stdin)), out, err
    try:
        yield out, err
    finally:
        sys.stdin, sys.stdout, sys.stderr = before


@contextmanager
def _temporary_folder(folder: Path) -> Iterator[Path]:
    """Temporary files go into a folder beside the case's, where what is left is seen."""
    before, place, home = tempfile.tempdir, folder.with_name("temporary"), Path.cwd()
    place.mkdir(exist_ok=True)
    tempfile.tempdir = str(place)
    os.chdir(folder)
    try:
        yield place
    finally:
        tempfile.tempdir = before
        os.chdir(home)
