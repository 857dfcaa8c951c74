"""flowstone train in several processes, which --devices or torchrun starts; on CPUs, joined by gloo."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from commands import flowstone, make_table, refused
from flowstone.cli.flags import message_of
from flowstone.cli.processes import LOST, status_of
from flowstone.errors import ProcessLostError
from flowstone.runs import Run

pytestmark = [
    pytest.mark.filterwarnings("ignore:validation has not moved"),  # in so few steps
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="processes are found in /proc"),
]
SMALL = ["--flow", "nice", "--set", "couplings=2", "hidden=8", "--batch-size", "64", "--no-plots"]
COMMAND = [sys.executable, "-m", "flowstone", "train"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_table(tmp_path / "t.csv", rows=600)


def started(*words: str, save_always: bool = False) -> subprocess.Popen:
    """A command that runs; with ``save_always``, its processes write their state at each validation."""
    paths = [*sys.path]
    if save_always:
        Path("site").mkdir()
        Path("site/sitecustomize.py").write_text("import flowstone.train.loop\nflowstone.train.loop.SAVE_EVERY = 0\n")
        paths.insert(0, str(Path("site").resolve()))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def process_of_rank(launcher: int, rank: int) -> int:
    """The process that a launcher has started with this rank."""
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        if f"RANK={rank}" in Path(f"/proc/{child}/environ").read_text().split("\0"):
            return int(child)
    raise AssertionError(f"no process of rank {rank}")


def test_torchrun_trains_what_one_process_trains_and_the_first_one_alone_speaks():
    running = started(*TORCHRUN, "-m", "flowstone", "train", "t.csv", "--steps", "60", "--out", "two", *SMALL)
    said, errors = running.communicate(timeout=100)
    assert running.returncode == 0, errors
    assert (said + errors).count("test NLL") == errors.count("→ two") == 1
    flowstone("train", "t.csv", "--steps", 60, "--out", "one", *SMALL)
    one, two = Run("one"), Run("two")
    assert {path.name for path in Path("one").iterdir()} == {path.name for path in Path("two").iterdir()}
    for name in ("train_nll", "val_nll"):
        assert two.history.column(name) == pytest.approx(one.history.column(name), rel=1e-5)
    assert two.metrics()["nll_nats"] == pytest.approx(one.metrics()["nll_nats"], rel=1e-5)


def test_a_killed_process_ends_the_run_with_one_line_and_one_process_goes_on():
    words = ["t.csv", "--steps", "400", "--validate-every", "40", *SMALL, "--quiet"]
    running = started(*COMMAND, *words, "--out", "R", "--devices", "2", save_always=True)
    try:
        deadline = time.monotonic() + 100
        while not Path("R/resume/state.safetensors").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        killed = process_of_rank(running.pid, 1)
        os.kill(killed, signal.SIGKILL)
        said, errors = running.communicate(timeout=100)
    finally:
        running.kill()
    assert (running.returncode, said) == (1, "")
    assert errors == (
        f"flowstone: process 1 of 2 (pid {killed}) was killed by SIGKILL, and the others were stopped; to continue "
        f"from its last state, with any number of processes: --resume --out R\n"
    )
    assert not Run("R").finished
    before = Run("R").history.records
    assert before[-1].step < 400
    flowstone("train", *words, "--out", "R", "--resume")
    after = Run("R").history.records
    assert [record.step for record in after] == list(range(0, 401, 40))
    assert after[1].val_nll == before[1].val_nll
    flowstone("train", *words, "--out", "whole")
    assert Run("R").metrics()["nll_nats"] == pytest.approx(Run("whole").metrics()["nll_nats"], abs=1e-3)


def test_what_the_processes_say_alike_is_said_once():
    running = started(*COMMAND, "t.csv", "--columns", "a,q", "--out", "R", "--devices", "2")
    said, errors = running.communicate(timeout=100)
    assert (running.returncode, said, errors.count("\n")) == (1, "", 1)
    assert "no column 'q'" in errors
    assert not Path("R").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--devices", "2", "--device", "cuda"], "--devices 2: the number of CUDA devices here is 0"),
        (["--devices", "0"], "devices=0 must be a whole number, at least 1"),
        (["--devices", "2", "--device", "cuda:1"], "--devices 2: the number of CUDA devices here is 0"),
        (["--devices", "2", "--device", "meta"], "--device meta: several processes take a device each"),
    ],
)
def test_devices_that_are_not_there_are_refused(capsys, monkeypatch, words, said):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert said in refused(capsys, monkeypatch, "train", "t.csv", "--out", "R", *words)
    assert not Path("R").exists()


def test_a_launcher_that_started_another_number_is_named(capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    said = refused(capsys, monkeypatch, "train", "t.csv", "--out", "R", "--devices", "2")
    assert "--devices 2: a launcher has started 3 processes already; leave it out" in said


def test_one_device_is_this_process():
    flowstone("train", "t.csv", "--steps", 2, "--devices", 1, "--device", "cpu", "--out", "R", "--quiet", *SMALL)
    assert Run("R").finished


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        ({0: LOST, 1: -signal.SIGKILL}, "process 1 of 2 (pid 11) was killed by SIGKILL"),
        ({0: -signal.SIGSEGV, 1: LOST}, "process 0 of 2 (pid 10) was killed by SIGSEGV"),
        ({0: -signal.SIGTERM, 1: 1}, "process 1 of 2 (pid 11) ended with status 1"),
        ({0: -signal.SIGTERM, 1: LOST}, "process 0 of 2 (pid 10) was killed by SIGTERM"),
        ({0: LOST}, "process 0 of 2 (pid 10) waited 0:10:00 for the others"),
        ({0: 1, 1: -signal.SIGTERM}, 1),
        ({0: 130}, 130),
    ],
)
def test_the_first_to_fail_is_named_unless_it_spoke_itself(codes, said):
    failures = {rank: SimpleNamespace(exitcode=int(code), pid=10 + rank) for rank, code in codes.items()}
    if isinstance(said, int):
        assert status_of(failures, 2, None) == said
        return
    with pytest.raises(ProcessLostError) as error:
        status_of(failures, 2, None)
    assert message_of(error.value).startswith(f"{said}, and the others were stopped; to continue from its last state")
    assert message_of(error.value).endswith("--resume --out RUN")
