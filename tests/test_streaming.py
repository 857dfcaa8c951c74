"""Large tables: chunks are the whole table, scores of chunks are those of the whole, and broken-off work goes on."""

import gzip
import json
import math
import os
import shutil
import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from commands import flowstone, make_run, make_table, refused
from flowstone.data import Dataset, Rows, noise, open_source, split_rows
from flowstone.data import source as source_module
from flowstone.data.tables import STDOUT, chunked, files_of, mapped, open_chunked, read_table, text_chunks, write_chunks
from flowstone.data.tables import columns as columns_module
from flowstone.errors import DataError, DataWarning, OutputError
from flowstone.files import only_writer
from flowstone.runs import Run
from flowstone.runs.checkpoint import write_record
from flowstone.streaming import Parts, Scorer, score, scorer
from flowstone.streaming.parts import parts_folder

SMALL = ["--set", "width=8", "blocks=1", "bins=4", "--steps", 3, "--quiet", "--no-plots"]


def people(rows: int, seed: int = 0) -> pa.Table:
    """A table with every kind of column, gaps, and columns that no density has."""
    rng = np.random.default_rng(seed)
    gaps = rng.random(rows) < 0.1
    cities = pa.DictionaryArray.from_arrays(rng.integers(0, 3, rows).astype(np.int32), ["Bern", "Genf", "Basel"])
    return pa.table({
        "id": [f"person {number}" for number in range(rows)],
        "sex": rng.choice(["F", "M"], rows),
        "smokes": rng.random(rows) < 0.3,
        "city": cities,
        "age": pa.array(rng.integers(18, 90, rows), mask=gaps),
        "born": pa.array(rng.integers(0, 20_000, rows).astype(np.int32)).cast(pa.date32()),
        "wind direction": rng.integers(0, 36, rows) * 10.0,
        "share": pa.array(rng.random(rows), mask=rng.random(rows) < 0.2),
        "income": rng.lognormal(10, 1, rows),
        "height": rng.normal(170, 8, rows),
        "narrow": rng.normal(0, 1, rows).astype(np.float32),
        "unit": ["m"] * rows,
        "extra": pa.array(rng.integers(0, 9, rows), pa.uint64()),
    })  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Run folders of a density of mixed columns, and of a flow of columns of numbers."""
    made = tmp_path_factory.mktemp("runs")
    pyarrow.parquet.write_table(people(300), made / "people.parquet")
    flowstone("train", made / "people.parquet", "--exclude", "extra", "--out", made / "mixed", *SMALL)
    make_run(made / "flow", make_table(made / "t.csv"))
    return made


@pytest.fixture
def small_parts(tmp_path, monkeypatch):
    """Every table that can be read in chunks is, and its parts are as small as they can be."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(chunked, "LARGE", 0)
    monkeypatch.setattr(scorer, "PART_ROWS", 1)
    return tmp_path


def whole_score(monkeypatch, *words: object) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(chunked, "LARGE", math.inf)
        flowstone("score", *words)


# --- chunks of a table ------------------------------------------------------------------------------------------------


