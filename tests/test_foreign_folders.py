"""Run folders that a stranger has made, folders without rights, and a command that SIGTERM ends."""

import json
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import flowstone
from commands import flowstone as command
from commands import make_run
from flowstone.cli import main
from flowstone.density import Density
from flowstone.errors import CheckpointError, OutputError
from flowstone.files import read_tensors, tensors_to_bytes
from flowstone.runs import Run
from flowstone.runs.checkpoint import write_record
from flowstone.train.history import History
from flowstone.train.state import TrainingState, load_state, save_state

NOBODY = 65534


@pytest.fixture
def run(tmp_path):
    make_run(tmp_path / "R", "uniform")
    save_state(tmp_path / "R" / "resume", TrainingState())
    return Run(tmp_path / "R")


@contextmanager
def without_rights(path: Path, mode: int) -> Iterator[None]:
    """A file or folder with these rights, and a process whose user they bind."""
    before, user = path.stat().st_mode, os.geteuid()
    path.chmod(mode)
    if user == 0:  # rights do not bind it
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if user == 0:
            os.seteuid(user)
        path.chmod(before)


@pytest.fixture
def open_folder():
    """A folder that every user may enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.parametrize("inside", ["resume", "plots", "plots/training", "resume/.lock"])
def test_nothing_is_written_through_a_link_out_of_the_folder(run, tmp_path, inside):
    outside, path = tmp_path / "outside", run.folder / inside
    shutil.rmtree(path, ignore_errors=True)
    path.parent.mkdir(exist_ok=True)
    if inside.endswith(".lock"):
        outside.write_text("precious")
    else:
        outside.mkdir()
    path.symlink_to(outside)
    with pytest.raises(OutputError, match=re.escape(f"cannot write {path}: it is a link out of its folder")):
        run.lock.acquire()
    if inside == "plots":
        with pytest.raises(OutputError, match="link out"):
            assert run.plots
    assert outside.read_text() == "precious" if outside.is_file() else not list(outside.iterdir())


def test_a_link_inside_the_folder_is_followed(run):
    (run.folder / "pictures").mkdir()
    (run.folder / "plots").symlink_to("pictures")
    run.lock.acquire()
    run.lock.release()
    assert run.plots.is_dir()


@pytest.mark.parametrize("kind", ["pipe", "device", "link out", "long"])
def test_histories_and_holders_are_read_from_regular_files_alone(run, tmp_path, monkeypatch, kind):
    for path in (run.folder / "history.csv", run.folder / "resume" / ".holder"):
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "long":
            monkeypatch.setattr("flowstone.files.MOST_RECORD", 10)
            path.write_text("x" * 11)
        else:
            (tmp_path / "h.csv").write_text("step\n")
            path.symlink_to("/dev/zero" if kind == "device" else tmp_path / "h.csv")
    with pytest.raises(CheckpointError, match=r"history.csv: (cannot be read|11 bytes are more)"):
        assert run.history
    assert run.lock._holder() == ""


def test_a_history_of_absurd_numbers_is_refused(tmp_path):
    (tmp_path / "history.csv").write_text("step,seconds,train_nll,val_nll,learning_rate,grad_norm\n1e999,0,0,0,0,0\n")
    with pytest.raises(CheckpointError, match=r"history.csv: not a history that Flowstone wrote"):
        History.load(tmp_path / "history.csv")


def test_a_digest_counts_in_older_formats_too(run):
    """A record that is made to say an older format does not switch the comparison off."""
    folder = run.folder
    record = json.loads((folder / "flow.json").read_text())
    record["format_version"] = 1
    (folder / "flow.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="its digest is not that of its content"):
        flowstone.load(folder)
    del record["digest"]
    write_record(folder, record)
    with pytest.raises(CheckpointError, match="its digest is not that of the two"):
        flowstone.load(folder)
    state = folder / "resume" / "state.safetensors"
    tensors, metadata = read_tensors(state)
    content = json.loads(metadata["record"]) | {"format_version": 1, "step": 7}
    state.write_bytes(tensors_to_bytes(tensors, metadata | {"record": json.dumps(content)}))
    with pytest.raises(CheckpointError, match="its digest is not that of its content"):
        load_state(folder / "resume")


@pytest.mark.parametrize("name", ["flow.json", "flow.safetensors", "history.csv"])
def test_files_without_rights_are_named(open_folder, name):
    make_run(open_folder / "R", "uniform")
    History().save(open_folder / "R" / "history.csv")
    run = Run(open_folder / "R")
    refused = pytest.raises(CheckpointError, match=rf"R/{name}: cannot be read \(Permission denied\)")
    with without_rights(run.folder / name, 0o000), refused:
        assert run.history if name == "history.csv" else run.density()
    assert run.density()


def test_folders_without_rights_are_named_and_stay_as_they_are(open_folder):
    make_run(open_folder / "R", "uniform")
    run = Run(open_folder / "R")
    save_state(run.folder / "resume", TrainingState())
    there = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")}
    with without_rights(run.folder / "resume", 0o555), pytest.raises(OutputError, match=r"R.*: Permission denied"):
        run.lock.acquire()
    run.lock.release()
    with without_rights(run.folder, 0o555), pytest.raises(OutputError, match="R/plots: Permission denied"):
        assert run.plots
    with without_rights(open_folder, 0o555), pytest.raises(OutputError, match=r"new/resume: Permission denied"):
        Run.create(open_folder / "new")
    (run.folder / "resume" / ".lock").unlink(missing_ok=True)
    os.utime(run.folder / "resume", ns=(0, there[run.folder / "resume"]))
    assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")} == there


def test_sigterm_ends_a_command_with_143_and_leaves_no_temporary_file(tmp_path, monkeypatch, capsys):
    make_run(tmp_path / "R", "uniform")
    stream = Density.stream

    def killed(*words, **options):
        for chunk in stream(*words, **options):
            yield chunk
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Density, "stream", killed)
    monkeypatch.setattr("flowstone.cli.sample.ROWS_AT_ONCE", 10)
    words = ["sample", str(tmp_path / "R"), "-n", "20", "--out", str(tmp_path / "s.csv")]
    monkeypatch.setattr(sys, "argv", ["flowstone", *words])
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 143
    assert capsys.readouterr().err == "flowstone: terminated\n"
    assert [path.name for path in tmp_path.iterdir()] == ["R"]
    assert signal.getsignal(signal.SIGTERM) is before
    monkeypatch.undo()
    command("sample", tmp_path / "R", "-n", 20, "--out", tmp_path / "s.csv")
