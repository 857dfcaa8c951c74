"""Small tables of values at the edges of their types, in every format that is read."""

import bz2
import decimal
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet

__all__ = ["FORMATS", "plain_table", "wild_table", "written"]

NAMES = (
    "a",
    "b",
    "c",
    "",
    " ",
    "a,b",
    'q"',
    "x\ny",
    "ü€",
    "label",
    "log_prob",
    "1",
    "a=b",
    "-",
    "\x1b[31m",
    "n" * 3000,
)
TEXTS = ("", "x", "NA", "ü€𝔘", "a\nb", "1,5", "=1+1", "nan", "t" * 2000, "\x00", "\x1b[2J", "1e999", "2020-02-30")
NUMBERS = (0.0, -0.0, 1.0, 1e308, -1e308, 5e-324, float("nan"), float("inf"), float("-inf"), 1e17, 1.7e9, 0.1)
WHOLE = (0, 1, -1, 2**31, -(2**31), 2**53 + 1, 2**63 - 1, -(2**63))


def plain_table(random: Random, rows: int) -> pa.Table:
    """Numbers in the columns a, b and c, as a trained density knows them."""
    values = np.random.default_rng(random.randrange(2**32)).normal(size=(rows, 3)).cumsum(1)
    return pa.table({name: values[:, i] for i, name in enumerate("abc")})


def wild_table(random: Random, rows: int) -> pa.Table:
    """Columns of any type, with values at its edges, and names that are none."""
    count = random.choice((1, 2, 3, 3, 4, 8))
    columns = [_column(random, random.choice(tuple(TYPES)), rows) for _ in range(count)]
    names = ["a", "b", "c", *(f"x{i}" for i in range(count))][:count]
    for place in range(count):
        if random.random() < 0.2:
            names[place] = random.choice(NAMES)
    return pa.Table.from_arrays(columns, names=names)


def _column(random: Random, kind: pa.DataType, rows: int) -> pa.Array:
    """Values of a type, some of which come again; perhaps gaps, perhaps one value or none."""
    some = TYPES[kind](random)
    how = random.random()
    if how < 0.1:
        some = some[:1]
    values = [None if how > 0.6 and random.random() < 0.1 else random.choice(some) for _ in range(rows)]
    return pa.array([None] * rows if how > 0.97 else values, kind)


def _floats(random: Random) -> list[Any]:
    usual = [random.gauss(0, 1) * 10 ** random.choice((-6, 0, 0, 3)) for _ in range(30)]
    return usual + random.sample(NUMBERS, random.choice((0, 0, 1, 3)))


def _integers(bits: int, signed: bool = True) -> Callable[[Random], list[Any]]:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)

    def values(random: Random) -> list[Any]:
        edges = [number for number in (*WHOLE, low, high) if low <= number <= high]
        return random.choice(
            ([random.randint(0, 50) for _ in range(20)], edges, [random.randint(low, high) for _ in range(40)])
        )

    return values


def _ticks(bits: int) -> Callable[[Random], list[Any]]:
    def values(random: Random) -> list[Any]:
        edge = 2 ** (bits - 1) - 1
        return random.choice(([random.randint(0, 20_000) for _ in range(20)], [0, edge, -edge, -1], [edge, edge - 1]))

    return values


def _texts(random: Random) -> list[Any]:
    return random.choice((["red", "green", "blue"], list(TEXTS), [f"id{i}" for i in range(60)], ["1", "2.5", "x"]))


def _decimals(random: Random) -> list[Any]:
    return [decimal.Decimal(random.randint(-(10**6), 10**6)) / 100 for _ in range(20)] + [decimal.Decimal("9" * 30)]


TYPES: dict[pa.DataType, Callable[[Random], list[Any]]] = {
    pa.float64(): _floats,
    pa.float32(): _floats,
    pa.int8(): _integers(8),
    pa.int32(): _integers(32),
    pa.int64(): _integers(64),
    pa.uint64(): _integers(64, signed=False),
    pa.bool_(): lambda _: [True, False],
    pa.string(): _texts,
    pa.large_string(): _texts,
    pa.dictionary(pa.int32(), pa.string()): _texts,
    pa.binary(): lambda _: [b"", b"\xff\xfe", b"abc"],
    pa.date32(): _ticks(32),
    pa.timestamp("s"): _ticks(64),
    pa.timestamp("us", "Europe/Berlin"): _ticks(64),
    pa.timestamp("ns"): _ticks(64),
    pa.time64("ns"): lambda random: [random.randrange(86_400 * 10**9) for _ in range(9)],
    pa.duration("ms"): _ticks(64),
    pa.decimal128(38, 4): _decimals,
    pa.null(): lambda _: [None],
    pa.list_(pa.int64()): lambda _: [[], [1], [1, 2]],
    pa.struct([("u", pa.int64()), ("v", pa.string())]): lambda _: [{"u": 1, "v": "x"}, {"u": None, "v": ""}],
    pa.map_(pa.string(), pa.int64()): lambda _: [[("k", 1)], []],
}  # fmt: skip


# --- formats ----------------------------------------------------------------------------------------------------------


def written(random: Random, table: pa.Table, form: str, inside: Callable[[bytes], bytes]) -> bytes | None:
    """The table in a format; None where the format cannot hold it.

    Args:
        inside: what is done to the bytes of a text before they are compressed.
    """
    try:
        if form in PACKED:
            return PACKED[form](inside(_csv(random, table)))
        return FORMATS[form](random, table)
    except (pa.ArrowException, TypeError, ValueError, OverflowError, KeyError):
        return None