def assert_chunks_are_the_table(path: Path | str, sizes: tuple[int, ...], **reading) -> None:
    whole, table = read_table(path, **reading), open_chunked(path, at_least=0, **reading)
    assert table is not None
    assert table.rows == len(whole)
    assert table.head.notes == whole.notes
    assert table.head.index == whole.index
    assert table.head.path == whole.path
    for size in sizes:
        for start in {0, min(size // 2, len(whole) - 1)}:
            chunks = list(table.chunks(size, start))
            assert [len(chunk) for chunk in chunks[:-1]] == [size] * (len(chunks) - 1)
            assert [chunk.start for chunk in chunks] == list(range(start, len(whole), size))
            joined = pa.concat_tables([chunk.arrow for chunk in chunks])
            assert joined.schema.equals(whole.arrow.schema, check_metadata=True)
            for name in joined.column_names:
                got, expected = joined.column(name), whole.arrow.column(name).slice(start)
                assert got.to_pylist() == expected.to_pylist(), name


def test_chunks_of_parquet_are_the_table(tmp_path):
    table = people(1000)
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet", row_group_size=170)
    assert_chunks_are_the_table(tmp_path / "t.parquet", (7, 170, 999, 5000))
    assert_chunks_are_the_table(tmp_path / "t.parquet", (64,), na=["F", "30"])
    pytest.importorskip("pandas")
    table.to_pandas().set_index("id").to_parquet(tmp_path / "indexed.parquet")
    assert_chunks_are_the_table(tmp_path / "indexed.parquet", (300,))


def test_chunks_of_a_folder_are_its_files_one_behind_the_other(tmp_path):
    for number in range(3):
        part = people(50, seed=number)
        if number == 1:  # types that are promoted, and another order of columns
            part = part.set_column(4, "age", part.column("age").cast(pa.float64())).select(part.column_names[::-1])
        pyarrow.parquet.write_table(part, tmp_path / f"{number}.parquet")
    assert_chunks_are_the_table(tmp_path, (1, 49, 60, 150))
    pyarrow.parquet.write_table(people(5).drop_columns("age"), tmp_path / "3.parquet")
    with pytest.raises(DataError, match=r"3.parquet: its columns are not those of 0.parquet: 'age'"):
        open_chunked(tmp_path, at_least=0)


@pytest.mark.parametrize(
    "texts",
    [
        ["x,y\n", "x,y\n1,2\n3,4\n"],
        ["x,y\n1,2\n3,4\n", "x,y"],
        ["x,y\n1,a\n", "x,y\n", "x,y\n,b\n2.5,b\n"],
        ["x,y\n1,2\n", "y,x\n3,4\n", "x,y\n,\n5,6\n"],
    ],
)
def test_files_of_a_folder_may_hold_names_alone(tmp_path, texts):
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.csv").write_text(text)
    assert_chunks_are_the_table(tmp_path, (1, 2, 9))


def test_row_groups_without_rows(tmp_path):
    table = people(12)
    with pyarrow.parquet.ParquetWriter(tmp_path / "0.parquet", table.schema) as writer:
        for start, count in ((0, 0), (0, 5), (5, 0), (5, 7), (12, 0)):
            writer.write_table(table.slice(start, count))
    pyarrow.parquet.write_table(table.slice(0, 0), tmp_path / "1.parquet")
    assert_chunks_are_the_table(tmp_path, (1, 5, 7, 20))


def test_columns_without_nulls_in_which_a_value_means_a_gap(tmp_path):
    fields = [pa.field("x", pa.int64(), nullable=False, metadata={"unit": "m"}), pa.field("s", pa.string())]
    table = pa.table([[1, 2, 3], ["a", "b", None]], schema=pa.schema(fields))
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    assert_chunks_are_the_table(tmp_path / "t.parquet", (1, 2))
    assert_chunks_are_the_table(tmp_path / "t.parquet", (1, 2), na=["2", "a"])
    large = open_chunked(tmp_path / "t.parquet", na=["2"], at_least=0)
    assert large is not None
    with mapped.mapped_table(large) as whole:
        assert whole.arrow.column("x").to_pylist() == [1, None, 3]


def test_layouts_of_files_are_plain(tmp_path):
    words = pa.array(["a", "b", None]).cast(pa.string_view())
    flags = pa.ExtensionArray.from_storage(pa.bool8(), pa.array([0, 1, 0], pa.int8()))
    pyarrow.parquet.write_table(pa.table({"word": words, "flag": flags}), tmp_path / "t.parquet")
    assert_chunks_are_the_table(tmp_path / "t.parquet", (1, 2))
    levels = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0], pa.int8()), words.slice(0, 2))
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([1, 3], pa.int32()), pa.array([0.5, 1.5]))
    pyarrow.feather.write_feather(pa.table({"word": words, "level": levels, "run": runs}), tmp_path / "t.feather")
    read = read_table(tmp_path / "t.feather").arrow
    kinds = [field.type.value_type if pa.types.is_dictionary(field.type) else field.type for field in read.schema]
    assert kinds == [pa.large_string(), pa.large_string(), pa.float64()]
    assert read.column("run").to_pylist() == [0.5, 1.5, 1.5]


def test_folders_that_name_a_column_hold_its_values(tmp_path):
    for folder in ("year=2023/kind=a%2Fb", "year=2024/kind=__HIVE_DEFAULT_PARTITION__", "year=2024/kind=07"):
        (tmp_path / "sales" / folder).mkdir(parents=True)
        pyarrow.parquet.write_table(pa.table({"x": [0.5, 1.5]}), tmp_path / "sales" / folder / "0.parquet")
    table = read_table(tmp_path / "sales").arrow
    assert table.column("year").to_pylist() == [2023, 2023, 2024, 2024, 2024, 2024]
    assert table.column("kind").to_pylist() == ["a/b", "a/b", "07", "07", None, None]
    assert_chunks_are_the_table(tmp_path / "sales", (1, 3, 9))
    assert_chunks_are_the_table(f"{tmp_path}/sales/*/*/*.parquet", (4,))
    assert read_table(f"{tmp_path}/sales/*/*/*.parquet").arrow.equals(table)
    pyarrow.parquet.write_table(pa.table({"x": [2.5], "year": [1999]}), tmp_path / "sales/year=2024/kind=07/1.parquet")
    assert read_table(tmp_path / "sales").arrow.column("year").to_pylist()[4] == 1999
    assert read_table(tmp_path / "sales/year=2023/kind=a%2Fb/0.parquet").columns == ["x"]


def test_files_in_hidden_folders_are_no_part_of_a_table(tmp_path):
    for folder in (".ipynb_checkpoints", "_temporary/0", "a", "_year=2024"):
        (tmp_path / folder).mkdir(parents=True)
        make_table(tmp_path / folder / "t.csv", rows=3)
    assert [path.parent.name for path in files_of(str(tmp_path))] == ["_year=2024", "a"]


def no_text(folder: Path) -> None:
    bad = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(np.array([0, 1], np.int32)), pa.py_buffer(b"\xff")])
    pyarrow.parquet.write_table(pa.table({"x": ["a", *bad]}), folder / "0.parquet")


def too_many_digits(folder: Path) -> None:
    for number, values in enumerate(([1, 2**53 + 1], [0.5])):
        pyarrow.parquet.write_table(pa.table({"x": values}), folder / f"{number}.parquet")


def numbers_and_words(folder: Path) -> None:
    for number, cell in enumerate(("1", "2", "a")):
        (folder / f"{number}.csv").write_text(f"x,y\n{cell},1\n")


