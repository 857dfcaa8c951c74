import json
import math
from contextlib import nullcontext

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowstone.data import TOYS, DataRequest, add_noise, noise_widths, open_source, read_table, reopen
from flowstone.errors import DataError, FlowstoneError, OutputError, SettingError, UnknownNameError


def write(path, text: str):
    path.write_text(text)
    return path


def good_csv(path, rows: int = 60):
    rng = np.random.default_rng(0)
    lines = [f"{a},{b},{c}" for a, b, c in rng.normal(size=(rows, 3)).round(6)]
    return write(path, "a,b,c\n" + "\n".join(lines) + "\n")


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".npy"])
def test_the_three_forms_read_the_same(tmp_path, ending):
    values = np.random.default_rng(0).normal(size=(30, 2))
    path = tmp_path / f"t{ending}"
    if ending == ".npy":
        np.save(path, values)
    elif ending == ".csv":
        write(path, "x1,x2\n" + "\n".join(f"{float(a)!r},{float(b)!r}" for a, b in values))
    else:
        pyarrow.parquet.write_table(pa.table({"x1": values[:, 0], "x2": values[:, 1]}), path)
    table = read_table(path)
    assert table.columns == ["x1", "x2"]
    np.testing.assert_array_equal(table.numbers(table.columns), values)


@pytest.mark.parametrize("text", ["1,2\n3,4\n", "1;2\n3;4\n", "1\t2\n3\t4\n"])
def test_csv_without_names_and_with_other_delimiters(tmp_path, text):
    table = read_table(write(tmp_path / "t.csv", text))
    assert table.columns == ["x1", "x2"]
    assert table.numbers(["x2", "x1"]).tolist() == [[2, 1], [4, 3]]


def test_integers_booleans_and_decimals_are_numbers(tmp_path):
    path = tmp_path / "t.parquet"
    pyarrow.parquet.write_table(
        pa.table({"i": [1, 2], "b": [True, False], "f": pa.array([0.5, 1.5], pa.float32())}), path
    )
    assert read_table(path).numbers(["i", "b", "f"]).tolist() == [[1, 1, 0.5], [2, 0, 1.5]]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("empty.csv", "", "the file is empty"),
        ("empty.csv", "a,b\n", "the table is empty"),
        ("folder.csv.d", "", "cannot read '.d'"),
        ("t.csv", "a,b\n1,2\n3,x\n", "column 'b' is not numeric (row 2 holds 'x')"),
        ("t.csv", "a,b\n1,2\n3,\n", "column 'b', row 2 is missing or NaN; 1 of 2 rows"),
        ("t.csv", "a,b\n1,inf\n3,4\n", "column 'b', row 1 is infinite"),
        ("t.csv", "a,b\n1,2\n3\n", "row 2 has 1 fields instead of 2 ('3'); rows of another length: 1"),
        ("t.parquet", "not parquet", "cannot be read as .parquet"),
        ("t.npy", "not npy", "cannot be read as .npy"),
        ("t.sav", "", "cannot read '.sav'; tables are .csv, .tsv, .txt"),
        ("t.csv", "a,b\n1,\0\n", "byte 7 of the file is 0 (NUL), which no text holds"),
        ("t.csv", "a,b", "the table is empty (0 rows, 2 columns)"),
        ("t.csv", "# nothing\n", "the file holds comments alone"),
        ("t.csv.gz", "a,b\n", "the table is empty"),
        ("t.csv.zip", "PK\x03\x04", "cannot be read as .csv"),
        ("t.csv", "a,b\n" + "1,2\n3,4\n" * 5, "10 rows; the 80/10/10 split needs at least 20"),
        ("t.csv", "a,b\n" + "".join(f"{i},7\n" for i in range(40)), "('a' identifier, 'b' constant); nothing is left"),
    ],
)
def test_bad_tables_are_named_in_one_line(tmp_path, name, text, message):
    path = write(tmp_path / name, text)
    with pytest.raises(DataError) as caught:
        open_source(str(path), mixed=False)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).count(f"{path}: ") == 1


