"""flowstone train: run folders, what is refused before one is made, and going on with a training."""

import errno
import inspect
import json
import os
import runpy
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch

from commands import QUICK, flowstone, make_table, refused
from flowstone.cli import main
from flowstone.cli.again import commands_again
from flowstone.recipes import RECIPES
from flowstone.runs import Run
from flowstone.runs.checkpoint import write_record
from flowstone.train import fit

pytestmark = pytest.mark.filterwarnings("ignore:validation has not moved")  # in so few steps

FIXTURES = Path(__file__).parent / "fixtures" / "format-1"
TABLE = Path(__file__).parents[1] / "examples" / "table.csv"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_run_folder_holds_what_it_should(tmp_path, capsys):
    flowstone("train", "moons", "--out", "R", *QUICK[:-2])
    assert sorted(p.name for p in (tmp_path / "R").iterdir()) == [
        "README.md", "flow.json", "flow.safetensors", "frames.safetensors", "history.csv", "metrics.json", "plots",
        "report.html", "resume",
    ]  # fmt: skip
    plots = sorted(p.name for p in (tmp_path / "R" / "plots").iterdir())
    assert plots == ["calibration.png", "data-latent-samples.png", "density.png", "layers.png", "loss.png"]
    said = capsys.readouterr().err
    assert "parameters, 128 rows a step on 1 thread\n" in said
    metrics = json.loads((tmp_path / "R" / "metrics.json").read_text())
    for name in ("nll_nats", "nll_stderr", "bits_per_dim", "round_trip_max", "n_test", "seconds", "entropy"):
        assert name in metrics


def test_a_density_is_built_once(monkeypatch):
    built, realnvp = [], RECIPES["realnvp"]

    def counted(features, **arguments):
        built.append(features)
        return realnvp(features, **arguments)

    vars(counted)["__signature__"] = inspect.signature(realnvp)
    monkeypatch.setitem(RECIPES, "realnvp", counted)
    flowstone("train", "moons", "--flow", "realnvp", "--out", "R", *QUICK)
    assert built == [2]


def test_without_out_runs_are_numbered(tmp_path):
    for _ in range(2):
        flowstone("train", "moons", "--flow", "nice", *QUICK)
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["moons-nice", "moons-nice-2"]


def test_the_same_seed_gives_the_same_run_and_precision_another(tmp_path):
    for out, precision in (("A", "fp32"), ("B", "fp32"), ("C", "bf16")):
        flowstone("train", "moons", "--seed", 4, "--precision", precision, "--out", out, *QUICK)
    one, two, other = ((tmp_path / out / "flow.safetensors").read_bytes() for out in "ABC")
    assert one == two
    assert one != other


def test_epochs_are_passes_over_the_rows(tmp_path):
    make_table(tmp_path / "t.csv", rows=599)  # of which 481 to train on: 4 batches of 100
    words = ["--set", "couplings=1", "hidden=4", "--batch-size", 100, "--quiet", "--no-plots"]
    flowstone("train", "t.csv", "--epochs", 5, "--out", "R", *words)
    assert json.loads((tmp_path / "R" / "metrics.json").read_text())["steps"] == 20


def test_options_of_the_training_arrive_and_are_recorded(tmp_path):
    flowstone("train", "moons", "--out", "R", *QUICK, "--optimizer", "adamax", "--ema", 0.5, "--validate-every", 30)
    settings = Run(tmp_path / "R").settings()
    assert (settings.optimizer, settings.ema, settings.steps, settings.clip) == ("adamax", 0.5, 60, None)
    assert len((tmp_path / "R" / "history.csv").read_text().splitlines()) == 4  # a header, steps 0, 30, 60


