"""read_table: any file, folder or object that holds a table."""

import difflib
import glob
import itertools
import json
import math
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import pyarrow as pa

from flowstone.data.guards import files_under, naming_the_file, require_file_or_folder
from flowstone.data.limits import COLUMNS, DEPTH, FILES, UNPACKED
from flowstone.data.npy import read_npy
from flowstone.data.tables.arrow import compute
from flowstone.data.tables.facts import EXACT
from flowstone.data.tables.frames import from_object, plain_layout
from flowstone.data.tables.parquet import read_parquet, require_proportion, require_valid
from flowstone.data.tables.partitions import partition_values, with_partitions
from flowstone.data.tables.reading import Reading
from flowstone.data.tables.streams import COMPRESSED, inner_suffix, open_bytes, seekable, spooled_stdin
from flowstone.data.tables.table import Table, is_number_text
from flowstone.data.tables.text import read_text
from flowstone.data.tables.types import is_number
from flowstone.errors import DataError

__all__ = [
    "READABLE",
    "STANDARD_INPUT",
    "TEXT",
    "as_shown",
    "checked",
    "files_of",
    "in_types",
    "is_doubt",
    "is_pattern",
    "is_table",
    "pandas_index",
    "read_in_one_notation",
    "read_table",
    "together",
    "with_gaps",
]

TEXT = (".csv", ".tsv", ".txt", ".dat", ".tab", ".data")
SPREADSHEETS = (".xlsx", ".xls", ".ods")
READABLE = (
    *TEXT,
    ".parquet",
    ".feather",
    ".arrow",
    ".ipc",
    ".jsonl",
    ".ndjson",
    ".json",
    ".npy",
    *SPREADSHEETS,
)
OF_A_FOLDER = (".csv", ".tsv", ".parquet", ".feather", ".arrow", ".ipc", ".jsonl", ".ndjson")  # a .txt may be prose
JSON_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*"?')  # one that never ends is the rest of the line
STANDARD_INPUT = ("-", "/dev/stdin")

File = TypeVar("File")  # what is read from a file


def is_table(source: str | os.PathLike[str]) -> bool:
    """Whether a source is a table by its name: standard input, a pattern, a readable ending, a folder of such files."""
    path = Path(source)
    if str(source) in STANDARD_INPUT or is_pattern(str(source)):
        return True
    return bool(_files_in(path)) if path.is_dir() else inner_suffix(path) in READABLE


def is_pattern(source: str) -> bool:
    """Whether a source names files by ``*``, ``?`` or ``[]``."""
    return glob.has_magic(source) and not Path(source).exists()


def read_table(
    source: Any,
    *,
    na: Sequence[str] = (),
    encoding: str | None = None,
    skip_bad: bool = False,
    decimal: str | None = None,
    day_first: bool | None = None,
    empty: bool = False,
) -> Table:
    """Read a table from a file, by its ending, from several, or from an object that holds one.

    Files are text in any dialect (.csv, .tsv, .txt, .dat), Parquet, Feather or Arrow, JSON (lines, or a list of
    records), .npy and spreadsheets (.xlsx, .xls, .ods); text and JSON may be compressed (.gz .bz2 .xz .zst .zip).
    ``"-"`` is standard input, a folder or a pattern with ``*`` the rows of all files in it. Objects are those of
    pandas, polars and Arrow, NumPy arrays (also structured), a dictionary of columns, a list of rows or dictionaries.

    Args:
        source: a path, a list of paths, or an object.
        na: texts or numbers that mean a gap, beside the usual ones of text files (``NA ? - None null`` …).
        encoding: of a text file; without it, UTF-8, or UTF-16 or cp1252 where the bytes say so.
        skip_bad: leave out rows of a text file that have too many or too few fields.
        decimal: the decimal mark of a text file, ``"."`` or ``","``, where its numbers do not show it.
        day_first: whether 3/4/2024 is in April, where dates that are text do not show it.
        empty: accept an object without rows, which a chunk of a larger table may be.

    Raises:
        DataError: missing, empty, of another kind, or not readable as what its name says.
        SettingError, UnknownNameError: an option has a value that it cannot have.

    >>> table = read_table({"a": [1, 2], "b": ["x", None]})
    >>> table.columns, len(table)
    (['a', 'b'], 2)
    """
    reading = Reading(na, encoding, skip_bad, decimal, day_first)
    if isinstance(source, Table):
        return with_gaps(source, reading.na)
    if _are_paths(source):
        where, paths = Path(source[0]), [Path(each) for each in source]
    elif isinstance(source, str | os.PathLike):
        where, paths = Path(source), files_of(str(source))
    else:
        table = replace(from_object(source), reading=reading)
        return checked(with_gaps(table, reading.na), empty=empty)
    files, partitions = (
        read_in_one_notation(paths, reading, _read_file, lambda table: table),
        partition_values(where, paths),
    )
    tables = [
        replace(table, arrow=with_partitions(table.arrow, values))
        for table, values in zip(files, partitions, strict=True)
    ]
    table = replace(together(where, tables), reading=as_shown(tables, reading))
    return checked(with_gaps(table, reading.na))


