"""flowstone sample: every form of output, context, and values that are not finite."""

import json

import numpy as np
import pyarrow.parquet
import pytest

from commands import flowstone, make_run, make_table, refused
from flowstone.runs import Run, load


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_samples_in_every_form_and_by_seed(tmp_path):
    make_run("R", "uniform")
    for ending in ("csv", "parquet", "npz", "png"):
        flowstone("sample", "R", "-n", 300, "--out", f"s.{ending}", "--seed", 5, "--temperature", 0.9)
        assert (tmp_path / f"s.{ending}").stat().st_size > 1000
    flowstone("sample", "R", "-n", 300, "--out", "t.npz", "--seed", 5, "--temperature", 0.9)
    with np.load("s.npz") as one, np.load("t.npz") as two:
        assert one["x"].shape == (300, 2)
        np.testing.assert_array_equal(one["x"], two["x"])


def test_samples_and_scores_go_to_standard_output(tmp_path, capsysbinary):
    make_run("R", "uniform")
    flowstone("sample", "R", "-n", 20, "--out", "s.csv")
    flowstone("sample", "R", "-n", 20, "--out", "-")
    assert capsysbinary.readouterr().out == (tmp_path / "s.csv").read_bytes()
    flowstone("score", "R", "s.csv", "--out", "scored.csv")
    flowstone("score", "R", "s.csv", "--out", "-")
    assert capsysbinary.readouterr().out == (tmp_path / "scored.csv").read_bytes()
    assert not (tmp_path / "-").exists()


