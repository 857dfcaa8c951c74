"""Tables in every form that people keep them in are read as they are meant."""

import bz2
import gzip
import io
import json
import lzma
import sys
import zipfile
from collections import namedtuple
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet
import pytest
from scipy.sparse import csr_array

from flowstone.data import kinds_of, open_source, read_table
from flowstone.data.tables import open_chunked
from flowstone.errors import DataError
from table_files import DIALECTS, FIRST, HEADER, NUMBERS, ROWS, TextFile


@dataclass
class Measured:
    a: int


LETTERS = {"int64": "i", "double": "f", "string": "s", "bool": "b", "date32[day]": "d", "time32[s]": "h"}


def letter(kind: pa.DataType) -> str:
    return "t" if pa.types.is_timestamp(kind) else LETTERS[str(kind)]


@pytest.mark.filterwarnings("ignore:.*not UTF-8", "ignore:.*cannot be told apart")
@pytest.mark.parametrize("case", DIALECTS, ids=lambda case: case.name)
def test_text_in_every_dialect(tmp_path, case: TextFile):
    path = tmp_path / case.name
    path.write_bytes(case.content)
    table = read_table(path, **case.options)
    assert tuple(table.columns) == case.columns
    assert len(table) == case.rows
    assert "".join(map(letter, table.arrow.schema.types)) == case.types
    first = table.arrow.slice(0, 1).to_pylist()[0].values()
    assert all(a == b or str(a) == str(b) for a, b in zip(first, case.first, strict=True))


@pytest.mark.parametrize("case", [c for c in DIALECTS if c.name.startswith("gap_")], ids=lambda case: case.name)
def test_gaps_are_nulls(tmp_path, case: TextFile):
    path = tmp_path / case.name
    path.write_bytes(case.content)
    assert read_table(path, **case.options).arrow.column("weight").null_count == ROWS // 10


def test_what_was_understood_is_said_in_one_line(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("größe;b\n1,5;2\n2,5;3\n".encode("cp1252"))
    with pytest.warns(UserWarning, match="not UTF-8; it is read as cp1252"):
        table = read_table(path)
    assert table.notes[0] == "read as cp1252 text separated by ';' with decimal commas, 2 rows, 2 columns"


def test_doubts_are_warnings(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('a,b\n1,"1,234"\n2,"5,678"\n')
    with pytest.warns(UserWarning, match="nothing shows what the comma in '1,234' is"):
        assert read_table(path).arrow.column("b").to_pylist() == [1234, 5678]
    path.write_text("a,b\n1/2/2021,1\n3/4/2021,2\n")
    with pytest.warns(UserWarning, match="column 'a': day and month cannot be told apart"):
        read_table(path)
    path.write_text("a,b\n03/14/99,1\n12/31/00,2\n01/02/31,3\n")
    with pytest.warns(UserWarning, match="column 'a': years of two digits are taken for 1969 to 2068"):
        dates = read_table(path).arrow.column("a").to_pylist()
    assert dates == [date(1999, 3, 14), date(2000, 12, 31), date(2031, 1, 2)]
    path.write_text("a,a\n1,2\n3,4\n")
    with pytest.warns(UserWarning, match="column name 'a' occurs more than once: column 2 is called 'a_2'"):
        assert read_table(path).columns == ["a", "a_2"]


@pytest.mark.parametrize("days", ["2021-02-{:02d}", "{:02d}.02.2021", "Feb {}, 2021"])
def test_a_day_that_no_month_has_is_no_date(tmp_path, days):
    path = tmp_path / "t.csv"
    path.write_text(
        "day;x\n" + "".join(f"{days.format(i % 28 + 1)};{i}.5\n" for i in range(80)) + days.format(30) + ";1\n"
    )
    table = read_table(path)
    assert table.arrow.column("day")[-1].as_py() == days.format(30)  # not 2 March
    with pytest.raises(DataError, match=r"column 'day' holds dates, but row 81 holds .*; to read it as a gap"):
        kinds_of(table)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1%,2\n0.5,3\n20%,4\n", "column 'a': some of its numbers have the sign %, others none"),
        ("a,b\n$1,2\n€5,3\n$20,4\n", r"column 'a' holds several currencies \(\$, €\)"),
        (
            "a,b\n" + "3,25,7\n3,75,8\n4,5,9\n" * 9,
            "rows have 3 fields, the header 2 names: the first one is taken for names",
        ),
        (
            "a,b\n" + "3,25,7,5\n3,75,8,2\n4,5,9,1\n" * 9,
            r"rows have 4 fields, the line of words above them 2 \(a, b\): it is skipped",
        ),
    ],
)
def test_what_may_be_meant_otherwise_is_a_warning(tmp_path, text, said):
    (tmp_path / "t.csv").write_text(text)
    with pytest.warns(UserWarning, match=f"in doubt: {said}"):
        read_table(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "b": 2}\n{"a": 3, "b": 4}\n', "the file holds JSON; its name must end in .jsonl or .json"),
        ("<!DOCTYPE html>\n<p>Log in, please</p>\n", "the file holds HTML or XML, no table"),
        ('a,b\n1,"two\n' + "3,four\n" * 30, 'row 1: a quote (") is opened and never closed'),
    ],
)
def test_what_is_no_text_of_a_table_is_said(tmp_path, text, said):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError) as caught:
        read_table(tmp_path / "t.csv")
    assert said in str(caught.value)