def read_in_one_notation(
    paths: Sequence[Path], reading: Reading, read: Callable[[Path, Reading], File], table_of: Callable[[File], Table]
) -> tuple[File, ...]:
    """What is read from each file; those in which something is in doubt are read once more, as the others show it."""
    files = [read(path, reading) for path in paths]
    shown = as_shown(list(map(table_of, files)), reading)
    in_doubt = [shown != reading and any(map(is_doubt, table_of(file).notes)) for file in files]
    again = zip(paths, files, in_doubt, strict=True)
    return tuple(read(path, shown) if doubt else file for path, file, doubt in again)


def as_shown(tables: Sequence[Table], reading: Reading) -> Reading:
    """The reading with the decimal mark and the order of day and month that tables show, where all agree."""
    shown = {}
    for name in ("decimal", "day_first"):
        found = {getattr(table.reading, name) for table in tables} - {None}
        shown |= {name: found.pop()} if len(found) == 1 else {}
    return replace(reading, **shown)


def _are_paths(source: Any) -> bool:
    """Several files: in a list or tuple, each a path, or text that ends as the name of a table does."""
    if not isinstance(source, list | tuple) or not source:
        return False
    return all(
        isinstance(each, os.PathLike) or (isinstance(each, str) and inner_suffix(Path(each)) in READABLE)
        for each in source
    )


def files_of(source: str) -> list[Path]:
    """The files whose rows make a table: one, or all of a folder or a pattern."""
    path = Path(source)
    if source in STANDARD_INPUT:
        return [path]
    require_file_or_folder(path)
    if is_pattern(source):
        found = sorted(map(Path, glob.glob(source)))
        if not found:
            raise DataError(f"{source}: no file has such a name")
        return found
    if not path.is_dir():
        return [path]
    files = _files_in(path)
    if not files:
        raise DataError(f"{path}: cannot read a folder without tables; they end in {', '.join(OF_A_FOLDER)}")
    endings = sorted({inner_suffix(file) for file in files})
    if len(endings) > 1:
        raise DataError(
            f"{path}: the folder holds tables of several kinds ({', '.join(endings)}); name one as {path}/*{endings[0]}"
        )
    return files


def _files_in(folder: Path) -> list[Path]:
    with naming_the_file(folder):
        files = list(itertools.islice(files_under(folder), FILES + 1))
        if len(files) > FILES:
            raise DataError(f"more than {FILES} files, which is more than is read")
        found = sorted(file for file in files if file.is_file() and not _is_hidden(file.relative_to(folder)))
    return [file for file in found if inner_suffix(file) in OF_A_FOLDER]


def _is_hidden(path: Path) -> bool:
    """Whether a file in a folder, or a folder above it, is no part of the table by its name, such as the copies in
    ``.ipynb_checkpoints``. A folder ``_column=value`` holds rows.
    """
    return any(part.startswith(".") or (part.startswith("_") and "=" not in part) for part in path.parts)


def _read_file(path: Path, reading: Reading) -> Table:
    if str(path) in STANDARD_INPUT:
        return _read_stdin(reading)
    suffix = inner_suffix(path)
    if suffix not in READABLE:
        what = "a folder" if path.is_dir() else repr(path.suffix) if path.suffix else "a name without an ending"
        raise DataError(
            f"{path}: cannot read {what}; tables are {', '.join(READABLE)}, text also with {' '.join(COMPRESSED)}"
        )
    if not path.is_file():
        siblings = [file.name for file in path.parent.glob("*")] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, siblings, n=1)
        raise DataError(f"{path}: no such file" + (f"; did you mean {near[0]!r}?" if near else ""))
    return _guarded(path, suffix, lambda: open_bytes(path), reading)