def test_tables_of_samples_are_written_as_they_come(monkeypatch):
    monkeypatch.setattr("flowstone.cli.sample.ROWS_AT_ONCE", 3000)
    make_run("R", "uniform")
    samples = load("R").sample(20_000, seed=2)
    flowstone("sample", "R", "-n", 20_000, "--seed", 2, "--out", "s.parquet")
    file = pyarrow.parquet.ParquetFile("s.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [8192, 8192, 3616]
    np.testing.assert_array_equal(np.stack([c.to_numpy() for c in file.read().columns], 1), samples.numpy())
    flowstone("sample", "R", "-n", 20_000, "--seed", 2, "--out", "s.csv")
    np.testing.assert_allclose(np.loadtxt("s.csv", delimiter=",", skiprows=1), samples.numpy(), rtol=1e-5, atol=1e-6)


def test_context_is_given_by_name_and_once(tmp_path, capsys, monkeypatch):
    make_table(tmp_path / "t.csv")
    make_run("R", "t.csv", context=["a"])
    flowstone("sample", "R", "-n", 7, "--given", "a=1.5", "--out", "s.parquet")
    sampled = pyarrow.parquet.read_table("s.parquet")
    assert sampled.column_names == ["b", "c", "a"]
    assert sampled.column("a").to_pylist() == [1.5] * 7
    for given, said in (
        (["--given", "a=2", "--given", "a=0"], "--given a: given twice, as 2 and as 0"),
        (["--given", "a=2", "a=2"], "--given a: given twice"),
        (["--given", "b=2"], "--given a=VALUE"),
        (["--given", "a=x"], "--given a=x: expected a number"),
        ([], "this flow is conditional: --given a=VALUE"),
    ):
        assert said in refused(capsys, monkeypatch, "sample", "R", "-n", 5, "--out", "o.csv", *given)
        assert not (tmp_path / "o.csv").exists()


def test_columns_with_many_digits_and_odd_names(tmp_path):
    rng = np.random.default_rng(0)
    lines = [f"{a:.0f},{b}" for a, b in zip(1.7e9 + rng.permutation(10**6)[:300], rng.normal(size=300), strict=True)]
    (tmp_path / "t.csv").write_text("the-time,b\n" + "\n".join(lines))
    make_run("R", "t.csv")
    for precision in ("fp32", "bf16"):
        flowstone("sample", "R", "-n", 300, "--out", "s.parquet", "--precision", precision)
        assert len(set(pyarrow.parquet.read_table("s.parquet").column("the-time").to_pylist())) > 290
    make_run("C", "t.csv", context=["the-time"])
    flowstone("sample", "C", "-n", 5, "--given", "the-time=1700000100", "--out", "s.NPZ")
    with np.load("s.NPZ") as sampled:
        assert sampled["x"].shape == (5, 1)
    assert not list(tmp_path.glob(".s*"))


@pytest.mark.parametrize("ending", ["csv", "parquet", "npz", "png"])
def test_values_that_are_not_finite_are_counted_and_the_status_is_1(tmp_path, capsys, monkeypatch, ending):
    make_run("R", "uniform")
    words = ["sample", "R", "-n", 300, "--temperature", 1.5e38, "--out", f"s.{ending}"]
    line = refused(capsys, monkeypatch, *words)
    assert f"s.{ending} is written, but a value is NaN or infinite in" in line
    assert "rows of 300, first in row" in line
    assert (tmp_path / f"s.{ending}").exists()
    if ending == "parquet":
        values = np.stack([c.to_numpy() for c in pyarrow.parquet.read_table("s.parquet").columns], 1)
        bad = ~np.isfinite(values).all(1)
        assert f"in {bad.sum()} rows of 300, first in row {bad.argmax() + 1}" in line


def test_samples_of_a_flow_keep_grids_bounds_and_types(tmp_path):
    rng = np.random.default_rng(0)
    columns = {"count": rng.integers(0, 400, 300), "time": 2**55 + rng.integers(0, 10**6, 300) * 64}
    columns |= {"price": np.round(rng.exponential(3, 300), 2), "angle_deg": rng.uniform(0, 360, 300)}
    table = pyarrow.table(columns | {"on": rng.random(300) < 0.5})
    pyarrow.parquet.write_table(table, "t.parquet")
    make_run("R", "t.parquet", mixed=False)
    flowstone("sample", "R", "-n", 400, "--out", "s.parquet")
    drawn = pyarrow.parquet.read_table("s.parquet")
    assert drawn.schema.equals(table.schema)
    count, time, price, angle, _ = (column.to_numpy() for column in drawn.columns)
    assert count.min() >= 0
    assert price.min() >= 0
    np.testing.assert_array_equal(price, np.round(price, 2))
    assert len(np.unique(price)) > 100
    assert ((angle >= 0) & (angle < 360)).all()
    assert abs(time.mean() / (2**55 + 32e6) - 1) < 1e-8


def test_a_run_whose_data_is_gone_can_be_sampled(tmp_path, capsys, monkeypatch):
    path = make_table(tmp_path / "t.csv")
    make_run("R", "t.csv")
    path.unlink()
    assert "no such file" in refused(capsys, monkeypatch, "evaluate", "R")
    flowstone("sample", "R", "-n", 3, "--out", "s.csv")


def test_what_is_wrong_is_said_in_one_line(tmp_path, capsys, monkeypatch):
    make_run("R", "moons")
    said = [
        (["-n", "5", "--out", "o.csv", "--temperature", "nan"], "temperature=nan"),
        (["-n", "5", "--out", "no/o.csv"], "no folder no"),
        (["-n", "5", "--out", "o.doc"], "must end in .csv, .parquet, .npz, .png"),
        (["-n", "0", "--out", "o.csv"], "at least one sample"),
        (["-n", "5", "--out", "o.csv", "--given", "a=1"], "takes no --given"),
        (["-n", "5", "--out", "o.csv", "--precision", "bf61"], "unknown precision 'bf61': did you mean 'bf16'?"),
    ]
    for words, message in said:
        assert message in refused(capsys, monkeypatch, "sample", "R", *words)
    assert [p.name for p in tmp_path.iterdir()] == ["R"]
    assert json.loads((tmp_path / "R" / "flow.json").read_text()) == Run("R").record