def test_options_of_the_data_arrive_and_are_recorded(tmp_path):
    (tmp_path / "t.csv").write_text('a,b,"c,d",e\n' + "".join(f"{i},{i**2 % 7},{i**3 % 11},\n" for i in range(60)))
    words = ["--columns", '"c,d", b', "--no-dequantize", "--seed", 3, "--flow", "realnvp"]
    flowstone("train", "t.csv", *words, "--out", "R", *QUICK)
    record = Run(tmp_path / "R").record
    assert record["columns"] == ["c,d", "b"]
    assert record["data"].items() >= {"seed": 3, "dequantize": False, "noise": {}, "drop_missing": False}.items()
    assert Run(tmp_path / "R").dataset().columns == ("c,d", "b")


def test_what_is_wrong_is_said_before_a_folder_is_made(tmp_path, capsys, monkeypatch):
    make_table(tmp_path / "t.csv")
    said = [
        (["mons"], "did you mean 'moons'"),
        (["nothing.csv"], "nothing.csv: no such file"),
        (["moons", "--flow", "splin"], "did you mean 'spline'"),
        (["moons", "--set", "bin=3"], "did you mean 'bins'"),
        (["moons", "--set", "bins"], "expected key=value"),
        (["moons", "--set", "bins=3", "bins=4"], "--set bins: given twice, as 3 and as 4"),
        (["moons", "--set", "features=3"], "--set features: the data determine it"),
        (["moons", "--steps", "0"], "steps=0 must be a whole number, at least 1"),
        (["moons", "--epochs", "3"], "fresh points have no epochs"),
        (["moons", "--epochs", "3", "--steps", "5"], "--steps and --epochs say the same thing twice"),
        (["moons", "--ema", "2"], "ema=2.0 must be below 1"),
        (["moons", "--optimizer", "adams"], "did you mean 'adam"),
        (["moons", "--device", "gpu9"], "--device gpu9"),
        (["moons", "--columns", "a"], "columns=a is for tables; 'moons' is a toy"),
        (["t.csv", "--seed", "-1"], "seed=-1"),
        (["t.csv", "--columns", "a,b,a"], "'a' is named more than once"),
        (["t.csv", "--exclude", "d"], "no column 'd'"),
        (["moons", "--resume"], "--resume needs --out"),
        (["t.csv", "--out", "t.csv"], "t.csv exists: choose another folder; to continue its training: --resume"),
        (["t.csv", "--out", "t.csv/R"], "cannot write t.csv/R"),
    ]
    before = sorted(str(p) for p in tmp_path.rglob("*"))
    for words, message in said:
        assert message in refused(capsys, monkeypatch, "train", *words)
    assert sorted(str(p) for p in tmp_path.rglob("*")) == before


def test_constant_columns_are_said_and_left_out(tmp_path, capsys):
    """They were refused one at a time, with a hint that failed."""
    make_table(tmp_path / "t.csv")
    lines = (tmp_path / "t.csv").read_text().split()
    lines = [line + (",7,0" if number else ',"k,1",an l') for number, line in enumerate(lines)]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    words = [word for word in QUICK if word != "--quiet"]
    flowstone("train", "t.csv", "--context", '"an l",c', "--out", "R", *words)
    said = capsys.readouterr().err
    assert "constant columns are left out and put back in samples: 'k,1' (7), 'an l' (0)" in said
    record = Run(tmp_path / "R").record
    assert (record["columns"], record["context_columns"]) == (["a", "b"], ["c"])


def test_rows_with_gaps_are_left_out_by_the_flag_of_the_hint(tmp_path, capsys, monkeypatch):
    path = make_table(tmp_path / "t.csv")
    path.write_text(path.read_text() + "1,,2\n")
    line = refused(capsys, monkeypatch, "train", "t.csv", "--out", "R", *QUICK, "--flow", "spline")
    assert line.endswith("column 'b', row 201 is missing or NaN; 1 of 201 rows hold such values; to leave them out: "
                         "--drop-missing")  # fmt: skip
    flowstone("train", "t.csv", "--out", "R", *QUICK, "--drop-missing")


