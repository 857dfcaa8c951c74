"""The commands on tables of mixed columns: train, sample, score, impute, evaluate."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from commands import flowstone, refused
from flowstone.errors import DataWarning
from flowstone.runs import Run

SMALL = ["--set", "width=16", "blocks=1", "bins=4", "--steps", 20, "--quiet", "--no-plots"]


def people(rows: int = 120) -> pa.Table:
    rng = np.random.default_rng(0)
    return pa.table({
        "name": [f"person {number}" for number in range(rows)],
        "sex": rng.choice(["F", "M"], rows),
        "age": rng.integers(18, 30, rows),
        "height": 170 + 8 * rng.normal(size=rows),
        "city": [None if gap else "Bern" for gap in rng.random(rows) < 0.2],
        "unit": ["m"] * rows,
    })  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a table and a run folder of it."""
    made = tmp_path_factory.mktemp("mixed")
    pyarrow.parquet.write_table(people(), made / "people.parquet")
    flowstone("train", made / "people.parquet", "--out", made / "R", *SMALL)
    return made


@pytest.fixture(autouse=True)
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)


def test_the_run_records_the_kinds_and_every_column_has_its_bits(folder):
    record = json.loads((folder / "R" / "flow.json").read_text())
    assert record["recipe"] == "mixed"
    kinds = {kind["column"]: kind["kind"] for kind in record["data"]["schema"]}
    assert kinds["sex"] == "categorical"
    assert kinds["unit"] == "constant"
    metrics = json.loads((folder / "R" / "metrics.json").read_text())
    assert set(metrics["bits_per_column"]) == set(metrics["independent_bits_per_column"]) == set(record["columns"])


def test_samples_are_rows_of_the_table():
    flowstone("sample", "R", "-n", 50, "--out", "s.parquet", "--seed", 1)
    drawn = pyarrow.parquet.read_table("s.parquet")
    assert drawn.column_names == ["sex", "age", "height", "city", "unit"]
    assert set(drawn.column("sex").to_pylist()) <= {"F", "M"}
    assert drawn.column("age").type == pa.int64()
    assert drawn.column("city").null_count == 0
    flowstone("sample", "R", "-n", 50, "--out", "gaps.parquet", "--gaps")
    assert pyarrow.parquet.read_table("gaps.parquet").column("city").null_count > 0


def test_values_given(capsysbinary):
    flowstone("sample", "R", "-n", 20, "--out", "-", "--given", "sex=F,M", "age=21")
    rows = list(csv.DictReader(io.StringIO(capsysbinary.readouterr().out.decode())))
    assert len(rows) == 20
    assert {row["age"] for row in rows} == {"21"}
    assert {row["sex"] for row in rows} == {"F", "M"}
    Path("known.csv").write_text("sex,age\nM,25\nF,\n")
    flowstone("sample", "R", "-n", 2, "--out", "g.csv", "--given-table", "known.csv")
    rows = list(csv.DictReader(io.StringIO(Path("g.csv").read_text())))
    assert [row["sex"] for row in rows] == ["M", "M", "F", "F"]
    assert [row["age"] for row in rows[:2]] == ["25", "25"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--given", "sexx=F"], "unknown column 'sexx': did you mean 'sex'?"),
        (["--given", "sex=Female"], "given sex=Female: unknown level 'Female'"),
        (["--given", "sex=F", "--given-table", "people.parquet"], "give one of them"),
        (["--given-table", "people.parquet"], "column 'name' is identifier: it is not part of the density"),
        (["--given", "unit=m"], "column 'unit' is constant: it is not part of the density"),
        (["--given", "age=old"], "given age=old: holds 'old'; it is integer: a number"),
        (["--given", "age=21,NA"], "given age=NA: it is a gap; leave the column out instead"),
        (["--temperature", "-1"], "temperature=-1.0 must be positive and finite"),
    ],
)
def test_bad_values_given_leave_no_file(capsys, monkeypatch, words, said):
    assert said in refused(capsys, monkeypatch, "sample", "R", "-n", 1, "--out", "bad.csv", *words)
    assert not Path("bad.csv").exists()


def test_rows_with_gaps_are_scored_in_place():
    flowstone("score", "R", "people.parquet", "--out", "scored.parquet", "--per-column")
    scored, table = pyarrow.parquet.read_table("scored.parquet"), people()
    assert scored.select(table.column_names).equals(table)
    assert np.isfinite(scored.column("log_prob").to_numpy()).all()
    per_column = [name for name in scored.column_names if name.startswith("log_prob:")]
    assert per_column == [f"log_prob:{name}" for name in ("sex", "age", "height", "city")]
    assert scored.column("log_prob:city").null_count == table.column("city").null_count


def test_a_column_of_scores_is_not_replaced(capsys, monkeypatch):
    flowstone("score", "R", "people.parquet", "--out", "once.csv")
    line = refused(capsys, monkeypatch, "score", "R", "once.csv", "--out", "twice.csv")
    assert "it has a column 'log_prob' already" in line
    assert not Path("twice.csv").exists()


def test_gaps_are_filled_several_times():
    flowstone("impute", "R", "people.parquet", "--out", "filled.parquet", "--draws", 2)
    filled, table = pyarrow.parquet.read_table("filled.parquet"), people()
    assert filled.column("imputation").to_pylist() == [1] * len(table) + [2] * len(table)
    assert filled.column("city").null_count == 0
    assert (
        filled.select(["name", "sex", "age", "height"])
        .slice(0, len(table))
        .equals(table.select(["name", "sex", "age", "height"]))
    )
    flowstone("impute", "R", "people.parquet", "--out", "likely.csv", "--how", "likely")
    assert len(list(csv.DictReader(io.StringIO(Path("likely.csv").read_text())))) == len(table)


