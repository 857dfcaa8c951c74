"""The command line as a user meets it: exit status, one line on stderr, files whole or not there."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from commands import flowstone, refused
from flowstone.cli import main
from flowstone.runs import Run
from flowstone.runs.checkpoint import describe, load, save

QUICK = ["--set", "couplings=2", "hidden=16", "--steps", "60", "--batch-size", "128", "--quiet"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def table(path, rows: int = 200, columns: int = 3):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(rows, columns)).cumsum(1)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "b", "c"][:columns])
        writer.writerows(values.tolist())
    return path


def test_a_toy_from_training_to_scores(tmp_path, capsys):
    flowstone("train", "moons", "--out", "R", *QUICK)
    assert sorted(p.name for p in (tmp_path / "R").iterdir()) == [
        "flow.json", "flow.safetensors", "history.csv", "metrics.json", "plots", "resume",
    ]  # fmt: skip
    plots = sorted(p.name for p in (tmp_path / "R" / "plots").iterdir())
    assert plots == ["data-latent-samples.png", "density.png", "layers.png", "loss.png"]
    capsys.readouterr()
    flowstone("evaluate", "R", "--json")
    figures = json.loads(capsys.readouterr().out)
    assert figures == json.loads((tmp_path / "R" / "metrics.json").read_text())
    for name in ("nll_nats", "nll_stderr", "bits_per_dim", "round_trip_max", "n_test", "seconds", "entropy"):
        assert name in figures
    flowstone("sample", "R", "-n", 5000, "--out", "s.csv")
    flowstone("score", "R", "s.csv", "--out", "scored.csv")
    with open("scored.csv") as file:
        scored = list(csv.DictReader(file))
    assert len(scored) == 5000
    assert list(scored[0]) == ["x1", "x2", "log_prob"]
    flowstone("evaluate", "R", "s.csv", "--json")
    figures = json.loads(capsys.readouterr().out)
    assert figures["n_test"] == 5000
    mean = np.mean([float(row["log_prob"]) for row in scored])
    assert figures["nll_nats"] == pytest.approx(-mean, abs=1e-4)


def test_a_table_with_context(tmp_path, capsys):
    table(tmp_path / "t.csv")
    flowstone("train", "t.csv", "--context", "a", "--out", "R", *QUICK)
    assert [p.name for p in (tmp_path / "R" / "plots").glob("p*")] == ["pairs.png"]
    flowstone("sample", "R", "-n", 7, "--given", "a=1.5", "--out", "s.parquet")
    sampled = pyarrow.parquet.read_table("s.parquet")
    assert sampled.column_names == ["b", "c", "a"]
    assert sampled.column("a").to_pylist() == [1.5] * 7
    flowstone("score", "R", "s.parquet", "--out", "scored.parquet")
    assert pyarrow.parquet.read_table("scored.parquet").column_names == ["b", "c", "a", "log_prob"]
    flowstone("evaluate", "R", "t.csv", "--json")
    assert json.loads(capsys.readouterr().out)["n_test"] == 200


def test_columns_with_many_digits_and_odd_names(tmp_path):
    rng = np.random.default_rng(0)
    seconds = 1.7e9 + rng.permutation(300)
    lines = [f"{a:.0f},{b}" for a, b in zip(seconds, rng.normal(size=300), strict=True)]
    (tmp_path / "t.csv").write_text("the-time,b\n" + "\n".join(lines))
    flowstone("train", "t.csv", "--out", "R", *QUICK)
    flowstone("sample", "R", "-n", 300, "--out", "s.parquet")
    assert len(set(pyarrow.parquet.read_table("s.parquet").column("the-time").to_pylist())) > 290
    flowstone("train", "t.csv", "--context", "the-time", "--out", "C", *QUICK)
    flowstone("sample", "C", "-n", 5, "--given", "the-time=1700000100", "--out", "s.NPZ")
    with np.load("s.NPZ") as sampled:
        assert sampled["x"].shape == (5, 1)
    assert not list(tmp_path.glob(".s*"))


def test_score_carries_other_columns_along(tmp_path):
    table(tmp_path / "t.csv")
    flowstone("train", "t.csv", "--columns", "c,a", "--out", "R", "--no-plots", *QUICK)
    pyarrow.parquet.write_table(
        pyarrow.table({"who": ["x", "y"], "a": [0.1, 0.2], "c": [1.0, 2.0], "log_prob": [9.0, 9.0]}), "new.parquet"
    )
    flowstone("score", "R", "new.parquet", "--out", "out.csv")
    with open("out.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["who"] for row in rows] == ["x", "y"]
    assert list(rows[0]) == ["who", "a", "c", "log_prob"]
    assert float(rows[0]["log_prob"]) != 9.0


def test_samples_in_every_form_and_by_seed(tmp_path):
    flowstone("train", "uniform", "--out", "R", "--no-plots", *QUICK)
    for ending in ("csv", "parquet", "npz", "png"):
        flowstone("sample", "R", "-n", 300, "--out", f"s.{ending}", "--seed", 5, "--temperature", 0.9)
        assert (tmp_path / f"s.{ending}").stat().st_size > 1000
    flowstone("sample", "R", "-n", 300, "--out", "t.npz", "--seed", 5, "--temperature", 0.9)
    with np.load("s.npz") as one, np.load("t.npz") as two:
        assert one["x"].shape == (300, 2)
        np.testing.assert_array_equal(one["x"], two["x"])


def test_tables_of_samples_are_written_as_they_come(tmp_path, monkeypatch):
    monkeypatch.setattr("flowstone.cli.sample.PIECE", 3000)
    flowstone("train", "uniform", "--out", "R", "--no-plots", *QUICK)
    whole = load("R").sample(20_000, seed=2)
    flowstone("sample", "R", "-n", 20_000, "--seed", 2, "--out", "s.parquet")
    file = pyarrow.parquet.ParquetFile("s.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [8192, 8192, 3616]
    np.testing.assert_array_equal(np.stack([c.to_numpy() for c in file.read().columns], 1), whole.numpy())
    flowstone("sample", "R", "-n", 20_000, "--seed", 2, "--out", "s.csv")
    np.testing.assert_allclose(np.loadtxt("s.csv", delimiter=",", skiprows=1), whole.numpy(), rtol=1e-5, atol=1e-6)


def test_samples_scores_and_figures_with_nets_in_bfloat16(tmp_path, capsys, monkeypatch):
    flowstone("train", "moons", "--out", "R", "--no-plots", *QUICK)
    found = {}
    for precision in ("fp32", "bf16"):
        flowstone("sample", "R", "-n", 50, "--out", "s.npz", "--precision", precision)
        flowstone("sample", "R", "-n", 50, "--out", "s.parquet")
        flowstone("score", "R", "s.parquet", "--out", "scored.parquet", "--precision", precision)
        capsys.readouterr()
        flowstone("evaluate", "R", "s.parquet", "--json", "--precision", precision)
        with np.load("s.npz") as samples:
            scores = pyarrow.parquet.read_table("scored.parquet").column("log_prob").to_numpy()
            found[precision] = (samples["x"], scores, json.loads(capsys.readouterr().out)["nll_nats"])
    for plain, low in zip(*found.values(), strict=True):
        assert not np.array_equal(plain, low)
        np.testing.assert_allclose(plain, low, atol=0.3)
    line = refused(capsys, monkeypatch, "sample", "R", "-n", 5, "--out", "s.npz", "--precision", "bf61")
    assert "--precision" in line
    assert "bf16" in line


def test_it_says_on_how_many_threads_it_runs(tmp_path, capsys):
    flowstone("train", "moons", "--out", "R", "--no-plots", *QUICK[:-1])
    assert "parameters, 128 rows a step on 1 thread\n" in capsys.readouterr().err


def test_without_out_runs_are_numbered(tmp_path):
    for _ in range(2):
        flowstone("train", "moons", "--flow", "nice", "--no-plots", *QUICK)
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["moons-nice", "moons-nice-2"]


def test_the_same_seed_gives_the_same_run(tmp_path):
    for out in ("A", "B"):
        flowstone("train", "moons", "--seed", 4, "--out", out, "--no-plots", *QUICK)
    assert (tmp_path / "A" / "flow.safetensors").read_bytes() == (tmp_path / "B" / "flow.safetensors").read_bytes()


def test_epochs_are_passes_over_the_rows(tmp_path):
    table(tmp_path / "t.csv", rows=599)  # of which 481 to train on: 4 batches of 100
    words = ["--set", "couplings=1", "hidden=4", "--batch-size", 100, "--quiet", "--no-plots"]
    flowstone("train", "t.csv", "--epochs", 5, "--out", "R", *words)
    assert (
        json.loads((tmp_path / "R" / "metrics.json").read_text())["steps"] == 20
    )  # 481 training rows are 4 batches of 100


def test_plot_draws_again_what_was_deleted(tmp_path, capsys):
    flowstone("train", "moons", "--out", "R", *QUICK)
    before = {p.name: p.read_bytes() for p in (tmp_path / "R" / "plots").iterdir()}
    for path in (tmp_path / "R" / "plots").iterdir():
        path.unlink()
    flowstone("plot", "R")
    assert {p.name for p in (tmp_path / "R" / "plots").iterdir()} == set(before)


def test_check_says_what_is_wrong_with_a_run(tmp_path, capsys):
    table(tmp_path / "t.csv")
    flowstone("train", tmp_path / "t.csv", "--out", tmp_path / "run", "--steps", 30, "--quiet", "--no-plots")
    capsys.readouterr()
    flowstone("check", tmp_path / "run")
    said = capsys.readouterr().out
    assert said.startswith("nothing wrong")
    assert "at the latent's edge" in said
    flowstone("check", tmp_path / "run", tmp_path / "t.csv", "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["ok"]
    assert {layer["place"] for layer in found["layers"]} == {"data", "outside", "edge"}
    # Weights of another size are saved all the same, and check sees what they do.
    flow = load(tmp_path / "run")
    for parameter in flow.parameters():
        parameter.data *= 30
    extra = {key: value for key, value in Run(tmp_path / "run").record.items() if key not in describe(flow)}
    save(flow, tmp_path / "run", extra=extra)
    flowstone("check", tmp_path / "run", "--json")
    assert not json.loads(capsys.readouterr().out)["ok"]


def test_list_shows_recipes_and_toys(capsys):
    flowstone("list", "--json")
    listed = json.loads(capsys.readouterr().out)
    assert {"nice", "realnvp", "glow", "spline", "maf", "iaf", "maf_spline"} <= set(listed["recipes"])
    assert listed["toys"]["moons"]["entropy"] == pytest.approx(1.1312)
    flowstone("list")
    assert "spline (default)" in capsys.readouterr().out


def test_what_is_wrong_is_said_in_one_line(tmp_path, capsys, monkeypatch):
    table(tmp_path / "t.csv")
    flowstone("train", "t.csv", "--out", "R", "--no-plots", *QUICK)
    capsys.readouterr()
    (tmp_path / "two.csv").write_text("a,b\n1,2\n")
    (tmp_path / "nan.csv").write_text("a,b,c\n1,2,3\n1,,3\n")
    (tmp_path / "text.csv").write_text("a,b,c\n1,2,red\n")
    np.save(tmp_path / "two.npy", np.zeros((5, 2)))
    said = [
        (["train", "mons"], "did you mean 'moons'"),
        (["train", "nothing.csv"], "nothing.csv: no such file"),
        (["train", "moons", "--flow", "splin"], "did you mean 'spline'"),
        (["train", "moons", "--set", "bin=3"], "did you mean 'bins'"),
        (["train", "moons", "--set", "bins"], "expected key=value"),
        (["train", "moons", "--steps", "0"], "steps=0 must be a whole number, at least 1"),
        (["train", "moons", "--epochs", "3"], "fresh points have no epochs"),
        (["train", "moons", "--device", "gpu9"], "--device gpu9"),
        (["train", "moons", "--set", "features=3"], "--set features: the data says that"),
        (["train", "t.csv", "--seed", "-1"], "seed=-1"),
        (["train", "t.csv", "--columns", "a,b,a"], "'a' is named more than once"),
        (["evaluate", "R", "nan.csv"], "column 'b', row 2 is missing"),
        (["score", "R", "t.csv", "--out", "t.csv"], "it is the table to be scored"),
        (["sample", "R", "-n", "5", "--out", "o.csv", "--temperature", "nan"], "temperature=nan"),
        (["train", "moons", "--resume"], "--resume needs --out"),
        (["train", "t.csv", "--out", "R"], "R exists"),
        (["train", "t.csv", "--out", "R", "--resume"], "this training has ended"),
        (["train", "t.csv", "--out", "t.csv"], "t.csv exists"),
        (["train", "t.csv", "--out", "t.csv/R"], "cannot write t.csv/R"),
        (["evaluate", "nowhere"], "nowhere is not a run folder"),
        (["evaluate", "R", "two.csv"], "no column 'c'"),
        (["score", "R", "two.csv", "--out", "o.csv"], "no column 'c'"),
        (["score", "R", "two.npy", "--out", "o.csv"], "2 columns, expected 3"),
        (["score", "R", "text.csv", "--out", "o.csv"], "column 'c' is not numeric (row 1 holds 'red')"),
        (["score", "R", "nan.csv", "--out", "o.csv"], "column 'b', row 2 is missing"),
        (["score", "R", "t.csv", "--out", "o.txt"], "must end in .csv, .parquet"),
        (["score", "R", "t.csv", "--out", "no/o.csv"], "no folder no"),
        (["sample", "R", "-n", "5", "--out", "no/o.csv"], "no folder no"),
        (["sample", "R", "-n", "5", "--out", "o.doc"], "must end in .csv, .parquet, .npz, .png"),
        (["sample", "R", "-n", "0", "--out", "o.csv"], "at least one sample"),
        (["sample", "R", "-n", "5", "--out", "o.csv", "--given", "a=1"], "takes no --given"),
    ]
    before = sorted(str(p) for p in tmp_path.rglob("*"))
    for words, message in said:
        assert message in refused(capsys, monkeypatch, *words)
    assert sorted(str(p) for p in tmp_path.rglob("*")) == before
    flowstone("score", "R", "nan.csv", "--out", "o.csv", "--drop-missing")
    assert (tmp_path / "o.csv").read_text().count("\n") == 2


@pytest.mark.parametrize(
    "words", [["train", "moons", "--stepz", "3"], ["trian"], ["sample", "R"], ["train", "moons", "--lr", "x"]]
)
def test_a_wrong_flag_exits_with_2(capsys, monkeypatch, words):
    monkeypatch.setattr(sys, "argv", ["flowstone", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2


def test_a_run_whose_data_is_gone_says_so(tmp_path, capsys, monkeypatch):
    path = table(tmp_path / "t.csv")
    flowstone("train", "t.csv", "--out", "R", "--no-plots", *QUICK)
    path.unlink()
    capsys.readouterr()
    assert "no such file" in refused(capsys, monkeypatch, "evaluate", "R")
    flowstone("sample", "R", "-n", 3, "--out", "s.csv")  # the flow itself needs no data


def wait_for(path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not come"
        time.sleep(0.05)


@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGKILL])
def test_a_training_that_was_broken_off_goes_on(tmp_path, capsys, monkeypatch, blow):
    """Ctrl-C keeps the best weights and says where; kill -9 keeps the last saved state; --resume ends both alike."""
    (tmp_path / "sitecustomize.py").write_text("import flowstone.train.loop as loop; loop.SAVE_EVERY = 0.0")
    settings = ["moons", "--set", "couplings=2", "hidden=16", "--batch-size", "128", "--steps", "1500", "--seed", "2"]
    words = ["train", *settings, "--patience", "10000", "--out", "R", "--no-plots"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "flowstone", *words], env=environment, stderr=subprocess.PIPE, text=True
    )
    wait_for(tmp_path / "R" / "resume" / "state.safetensors")
    process.send_signal(blow)
    _, said = process.communicate(timeout=60)
    if blow is signal.SIGINT:
        assert process.returncode == 130
        assert "interrupted; the best weights so far (step" in said
        flowstone("sample", "R", "-n", 3, "--out", "s.csv")
    else:
        assert "holds no weights" in refused(capsys, monkeypatch, "sample", "R", "-n", "3", "--out", "s.csv")
    assert not (tmp_path / "R" / "metrics.json").exists()
    assert "training was" in refused(capsys, monkeypatch, *words, "--resume", "--lr", "0.1")
    flowstone(*words, "--resume", "--quiet")
    whole = [word if word != "R" else "W" for word in words]
    flowstone(*whole, "--quiet")
    assert (tmp_path / "R" / "flow.safetensors").read_bytes() == (tmp_path / "W" / "flow.safetensors").read_bytes()


def test_a_loss_that_explodes_is_one_line_and_leaves_what_was_good(tmp_path, capsys, monkeypatch):
    words = ["train", "moons", "--flow", "realnvp", "--set", "hidden=8", "--lr", "1e30", "--out", "R", "--quiet"]
    line = refused(capsys, monkeypatch, *words)
    assert "the loss is" in line
    assert "first bad output: bijection.links." in line
    assert line.endswith("in R")
    flowstone("sample", "R", "-n", 3, "--out", "s.csv")
    assert (tmp_path / "R" / "history.csv").exists()
    assert not (tmp_path / "R" / "metrics.json").exists()


def test_the_demo_runs(tmp_path):
    demo = Path(__file__).parents[1] / "examples" / "demo.py"
    words = [sys.executable, demo, "--steps", "20", "--out", tmp_path / "demo"]
    said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    assert "entropy" in said
    assert (tmp_path / "demo" / "moons.png").stat().st_size > 10_000
    flowstone("sample", tmp_path / "demo" / "nice", "-n", 5, "--out", "s.csv")


def test_precision_is_chosen_by_a_flag(tmp_path):
    for precision in ("fp32", "bf16"):
        flowstone("train", "moons", "--precision", precision, "--out", precision, "--no-plots", *QUICK)
    one, two = ((tmp_path / name / "flow.safetensors").read_bytes() for name in ("fp32", "bf16"))
    assert one != two


def test_help_and_version(capsys):
    flowstone("--version")
    assert capsys.readouterr().out.strip() == "0.1.0"
    flowstone("train", "--help")
    text = capsys.readouterr().out
    for flag in ("--flow", "--set", "--steps", "--epochs", "--minutes", "--batch-size", "--lr", "--seed", "--device",
                 "--precision", "--context", "--out", "--resume", "--quiet"):  # fmt: skip
        assert flag in text


def test_output_that_nobody_reads_on_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "flowstone", "list"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert done.stderr == ""


def test_more_arguments_of_fit(tmp_path, capsys, monkeypatch):
    flowstone("train", "moons", "--out", "R", *QUICK, "--fit", "optimizer=adamax", "ema=0.5", "validate-every=30")
    assert Run(tmp_path / "R").record["training"].items() >= {"optimizer": "adamax", "ema": 0.5}.items()
    assert len((tmp_path / "R" / "history.csv").read_text().splitlines()) == 4  # steps 0, 30, 60
    for words, said in (
        ("emma=0.5", "unknown --fit setting 'emma': did you mean 'ema'"),
        ("ema=slow", "--fit ema=slow: expected a number"),
        ("ema=true", "--fit ema=True: expected a number"),
        ("validate_every=1.5", "--fit validate_every=1.5: expected a whole number"),
        ("ema=2", "ema=2 must be below 1"),
        ("ema", "--fit 'ema': expected key=value"),
    ):
        assert said in refused(capsys, monkeypatch, "train", "moons", "--out", "S", *QUICK, "--fit", words)
        assert not Path("S").exists()