@pytest.mark.filterwarnings("always:the rate")
def test_a_warning_is_one_line(monkeypatch, capsys):
    def warn_and_fit(*args, **options):
        warnings.warn("the rate\nis low", stacklevel=2)
        return fit(*args, **options)

    monkeypatch.setattr("flowstone.cli.job.fit", warn_and_fit)
    monkeypatch.setattr(sys, "argv", ["flowstone", "train", "moons", "--out", "R", *QUICK])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    assert capsys.readouterr().err == "flowstone: warning: the rate is low\n"


def wait_for(path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not come"
        time.sleep(0.05)


BROKEN_OFF = ["train", "moons", "--set", "couplings=2", "hidden=16", "--batch-size", "128", "--steps", "900"]
BROKEN_OFF += ["--seed", "2", "--patience", "10000", "--no-plots"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> bytes:
    """The weights at the end of a training that nothing broke off."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "W"
    flowstone(*BROKEN_OFF, "--out", folder, "--no-report", "--quiet")
    return (folder / "flow.safetensors").read_bytes()


@pytest.mark.parametrize("blow", [signal.SIGTERM, signal.SIGKILL])
def test_a_training_that_was_broken_off_goes_on(tmp_path, capsys, monkeypatch, blow, uninterrupted):
    """SIGTERM keeps the best weights and says where; kill -9 keeps the last saved state; both go on to the same end.
    While it runs, no other training writes its folder.
    """
    (tmp_path / "sitecustomize.py").write_text("import flowstone.train.loop as loop; loop.SAVE_EVERY = 0.0")
    words = [*BROKEN_OFF, "--out", "R"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    process = subprocess.Popen(
        [sys.executable, "-m", "flowstone", *words], env=environment, stderr=subprocess.PIPE, text=True
    )
    wait_for(tmp_path / "R" / "resume" / "state.safetensors")
    line = refused(capsys, monkeypatch, "train", "--resume", "--out", "R")
    assert line == f"flowstone: R: another training writes it: process {process.pid} on {socket.gethostname()}"
    process.send_signal(blow)
    _, said = process.communicate(timeout=60)
    if blow is not signal.SIGKILL:
        assert process.returncode == 128 + blow
        assert "terminated; the best weights so far (step" in said
        flowstone("sample", "R", "-n", 3, "--out", "s.csv")
    else:
        line = refused(capsys, monkeypatch, "sample", "R", "-n", "3", "--out", "s.csv")
        assert line.endswith("holds no weights: its training was interrupted; to continue it: --resume")
    assert not (tmp_path / "R" / "metrics.json").exists()
    for changed in (["--lr", "0.1"], ["--points", "100"], ["--flow", "nice"], ["--set", "bins=3"]):
        line = refused(capsys, monkeypatch, "train", "moons", "--out", "R", "--resume", *changed)
        assert "--resume continues with the settings of R: " in line
        assert (changed[1].split("=")[0] if changed[0] == "--set" else changed[0][2:]) in line
    (tmp_path / "R" / ".writing-history-x.csv").write_text("step,sec")  # as a kill leaves it
    flowstone("train", "--out", "R", "--resume", "--quiet", "--no-plots")
    assert not list((tmp_path / "R").rglob(".writing-*"))
    assert (tmp_path / "R" / "flow.safetensors").read_bytes() == uninterrupted
    assert "this training has ended" in refused(capsys, monkeypatch, *words, "--resume")


def test_a_training_that_has_ended_is_given_more(tmp_path, capsys, monkeypatch):
    """It goes on from its last state, as one that was broken off there and had the new limits from the start would."""
    words = [
        "train",
        "moons",
        "--set",
        "couplings=2",
        "hidden=16",
        "--quiet",
        "--no-plots",
        "--schedule",
        "constant",
        "--warmup",
        0,
    ]
    flowstone(*words, "--steps", 100, "--out", "R")
    line = refused(capsys, monkeypatch, "train", "--out", "R", "--resume")
    assert "R: this training has ended, after 100 steps and " in line
    assert line.endswith("to go on: --steps 200")
    assert "to go on: --steps 200" in refused(capsys, monkeypatch, "train", "--out", "R", "--resume", "--steps", "70")
    before = {path.name: path.read_bytes() for path in (tmp_path / "R").glob("flow.*")}
    flowstone("train", "--out", "R", "--resume", "--steps", 300, "--quiet", "--no-plots")
    flowstone(*words, "--steps", 300, "--out", "W")
    after, whole = Run(tmp_path / "R"), Run(tmp_path / "W")
    assert after.metrics()["steps"] == 300
    assert after.settings().steps == 300
    assert before["flow.json"] != (tmp_path / "R" / "flow.json").read_bytes()
    assert (tmp_path / "R" / "flow.safetensors").read_bytes() == (tmp_path / "W" / "flow.safetensors").read_bytes()
    assert after.history.column("val_nll") == whole.history.column("val_nll")
    assert "to go on: --steps 600" in refused(capsys, monkeypatch, "train", "--out", "R", "--resume")
    shutil.rmtree(tmp_path / "R" / "resume")
    line = refused(capsys, monkeypatch, "train", "--out", "R", "--resume", "--steps", "600")
    assert "its state is gone" in line


def test_a_run_that_records_no_request_goes_on_where_its_state_is(tmp_path, capsys, monkeypatch):
    """As one that was pulled from the hub, which holds neither the request nor the state."""
    flowstone("train", "moons", "--out", "R", *QUICK)
    run, steps = Run(tmp_path / "R"), Run(tmp_path / "R").metrics()["steps"]
    write_record(run.folder, {name: value for name, value in run.record.items() if name not in ("request", "digest")})
    flowstone("train", "--out", "R", "--resume", "--steps", 2 * steps, "--quiet", "--no-plots")
    assert run.metrics()["steps"] == run.settings().steps == 2 * steps
    (run.folder / "metrics.json").unlink()
    shutil.rmtree(run.folder / "resume")
    before = (run.folder / "flow.safetensors").read_bytes()
    line = refused(capsys, monkeypatch, "train", "--out", "R", "--resume")
    assert line.endswith("R: it holds weights, and the state of their training is gone (resume/)")
    assert (run.folder / "flow.safetensors").read_bytes() == before


def test_new_limits_replace_the_old_ones_in_what_repeats_the_training(tmp_path):
    words = ["train", "moons", "--points", 200, "--set", "couplings=1", "hidden=4", "--quiet", "--no-plots"]
    flowstone(*words, "--epochs", 2, "--out", "R")
    flowstone("train", "--resume", "--out", "R", "--steps", 9, "--quiet", "--no-plots")
    run = Run(tmp_path / "R")
    assert run.record["request"]["training"] == {"steps": 9}
    flowstone(*shlex.split(commands_again(run.record, run.folder)[0])[1:], "--quiet", "--no-plots")
    assert Run(tmp_path / "R-again").metrics()["steps"] == 9
    flowstone("train", "--resume", "--out", "R", "--patience", 9, "--epochs", 12, "--quiet", "--no-plots")
    assert run.record["request"]["training"] == {"patience": 9, "epochs": 12}


def test_a_training_that_stopped_early_goes_on_with_more_patience(tmp_path, capsys, monkeypatch):
    words = ["--validate-every", 1, "--lr", 1e-9, "--patience", 2, "--steps", 50]
    flowstone("train", "moons", "--points", 200, *words, "--out", "R", "--quiet", "--no-plots")
    line = refused(capsys, monkeypatch, "train", "--out", "R", "--resume", "--steps", "500")
    assert line.endswith("as validation no longer improved; to go on: --patience 4")
    steps = Run(tmp_path / "R").metrics()["steps"]
    flowstone("train", "--out", "R", "--resume", "--patience", 4, "--quiet", "--no-plots")
    assert Run(tmp_path / "R").metrics()["steps"] > steps


def test_a_folder_of_a_training_that_never_began_is_free(tmp_path, capsys, monkeypatch):
    """A kill between making the folder and naming flow.json leaves what the next training cleans up."""
    (tmp_path / "R" / "resume").mkdir(parents=True)
    for name in (".writing-flow-x.json", "resume/.lock", "resume/.holder"):
        (tmp_path / "R" / name).write_text("")
    flowstone("train", "moons", "--out", "R", *QUICK)
    assert not list((tmp_path / "R").rglob(".writing-*"))
    assert "R exists" in refused(capsys, monkeypatch, "train", "moons", "--out", "R")


def test_a_run_that_was_killed_before_its_last_file_ends_with_its_pictures(tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("flowstone.plot.save_plots", stop)
        with pytest.raises((SystemExit, KeyboardInterrupt)):
            flowstone("train", "moons", "--out", "R", *QUICK[:-2], "--quiet")
    assert not (tmp_path / "R" / "metrics.json").exists()
    flowstone("train", "--resume", "--out", "R", "--quiet")
    assert (tmp_path / "R" / "metrics.json").exists()
    assert (tmp_path / "R" / "plots" / "density.png").exists()


@pytest.mark.parametrize("when", ["state", ".next", "history"])
def test_a_full_disk_is_one_line_and_the_run_goes_on(tmp_path, capsys, monkeypatch, when):
    monkeypatch.setattr("flowstone.train.loop.SAVE_EVERY", 0.0)
    words = ["train", "moons", *QUICK, "--validate-every", "10"]
    flowstone(*words, "--out", "W")
    plain, count = os.fsync, 0

    def full(handle):
        nonlocal count
        name = os.readlink(f"/proc/self/fd/{handle}")
        count += f".writing-{when}" in name
        if count == (1 if when == ".next" else 3):
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        line = refused(capsys, monkeypatch, *words, "--out", "R")
    assert line.startswith("flowstone: cannot write R/")
    assert line.endswith(": No space left on device")
    assert not list((tmp_path / "R").rglob(".writing-*"))
    flowstone("train", "--resume", "--out", "R", "--quiet", "--no-plots")
    assert (tmp_path / "R" / "flow.safetensors").read_bytes() == (tmp_path / "W" / "flow.safetensors").read_bytes()


def old_run(folder: Path, name: str) -> Path:
    """An unfinished run folder of format 1, with the present path of its table."""
    folder.mkdir()
    for path in (FIXTURES / name).rglob("*"):
        target = folder / path.relative_to(FIXTURES / name)
        target.mkdir() if path.is_dir() else target.write_bytes(path.read_bytes())
    text = (folder / "flow.json").read_text()
    (folder / "flow.json").write_text(text.replace("/data/table.csv", str(TABLE)))
    return folder


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("toy", ["moons", "--flow", "realnvp", "--points", "500", "--set", "couplings=2", "hidden=8", "--steps", "60"]),
        ("table", [str(TABLE), "--context", "age", "--seed", "3", "--steps", "120"]),
    ],
)
def test_runs_of_format_1_evaluate_and_go_on(tmp_path, capsys, name, words):
    folder = old_run(tmp_path / "R", name)
    before = json.loads((folder / "metrics.json").read_text())
    flowstone("evaluate", folder, "--json")
    assert json.loads(capsys.readouterr().out)["nll_nats"] == pytest.approx(before["nll_nats"], abs=1e-4)
    (folder / "metrics.json").unlink()
    flowstone("train", *words, "--out", folder, "--resume", "--quiet", "--no-plots")
    after = json.loads((folder / "metrics.json").read_text())
    assert after["nll_nats"] == pytest.approx(before["nll_nats"], abs=1e-4)
    assert after["steps"] == before["steps"]


def test_a_loss_that_explodes_is_one_line_and_leaves_what_was_good(tmp_path, capsys, monkeypatch):
    words = ["train", "moons", "--flow", "realnvp", "--set", "hidden=8", "--lr", "1e30", "--out", "R", "--quiet"]
    words += ["--recoveries", "0"]
    line = refused(capsys, monkeypatch, *words)
    assert "the loss is" in line
    assert "first bad output: bijection.links." in line
    assert "its batch and weights are in R/resume/not-finite/step-" in line
    assert line.endswith("in R")
    flowstone("sample", "R", "-n", 3, "--out", "s.csv")
    assert (tmp_path / "R" / "history.csv").exists()
    assert not (tmp_path / "R" / "metrics.json").exists()


def test_timestamps_are_learned_and_sampled(tmp_path):
    """Seconds since 1970 have more digits than float32: what is learned and drawn has them all the same."""
    rng = np.random.default_rng(0)
    seconds, other = 10 * rng.normal(size=2000) + 1.7e9 + 77, rng.normal(size=2000)
    np.savetxt("t.csv", np.stack([seconds, other], 1), delimiter=",", header="time,b", comments="", fmt="%.6f")
    flowstone("train", "t.csv", "--out", "R", "--steps", 150, "--quiet", "--no-plots")
    nll = json.loads((tmp_path / "R" / "metrics.json").read_text())["nll_nats"]
    entropy = 2 * 0.5 * np.log(2 * np.pi * np.e) + np.log(10)
    assert nll == pytest.approx(entropy, abs=0.15)
    flowstone("sample", "R", "-n", 20_000, "--out", "s.parquet")
    drawn = pyarrow.parquet.read_table("s.parquet").column("time").to_numpy()
    assert drawn.dtype == np.float64
    assert abs(drawn.mean() - seconds.mean()) < 0.05 * seconds.std()
    assert drawn.std() == pytest.approx(seconds.std(), rel=0.1)
    assert len(set(drawn.tolist())) > 19_000


def test_the_demo_runs(tmp_path, capsys, monkeypatch):
    demo = Path(__file__).parents[1] / "examples" / "demo.py"
    monkeypatch.setattr(sys, "argv", [str(demo), "--steps", "20", "--out", str(tmp_path / "demo")])
    runpy.run_path(str(demo), run_name="__main__")
    assert "entropy" in capsys.readouterr().out
    assert (tmp_path / "demo" / "moons.png").stat().st_size > 10_000
    flowstone("sample", tmp_path / "demo" / "nice", "-n", 5, "--out", "s.csv")
    assert torch.is_tensor(Run(tmp_path / "demo" / "nice").density().sample(1))


def test_what_fit_refuses_leaves_no_folder(empty_folder, capsys, monkeypatch):
    make_table(Path("t.csv"))
    line = refused(capsys, monkeypatch, "train", "t.csv", "--flip", "--steps", 2, "--quiet", "--out", "run")
    assert "flip=True mirrors images" in line
    assert not Path("run").exists()
    Path("run").mkdir()
    Path("run/mine").write_text("")
    refused(capsys, monkeypatch, "train", "t.csv", "--flip", "--steps", 2, "--quiet", "--out", "run")
    assert Path("run/mine").exists()


def test_a_device_that_holds_no_values_is_refused(empty_folder, capsys, monkeypatch):
    assert "--device meta" in refused(capsys, monkeypatch, "train", "moons", "--device", "meta", "--out", "run")


def test_a_training_that_cannot_begin_leaves_no_folder(tmp_path, capsys, monkeypatch):
    rng = np.random.default_rng(0)
    lines = "".join(f"{x:.6f}e-300,{'ab'[k % 2]}\n" for k, x in enumerate(rng.normal(size=60)))
    (tmp_path / "t.csv").write_text("x,w\n" + lines)
    line = refused(capsys, monkeypatch, "train", "t.csv", "--steps", 2, "--out", "R", "--quiet")
    assert "is not finite after initialisation" in line
    assert not (tmp_path / "R").exists()