def open_quote(folder: Path) -> None:
    (folder / "0.csv").write_text('x,y\n1,a\n2,"b\n3,c\n4,d\n')


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (no_text, "0.parquet: column 'x' is damaged: .*UTF8"),
        (too_many_digits, "0.parquet: column 'x' cannot be double, the type that its files have in common: .*9007199"),
        (numbers_and_words, "column 'x' has different types in its files: string in 2.csv, int64 before it"),
        (open_quote, r"0.csv: row 2: a quote \(\"\) is opened and never closed"),
    ],
)
def test_a_large_table_is_refused_as_a_small_one(tmp_path, make, said):
    make(tmp_path)
    with pytest.raises(DataError, match=said) as whole:
        read_table(tmp_path)
    with pytest.raises(DataError, match=said) as chunks:
        list(open_chunked(tmp_path, at_least=0).chunks(1))  # pyright: ignore[reportOptionalMemberAccess]
    assert str(whole.value) == str(chunks.value)


@pytest.mark.parametrize("first", ["", "2024-01-01 00:00:00Z", "7"])
@pytest.mark.parametrize("last", ["2024-01-01 00:00:00Z", "2024-01-01 00:00:00.5Z", "2024-01-01 00:00:00"])
def test_moments_of_a_zone_in_chunks_are_those_of_the_whole_text(tmp_path, monkeypatch, first, last):
    monkeypatch.setattr("flowstone.data.tables.text_chunks.BLOCK", 256)
    lines = [f"{first},{row}" for row in range(60)] + [f"{last},{row}" for row in range(60)]
    (tmp_path / "t.csv").write_text("\n".join(["at,x", *lines]) + "\n")
    assert_chunks_are_the_table(tmp_path / "t.csv", (50,))


def problem_of(function, *arguments, **options) -> str | None:
    try:
        function(*arguments, **options)
    except DataError as error:
        return str(error)
    return None


def test_memory_does_not_grow_with_the_rows_that_were_read(tmp_path, monkeypatch):
    monkeypatch.setattr(chunked, "BATCH", 10_000)
    monkeypatch.setattr(chunked, "BUFFER", 1 << 14)
    rng, rows = np.random.default_rng(0), 100_000
    with pyarrow.parquet.ParquetWriter(tmp_path / "t.parquet", pa.schema([("x", pa.float64())])) as writer:
        for _ in range(8):
            writer.write_table(pa.table({"x": rng.normal(size=rows)}), row_group_size=rows)
    table = open_chunked(tmp_path / "t.parquet", at_least=0)
    assert table is not None
    before, most = pa.total_allocated_bytes(), 0
    for _ in table.chunks(10_000):
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 3 * 8 * rows  # of eight row groups