def _read_stdin(reading: Reading) -> Table:
    with naming_the_file("standard input"):
        spool = spooled_stdin()
    with spool:
        return _read_spool(spool, reading)


def _read_spool(spool: IO[bytes], reading: Reading) -> Table:
    start = spool.read(64)
    other = ".jsonl" if re.match(rb"\s*(?:\[\s*)?\{", start) else ".csv"
    suffix = {b"PAR1": ".parquet", b"ARRO": ".arrow"}.get(start[:4], other)

    def opened() -> IO[bytes]:
        spool.seek(0)
        return _KeptOpen(spool)  # pyright: ignore[reportReturnType]

    return _guarded(Path("standard input"), suffix, opened, reading)


class _KeptOpen:
    """A file that stays open when a reader closes it, so that the next reader can begin anew."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.closed = file, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> "_KeptOpen":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.file)

    def close(self) -> None:
        """Nothing: the file is read again."""


def _guarded(path: Path, suffix: str, opened: Callable[[], IO[bytes]], reading: Reading) -> Table:
    with naming_the_file(path, suffix):
        if suffix in TEXT:
            arrow, notes, read = read_text(str(path), opened, reading)
            return Table(path, arrow, tuple(notes), reading=read)
        if suffix in SPREADSHEETS:
            return _read_excel(path, reading)
        return replace(READERS[suffix](path, opened), reading=reading)


def _read_parquet(path: Path, opened: Callable[[], IO[bytes]]) -> Table:
    with opened() as stream:
        seekable_stream = seekable(stream)
        arrow = read_parquet(seekable_stream, _size(seekable_stream))
    return _of_arrow(path, arrow, "Parquet")


def _read_feather(path: Path, opened: Callable[[], IO[bytes]]) -> Table:
    import pyarrow.feather
    import pyarrow.ipc

    with opened() as opened_stream:
        stream = seekable(opened_stream)
        is_file = stream.read(6) in (b"ARROW1", b"FEA1\0\0") or path.suffix.lower() == ".feather"
        stream.seek(0)
        arrow = pyarrow.feather.read_table(stream) if is_file else pyarrow.ipc.open_stream(stream).read_all()
        require_proportion(len(arrow), arrow.num_columns, _size(stream))
    require_valid(arrow)
    return _of_arrow(path, arrow, "Arrow")


def _of_arrow(path: Path, arrow: pa.Table, form: str) -> Table:
    index = pandas_index(arrow.schema)
    note = f"read as {form}, {len(arrow)} rows, {arrow.num_columns} columns"
    return Table(path, plain_layout(arrow).replace_schema_metadata(None), (note,), index)


def pandas_index(schema: pa.Schema) -> tuple[str, ...]:
    """Columns that hold the index of a frame, as pandas writes into the schema."""
    try:
        about = json.loads((schema.metadata or {}).get(b"pandas", b"{}"))
        return tuple(n for n in about.get("index_columns", []) if isinstance(n, str) and n in schema.names)
    except (ValueError, AttributeError, TypeError, RecursionError):
        return ()


def _read_json(path: Path, opened: Callable[[], IO[bytes]]) -> Table:
    import pyarrow.json

    with opened() as stream:
        first = stream.read(1 << 12).lstrip()[:1]
    with opened() as stream:
        _require_shallow(stream)
    with opened() as stream:
        if first == b"[":
            records = json.load(stream)
            if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
                raise DataError("expected a list of records, each {name: value}")
            arrow = from_object(records).arrow
        else:
            arrow = pyarrow.json.read_json(stream)
            require_valid(arrow)
            arrow = _with_all_digits(arrow, opened)
    return Table(path, arrow, (f"read as JSON, {len(arrow)} rows, {arrow.num_columns} columns",))


def _with_all_digits(arrow: pa.Table, opened: Callable[[], IO[bytes]]) -> pa.Table:
    """The table of JSON lines, with columns as text in which there are numbers that float64 does not hold."""
    floats = [name for name, column in zip(arrow.column_names, arrow.columns, strict=True) if column.type == "double"]
    wide = [name for name in floats if (compute.max(compute.abs(arrow.column(name))).as_py() or 0) >= EXACT]
    if not wide:
        return arrow
    with opened() as stream:
        records = [json.loads(line) for line in stream if line.strip()]
    for name in wide:
        cells = [record.get(name) for record in records]
        if any(isinstance(cell, int) and _loses_digits(cell) for cell in cells):
            arrow = arrow.set_column(arrow.column_names.index(name), name, from_object({name: cells}).arrow.column(0))
    return arrow


def _loses_digits(whole: int) -> bool:
    """Whether float64 has another shortest notation; that of a float without a fraction may end in any digits."""
    with suppress(OverflowError):
        return Decimal(repr(float(whole))) != whole
    return True


def _require_shallow(stream: IO[bytes]) -> None:
    """Refuse JSON that is nested deeper than ``DEPTH``: the process would end."""
    depth = 0
    for line in stream:
        brackets = re.sub(rb"[^][{}]+", b"", JSON_TEXT.sub(b"", line))
        marks = np.frombuffer(brackets, np.uint8)
        steps = np.where((marks == ord("{")) | (marks == ord("[")), 1, -1)
        deepest = depth + int(steps.cumsum().max(initial=0))
        if deepest > DEPTH:
            raise DataError(f"its values are nested deeper than {DEPTH}")
        depth += int(steps.sum())


def _size(stream: IO[bytes]) -> int:
    """The bytes of a stream that can be read again, which is then at its beginning."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    return size


