"""flowstone score and evaluate: likelihoods of rows, and rows that have none."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet
import pytest

from commands import flowstone, make_run, make_table, refused
from flowstone.cli.values import print_metrics
from flowstone.errors import OutputError
from flowstone.files import to_json
from flowstone.streaming import Scorer


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def scores_of(path: str) -> list[float]:
    with open(path) as file:
        return [float(row["log_prob"]) for row in csv.DictReader(file)]


def test_samples_score_as_they_evaluate(capsys):
    make_run("R", "moons")
    flowstone("sample", "R", "-n", 5000, "--out", "s.csv")
    flowstone("score", "R", "s.csv", "--out", "scored.csv")
    assert Path("scored.csv").read_text().startswith('"x1","x2","log_prob"\n')
    scores = scores_of("scored.csv")
    assert len(scores) == 5000
    flowstone("evaluate", "R", "s.csv", "--json")
    figures = json.loads(capsys.readouterr().out)
    assert figures["n_test"] == 5000
    assert figures["nll_nats"] == pytest.approx(-np.mean(scores), abs=1e-4)


def test_other_columns_are_carried_along(tmp_path):
    make_table(tmp_path / "t.csv")
    make_run("R", "t.csv", columns=["c", "a"])
    new = {"who": ["x", "y"], "a": [0.1, 0.2], "c": [1.0, 2.0]}
    pyarrow.parquet.write_table(pa.table(new), "new.parquet")
    flowstone("score", "R", "new.parquet", "--out", "out.parquet")
    scored = pyarrow.parquet.read_table("out.parquet")
    assert scored.column_names == ["who", "a", "c", "log_prob"]
    assert scored.drop_columns(["log_prob"]).to_pydict() == new


def test_a_column_log_prob_is_not_replaced(tmp_path, capsys, monkeypatch):
    make_table(tmp_path / "t.csv")
    make_run("R", "t.csv")
    flowstone("score", "R", "t.csv", "--out", "scored.csv")
    line = refused(capsys, monkeypatch, "score", "R", "scored.csv", "--out", "again.csv")
    assert "scored.csv: it has a column 'log_prob' already" in line
    assert not (tmp_path / "again.csv").exists()


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_rows_without_a_finite_score_are_counted_and_the_status_is_1(tmp_path, capsys, monkeypatch, ending):
    make_table(tmp_path / "t.csv")
    make_run("R", "t.csv")
    (tmp_path / "far.csv").write_text("a,b,c\n1,2,3\n1e60,2,3\n1,2,3\n-1e60,0,0\n")
    line = refused(capsys, monkeypatch, "score", "R", "far.csv", "--out", f"o.{ending}")
    assert f"o.{ending} is written, but log_prob is NaN or infinite in 2 rows of 4, first in row 2" in line
    if ending == "csv":
        assert np.isfinite(scores_of("o.csv")).tolist() == [True, False, True, False]


def test_rows_with_gaps_are_left_out_where_that_is_wanted(tmp_path, capsys):
    make_table(tmp_path / "t.csv")
    make_run("R", "t.csv")
    (tmp_path / "nan.csv").write_text("a,b,c\n1,2,3\n1,,3\n")
    flowstone("score", "R", "nan.csv", "--out", "o.csv", "--drop-missing")
    assert len(scores_of("o.csv")) == 1
    assert "left out 1 rows" in capsys.readouterr().err


def test_nets_in_bfloat16(capsys):
    make_run("R", "moons")
    flowstone("sample", "R", "-n", 50, "--out", "s.parquet")
    figures = {}
    for precision in ("fp32", "bf16"):
        flowstone("sample", "R", "-n", 50, "--out", "s.npz", "--precision", precision)
        flowstone("score", "R", "s.parquet", "--out", "scored.parquet", "--precision", precision)
        capsys.readouterr()
        flowstone("evaluate", "R", "s.parquet", "--json", "--precision", precision)
        with np.load("s.npz") as samples:
            scores = pyarrow.parquet.read_table("scored.parquet").column("log_prob").to_numpy()
            figures[precision] = (samples["x"], scores, json.loads(capsys.readouterr().out)["nll_nats"])
    for plain, low in zip(*figures.values(), strict=True):
        assert not np.array_equal(plain, low)
        np.testing.assert_allclose(plain, low, atol=0.3)


def test_what_is_wrong_is_said_in_one_line(tmp_path, capsys, monkeypatch):
    make_table(tmp_path / "t.csv")
    make_run("R", "t.csv")
    (tmp_path / "two.csv").write_text("a,b\n1,2\n")
    (tmp_path / "nan.csv").write_text("a,b,c\n1,2,3\n1,,3\n")
    (tmp_path / "text.csv").write_text("a,b,c\n1,2,red\n")
    np.save(tmp_path / "two.npy", np.zeros((5, 2)))
    said = [
        (["evaluate", "nowhere"], "nowhere is not a run folder"),
        (["evaluate", "R", "two.csv"], "no column 'c'"),
        (["evaluate", "R", "nan.csv"], "column 'b', row 2 is missing"),
        (["score", "R", "t.csv", "--out", "t.csv"], "the table is read from it"),
        (["score", "R", "two.csv", "--out", "o.csv"], "no column 'c'"),
        (["score", "R", "two.npy", "--out", "o.csv"], "2 columns, expected 3"),
        (["score", "R", "text.csv", "--out", "o.csv"], "column 'c' is not numeric (row 1 holds 'red')"),
        (["score", "R", "nan.csv", "--out", "o.csv"], "to leave them out: --drop-missing"),
        (["score", "R", "t.csv", "--out", "o.txt"], "must end in .csv, .parquet"),
        (["score", "R", "t.csv", "--out", "no/o.csv"], "no folder no"),
    ]
    before = sorted(str(p) for p in tmp_path.rglob("*"))
    for words, message in said:
        assert message in refused(capsys, monkeypatch, *words)
    assert sorted(str(p) for p in tmp_path.rglob("*")) == before


def test_no_file_of_the_table_is_written_over(tmp_path, capsys, monkeypatch):
    (tmp_path / "rows").mkdir()
    make_table(tmp_path / "rows" / "1.csv")
    make_table(tmp_path / "rows" / "2.csv")
    make_run("R", "rows/1.csv")
    before = (tmp_path / "rows" / "1.csv").read_bytes()
    for table, out, said in (
        ("rows", "rows/1.csv", "it would be a part of the table rows"),
        ("rows", "rows/new.csv", "it would be a part of the table rows"),
        ("rows/*.csv", "rows/1.csv", "the table is read from it"),
    ):
        assert said in refused(capsys, monkeypatch, "score", "R", table, "--out", out)
    assert sorted(path.name for path in (tmp_path / "rows").iterdir()) == ["1.csv", "2.csv"]
    assert (tmp_path / "rows" / "1.csv").read_bytes() == before


def test_columns_that_csv_cannot_hold_are_named_before_rows_are_scored(tmp_path, capsysbinary, monkeypatch):
    make_table(tmp_path / "t.csv", rows=40)
    make_run("R", "t.csv")
    table = pyarrow.csv.read_csv("t.csv")
    pyarrow.feather.write_feather(
        table.append_column("tags", pa.array([["a"]] * 40)).append_column("raw", pa.array([b"\xff"] * 40)), "t.feather"
    )
    flowstone("score", "R", "t.feather", "--out", "o.parquet")
    assert pyarrow.parquet.read_table("o.parquet").column("tags").to_pylist() == [["a"]] * 40
    monkeypatch.setattr(Scorer, "score", None)
    for out in ("o.csv", "-"):
        with pytest.raises(OutputError, match=r"\.csv cannot hold column 'tags' of type list<.*; .parquet may"):
            flowstone("score", "R", "t.feather", "--out", out)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    pyarrow.feather.write_feather(table.append_column("raw", pa.array([b"\xff"] * 40)), "t.feather")
    with pytest.raises(OutputError, match="column 'raw' holds bytes that are no text"):
        flowstone("score", "R", "t.feather", "--out", "o.csv")
    pyarrow.feather.write_feather(table.append_column("raw", pa.array([b"abc"] * 40)), "t.feather")
    flowstone("score", "R", "t.feather", "--out", "-")
    assert b',"abc",' in capsysbinary.readouterr().out
    assert not Path("o.csv").exists()


def test_rows_that_were_learned_from_are_counted(capsys):
    rows = np.random.default_rng(0).normal(size=(300, 2))
    for name, part in {"all.csv": rows, "some.csv": np.concatenate([rows[:40], rows[:20] + 1])}.items():
        np.savetxt(name, part, delimiter=",", header="a,b", comments="", fmt="%.17g")
    flowstone("train", "all.csv", "--out", "R", "--steps", 2, "--no-plots", "--quiet")
    capsys.readouterr()
    flowstone("evaluate", "R", "some.csv")
    assert "of these, 40 rows are also in the table that was learned from" in capsys.readouterr().out
    flowstone("evaluate", "R", "some.csv", "--json")
    assert json.loads(capsys.readouterr().out)["n_also_in_training"] == 40


def test_rows_that_are_left_out_are_not_counted_as_learned_from(capsys):
    rows = np.random.default_rng(0).normal(size=(100, 2)).round(3).astype(str)
    rows[:30, 0] = ""
    Path("gaps.csv").write_text("\n".join(["a,b", *map(",".join, rows)]))
    flowstone("train", "gaps.csv", "--drop-missing", "--out", "R", "--steps", 2, "--no-plots", "--quiet")
    capsys.readouterr()
    flowstone("evaluate", "R", "gaps.csv", "--drop-missing")
    assert "of these, 70 rows are also in the table that was learned from" in capsys.readouterr().out


def test_figures_that_are_not_finite_are_said_so():
    figures = {"nll_nats": math.nan, "nll_stderr": math.nan, "bits_per_dim": math.inf, "n_test": 9, "n_not_finite": 1}
    figures |= {"baselines_nll_nats": {"Gaussian": math.inf}, "round_trip_max": math.nan}
    for metrics in (figures, json.loads(to_json(figures))):  # of a training, and of its run folder
        lines: list[str] = []
        print_metrics(metrics, lines.append)
        assert lines == [
            "test NLL not finite ± not finite nats on 9 rows",
            "   not finite nats: Gaussian",
            "of these, 1 row has a likelihood that is not finite",
            "bits/dim not finite",
            "round trip at most not finite",
        ]


def anomalies_of(path: str) -> list[dict[str, str]]:
    with open(path) as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("digits", [None, 1])
def test_p_values_and_blame_of_a_flow(tmp_path, digits):
    make_table(tmp_path / "t.csv", rows=400)
    if digits is not None:  # values repeat, so that the training adds noise
        values = np.loadtxt("t.csv", delimiter=",", skiprows=1).round(digits)
        np.savetxt("t.csv", values, delimiter=",", header="a,b,c", comments="", fmt=f"%.{digits}f")
    make_run("R", "t.csv")
    (tmp_path / "new.csv").write_text("a,b,c\n0.1,0.2,0.3\n0.1,0.2,90.5\n-70.5,0.2,0.3\n")
    flowstone("score", "R", "new.csv", "--out", "o.csv", "--anomaly")
    rows = anomalies_of("o.csv")
    assert list(rows[0]) == ["a", "b", "c", "log_prob", "p_value", "blame"]
    p_values = [float(row["p_value"]) for row in rows]
    assert p_values[0] > 0.1
    np.testing.assert_allclose(p_values[1:], 1 / 41)  # a tenth of 400 rows is held out
    assert [row["blame"] for row in rows[1:]] == ["c", "a"]
    flowstone("score", "R", "t.csv", "--out", "all.csv", "--anomaly")
    assert 0.3 < np.mean([float(row["p_value"]) for row in anomalies_of("all.csv")]) < 0.7


def test_p_values_and_blame_of_mixed_columns(tmp_path):
    random = np.random.default_rng(0)
    sex = random.choice(["f", "m"], 300)
    height = np.where(sex == "f", 160, 185) + random.normal(0, 4, 300)
    table = pa.table({"sex": sex, "height": height, "age": random.integers(20, 60, 300)})
    pyarrow.parquet.write_table(table, "t.parquet")
    small = ["--set", "width=16", "blocks=1", "bins=4", "--steps", 100, "--quiet", "--no-plots"]
    flowstone("train", "t.parquet", "--out", "R", *small)
    new = {"sex": ["f", "f", None, None], "height": [160.0, 900.0, 161.0, None], "age": [40, 40, 40, None]}
    pyarrow.parquet.write_table(pa.table(new), "new.parquet")
    flowstone("score", "R", "new.parquet", "--out", "o.parquet", "--anomaly")
    scored = pyarrow.parquet.read_table("o.parquet").to_pydict()
    assert scored["p_value"][1] == pytest.approx(1 / 31)
    assert scored["p_value"][0] > 0.1
    assert scored["blame"][1] == "height"
    assert scored["blame"][2] in ("height", "age")
    assert scored["blame"][3] is None  # nothing is there


def test_anomalies_need_the_rows_of_the_training(tmp_path, capsys, monkeypatch):
    make_table(tmp_path / "t.csv")
    make_run("R", "t.csv")
    flowstone("score", "R", "t.csv", "--out", "o.csv", "--anomaly")
    assert "column 'log_prob' already" in refused(
        capsys, monkeypatch, "score", "R", "o.csv", "--out", "p.csv", "--anomaly"
    )
    (tmp_path / "taken.csv").write_text("a,b,c,blame\n1,2,3,4\n")
    words = ("score", "R", "taken.csv", "--out", "p.csv", "--anomaly")
    assert "a column 'blame' already" in refused(capsys, monkeypatch, *words)
    (tmp_path / "t.csv").rename("other.csv")
    words = ("score", "R", "other.csv", "--out", "p.csv", "--anomaly")
    assert "anomalies need the held-out rows of the training: " in refused(capsys, monkeypatch, *words)
    assert not (tmp_path / "p.csv").exists()


def test_evaluate_says_whether_a_density_is_good_enough(capsys, monkeypatch):
    make_run("R", "moons")
    flowstone("sample", "R", "-n", 600, "--out", "own.csv")
    capsys.readouterr()
    flowstone("evaluate", "R", "own.csv")
    assert "verdict: good: a classifier tells samples from held-out rows with AUC" in capsys.readouterr().out
    flowstone("evaluate", "R", "own.csv", "--json")
    told = json.loads(capsys.readouterr().out)["verdict"]
    assert told["word"] == "good"
    assert set(told["coverage"]) == {"0.5", "0.9"}
    monkeypatch.setattr("flowstone.cli.values.find_spec", lambda name: None)
    flowstone("evaluate", "R", "own.csv", "--json")
    said = capsys.readouterr()
    assert "verdict" not in json.loads(said.out)
    assert "pip install flowstone[evaluation]" in said.err