CELLS = [
    ["1", "-7", "", "12"], ["1.5", "3", "NA"], ["True", "false", ""], ["2020-01-02", "", "2021-12-31"],
    ["2020-01-02 10:00:00", "2020-01-03"], ["10:30", "11:00:01"], ["a", "b", ""], ["1,5", "2,25", "7"], ["5%", "7 %"],
    ["3/4/2020", "5/6/2020"], ["13/4/2020", "5/6/2020"], ["3/4/20", "4/4/20"], ["1.2.2020", "28.2.2020"], ["", ""],
    ["2020-01-02 10:00:00.123"], ["18446744073709551615", "3"], ["99999999999999999999", "1"], ["+5", "6"],
    ["3/3/2020"], ["€ 5", "-6 €"], ["1'000", "2"], ["inf", "2"], ["0x1F", "1"], ["1e5", "2"], [" 4", "5 "], ["(3)"],
]  # fmt: skip


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_chunks_of_text_have_the_types_and_values_of_the_whole_text(tmp_path_factory, data):
    """Blocks hold cells of different sets, so that types are not known from the first ones."""
    columns = data.draw(st.integers(1, 3))
    rows = ["before" + ";x" * columns]
    for _ in range(data.draw(st.integers(1, 5))):
        sets = [data.draw(st.sampled_from(CELLS)) for _ in range(columns)]
        seed, count = data.draw(st.integers(0, 99)), data.draw(st.integers(1, 40))
        rng = np.random.default_rng(seed)
        rows += [";".join(["w", *(str(rng.choice(cells)) for cells in sets)]) for _ in range(count)]
        if data.draw(st.booleans()):
            rows.append(";" * columns)  # a blank row
    path = tmp_path_factory.mktemp("text") / "t.csv"
    path.write_text("\n".join(rows) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_chunks, "BLOCK", 64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # doubts, which are among the notes
            if (problem := problem_of(read_table, path)) is None:
                assert_chunks_are_the_table(path, (3, 1000))
            assert problem_of(open_chunked, path, at_least=0) == problem


def test_text_in_every_dialect(tmp_path, monkeypatch):
    monkeypatch.setattr(text_chunks, "BLOCK", 256)
    rows = [(f"{n % 7},5", f"Käse {n}", n % 28 + 1, f"{n:05d}") for n in range(200)]
    lines = ["# a comment", "price;cheese;day;zip", *(f"{a};{b};{c}.12.2020;{d}" for a, b, c, d in rows)]
    for encoding in ("utf-8", "utf-16"):
        (tmp_path / f"{encoding}.csv").write_text("\n".join(lines), encoding=encoding)
        assert_chunks_are_the_table(tmp_path / f"{encoding}.csv", (90, 500))
    with gzip.open(tmp_path / "t.csv.gz", "wt") as file:
        file.write("\n".join(lines))
    assert_chunks_are_the_table(tmp_path / "t.csv.gz", (90,))
    (tmp_path / "blanks.txt").write_text("\n".join(f" {n}   {n / 7:.3f}  w{n % 3}" for n in range(100)))
    assert_chunks_are_the_table(tmp_path / "blanks.txt", (30,))
    bad = [*lines[1:], "1;2", *lines[2:50]]
    (tmp_path / "bad.csv").write_text("\n".join(bad))
    assert_chunks_are_the_table(tmp_path / "bad.csv", (30,), skip_bad=True)
    problem = problem_of(read_table, tmp_path / "bad.csv")
    assert problem is not None
    assert problem_of(open_chunked, tmp_path / "bad.csv", at_least=0) == problem


def test_what_is_read_whole(tmp_path):
    pyarrow.parquet.write_table(people(10), tmp_path / "t.parquet")
    np.save(tmp_path / "t.npy", np.zeros((3, 2)))
    assert open_chunked(tmp_path / "t.parquet") is None  # it is small
    assert open_chunked("-", at_least=0) is None
    assert open_chunked(tmp_path / "t.npy", at_least=0) is None
    assert open_chunked(tmp_path / "missing.parquet", at_least=0) is None


# --- scores of chunks -------------------------------------------------------------------------------------------------


def cut(table: pa.Table, rows: int) -> pa.Table:
    return table.take(np.arange(rows) % len(table))


@pytest.mark.parametrize(
    ("source", "flags"),
    [
        ("t.parquet", []), ("t.parquet", ["--per-column"]), ("t.parquet", ["--na", "F"]), ("t.csv", ["--drop-missing"]),
        ("t.csv.gz", ["--na", "F"]),
    ],
)  # fmt: skip
def test_parts_of_a_mixed_table_have_the_scores_of_the_whole_bit_for_bit(small_parts, monkeypatch, runs, source, flags):
    once = Scorer(runs / "mixed").density.rows_at_once
    table = cut(people(500, seed=3), once + 77)
    if source == "t.parquet":
        pyarrow.parquet.write_table(table, source, row_group_size=1000)
    else:
        plain = table.set_column(3, "city", table.column("city").cast(pa.string()))
        pyarrow.csv.write_csv(plain, "plain.csv")
        plain_bytes = Path("plain.csv").read_bytes()
        Path(source).write_bytes(gzip.compress(plain_bytes) if source.endswith("gz") else plain_bytes)
    score_words = [runs / "mixed", source, "--out"]
    whole_score(monkeypatch, *score_words, "whole.parquet", *flags)
    whole = pyarrow.parquet.read_table("whole.parquet")
    for rows in (1, 10**9):  # one block of the density in a part, and all of them
        monkeypatch.setattr(scorer, "PART_ROWS", rows)
        monkeypatch.setattr(scorer, "PART_VALUES", 10**12)
        flowstone("score", *score_words, "parts.parquet", *flags)
        parts = pyarrow.parquet.read_table("parts.parquet")
        assert parts.schema.equals(whole.schema, check_metadata=True)
        for name in whole.column_names:
            same = [np.asarray(t.column(name).to_numpy()) for t in (parts, whole)]
            assert same[0].tobytes() == same[1].tobytes() or parts.column(name).equals(whole.column(name)), name
        assert not Path("parts.parquet.parts").exists()


@pytest.mark.parametrize("out", ["csv", "parquet"])
def test_parts_of_numbers_have_the_scores_of_the_whole_bit_for_bit(small_parts, monkeypatch, runs, out, capsysbinary):
    once = Scorer(runs / "flow").density.rows_at_once
    values = np.random.default_rng(1).normal(size=(2 * once + 5, 3))
    values[7, 1] = np.nan
    pyarrow.parquet.write_table(pa.table({"a": values[:, 0], "b": values[:, 1], "c": values[:, 2]}), "t.parquet")
    words = [runs / "flow", "t.parquet", "--drop-missing", "--out"]
    whole_score(monkeypatch, *words, f"whole.{out}")
    flowstone("score", *words, f"parts.{out}")
    if out == "csv":
        assert Path("parts.csv").read_bytes() == Path("whole.csv").read_bytes()
        assert capsysbinary.readouterr().err.decode().splitlines() == ["left out 1 rows with missing values"] * 2
        flowstone("score", *words, "-")
        assert capsysbinary.readouterr().out == Path("whole.csv").read_bytes()
    else:
        assert pyarrow.parquet.read_table("parts.parquet").equals(pyarrow.parquet.read_table("whole.parquet"))


def test_nothing_is_printed_for_a_chunk_without_rows(capsysbinary):
    rows = pa.table({"a": [1, 2]})
    write_chunks(STDOUT, [rows.slice(0, 0), rows, rows.slice(0, 0), pa.concat_tables([rows.slice(0, 0), rows])])
    assert capsysbinary.readouterr().out == b'"a"\n1\n2\n1\n2\n'


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_full_standard_output_is_named(monkeypatch):
    with open("/dev/full", "wb", buffering=0) as full, monkeypatch.context() as patch:
        patch.setattr("sys.stdout", SimpleNamespace(buffer=full))
        with pytest.raises(OutputError, match="cannot write to standard output: No space left"):
            write_chunks(STDOUT, [pa.table({"a": [1.0]})])


def test_numbers_as_text_are_read_whole(small_parts, monkeypatch, runs):
    """What a comma means in one row depends on other rows: 1,234 is 1234 unless another cell is 1,5."""
    once = Scorer(runs / "mixed").density.rows_at_once
    table = cut(people(50), once + 10)
    heights = pa.array(["170,234"] * once + ["170,5"] * 10)
    pyarrow.parquet.write_table(table.set_column(table.column_names.index("height"), "height", heights), "t.parquet")
    whole_score(monkeypatch, runs / "mixed", "t.parquet", "--out", "whole.parquet")
    flowstone("score", runs / "mixed", "t.parquet", "--out", "parts.parquet")
    assert pyarrow.parquet.read_table("parts.parquet").equals(pyarrow.parquet.read_table("whole.parquet"))


def test_rows_without_a_finite_score_are_counted_over_all_parts(small_parts, capsys, monkeypatch, runs):
    once = Scorer(runs / "flow").density.rows_at_once
    values = np.zeros((2 * once, 3))
    values[[5, once + 3], 0] = 1e60
    pyarrow.parquet.write_table(pa.table(dict(zip("abc", values.T, strict=True))), "t.parquet")
    line = refused(capsys, monkeypatch, "score", runs / "flow", "t.parquet", "--out", "o.parquet")
    assert f"o.parquet is written, but log_prob is NaN or infinite in 2 rows of {2 * once}, first in row 6" in line
    assert len(pyarrow.parquet.read_table("o.parquet")) == 2 * once


@pytest.mark.parametrize(
    ("run", "column", "value", "said"),
    [
        ("mixed", "smokes", 2, "column 'smokes', row {row} is 2; it is boolean: 0 or 1"),
        ("flow", "b", None, "column 'b', row {row} is missing or NaN; 1 of rows {first} to {last} hold such values"),
        ("flow", "b", "red", "column 'b' is not numeric (row 1 holds 'red')"),
    ],
)
def test_what_is_wrong_is_said_by_the_row_of_the_table_and_nothing_is_left(
    small_parts, capsys, monkeypatch, runs, run, column, value, said
):
    once = Scorer(runs / run).density.rows_at_once
    rows = once + 20
    table = cut(people(50), rows) if run == "mixed" else pa.table({n: np.zeros(rows) for n in "abc"})
    cells = table.column(column).to_pylist() if value != 2 else np.zeros(rows, dtype=int).tolist()
    cells = [value] * rows if value == "red" else [*cells[: once + 4], value, *cells[once + 5 :]]
    place = table.column_names.index(column)
    pyarrow.parquet.write_table(table.set_column(place, column, pa.array(cells)), "t.parquet")
    line = refused(capsys, monkeypatch, "score", runs / run, "t.parquet", "--out", "o.parquet")
    assert said.format(row=once + 5, first=once + 1, last=rows) in line
    assert [path.name for path in small_parts.iterdir()] == ["t.parquet"]


def test_levels_that_were_not_learned_are_scored_alike_and_named_once(small_parts, monkeypatch, runs):
    once = Scorer(runs / "mixed").density.rows_at_once
    table = cut(people(50), 2 * once + 20)
    cells = table.column("sex").to_pylist()
    cells[4] = cells[once + 1] = cells[2 * once + 3] = "X"
    pyarrow.parquet.write_table(table.set_column(table.column_names.index("sex"), "sex", pa.array(cells)), "t.parquet")
    said = r"t.parquet: column 'sex', row 5: unknown level 'X' .* of probability 0.003322 \(3 such rows\)"
    with pytest.warns(DataWarning, match=said) as told:
        whole_score(monkeypatch, runs / "mixed", "t.parquet", "--out", "whole.parquet", "--per-column", "--anomaly")
    with pytest.warns(DataWarning, match=said) as told_of_parts:
        flowstone("score", runs / "mixed", "t.parquet", "--out", "o.parquet", "--per-column", "--anomaly")
    assert len(told) == len(told_of_parts) == 1
    found = pyarrow.parquet.read_table("o.parquet")
    assert found.equals(pyarrow.parquet.read_table("whole.parquet"))
    row = found.slice(4, 1).to_pylist()[0]
    assert row["log_prob:sex"] == pytest.approx(-math.log(301), abs=1e-5)
    assert math.isfinite(row["log_prob"])
    assert 0 < row["p_value"] < 1


def test_a_column_log_prob_is_not_replaced(small_parts, capsys, monkeypatch, runs):
    pyarrow.parquet.write_table(pa.table({n: [0.0] for n in ["a", "b", "c", "log_prob"]}), "t.parquet")
    line = refused(capsys, monkeypatch, "score", runs / "flow", "t.parquet", "--out", "o.parquet")
    assert "t.parquet: it has a column 'log_prob' already" in line
    assert [path.name for path in small_parts.iterdir()] == ["t.parquet"]


# --- work that is broken off ------------------------------------------------------------------------------------------


class BrokenOff(BaseException):
    """As of a process that is killed."""


@pytest.fixture
def broken_off(small_parts, monkeypatch, runs):
    """A table of six parts and a scoring that was broken off after ``k`` of them; and the rows that are scored."""
    once = Scorer(runs / "flow").density.rows_at_once
    values = np.random.default_rng(0).normal(size=(5 * once + 9, 3))
    pyarrow.parquet.write_table(pa.table(dict(zip("abc", values.T, strict=True))), "t.parquet")
    whole_score(monkeypatch, runs / "flow", "t.parquet", "--out", "whole.parquet")
    scored: list[int] = []
    most = -1
    plain = Scorer.score

    def counted(self, table, **options):
        if len(scored) == most:
            raise BrokenOff
        scored.append(len(table))
        return plain(self, table, **options)

    def break_off(after: int) -> None:
        nonlocal most
        scored.clear()
        Path("o.parquet").unlink(missing_ok=True)
        most = after
        with pytest.raises(BrokenOff):
            flowstone("score", runs / "flow", "t.parquet", "--out", "o.parquet")
        assert not Path("o.parquet").exists()
        scored.clear()
        most = -1

    monkeypatch.setattr(Scorer, "score", counted)
    return break_off, scored, once


@pytest.mark.parametrize("after", [0, 1, 4, 5])
def test_a_broken_off_scoring_repeats_no_finished_part(broken_off, runs, capsys, after):
    break_off, scored, once = broken_off
    break_off(after)
    flowstone("score", runs / "flow", "t.parquet", "--out", "o.parquet")
    assert sum(scored) == (5 - after) * once + 9
    assert pyarrow.parquet.read_table("o.parquet").equals(pyarrow.parquet.read_table("whole.parquet"))
    assert not Path("o.parquet.parts").exists()
    said = capsys.readouterr().err
    assert (f"finished, in o.parquet.parts: {after}; the work goes on behind them" in said) == (after > 0)


def test_who_interrupts_is_told_how_to_go_on(broken_off, runs, monkeypatch, capsys):
    _, scored, once = broken_off

    def pressed(self, table, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "score", pressed)
        with pytest.raises(SystemExit) as stop:
            flowstone("score", runs / "flow", "t.parquet", "--out", "o.parquet")
    assert stop.value.code == 130
    said = "flowstone: interrupted; what is finished is in o.parquet.parts; the same command goes on from there\n"
    assert capsys.readouterr().err == said
    flowstone("score", runs / "flow", "t.parquet", "--out", "o.parquet")
    assert sum(scored) == 5 * once + 9


def test_a_scoring_broken_off_while_it_writes_scores_nothing_again(broken_off, runs, monkeypatch):
    break_off, scored, once = broken_off
    with monkeypatch.context() as patch:
        patch.setattr(score, "write_chunks", lambda *_: break_off.nothing())
        with pytest.raises(AttributeError):
            flowstone("score", runs / "flow", "t.parquet", "--out", "o.parquet")
    assert sum(scored) == 5 * once + 9
    scored.clear()
    flowstone("score", runs / "flow", "t.parquet", "--out", "o.parquet")
    assert scored == []
    assert pyarrow.parquet.read_table("o.parquet").equals(pyarrow.parquet.read_table("whole.parquet"))


def test_one_command_at_a_time_scores_to_an_output(broken_off, runs, monkeypatch, capsys):
    break_off, scored, once = broken_off
    break_off(2)
    with only_writer(parts_folder(Path("o.parquet"))):
        line = refused(capsys, monkeypatch, "score", runs / "flow", "t.parquet", "--out", "o.parquet")
        assert line == "flowstone: o.parquet.parts: another command writes it"
    flowstone("score", runs / "flow", "t.parquet", "--out", "o.parquet")
    assert sum(scored) == 3 * once + 9
    assert not Path("o.parquet.parts").exists()


def test_parts_of_another_table_run_or_setting_are_not_used(broken_off, runs, capsys):
    break_off, scored, once = broken_off
    break_off(2)
    flowstone("score", runs / "flow", "t.parquet", "--out", "o.parquet", "--drop-missing")
    assert sum(scored) == 5 * once + 9
    assert capsys.readouterr().err == "o.parquet.parts is of another setting: the work starts anew\n"
    break_off(2)
    table = pyarrow.parquet.read_table("t.parquet")
    pyarrow.parquet.write_table(table.slice(1), "t.parquet")
    flowstone("score", runs / "flow", "t.parquet", "--out", "o.parquet")
    assert sum(scored) == 5 * once + 8
    assert "is of another table: the work starts anew" in capsys.readouterr().err
    break_off(2)
    record = json.loads((runs / "flow" / "flow.json").read_text())
    write_record(runs / "flow", record | {"training": {"seed": 7}})
    flowstone("score", runs / "flow", "t.parquet", "--out", "o.parquet")
    assert sum(scored) == 5 * once + 8
    assert "is of another run: the work starts anew" in capsys.readouterr().err


def test_a_table_that_changes_while_it_is_scored_is_refused(broken_off, runs, monkeypatch, capsys):
    plain = Scorer.score

    def changing(self, table, **options):
        Path("t.parquet").touch()
        return plain(self, table, **options)

    monkeypatch.setattr(Scorer, "score", changing)
    line = refused(capsys, monkeypatch, "score", runs / "flow", "t.parquet", "--out", "o.parquet")
    assert "t.parquet or " in line
    assert "has changed while rows were scored" in line
    assert not Path("o.parquet").exists()
    assert not Path("o.parquet.parts").exists()


def test_a_folder_that_holds_other_files_is_left_alone(tmp_path):
    folder = tmp_path / "o.csv.parts"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"o.csv.parts is for parts of the output, but holds 'thesis.txt'"):
        Parts(tmp_path / "o.csv", {})
    assert (folder / "thesis.txt").exists()