def _read_npy(path: Path, opened: Callable[[], IO[bytes]]) -> Table:
    with opened() as stream:
        array = read_npy(stream, _size(stream) if stream.seekable() else UNPACKED)
    if array.dtype.names is None and (array.ndim not in (1, 2) or array.dtype.kind not in "fiubUS"):
        raise DataError(f"expected a numeric array of shape (rows, columns), got {array.dtype} {array.shape}")
    return replace(from_object(array), path=path)


def _read_excel(path: Path, reading: Reading) -> Table:
    from flowstone.data.tables.spreadsheet import read_spreadsheet

    with path.open("rb") as stream:
        arrow, notes, read = read_spreadsheet(stream, reading)
    return Table(path, arrow, tuple(notes), reading=read)


READERS = {
    ".parquet": _read_parquet,
    ".feather": _read_feather,
    ".arrow": _read_feather,
    ".ipc": _read_feather,
    ".jsonl": _read_json,
    ".ndjson": _read_json,
    ".json": _read_json,
    ".npy": _read_npy,
}


def together(path: Path, tables: Sequence[Table], rows: int | None = None) -> Table:
    """The rows of several tables, which have the same columns.

    Args:
        rows: how many there are, for the notes; None counts them.
    """
    first = tables[0]
    if len(tables) == 1:
        return first
    for table in tables[1:]:
        if set(table.columns) != set(first.columns):
            odd = sorted(set(table.columns) ^ set(first.columns))
            raise DataError(
                f"{table.path}: its columns are not those of {first.path.name}: {', '.join(map(repr, odd[:5]))}"
            )
    schema = pa.schema([_common_field(path, name, tables) for name in first.columns])
    arrow = pa.concat_tables([in_types(table.path, table.arrow, schema) for table in tables])
    form = first.notes[0].rsplit(", ", 2)[0] if first.notes else "read"
    rows = len(arrow) if rows is None else rows
    notes = [f"{form} from {len(tables)} files, {rows} rows, {arrow.num_columns} columns"]
    return Table(path, arrow, (*notes, *dict.fromkeys(note for t in tables for note in t.notes[1:])), first.index)


def _common_field(path: Path, name: str, tables: Sequence[Table]) -> pa.Field:
    """A column with the type to which those of its files can be converted."""
    common = tables[0].arrow.schema.field(name)
    for table in tables[1:]:
        field = table.arrow.schema.field(name)
        try:
            common = pa.unify_schemas([pa.schema([common]), pa.schema([field])], promote_options="permissive").field(0)
        except pa.ArrowException as error:
            raise DataError(
                f"{path}: column {name!r} has different types in its files: {field.type} in {table.path.name}, "
                f"{common.type} before it"
            ) from error
    return common