@pytest.mark.parametrize("rows", [10, 100_000])
def test_a_quote_that_never_ends_is_said_of_long_files_too(tmp_path, rows):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "1,2\n" * rows + '3,"four\n' + "5,6\n" * 500_000)
    for read in (read_table, lambda path: open_chunked(path, at_least=0)):
        with pytest.raises(DataError, match="perhaps a quote is opened and never closed"):
            read(path)


PLAIN = next(case for case in DIALECTS if case.name == "plain.csv").content


def zipped(content: bytes, *names: str) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name in names:
            archive.writestr(name, content)
    return held.getvalue()


@pytest.mark.parametrize(
    ("ending", "pack"),
    [
        (".gz", gzip.compress),
        (".bz2", bz2.compress),
        (".xz", lzma.compress),
        (".zst", lambda content: pa.compress(content, "zstd", asbytes=True)),
        (".zip", lambda content: zipped(content, "t.csv", "__MACOSX/t.csv")),
    ],
)
@pytest.mark.parametrize("name", ["t.csv", "t.txt", "t.tsv"])
def test_compressed_text(tmp_path, ending, pack, name):
    (tmp_path / f"{name}{ending}").write_bytes(pack(PLAIN))
    table = read_table(tmp_path / f"{name}{ending}")
    assert table.arrow.slice(0, 1).to_pylist() == [dict(zip(HEADER, FIRST, strict=True))]


def test_an_archive_of_several_files_names_them(tmp_path):
    (tmp_path / "t.csv.zip").write_bytes(zipped(PLAIN, "a.csv", "b.csv"))
    with pytest.raises(DataError, match=r"holds 2 files \(a\.csv, b\.csv\); expected one"):
        read_table(tmp_path / "t.csv.zip")


TABLE = pa.table({"a": [1, 2, 3], "b": [0.5, None, 2.5], "c": ["x", "y", None]})


def write_parquet(path):
    pyarrow.parquet.write_table(TABLE, path)


def write_stream(path):
    with pyarrow.ipc.new_stream(path, TABLE.schema) as writer:
        writer.write_table(TABLE)


def write_lines(path):
    path.write_text("\n".join(map(json.dumps, TABLE.to_pylist())))


FORMS = {
    "t.parquet": write_parquet,
    "t.feather": lambda path: pyarrow.feather.write_feather(TABLE, str(path)),
    "t.arrow": lambda path: pyarrow.feather.write_feather(TABLE, str(path), compression="uncompressed"),
    "s.arrow": write_stream,
    "t.jsonl": write_lines,
    "t.ndjson": write_lines,
    "t.json": lambda path: path.write_text(json.dumps(TABLE.to_pylist())),
    "t.csv": lambda path: path.write_text("a,b,c\n1,0.5,x\n2,,y\n3,2.5,\n"),
}


@pytest.mark.parametrize("name", FORMS)
def test_other_files(tmp_path, name):
    FORMS[name](tmp_path / name)
    table = read_table(tmp_path / name)
    assert table.arrow.to_pydict() == TABLE.to_pydict()
    assert "3 rows, 3 columns" in table.notes[0]