def _csv(random: Random, table: pa.Table) -> bytes:
    stream = io.BytesIO()
    options = pyarrow.csv.WriteOptions(delimiter=random.choice(",,,;\t|"))
    pyarrow.csv.write_csv(_flat(table), stream, options)
    content = stream.getvalue()
    if random.random() < 0.1:
        return content.decode().encode(random.choice(("utf-16", "cp1252", "utf-8-sig")), "replace")
    return content


def _flat(table: pa.Table) -> pa.Table:
    """Columns that text cannot hold, as text."""
    columns = []
    for column in table.columns:
        nested = pa.types.is_nested(column.type) or pa.types.is_dictionary(column.type) or pa.types.is_null(column.type)
        columns.append(pa.array([None if v is None else str(v) for v in column.to_pylist()]) if nested else column)
    return pa.Table.from_arrays(columns, names=table.column_names)


def _zip(content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("t.csv"), content, zipfile.ZIP_DEFLATED)
    return stream.getvalue()


def _parquet(random: Random, table: pa.Table) -> bytes:
    stream = io.BytesIO()
    pyarrow.parquet.write_table(
        table, stream, compression=random.choice(("snappy", "zstd", "none")), row_group_size=random.choice((7, 1000)),
        use_dictionary=random.random() < 0.5,
    )  # fmt: skip
    return stream.getvalue()


def _feather(random: Random, table: pa.Table) -> bytes:
    stream = io.BytesIO()
    pyarrow.feather.write_feather(table, stream, compression=random.choice(("lz4", "zstd", "uncompressed")))
    return stream.getvalue()


def _arrow(_: Random, table: pa.Table) -> bytes:
    stream = io.BytesIO()
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    return stream.getvalue()


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float | str | bool | None | list | dict) else str(value)


def _lines(_: Random, table: pa.Table) -> bytes:
    rows = ({name: _plain(value) for name, value in row.items()} for row in table.to_pylist())
    return "\n".join(map(json.dumps, rows)).encode()


def _json(_: Random, table: pa.Table) -> bytes:
    return json.dumps([{name: _plain(value) for name, value in row.items()} for row in table.to_pylist()]).encode()


def _npy(random: Random, table: pa.Table) -> bytes:
    stream = io.BytesIO()
    values = np.array([column.to_numpy() for column in table.columns]).T
    if random.random() < 0.2:
        values = values.astype(random.choice((np.float32, np.float16, np.longdouble, complex, "S4", "M8[s]")))
    np.save(stream, np.asfortranarray(values) if random.random() < 0.3 else values, allow_pickle=values.dtype.hasobject)
    return stream.getvalue()


MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006"
WORKBOOK = {  # all of a workbook but its sheet
    "[Content_Types].xml": f'<Types xmlns="{PACKAGE}/content-types">'
    '<Default Extension="xml" ContentType="application/xml"/></Types>',
    "_rels/.rels": f'<Relationships xmlns="{PACKAGE}/relationships">'
    f'<Relationship Id="r1" Type="{OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
    "xl/workbook.xml": f'<workbook xmlns="{MAIN}" xmlns:r="{OFFICE}">'
    '<sheets><sheet name="s" sheetId="1" r:id="r1"/></sheets></workbook>',
    "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{PACKAGE}/relationships">'
    f'<Relationship Id="r1" Type="{OFFICE}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>',
}


def _xlsx(_: Random, table: pa.Table) -> bytes:
    """A workbook with one sheet, with texts inline."""

    def cell(place: int, row: int, value: Any) -> str:
        at = f'r="{chr(65 + place)}{row}"'
        if isinstance(value, int | float) and value == value and abs(value) < 1e300:
            return f"<c {at}><v>{value}</v></c>"
        text = str(value).encode("ascii", "xmlcharrefreplace").decode().replace("<", "&lt;")
        return f'<c {at} t="inlineStr"><is><t>{text}</t></is></c>'

    rows = [table.column_names, *([row[name] for name in table.column_names] for row in table.to_pylist())]
    inside = "".join(
        f'<row r="{n}">' + "".join(cell(i, n, v) for i, v in enumerate(row) if v is not None) + "</row>"
        for n, row in enumerate(rows, start=1)
    )
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in WORKBOOK.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
        sheet = f'<worksheet xmlns="{MAIN}"><sheetData>{inside}</sheetData></worksheet>'
        archive.writestr(zipfile.ZipInfo("xl/worksheets/sheet1.xml"), sheet, zipfile.ZIP_DEFLATED)
    return stream.getvalue()


PACKED: dict[str, Callable[[bytes], bytes]] = {
    ".csv.gz": lambda content: gzip.compress(content, mtime=0),
    ".csv.bz2": bz2.compress,
    ".csv.xz": lzma.compress,
    ".csv.zst": lambda content: pa.Codec("zstd").compress(content, asbytes=True),
    ".csv.zip": _zip,
}
FORMATS: dict[str, Callable[[Random, pa.Table], bytes]] = {
    ".csv": _csv,
    ".tsv": _csv,
    ".txt": _csv,
    **dict.fromkeys(PACKED, _csv),
    ".parquet": _parquet,
    ".feather": _feather,
    ".arrow": _arrow,
    ".jsonl": _lines,
    ".json": _json,
    ".npy": _npy,
    ".xlsx": _xlsx,
}
