"""What programs that were killed leave beside the files that they write, and what others may delete of it."""

import errno
import os
import subprocess
import sys

import pytest
import torch

from flowstone import files
from flowstone.errors import CheckpointError, OutputError
from flowstone.files import UNFINISHED, atomic_folder, atomic_path, remove_unfinished, write_atomically
from flowstone.train.state import TrainingState, load_state, save_state

fcntl = pytest.importorskip("fcntl", reason="this system has no locks on files")

HOLD = """
import sys
from pathlib import Path
from flowstone.files import atomic_folder, atomic_path
with {"file": atomic_path, "folder": atomic_folder}[sys.argv[1]](Path(sys.argv[2])) as temporary:
    if temporary.is_dir():
        temporary /= "inside"
    temporary.write_text("half")
    print("writes", flush=True)
    sys.stdin.read()
"""


def left(folder):
    return sorted(path.name for path in folder.glob(f"{UNFINISHED}*"))


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_the_next_writer_deletes_what_a_killed_one_left_and_leaves_that_of_a_living_one(tmp_path, kind):
    target, other = tmp_path / "scores.csv", tmp_path / f"{UNFINISHED}other-abcdefgh.csv"
    other.write_text("of another file")
    writer = subprocess.Popen(
        [sys.executable, "-c", HOLD, kind, target], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "writes\n"
    (half,) = set(left(tmp_path)) - {other.name}
    with atomic_path(target) as temporary:
        assert half in left(tmp_path)
        temporary.write_text("whole")
    target.unlink()
    writer.kill()
    writer.communicate()
    assert half in left(tmp_path)
    if kind == "file":
        write_atomically(target, b"whole")
        assert target.read_text() == "whole"
    else:
        with atomic_folder(target) as temporary:
            (temporary / "inside").write_text("whole")
        assert (target / "inside").read_text() == "whole"
    assert left(tmp_path) == [other.name]


def test_a_folder_is_there_whole_or_not_at_all(tmp_path):
    def fail():
        with atomic_folder(tmp_path / "new") as temporary:
            (temporary / "first").write_text("1")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not list(tmp_path.iterdir())
    (tmp_path / "usual").mkdir()
    with atomic_folder(tmp_path / "above" / "new") as temporary:
        (temporary / "first").write_text("1")
    assert (tmp_path / "above" / "new").stat().st_mode == (tmp_path / "usual").stat().st_mode
    with pytest.raises(OutputError, match="cannot write"), atomic_folder(tmp_path / "above" / "new"):
        pass
    assert (tmp_path / "above" / "new" / "first").read_text() == "1"
    assert not left(tmp_path / "above")


def test_only_damage_lets_a_training_go_on_from_the_state_before(tmp_path, monkeypatch):
    for step in (1, 2):
        save_state(tmp_path, TrainingState(step, tensors={"raw": [torch.ones(2)]}))
    original = os.open

    def refuse(path, *args, **kwargs):
        if os.fspath(path).endswith("state.safetensors"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return original(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(CheckpointError, match=r"state\.safetensors: .*Permission denied"):
        load_state(tmp_path)


def test_a_state_of_a_newer_format_is_not_passed_over(tmp_path, monkeypatch):
    for step in (1, 2):
        monkeypatch.setattr("flowstone.train.state.FORMAT_VERSION", 1 + step)
        save_state(tmp_path, TrainingState(step, tensors={"raw": [torch.ones(2)]}))
    monkeypatch.setattr("flowstone.train.state.FORMAT_VERSION", 2)
    with pytest.raises(CheckpointError, match="format 3 is newer than this Flowstone reads"):
        load_state(tmp_path)


def test_clearing_a_run_folder_leaves_what_is_being_written(tmp_path):
    (tmp_path / "plots").mkdir()
    dead = tmp_path / "plots" / f"{UNFINISHED}loss-abcdefgh.png"
    dead.touch()
    with atomic_path(tmp_path / "report.html") as temporary, atomic_folder(tmp_path / "plots" / "page") as inner:
        remove_unfinished(tmp_path)
        assert temporary.exists()
        assert inner.exists()
    assert not dead.exists()


def test_names_that_mean_something_in_patterns_are_cleared_too(tmp_path):
    dead = [tmp_path / f"{UNFINISHED}{name}-abcdefgh.csv" for name in ("a [1]*", "a")]
    for path in dead:
        path.touch()
    write_atomically(tmp_path / "a [1]*.csv", b"")
    assert left(tmp_path) == [dead[1].name]


@pytest.mark.parametrize("writing", [atomic_path, atomic_folder])
def test_a_temporary_that_is_taken_before_it_is_locked_is_made_anew(tmp_path, monkeypatch, writing):
    lock, taken = files._lock, []

    def late(handle, *, wait):
        if wait and not taken:
            taken.extend(left(tmp_path))
            remove_unfinished(tmp_path)
        return lock(handle, wait=wait)

    monkeypatch.setattr(files, "_lock", late)
    with writing(tmp_path / "t") as temporary:
        assert temporary.exists()
        assert temporary.name not in taken
    assert len(taken) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["t"]