@pytest.mark.parametrize("name", FORMS)
def test_broken_files_are_one_line(tmp_path, name):
    FORMS[name](tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(bytes(byte ^ 0x80 for byte in content[: len(content) // 2]))
    with pytest.raises(DataError) as caught:
        read_table(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)


def test_several_files_a_folder_and_a_pattern(tmp_path):
    (tmp_path / "parts").mkdir()
    for i in range(3):
        pyarrow.parquet.write_table(TABLE, tmp_path / "parts" / f"{i}.parquet")
    paths = sorted((tmp_path / "parts").iterdir())
    for source in (paths, tmp_path / "parts", str(tmp_path / "parts" / "*.parquet")):
        table = read_table(source)
        assert table.arrow.column("a").to_pylist() == [1, 2, 3] * 3
        assert "from 3 files, 9 rows" in table.notes[0]
    (tmp_path / "parts" / "3.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="tables of several kinds"):
        read_table(tmp_path / "parts")
    with pytest.raises(DataError, match=r"3\.csv: its columns are not those of 0\.parquet: 'c'"):
        read_table([paths[0], tmp_path / "parts" / "3.csv"])
    with pytest.raises(DataError, match="no file has such a name"):
        read_table(str(tmp_path / "*.csv"))


@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "t.jsonl"])
def test_standard_input(tmp_path, monkeypatch, name):
    FORMS[name](tmp_path / name)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((tmp_path / name).read_bytes())))
    assert read_table("-").arrow.to_pydict() == TABLE.to_pydict()


Point = namedtuple("Point", "a b c")
RECORDS = np.array([(1, 0.5, "x"), (2, np.nan, "y"), (3, 2.5, "z")], dtype=[("a", "i8"), ("b", "f8"), ("c", "U1")])


@pytest.mark.parametrize(
    "source",
    [
        TABLE,
        TABLE.to_batches()[0],
        TABLE.to_pydict(),
        TABLE.to_pylist(),
        [Point(*row.values()) for row in TABLE.to_pylist()],
    ],
)
def test_objects(source):
    assert read_table(source).arrow.to_pydict() == TABLE.to_pydict()


def test_arrays():
    assert read_table(RECORDS).columns == ["a", "b", "c"]
    assert read_table(RECORDS).arrow.column("c").to_pylist() == ["x", "y", "z"]
    assert read_table(np.arange(6, dtype=np.int32).reshape(3, 2)).arrow.schema.types == [pa.int32()] * 2
    assert read_table([[1, "x"], [2, "y"]]).arrow.to_pydict() == {"x1": [1, 2], "x2": ["x", "y"]}
    assert read_table([1.5, 2.5]).columns == ["x1"]
    assert read_table({"m": [1, "x", None]}).arrow.column("m").to_pylist() == ["1", "x", None]
    for source, message in (
        ([[1, 2], [3]], "row 2 has 1 values, the first row 2"),
        ({"a": [1], "b": [1, 2]}, "columns have different lengths: 'a' 1, 'b' 2"),
        ({"a": [[1], [2]]}, "the table"),
        (np.zeros((2, 2, 2)), r"shape \(2, 2, 2\) is no table"),
        (3.5, "an object of type float is no table"),
    ):
        if message != "the table":
            with pytest.raises(DataError, match=message):
                read_table(source)


def test_pandas_and_polars():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1, 2], "b": ["x", None]}, index=pandas.Index([5, 7], name="key"))
    table = read_table(frame)
    assert table.arrow.to_pydict() == {"a": [1, 2], "b": ["x", None]}
    assert "index 'key' is left out" in table.notes[1]
    polars = pytest.importorskip("polars")
    assert read_table(polars.DataFrame({"a": [1, 2]})).arrow.to_pydict() == {"a": [1, 2]}


def odd_frames():
    """Frames as they are kept, each with what its column ``a`` is."""
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    frame = pandas.DataFrame
    sizes = pandas.cut([1.0, 5.0, 9.0], [0, 4, 10])
    masked = np.ma.masked_array([[1.0], [2.0], [3.0]], mask=[[False], [True], [False]])
    return [
        (frame({"a": ["x", 1, 2.5]}), ["x", "1", "2.5"]),
        (frame({"a": [2**70, 1, None]}, dtype=object), [str(2**70), "1", None]),
        (frame({"a": sizes}), ["(0, 4]", "(4, 10]", "(4, 10]"]),
        (frame({"a": pandas.period_range("2021-01", periods=1, freq="M")}), [datetime(2021, 1, 1)]),
        (frame({"a": pandas.arrays.SparseArray([0.0, 0.0, 1.5])}), [0.0, 0.0, 1.5]),
        (frame({"a": np.array([1.5, 2.5], np.longdouble)}), [1.5, 2.5]),
        (polars.DataFrame({"a": [1, 2]}).lazy(), [1, 2]),
        (polars.Series("a", [1, 2]), [1, 2]),
        (polars.DataFrame({"a": polars.Series([2**70, None], dtype=polars.Int128)}), [str(2**70), None]),
        (pa.table({"a": pa.RunEndEncodedArray.from_arrays([2, 3], [1.5, 2.5])}), [1.5, 1.5, 2.5]),
        (pa.table({"a": pa.ExtensionArray.from_storage(pa.bool8(), pa.array([0, 1], pa.int8()))}), [False, True]),
        ({"a": masked[:, 0]}, [1.0, None, 3.0]),
        ({"a": np.array(["2021-01", "2021-02"], "datetime64[M]")}, [date(2021, 1, 1), date(2021, 2, 1)]),
        ({"a": np.array([1, 2], "timedelta64[m]")}, [timedelta(minutes=1), timedelta(minutes=2)]),
        ([Measured(1), Measured(2)], [1, 2]),
    ]  # fmt: skip


