"""flowstone columns, and what other commands make of kinds."""

import io
import json
import sys

import numpy as np
import pyarrow.parquet
import pytest

from commands import QUICK, flowstone, make_run, refused
from flowstone.cli import main
from flowstone.data.tables import read_table


def write_table(path, rows: int = 300):
    rng = np.random.default_rng(0)
    lines = ["id,price,angle,size,unit,seen,spend"]
    for i in range(rows):
        spend = 0 if rng.random() < 0.5 else rng.lognormal()
        size = "SML"[rng.integers(3)] if i % 7 else "NA"
        lines.append(f"{i},{rng.lognormal():.2f},{rng.random() * 360},{size},kg,{bool(i % 3)},{spend}")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_columns_shows_what_each_column_is(tmp_path, capsys):
    flowstone("columns", write_table(tmp_path / "t.csv"), "--kinds", "size=ordinal(S,M,L)", "--exclude", "seen")
    text = capsys.readouterr().out
    assert "read as text separated by ',', 300 rows, 7 columns" in text
    rows = {line.split()[0]: line for line in text.splitlines() if line}
    for name, kind in (
        ("id", "identifier"), ("price", "gridded"), ("angle", "circular"), ("size", "ordinal"), ("unit", "constant"),
        ("seen", "left_out"), ("spend", "positive"),
    ):  # fmt: skip
        assert f" {kind} " in rows[name]
    assert "S < M < L" in rows["size"]
    assert "14.3%" in rows["size"]
    assert "put back in samples" in rows["unit"]
    assert "column 'id': it is left out as an identifier: it counts the rows" in text
    assert "…" not in rows["size"]


def test_columns_as_json(tmp_path, capsys):
    flowstone("columns", write_table(tmp_path / "t.csv"), "--json")
    said = json.loads(capsys.readouterr().out)
    by_name = {each["name"]: each for each in said["columns"]}
    assert by_name["spend"]["head"]["atoms"] == [0.0]
    assert by_name["id"]["head"] is None
    assert by_name["size"]["gaps"] == 43


def test_columns_of_standard_input(tmp_path, capsys, monkeypatch):
    content = write_table(tmp_path / "t.csv").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    flowstone("columns", "-")
    assert "standard input: read as text" in capsys.readouterr().out


@pytest.mark.filterwarnings("default")
def test_doubts_are_one_line_on_stderr(tmp_path, capsys, monkeypatch):
    path = tmp_path / "t.csv"
    values = np.random.default_rng(0).normal(20, 3, 200).round(1)
    values[::20] = -999
    path.write_text("a\n" + "\n".join(map(str, values)))
    monkeypatch.setattr(sys, "argv", ["flowstone", "columns", str(path)])
    with pytest.raises(SystemExit, match="0"):
        main()
    out = capsys.readouterr()
    assert out.err == (
        f"flowstone: warning: {path}: column 'a': -999, in 10 rows, may stand for a gap; to read it as one: --na=-999\n"
    )
    monkeypatch.setattr(sys, "argv", ["flowstone", "columns", str(path), "--na=-999"])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert "5.0%" in (again := capsys.readouterr()).out
    assert again.err == ""


@pytest.mark.filterwarnings("default", "ignore:validation has not moved")
@pytest.mark.parametrize("command", ["columns", "train"])
def test_a_doubt_is_said_once(tmp_path, capsys, monkeypatch, command):
    path, rng = tmp_path / "t.csv", np.random.default_rng(0)
    days = [f"0{day}/0{month}/2024" for day, month in rng.integers(1, 10, (200, 2))]
    values = np.where(np.arange(200) % 20, rng.normal(20, 3, 200).round(1), 99999)
    path.write_text("day,a\n" + "\n".join(f"{day},{value}" for day, value in zip(days, values, strict=True)))
    flags = ["--steps", "2", "--no-plots", "--no-report", "--out", str(tmp_path / "run")] if command == "train" else []
    monkeypatch.setattr(sys, "argv", ["flowstone", command, str(path), *flags])
    with pytest.raises(SystemExit, match="0"):
        main()
    said = "".join(capsys.readouterr())
    assert said.count("99999, in 10 rows, may stand for a gap") == 1
    assert said.count("day and month cannot be told apart") == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--kinds", "price=positiv"], "unknown kind 'positiv': did you mean 'positive'?"),
        (["--kinds", "prize=positive"], "no column 'prize': did you mean 'price'?"),
        (["--kinds", "size=positive"], "column 'size' cannot be positive: it holds no numbers"),
        (["--kinds", "price"], "--kinds 'price': expected column=kind, such as price=positive"),
    ],
)
def test_wrong_kinds_are_refused_in_one_line(tmp_path, capsys, monkeypatch, flags, message):
    assert message in refused(capsys, monkeypatch, "columns", write_table(tmp_path / "t.csv"), *flags)


def test_a_row_of_another_length_is_told_with_its_flag(tmp_path, capsys, monkeypatch):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "1,2\n" * 9 + "3,4,5\n")
    said = refused(capsys, monkeypatch, "columns", path)
    assert said.endswith(
        "row 10 has 3 fields instead of 2 ('3,4,5'); rows of another length: 1; to leave them out: --skip-bad"
    )


@pytest.mark.filterwarnings("ignore:validation has not moved")
def test_train_leaves_out_ids_and_puts_constants_back(tmp_path, capsys):
    rng = np.random.default_rng(0)
    path, run = tmp_path / "t.csv", tmp_path / "run"
    rows = "\n".join(f"{i},{a},7,{b},kg" for i, (a, b) in enumerate(rng.normal(size=(200, 2)).cumsum(1)))
    path.write_text("id,a,k,b,unit\n" + rows)
    flowstone("train", path, "--flow", "realnvp", *[word for word in QUICK if word != "--quiet"], "--out", run)
    said = capsys.readouterr().err
    assert "column 'id': it is left out as an identifier: it counts the rows" in said
    assert "read as text separated by ',', 200 rows, 5 columns" in said
    flowstone("sample", run, "-n", "5", "--out", tmp_path / "s.csv")
    samples = read_table(tmp_path / "s.csv")
    assert samples.columns == ["a", "k", "b", "unit"]
    assert set(samples.arrow.column("k").to_pylist()) == {7}
    assert set(samples.arrow.column("unit").to_pylist()) == {"kg"}
    flowstone("score", run, path, "--out", tmp_path / "s.parquet")
    assert pyarrow.parquet.read_table(tmp_path / "s.parquet").num_rows == 200


def test_score_and_evaluate_read_as_the_training_did(tmp_path, capsys):
    rng = np.random.default_rng(0)
    path = tmp_path / "t.csv"
    lines = [f"{a};{b};x".replace(".", ",") for a, b in rng.normal(size=(200, 2))]
    path.write_text("a;b;c\n" + "\n".join([*lines, "gone;1;x", "1;2;3;4"]))
    make_run(tmp_path / "run", path, na=["gone"], skip_bad=True, drop_missing=True)
    flowstone("score", tmp_path / "run", path, "--skip-bad", "--drop-missing", "--out", tmp_path / "s.csv")
    assert "left out 1 rows" in capsys.readouterr().err
    flowstone("evaluate", tmp_path / "run", path, "--skip-bad", "--drop-missing", "--json")
    assert json.loads(capsys.readouterr().out)["n_test"] == 200