def in_types(path: Path, arrow: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of one of several files in the order and the types that all of them have in common."""
    arrow = arrow.select(schema.names)
    for place, field in enumerate(schema):
        if arrow.schema.field(place).equals(field):
            continue
        pieces = [pa.schema([field]).empty_table(), arrow.select([place])]
        try:
            column = pa.concat_tables(pieces, promote_options="permissive").column(0)
        except pa.ArrowException as error:
            raise DataError(
                f"{path}: column {field.name!r} cannot be {field.type}, the type that its files have in common: "
                f"{str(error).splitlines()[0]}"
            ) from error
        arrow = arrow.set_column(place, field, column)
    return arrow


def with_gaps(table: Table, na: Sequence[str]) -> Table:
    """The table with nulls in place of the texts and numbers that mean a gap."""
    if not na:
        return table
    columns = [_with_gaps(column, na) for column in table.arrow.columns]
    return replace(table, arrow=pa.table(columns, names=table.columns))


def _with_gaps(column: pa.ChunkedArray, na: Sequence[str]) -> pa.ChunkedArray:
    kind = column.type
    plain = compute.cast(column, kind.value_type) if pa.types.is_dictionary(kind) else column
    gaps = _values_of(na, plain.type)
    if not len(gaps):
        return column
    if pa.types.is_float16(plain.type):  # among which Arrow does not look for values
        plain, gaps = plain.cast(pa.float32()), gaps.cast(pa.float32())
    found = compute.is_in(plain, value_set=gaps)
    if not compute.any(found).as_py():
        return column
    if pa.types.is_dictionary(kind):
        return pa.chunked_array([_without_levels(chunk, gaps) for chunk in column.chunks], kind)
    return compute.if_else(found, pa.scalar(None, kind), column)


def _without_levels(array: pa.DictionaryArray, gaps: pa.Array) -> pa.DictionaryArray:
    """The array with nulls in place of some levels; the others keep their order."""
    kind, levels = array.type, array.dictionary
    levels = levels.filter(compute.invert(compute.is_in(levels, value_set=gaps)))
    indices = compute.index_in(array.cast(kind.value_type), value_set=levels)
    return pa.DictionaryArray.from_arrays(indices.cast(kind.index_type), levels, ordered=kind.ordered)


def _values_of(na: Sequence[str], kind: pa.DataType) -> pa.Array:
    """What these texts are in a column of text, or of numbers, exactly; those that it cannot hold are passed over."""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pa.array(na, kind)
    if not is_number(kind):
        return pa.array([], kind)
    numbers = [text for text in na if is_number_text(text)]
    if pa.types.is_floating(kind):
        with np.errstate(over="ignore"):
            return pa.array(np.array(list(map(float, numbers))).astype(kind.to_pandas_dtype()))
    found = []
    for text in numbers:
        with suppress(pa.ArrowException, OverflowError, ValueError):
            value = Decimal(text)
            if not pa.types.is_integer(kind):
                found.append(pa.scalar(value, kind).as_py())
            elif math.isfinite(float(text)) and value == int(value):
                found.append(pa.scalar(int(value), kind).as_py())
    return pa.array(found, kind)


def checked(table: Table, rows: int | None = None, *, empty: bool = False) -> Table:
    """The table, if no name comes twice and there are rows and columns; a warning of each of its doubts.

    Args:
        rows: how many there are; None counts them.
        empty: whether it may be without rows.
    """
    arrow, rows = table.arrow, len(table) if rows is None else rows
    repeated = sorted(name for name, count in Counter(arrow.column_names).items() if count > 1)
    if repeated:
        raise DataError(f"{table.path}: column name {repeated[0]!r} occurs more than once")
    if arrow.num_columns > COLUMNS:
        raise DataError(f"{table.path}: {arrow.num_columns} columns; at most {COLUMNS} are read")
    if (rows == 0 and not empty) or arrow.num_columns == 0:
        raise DataError(f"{table.path}: the table is empty ({rows} rows, {arrow.num_columns} columns)")
    for note in table.notes:
        if is_doubt(note):
            warnings.warn(f"{table.path}: {note}", stacklevel=3)
    return table


def is_doubt(note: str) -> bool:
    """Whether what was understood while reading is in doubt."""
    return note.startswith("in doubt")