def test_odd_frames_are_read_as_they_are_meant():
    for source, expected in odd_frames():
        assert read_table(source).arrow.column("a").to_pylist() == expected, source
    assert read_table(np.ma.masked_array([[1.0, 2.0]], mask=[[False, True]])).arrow.to_pylist() == [
        {"x1": 1.0, "x2": None}
    ]


def test_frames_that_are_no_tables_are_refused_in_one_line():
    pandas = pytest.importorskip("pandas")
    for source, message in (
        (pandas.DataFrame(np.zeros((2, 2)), columns=["a", "a"]), "column name 'a' occurs more than once"),
        ({1: [1, 2], "1": [3, 4]}, "column name '1' occurs more than once"),
        (pandas.DataFrame({"a": [1j, 2j]}), "column 'a' holds complex numbers"),
        ({"a": 1}, r"column 'a' is one value \(1\): expected a value for each row"),
        ([], "an empty list is no table"),
        (csr_array(np.eye(2)), r"csr_array is no table.*toarray\(\)"),
    ):
        with pytest.raises(DataError, match=message):
            read_table(source)


def test_the_users_own_gaps_are_gaps_everywhere():
    table = read_table({"a": [1, -999, 3], "b": ["x", "gone", "z"], "c": [-999.0, 1.0, 2.0]}, na=["gone", "-999"])
    assert table.arrow.to_pydict() == {"a": [1, None, 3], "b": ["x", None, "z"], "c": [None, 1.0, 2.0]}


def test_a_row_of_another_length_is_named_and_may_be_left_out(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "1,2\n" * 30 + "\n3,4,5\n" + "6,7\n" * 30)
    with pytest.raises(DataError, match=r"row 31 has 3 fields instead of 2 \('3,4,5'\).*skip_bad=True"):
        read_table(path)
    table = read_table(path, skip_bad=True)
    assert len(table) == 60
    assert "rows of another length left out: 1" in table.notes


def test_integers_beyond_int64_and_with_leading_zeros_are_text(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "".join(f"{10**24 + i},{i:05d}\n" for i in range(30)))
    assert read_table(path).arrow.schema.types == [pa.string()] * 2


def spreadsheet(path, rows):
    """A workbook of one sheet, written by hand."""
    cells = "".join(
        "<row>"
        + "".join(
            f"<c><v>{cell}</v></c>" if isinstance(cell, int | float) else f'<c t="inlineStr"><is><t>{cell}</t></is></c>'
            for cell in row
        )
        + "</row>"
        for row in rows
    )
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006/relationships"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "_rels/.rels",
            f'<Relationships xmlns="{package}"><Relationship Id="r1" Type="{office}/officeDocument" '
            'Target="xl/workbook.xml"/></Relationships>',
        )
        archive.writestr(
            "xl/workbook.xml",
            f'<workbook xmlns="{main}" xmlns:r="{office}"><sheets><sheet name="one" sheetId="1" r:id="r1"/></sheets>'
            "</workbook>",
        )
        archive.writestr(
            "xl/_rels/workbook.xml.rels",
            f'<Relationships xmlns="{package}"><Relationship Id="r1" Type="{office}/worksheet" '
            'Target="worksheets/sheet1.xml"/></Relationships>',
        )
        archive.writestr(
            "xl/worksheets/sheet1.xml", f'<worksheet xmlns="{main}"><sheetData>{cells}</sheetData></worksheet>'
        )


def test_spreadsheets(tmp_path):
    pytest.importorskip("python_calamine")
    spreadsheet(tmp_path / "t.xlsx", [["Report"], HEADER, *NUMBERS, ["n/a", 1.5, 3]])
    table = read_table(tmp_path / "t.xlsx")
    assert table.columns == list(HEADER)
    assert "".join(map(letter, table.arrow.schema.types)) == "ffi"
    assert table.arrow.slice(0, 1).to_pylist() == [dict(zip(HEADER, FIRST, strict=True))]
    assert table.arrow.column("height").null_count == 1