@pytest.mark.parametrize("content", ["[1]", "[" * 100_000, "{", "a pipe"])
def test_a_damaged_record_of_parts_starts_anew(tmp_path, content):
    Parts(tmp_path / "o.csv", {"a": 1}).add(pa.table({"x": [1.0]}))
    record = tmp_path / "o.csv.parts" / "parts.json"
    if content == "a pipe":
        record.unlink()
        os.mkfifo(record)
    else:
        record.write_text(content)
    assert Parts(tmp_path / "o.csv", {"a": 1}).count == 0
    assert json.loads(record.read_text()) == {"a": 1}


def test_a_damaged_part_is_named(tmp_path):
    parts = Parts(tmp_path / "o.csv", {"a": 1})
    parts.add(pa.table({"x": [1.0]}))
    (tmp_path / "o.csv.parts" / "part-000001.arrow").write_bytes(b"no table")
    with pytest.raises(OutputError, match=r"part-000001.arrow: cannot be read"):
        list(Parts(tmp_path / "o.csv", {"a": 1}))


def test_the_digest_of_a_run_is_of_its_description_and_weights(runs, tmp_path):
    for name in ("flow.json", "flow.safetensors"):
        (tmp_path / name).write_bytes((runs / "mixed" / name).read_bytes())
    assert Run(tmp_path).digest == Run(runs / "mixed").digest != Run(runs / "flow").digest
    (tmp_path / "flow.safetensors").write_bytes(b"others")
    assert Run(tmp_path).digest != Run(runs / "mixed").digest


