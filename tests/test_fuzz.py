"""That the fuzz of commands notices what it is there for, and repeats itself."""

import tempfile
from pathlib import Path

import pytest

from flowstone.errors import DataError
from fuzz.cases import RUNS, SETS, Case, draw
from fuzz.judge import judge


@pytest.fixture
def folder(tmp_path):
    inside = tmp_path / "case" / "files"
    inside.mkdir(parents=True)
    (inside / "t.csv").write_text("a,b\n1,2\n")
    return inside


def judged(monkeypatch, folder: Path, work) -> tuple[str, ...]:
    """What is said of a command that does ``work``."""

    def command(_: object, **_options: object) -> None:
        work()

    monkeypatch.setattr("flowstone.cli.app", command)
    return judge(
        Case(["score", "run", "t.csv", "--out", str(folder / "out.csv")], out=folder / "out.csv"), folder
    ).problems


def unexpected() -> None:
    raise KeyError("x")


def refused() -> None:
    raise DataError("no")


def half_written() -> None:
    Path("out.csv").write_text("a")
    refused()


def empty_output() -> None:
    Path("out.csv").touch()


def changed_input() -> None:
    Path("t.csv").write_text("")
    refused()


def left_behind() -> None:
    Path(".out-1.csv").touch()
    refused()


def left_among_temporary_files() -> None:
    tempfile.mkdtemp(prefix="flowstone-")
    refused()


def two_lines() -> None:
    import sys

    print("another line", file=sys.stderr)  # noqa: T201
    refused()


@pytest.mark.parametrize(
    ("work", "problem"),
    [
        (unexpected, "traceback"),
        (half_written, "half-written"),
        (empty_output, "half-written"),
        (changed_input, "half-written"),
        (left_behind, "half-written"),
        (left_among_temporary_files, "half-written"),
        (two_lines, "lines"),
    ],
)
def test_what_is_wrong_is_noticed(monkeypatch, folder, work, problem):
    (found,) = judged(monkeypatch, folder, work)
    assert found.startswith(f"{problem}: ")


def test_an_error_of_one_line_is_no_problem(monkeypatch, folder):
    assert judged(monkeypatch, folder, refused) == ()


@pytest.mark.parametrize("number", range(60))
def test_a_case_is_the_same_each_time(tmp_path, number, base):
    cases = []
    for _ in range(2):
        folder = tmp_path / "files"
        folder.mkdir()
        case = draw(5, number, base, folder)
        files = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        cases.append((case.words, case.stdin, files))
        folder.rename(tmp_path / f"done-{len(cases)}")
    assert cases[0] == cases[1]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Folders with the names of the valid sets and runs: a case copies them, and damages their files."""
    folder = tmp_path_factory.mktemp("base")
    for name in (*SETS, *RUNS):
        (folder / name).mkdir()
        (folder / name / "x.npz").write_bytes(bytes(range(256)))
    return folder