def test_a_table_from_a_folder_is_opened_and_opened_again(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(2):
        pyarrow.parquet.write_table(
            pa.table({"a": rng.normal(size=50), "b": rng.normal(size=50)}), tmp_path / f"{i}.parquet"
        )
    dataset = open_source(tmp_path)
    assert dataset.description["rows"] == 100


@pytest.mark.parametrize("order", [1, -1])
def test_days_among_moments_are_moments_whatever_comes_first(order):
    cells = [date(2024, 1, 1), None, datetime(2024, 1, 2, 3, 4)][::order]
    expected = [datetime(2024, 1, 1), None, datetime(2024, 1, 2, 3, 4)][::order]
    pandas = pytest.importorskip("pandas")
    for source in ({"x": cells}, [{"x": cell} for cell in cells], pandas.DataFrame({"x": cells}, dtype=object)):
        assert read_table(source).arrow.column("x").to_pylist() == expected


@pytest.mark.parametrize("cells", [[2**64 - 1, None, 1], [np.uint64(2**64 - 1), 1]])
def test_whole_numbers_of_64_bits_in_a_list_lose_nothing(cells):
    column = read_table({"x": cells}).arrow.column("x")
    assert (column.type, column.to_pylist()) == (pa.uint64(), cells)


def test_codes_in_a_spreadsheet_keep_their_zeros_and_digits(tmp_path):
    pytest.importorskip("python_calamine")
    rows = [["zip", "long", "x"], ["01234", "12345678901234567890", 1.5], ["98765", "22345678901234567891", 2.5]]
    spreadsheet(tmp_path / "t.xlsx", rows)
    found = read_table(tmp_path / "t.xlsx").arrow
    assert found.column("zip").to_pylist() == ["01234", "98765"]
    assert found.column("long").to_pylist() == ["12345678901234567890", "22345678901234567891"]


@pytest.mark.parametrize("name", ["t.jsonl", "t.json"])
def test_whole_numbers_of_json_that_no_float_holds_keep_their_digits(tmp_path, name):
    columns = {"a": [2**53 + 1, 1.5], "b": [2**64 + 1, 2], "c": [1e30, 0.5], "d": [2**60, -(2**63)]}
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    text = json.dumps(rows) if name == "t.json" else "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / name).write_text(text)
    wanted = columns | {"a": ["9007199254740993", "1.5"], "b": ["18446744073709551617", "2"]}
    assert read_table(tmp_path / name).arrow.to_pydict() == wanted
    digits = '{"a": 10145709240540254000}\n{"a": 0.5}\n'  # as JavaScript writes 1.1 * 2^63
    (tmp_path / "js.jsonl").write_text(digits)
    assert read_table(tmp_path / "js.jsonl").arrow.to_pydict() == {"a": [1.1 * 2**63, 0.5]}


def test_nanoseconds_in_text_are_numbers_and_far_apart_numbers_of_as_many_digits_are_codes(tmp_path):
    lines = (f"{1_700_000_000_000_000_000 + 1001 * i},{2**60 + i * 2**54},{i}" for i in range(40))
    (tmp_path / "t.csv").write_text("t,code,x\n" + "\n".join(lines))
    table = read_table(tmp_path / "t.csv").arrow
    assert table.schema.types == [pa.int64(), pa.string(), pa.int64()]
    assert table["t"][39].as_py() == 1_700_000_000_000_039_039


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        ("%H:%M:%S.%f", pa.time64("us")),
        ("%d.%m.%Y %H:%M:%S.%f", pa.timestamp("us")),
        ("%d.%m.%Y %H:%M:%S,%f", pa.timestamp("us")),
        ("%d/%m/%Y %H:%M:%S.%f", pa.timestamp("us")),
    ],
)
def test_parts_of_a_second_are_read(tmp_path, form, kind):
    moments = [datetime(2024, 3, 15) + timedelta(seconds=4321 * k, milliseconds=37 * k) for k in range(200)]
    texts = [moment.strftime(form)[:-3].replace(".000", "") for moment in moments]
    (tmp_path / "t.csv").write_text("t;x\n" + "".join(f"{text};{k}\n" for k, text in enumerate(texts)))
    column = read_table(tmp_path / "t.csv").arrow["t"]
    assert column.type == kind
    assert column.to_pylist() == [each.time() if kind == pa.time64("us") else each for each in moments]
    (tmp_path / "bad.csv").write_text("t;x\n" + "".join(f"25:00:0{k % 10}.5;{k}\n" for k in range(60)))
    assert read_table(tmp_path / "bad.csv").arrow["t"].type == pa.string()