# --- training ---------------------------------------------------------------------------------------------------------


def same_rows(one: Dataset, other: Dataset) -> bool:
    """Whether two datasets hold the same numbers bit for bit, NaN among them."""
    parts = [(getattr(each, part), part) for each in (one, other) for part in ("train", "validation", "test")]
    tensors = [[rows.x for rows, _ in parts], [rows.context for rows, _ in parts if rows.context is not None]]
    return all(
        torch.equal(a.contiguous().view(torch.int64), b.contiguous().view(torch.int64))
        for group in tensors
        for a, b in zip(group[: len(group) // 2], group[len(group) // 2 :], strict=True)
    )


def as_before(x: torch.Tensor, seed: int) -> tuple[torch.Tensor, ...]:
    """Training, validation and test rows of a table that fits into memory."""
    order = np.random.default_rng(seed).permutation(len(x))
    test, validation, train = np.split(order, [len(order) // 10, 2 * (len(order) // 10)])
    return x[train], x[validation], x[test]


@pytest.fixture
def small_pieces(small_parts, monkeypatch):
    """Large tables are taken in pieces of a few rows, and their numbers lie in a temporary file."""
    monkeypatch.setattr(columns_module, "CHUNK", 170)
    monkeypatch.setattr(source_module, "CHUNK", 130)
    monkeypatch.setattr(mapped, "ROWS", 70)
    monkeypatch.setattr(split_rows, "IN_MEMORY", 0)


@pytest.mark.parametrize("ending", ["parquet", "csv"])
@pytest.mark.parametrize("drop_missing", [False, True])
def test_a_large_table_has_the_kinds_and_the_split_of_a_small_one(small_pieces, monkeypatch, ending, drop_missing):
    table = people(700, seed=5)
    table = table.set_column(3, "city", table.column("city").cast(pa.string()))
    if ending == "csv":
        pyarrow.csv.write_csv(table, "t.csv")
    else:
        pyarrow.parquet.write_table(table, "t.parquet", row_group_size=90)
    options = {"seed": 3, "drop_missing": drop_missing, "mixed": True, "na": ["F"]}
    large = open_source(f"t.{ending}", **options)
    monkeypatch.setattr(chunked, "LARGE", math.inf)
    monkeypatch.setattr(columns_module, "CHUNK", 10**9)
    monkeypatch.setattr(split_rows, "IN_MEMORY", 10**9)
    small = open_source(f"t.{ending}", **options)
    assert large.description == small.description
    assert large.kinds == small.kinds
    assert same_rows(large, small)
    assert small.kinds is not None
    x = small.kinds.encode(read_table(f"t.{ending}", na=["F"]))
    x = x[x.isfinite().all(1)] if drop_missing else x
    for rows, expected in zip((small.train, small.validation, small.test), as_before(x, 3), strict=True):
        assert isinstance(rows, Rows)
        torch.testing.assert_close(rows.x, expected, rtol=0, atol=0, equal_nan=True)


def test_a_large_table_of_numbers_has_the_noise_of_a_small_one(small_pieces, monkeypatch):
    rng = np.random.default_rng(0)
    values = {"a": rng.normal(size=900).round(1), "b": rng.normal(size=900), "c": rng.normal(size=900)}
    values["b"][[7, 300]] = np.nan
    pyarrow.parquet.write_table(pa.table(values), "t.parquet")
    options = {"seed": 1, "context": ["c"], "drop_missing": True, "mixed": False}
    monkeypatch.setattr(noise, "CHUNK", 110)
    large = open_source("t.parquet", **options)
    monkeypatch.setattr(chunked, "LARGE", math.inf)
    for module in (noise, source_module):
        monkeypatch.setattr(module, "CHUNK", 10**9)
    small = open_source("t.parquet", **options)
    assert large.description == small.description
    assert large.description["noise"]
    assert same_rows(large, small)
    kept = np.stack([*values.values()], 1)
    kept = kept[np.isfinite(kept).all(1)]
    widths = np.array([large.description["noise"].get(name, 0.0) for name in "abc"])
    noisy = kept + (np.random.default_rng(1).random(kept.shape) - 0.5) * widths
    assert isinstance(small.train, Rows)
    assert torch.equal(small.train.x, as_before(torch.from_numpy(noisy), 1)[0][:, :2])


def test_numbers_as_text_are_encoded_with_all_rows_at_hand(small_pieces):
    cells = ["1,234"] * 200 + ["1,5"] * 100
    pyarrow.parquet.write_table(pa.table({"x": cells, "y": np.arange(300.0) ** 0.5}), "t.parquet")
    dataset = open_source("t.parquet", kinds={"x": "continuous"}, mixed=True)
    assert dataset.test.x[:, 0].unique().tolist() == [1.234, 1.5]


def test_a_large_table_is_trained_and_resumed_as_a_small_one(small_pieces, monkeypatch):
    pyarrow.parquet.write_table(people(300), "t.parquet")
    flowstone("train", "t.parquet", "--out", "large", *SMALL)
    monkeypatch.setattr(chunked, "LARGE", math.inf)
    monkeypatch.setattr(split_rows, "IN_MEMORY", 10**9)
    flowstone("train", "t.parquet", "--out", "small", *SMALL)
    for name in ("flow.json", "flow.safetensors"):
        assert Path("large", name).read_bytes() == Path("small", name).read_bytes()
    assert same_rows(Run("large").dataset(), Run("small").dataset())


def test_no_file_is_left_and_too_small_a_disk_is_named(small_pieces, monkeypatch, tmp_path):
    pyarrow.parquet.write_table(people(100), "t.parquet")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    dataset = open_source("t.parquet", mixed=True)
    assert list(temporary.iterdir()) == []
    assert len(dataset.test) == 10
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(DataError, match=r"0.0 GB free; the rows of the table need 0.0: name another folder"):
        open_source("t.parquet", mixed=True)
    assert list(temporary.iterdir()) == []


def test_p_values_of_chunks_are_those_of_the_whole_table_noise_and_all(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).normal(size=(300, 2)).round(1)  # values repeat, so that the training adds noise
    np.savetxt("t.csv", values, delimiter=",", header="a,b", comments="", fmt="%.1f")
    make_run("R", "t.csv")
    scorer_of_all = Scorer("R", anomaly=True)
    assert scorer_of_all.judge is not None
    assert scorer_of_all.judge.noise is not None
    table = read_table("t.csv")
    whole = scorer_of_all(table)
    parts = pa.concat_tables(scorer_of_all(piece) for piece in table.chunks(70))
    assert parts.column("p_value").to_pylist() == whole.column("p_value").to_pylist()
    assert parts.column("blame").to_pylist() == whole.column("blame").to_pylist()
    assert scorer_of_all.scores_chunks_separately(table)
    assert not Scorer("R", anomaly=True, drop_missing=True).scores_chunks_separately(table)


# --- chunks in memory -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("run", "settings"), [("mixed", {"per_column": True}), ("flow", {"anomaly": True})])
def test_a_chunk_without_rows_has_the_columns_that_are_added(small_parts, runs, run, settings):
    rows = people(40) if run == "mixed" else pa.table(dict.fromkeys("abc", np.arange(40.0)))
    scorer_of_chunks = Scorer(runs / run, **settings)
    assert scorer_of_chunks(rows.slice(0, 0)).schema == scorer_of_chunks(rows).schema
    needed = rows.column_names[1]
    with pytest.raises(DataError, match=f"no column '{needed}'"):
        scorer_of_chunks(rows.drop_columns(needed).slice(0, 0))


@pytest.mark.parametrize("recipe", ["mixed", "spline"])
def test_what_meant_a_gap_in_the_training_does_so_in_a_chunk(tmp_path, recipe):
    values = np.random.default_rng(0).normal(size=(200, 2)).round(2)
    values[::9, 0] = -999
    rows = pa.table({"a": values[:, 0], "b": values[:, 1]})
    pyarrow.parquet.write_table(rows, tmp_path / "t.parquet")
    steps = ["--na=-999", "--steps", 2, "--drop-missing", "--quiet", "--no-plots"]
    flowstone("train", tmp_path / "t.parquet", "--flow", recipe, "--out", tmp_path / "R", *steps)
    scored = Scorer(tmp_path / "R", drop_missing=True)(rows.slice(0, 18))
    assert scored.column("b").to_pylist() == [value for row, value in enumerate(values[:18, 1]) if row % 9]