def test_integers_beyond_float64_are_rounded_not_refused(tmp_path):
    pyarrow.parquet.write_table(pa.table({"id": [2**53 + 1, 2**60]}), tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet").numbers(["id"])[1, 0] == 2.0**60


def test_a_first_line_of_numbers_with_a_gap_is_data(tmp_path):
    assert len(read_table(write(tmp_path / "t.csv", "1,,3\n4,5,6\n"))) == 2


def test_rounding_errors_are_no_gaps_and_atoms_are_told(tmp_path):
    fuzzy = np.array([0.1 + 0.2, 0.3] * 100 + [1.0, 2.0] * 100)[:, None]
    assert noise_widths(fuzzy)[0] > 1e-3
    rng = np.random.default_rng(0)
    spiky = np.where(rng.random(400) < 0.3, 0.0, rng.normal(size=400))
    np.save(tmp_path / "t.npy", np.stack([spiky, rng.normal(size=400)], 1))
    assert open_source(str(tmp_path / "t.npy"), mixed=False).description["atoms"] == {"x1": 0.0}


def test_missing_files_and_unknown_names_tell_the_nearest(tmp_path):
    good_csv(tmp_path / "wine.csv")
    with pytest.raises(DataError, match=r"no such file; did you mean 'wine\.csv'"):
        open_source(str(tmp_path / "wines.csv"))
    with pytest.raises(UnknownNameError, match="did you mean 'moons'"):
        open_source("moon")
    with pytest.raises(DataError, match="no column 'd'"):
        open_source(str(tmp_path / "wine.csv"), columns=["a", "d"])
    with pytest.raises(DataError, match="no column 'z'"):
        open_source(str(tmp_path / "wine.csv"), context=["z"])
    with pytest.raises(DataError, match="every column is context"):
        open_source(str(tmp_path / "wine.csv"), context=["a", "b", "c"])
    with pytest.raises(SettingError, match="'a' is named more than once"):
        open_source(str(tmp_path / "wine.csv"), columns=["a", "b", "a"])
    with pytest.raises(SettingError, match="seed=-1"):
        open_source(str(tmp_path / "wine.csv"), seed=-1)
    with pytest.raises(SettingError, match="is a toy"):
        open_source("moons", context=["a"])
    with pytest.raises(SettingError, match="points=100 is for toys"):
        open_source(str(tmp_path / "wine.csv"), points=100)


def test_a_pickle_in_npy_is_not_opened(tmp_path):
    np.save(tmp_path / "t.npy", np.array([{"a": 1}, None], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="cannot be read"):
        open_source(str(tmp_path / "t.npy"))


def test_drop_missing_leaves_out_those_rows_alone(tmp_path):
    text = good_csv(tmp_path / "t.csv").read_text() + "nan,1,2\n1,inf,2\n"
    path = write(tmp_path / "t.csv", text)
    with pytest.raises(DataError, match="to leave them out: drop_missing=True"):
        open_source(str(path), mixed=False)
    dataset = open_source(str(path), drop_missing=True)
    assert dataset.description["rows"] == 60


def test_split_is_a_partition_and_repeats_by_seed(tmp_path):
    path = good_csv(tmp_path / "t.csv", 95)
    one, two, other = (open_source(str(path), seed=seed) for seed in (0, 0, 1))
    assert [len(one.train), len(one.validation), len(one.test)] == [77, 9, 9]  # pyright: ignore
    together = torch.cat([one.train.x, one.validation.x, one.test.x])  # pyright: ignore
    everything = read_table(path).numbers(["a", "b", "c"])
    np.testing.assert_array_equal(np.sort(together.numpy(), 0), np.sort(everything, 0))
    assert torch.equal(one.test.x, two.test.x)
    assert not torch.equal(one.test.x, other.test.x)


def test_a_context_that_is_no_number_is_refused_with_what_takes_one(tmp_path):
    path = write(
        tmp_path / "t.csv", "a,b,day\n" + "".join(f"{i % 7}.5,{'xy'[i % 2]},2024-01-0{i % 9 + 1}\n" for i in range(40))
    )
    for name, value in (("b", "x"), ("day", "2024-01-01")):
        words = (
            rf"column '{name}' is not numeric \(row 1 holds '{value}'\), and a context is; without it the recipe mixed"
        )
        with pytest.raises(DataError, match=words):
            open_source(path, columns=["a"], context=[name])


def test_whole_numbers_that_no_float_holds_keep_their_digits(tmp_path):
    path = tmp_path / "t.parquet"
    codes = [2**63 + 3 * (number * 7919 % 1000) for number in range(200)]
    pyarrow.parquet.write_table(
        pa.table({"code": pa.array(codes, pa.uint64()), "x": [9 + i / 7 for i in range(200)]}), path
    )
    dataset = open_source(path)
    assert dataset.mixed
    assert dataset.kinds is not None
    assert set(dataset.kinds.decode(dataset.test.x).column("code").to_pylist()) <= set(codes)
    assert not open_source(path, exclude=["code"]).mixed


def test_context_and_columns_are_chosen_by_name(tmp_path):
    path = good_csv(tmp_path / "t.csv")
    dataset = open_source(str(path), context=["b"])
    assert (dataset.columns, dataset.context_columns) == (("a", "c"), ("b",))
    assert dataset.test.context is not None
    assert dataset.test.context.shape == (6, 1)
    assert open_source(str(path), columns=["c", "a"]).columns == ("c", "a")


def test_noise_goes_to_columns_with_repeated_values_alone(tmp_path):
    rng = np.random.default_rng(0)
    values = np.stack([rng.normal(size=500), rng.integers(0, 4, 500), 10 * rng.normal(size=500).round(1)], 1)
    widths = noise_widths(values)
    assert widths[0] == 0
    assert widths[1] == pytest.approx(0.05 * values[:, 1].std())  # the gap of 1 is wider than 5% of the deviation
    assert widths[2] == pytest.approx(0.05 * values[:, 2].std()) or widths[2] == pytest.approx(1.0)
    noisy = add_noise(values, widths, seed=0)
    assert (np.abs(noisy - values) <= widths / 2).all()
    assert np.array_equal(noisy[:, 0], values[:, 0])
    np.testing.assert_array_equal(noisy, add_noise(values, widths, seed=0))


def test_the_same_data_can_be_opened_again_unless_it_changed(tmp_path):
    path = good_csv(tmp_path / "t.csv")
    dataset = open_source(str(path), seed=3, context=["a"])
    assert torch.equal(reopen(dataset.description).test.x, dataset.test.x)
    good_csv(path, 61)
    with pytest.raises(DataError, match="has changed"):
        reopen(dataset.description)
    path.unlink()
    with pytest.raises(DataError, match="no such file"):
        reopen(dataset.description)


def test_excluded_columns_are_left_out_of_columns_and_context(tmp_path):
    path = good_csv(tmp_path / "t.csv")
    dataset = open_source(path, columns=["c", "b", "a"], context=["a"], exclude=["b"])
    assert (dataset.columns, dataset.context_columns) == (("c",), ("a",))
    again = reopen(dataset.description)
    assert (again.columns, again.context_columns) == (("c",), ("a",))
    assert torch.equal(again.test.x, dataset.test.x)
    dataset = open_source(path, context=["a", "b"], exclude="b")
    assert (dataset.columns, dataset.context_columns) == (("c",), ("a",))
    with pytest.raises(DataError, match="every column is context or left out"):
        open_source(path, exclude=["a", "b", "c"])


def test_constant_columns_ids_and_text_are_left_out_and_said(tmp_path):
    """Row numbers were learned as a dimension, and constant columns refused."""
    draws = np.random.default_rng(0).normal(size=(50, 3))
    rows = [f"{i},{a},5,{b},0,{c},note {i}" for i, (a, b, c) in enumerate(draws)]
    path = write(tmp_path / "t.csv", ",a,k,b,l,c,note\n" + "\n".join(rows))
    dataset = open_source(path, context=["l", "c"])
    assert (dataset.columns, dataset.context_columns) == (("a", "b"), ("c",))
    assert dataset.kinds is not None
    assert dataset.kinds.left_out == ("column_1", "k", "l", "note")
    assert sum("left out as an identifier" in note for note in dataset.kinds.notes) == 2
    again = reopen(json.loads(json.dumps(dataset.description)))
    assert torch.equal(again.test.x, dataset.test.x)
    assert open_source(path, columns=["column_1", "a"]).columns == ("column_1", "a")  # asked for by name
    with pytest.raises(DataError, match=r"every column is context or left out \('column_1' identifier, 'a' left_out, "):
        open_source(path, exclude=["a", "b", "c"])


def test_the_index_of_a_frame_in_parquet_is_left_out(tmp_path):
    about = {"index_columns": ["__index_level_0__"], "columns": [], "pandas_version": "2.0"}
    values = np.random.default_rng(0).normal(size=(60, 2))
    table = pa.table({"h": values[:, 0], "w": values[:, 1], "__index_level_0__": np.arange(60)[::-1] ** 2 % 7})
    pyarrow.parquet.write_table(table.replace_schema_metadata({"pandas": json.dumps(about)}), tmp_path / "t.parquet")
    assert open_source(tmp_path / "t.parquet").columns == ("h", "w")


def test_kinds_that_are_asked_for_are_recorded(tmp_path):
    path = good_csv(tmp_path / "t.csv")
    dataset = open_source(path, kinds={"a": "bounded(-9,9)", "b": "identifier"})
    assert dataset.columns == ("a", "c")
    assert dataset.kinds is not None
    assert dataset.kinds.kind("a").name == "bounded"
    assert DataRequest.from_record(json.loads(json.dumps(dataset.description))).kinds == {
        "a": "bounded(-9,9)",
        "b": "identifier",
    }
    for kinds in ({"a": 3}, "a=positive", 1, [1]):
        with pytest.raises(SettingError, match="kinds="):
            open_source(path, kinds=kinds)
    with pytest.raises(DataError, match="no column 'd'"):
        open_source(path, kinds={"d": "positive"})


def test_a_request_may_be_given_and_changed(tmp_path):
    request = DataRequest(good_csv(tmp_path / "t.csv"), seed=3, context="b")
    dataset = open_source(request, seed=1)
    assert dataset.description["seed"] == 1
    assert dataset.context_columns == ("b",)
    with pytest.raises(UnknownNameError, match="unknown data option 'colums': did you mean 'columns'"):
        open_source("moons", colums=["a"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 1.5}, "seed=1.5 must be a whole number"),
        ({"points": True}, "points=True must be a whole number"),
        ({"drop_missing": "yes"}, "drop_missing='yes' must be True or False"),
        ({"columns": [1]}, r"columns=\(1,\) must be names of columns"),
        ({"context": ["a", "a"]}, "context: column 'a' is named more than once"),
        ({"size": True}, "size=True: expected a side"),
        ({"size": "0x3"}, "size=0x3: expected a side"),
        ({"source": ""}, "source='' must be a name or a path"),
    ],
)
def test_options_of_data_are_checked_where_they_enter(options, message):
    with pytest.raises(SettingError, match=message):
        DataRequest(**{"source": "t.csv"} | options)