def test_evaluation_with_and_without_the_training_table(folder, capsys, monkeypatch):
    flowstone("evaluate", "R", "people.parquet", "--json")
    figures = json.loads(capsys.readouterr().out)
    assert figures["n_test"] == 120
    assert set(figures["bits_per_column"]) == {"sex", "age", "height", "city"}
    flowstone("evaluate", "R")
    again = capsys.readouterr().out
    assert "independent columns" in again
    (folder / "people.parquet").rename(folder / "gone.parquet")
    try:
        flowstone("evaluate", "R")
        told = capsys.readouterr()
        assert "these are the figures of the training" in told.err
        assert "independent columns" in told.out
    finally:
        (folder / "gone.parquet").rename(folder / "people.parquet")


def test_names_with_equals_signs_and_rows_without_values(tmp_path, monkeypatch, capsysbinary):
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{'FM'[i % 2]},{i % 7},{i % 5}\n" for i in range(60))
    Path("t.csv").write_text(f"size=x,size,age\n{rows}")
    flowstone("train", "t.csv", "--out", "R", *SMALL, "--no-report")
    flowstone("sample", "R", "-n", 3, "--out", "-", "--given", "size=x=F", "size=4")
    assert capsysbinary.readouterr().out.count(b'"F",4,') == 3
    Path("holes.csv").write_text("size=x,size,age\nF,1,2\n,,\nM,3,\n")
    flowstone("score", "R", "holes.csv", "--out", "scored.csv")
    assert b"holes.csv: rows without any value left out: 1" in capsysbinary.readouterr().err


def test_the_table_that_is_read_is_not_written_over(capsys, monkeypatch):
    before = Path("people.parquet").read_bytes()
    for words in (
        ["impute", "R", "people.parquet"],
        ["impute", "R", "people.parquet", "--draws", 2],
        ["sample", "R", "-n", 1, "--given-table", "people.parquet"],
    ):
        line = refused(capsys, monkeypatch, *words, "--out", "people.parquet")
        assert "cannot write people.parquet: the table is read from it" in line
    assert Path("people.parquet").read_bytes() == before


def test_a_column_of_imputations_is_not_replaced(capsys, monkeypatch):
    pyarrow.parquet.write_table(people().append_column("imputation", pa.array([1] * 120)), "done.parquet")
    line = refused(capsys, monkeypatch, "impute", "R", "done.parquet", "--out", "twice.csv", "--draws", 2)
    assert "it has a column 'imputation' already" in line
    assert not Path("twice.csv").exists()


def test_a_flow_of_numbers_says_what_mixed_densities_can_do(capsys, monkeypatch):
    flowstone("train", "moons", "--out", "M", "--set", "couplings=2", "hidden=8", "--steps", 2, "--quiet", "--no-plots")
    Path("m.csv").write_text("x1,x2\n0.5,\n")
    assert "--flow mixed" in refused(capsys, monkeypatch, "impute", "M", "m.csv", "--out", "f.csv")
    assert "--flow mixed" in refused(capsys, monkeypatch, "score", "M", "m.csv", "--out", "f.csv", "--per-column")
    assert "--flow mixed" in refused(capsys, monkeypatch, "sample", "M", "-n", 1, "--out", "f.csv", "--gaps")
    assert not Path("f.csv").exists()


def test_columns_are_modelled_in_the_order_of_their_names_and_read_again_by_the_recorded_kinds(monkeypatch):
    flowstone("train", "people.parquet", "--columns", "city,unit,sex", "--out", "O", *SMALL)
    assert Run("O").record["columns"] == ["city", "sex"]
    flowstone("sample", "O", "-n", 3, "--out", "o.parquet")
    assert pyarrow.parquet.read_table("o.parquet").column_names == ["city", "unit", "sex"]

    def infer(*_, **__):
        raise AssertionError("the kinds are in the record")

    monkeypatch.setattr("flowstone.data.source.decide", infer)
    assert Run("O").dataset().columns == ("city", "sex")


def test_dates_beside_numbers_are_learned_and_come_back_as_dates(folder):
    day = np.datetime64("2024-01-01") + np.arange(40) * 3
    rows = pa.table({"day": day, "x": np.random.default_rng(0).normal(size=40)})
    pyarrow.parquet.write_table(rows, folder / "days.parquet")
    flowstone("train", "days.parquet", "--out", "D", *SMALL, "--kinds", "day=datetime")
    flowstone("sample", "D", "-n", 5, "--out", "d.parquet")
    assert pyarrow.parquet.read_table("d.parquet").schema.types == rows.schema.types


def test_levels_that_were_not_learned_are_evaluated_and_not_imputed(capsys, monkeypatch):
    table = people(20).set_column(1, "sex", pa.array(["X"] + ["F"] * 19))
    pyarrow.parquet.write_table(table, "new.parquet")
    with pytest.warns(
        DataWarning, match=r"new.parquet: column 'sex', row 1: unknown level 'X' .*\(1 such row\)"
    ) as told:
        flowstone("evaluate", "R", "new.parquet", "--json")
    assert len(told) == 1
    figures = json.loads(capsys.readouterr().out)
    assert figures["n_not_finite"] == 0
    assert "n_also_in_training" in figures
    line = refused(capsys, monkeypatch, "impute", "R", "new.parquet", "--out", "filled.parquet")
    assert "column 'sex', row 1: unknown level 'X': its levels are F, M" in line
