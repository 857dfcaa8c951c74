"""What nobody expected ends in one line, and so does output that cannot be written."""

import errno
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flowstone.cli import main, unexpected


class Panic(BaseException):
    """As libraries in Rust raise it."""


def run(monkeypatch, *words: object, raising: BaseException | None = None) -> int:
    monkeypatch.setattr(sys, "argv", ["flowstone", *map(str, words)])
    if raising is not None:

        def fail(*_: object, **__: object) -> None:
            raise raising

        monkeypatch.setattr("flowstone.cli.app", fail)
    with pytest.raises(SystemExit) as stop:
        main()
    assert isinstance(stop.value.code, int)
    return stop.value.code


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv(unexpected.TRACEBACK, raising=False)
    return tmp_path


@pytest.mark.parametrize("error", [KeyError("x"), RecursionError("too\ndeep"), Panic("panicked"), ValueError()])
def test_an_unexpected_error_is_one_line_and_a_file(monkeypatch, capsys, temporary, error):
    assert run(monkeypatch, "list", "ü", raising=error) == 70
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"flowstone: unexpected error: {type(error).__name__}")
    written = Path(re.search(r"the traceback is in (\S+\.txt)", line)[1])  # pyright: ignore[reportOptionalSubscript]
    assert written.parent == temporary
    assert written.stat().st_mode & 0o777 == 0o600
    text = written.read_text()
    assert "Traceback (most recent call last)" in text
    assert type(error).__name__ in text
    assert "flowstone list 'ü'" in text
    assert re.search(r"report it with this file: https://\S+/issues$", line)


def test_developers_see_the_traceback(monkeypatch, temporary):
    monkeypatch.setenv(unexpected.TRACEBACK, "1")
    with pytest.raises(KeyError):
        run(monkeypatch, "list", raising=KeyError("x"))
    assert not list(temporary.iterdir())


def test_where_no_file_can_be_written_the_line_says_how_to_see_more(monkeypatch, capsys, temporary):
    monkeypatch.setattr("tempfile.tempdir", str(temporary / "missing"))
    assert run(monkeypatch, "list", raising=KeyError("x")) == 70
    assert "to see the traceback, set FLOWSTONE_TRACEBACK=1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "flowstone: No space left on device\n"),
        (PermissionError(errno.EACCES, "Permission denied", "a\nb"), "flowstone: a b: Permission denied\n"),
        (MemoryError("Unable to allocate 1 EiB"), "flowstone: out of memory (MemoryError: Unable to allocate 1 EiB)\n"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), "flowstone: out of memory (RuntimeError"),
    ],
)
def test_what_the_system_refuses_is_one_line_without_a_file(monkeypatch, capsys, temporary, error, said):
    assert run(monkeypatch, "list", raising=error) == 1
    assert capsys.readouterr().err.startswith(said)
    assert not list(temporary.iterdir())


def test_characters_that_the_output_lacks_are_escaped(monkeypatch, tmp_path):
    (tmp_path / "t.csv").write_text("größe,€\n" + "1.5,2.5\n2.5,1.5\n" * 20)
    held = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(held, encoding="ascii"))
    assert run(monkeypatch, "columns", tmp_path / "t.csv") == 0
    assert rb"gr\xf6\xdfe" in held.getvalue()


@pytest.mark.parametrize(
    ("redirection", "said"),
    [(">&-", "Bad file descriptor"), ("> /dev/full", "No space left on device"), ("> /dev/full 2>&-", "")],
)
def test_output_that_cannot_be_written_is_one_line(redirection, said):
    command = f"{sys.executable} -m flowstone --version {redirection}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == bool(said)
    assert said in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("words", [["sample", "run", "-n", "1"], ["impute", "run", "t.csv"]])
def test_a_seed_beyond_63_bits_is_refused(monkeypatch, capsys, tmp_path, words):
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *words, "--out", "o.csv", "--seed", 2**63) == 1
    assert "seed=9223372036854775808" in capsys.readouterr().err


def test_standard_input_that_is_closed_is_named(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", None)
    assert run(monkeypatch, "columns", "-") == 1
    assert capsys.readouterr().err == "flowstone: standard input is closed\n"