OPTIONS = st.fixed_dictionaries(
    {"source": st.text(min_size=1)},
    optional={
        "seed": st.integers(0, 2**63 - 1),
        "context": st.lists(st.text(), unique=True),
        "columns": st.lists(st.text(), unique=True),
        "exclude": st.lists(st.text(), unique=True),
        "drop_missing": st.booleans(),
        "kinds": st.dictionaries(st.text(), st.text()),
        "na": st.lists(st.text()),
        "dequantize": st.booleans(),
    },
)


@given(OPTIONS)
def test_a_recorded_request_comes_back(options):
    request = DataRequest(**options)
    record = json.loads(json.dumps({"kind": "table", "rows": 3, **request.as_record("table")}))
    assert DataRequest.from_record(record) == request
    assert "download" not in record
    assert "points" not in record


def test_toys_open_fresh_or_fixed():
    fresh, fixed = open_source("banana"), open_source("banana", points=300)
    assert fresh.train is TOYS["banana"]
    assert len(fixed.train) == 300  # pyright: ignore
    assert torch.equal(fresh.test.x, fixed.test.x)
    assert fresh.entropy == TOYS["banana"].entropy
    assert not torch.equal(fresh.test.x[: len(fresh.validation)], fresh.validation.x)
    with pytest.raises(SettingError, match="points=3 must be a whole number, at least 20"):
        open_source("banana", points=3)


def test_writing_refuses_what_it_cannot_write(tmp_path):
    from flowstone.data.tables import write_table

    table = pa.table({"a": [1.0]})
    with pytest.raises(OutputError, match=r"must end in \.csv, \.parquet"):
        write_table(tmp_path / "t.txt", table)
    with pytest.raises(OutputError, match="no folder"):
        write_table(tmp_path / "nowhere" / "t.csv", table)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(FlowstoneError, match="cannot write"):
        write_table(tmp_path / "folder.csv", table)
    assert [p.name for p in tmp_path.iterdir()] == ["folder.csv"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("header", ["größe,gewicht\n", ""])
def test_text_is_read_in_its_encoding(tmp_path, encoding, header):
    """A byte-order mark is not part of the first name or number, and text in cp1252 is read with a warning."""
    path = tmp_path / "table.csv"
    path.write_text(header + "".join(f"{i}.5,{2 * i}\n" for i in range(60)), encoding=encoding)
    with pytest.warns(UserWarning, match="cp1252") if encoding == "cp1252" and header else nullcontext():
        table = read_table(path)
    assert table.columns == (["größe", "gewicht"] if header else ["x1", "x2"])
    assert table.numbers(table.columns).shape == (60, 2)


@pytest.mark.parametrize("option", ["na", "columns", "exclude", "context", "size", "encoding"])
def test_options_of_other_types_are_refused(option):
    with pytest.raises(SettingError, match=f"^{option}=") as refused:
        DataRequest("t.csv", **{option: 0.5 if option != "na" else None})  # pyright: ignore[reportArgumentType]
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("mixed", [False, True])
def test_values_are_written_with_the_digits_that_tell_them_apart(tmp_path, mixed):
    draw = np.random.default_rng(0)
    columns = {
        "seconds": [str(round(1.7e9 + 20 * value, 4)) for value in draw.random(60)],
        "key": [f"{10**17 + value}" for value in draw.integers(0, 10**6, 60)],
        "cents": [f"{value:g}" for value in draw.integers(0, 900_000, 60) / 100],
    }
    lines = list(zip(*columns.values(), strict=True))
    (tmp_path / "table.csv").write_text("\n".join(map(",".join, [tuple(columns), *lines])))
    dataset = open_source(tmp_path / "table.csv", mixed=mixed)
    x = dataset.without_noise(dataset.test.x, most=math.inf).tolist()
    shown = [[dataset.in_words(name, value) for name, value in zip(columns, row, strict=True)] for row in x]
    wanted = [list(lines[row]) for row in np.random.default_rng(0).permutation(60)[:6]]
    kept = [0, 1, 2] if mixed else [0, 2]  # float64 has too few digits of a key
    assert [[row[index] for index in kept] for row in shown] == [[row[index] for index in kept] for row in wanted]
    assert dataset.kinds is not None
    ends = dataset.kinds.kind("seconds").describe().range.split(" … ")
    assert ends == [min(columns["seconds"], key=float), max(columns["seconds"], key=float)]
    assert dataset.in_words("seconds", math.nan) == "missing"
