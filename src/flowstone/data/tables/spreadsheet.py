"""Spreadsheets, by calamine: the first sheet that holds a table."""

import datetime
from collections.abc import Sequence
from dataclasses import replace
from typing import IO, Any

import pyarrow as pa

from flowstone.data.tables.arrow import compute
from flowstone.data.tables.dialect import columns_named, find_header, is_code
from flowstone.data.tables.frames import from_object
from flowstone.data.tables.reading import Reading
from flowstone.data.tables.sheet_size import require_small_sheets
from flowstone.data.tables.text import understood
from flowstone.data.tables.values import is_gap, without_gaps
from flowstone.errors import DataError

__all__ = ["read_spreadsheet"]


def read_spreadsheet(stream: IO[bytes], reading: Reading) -> tuple[pa.Table, list[str], Reading]:
    """A table from .xlsx, .xls or .ods; what was understood; and the reading with what the cells show filled in.

    Raises:
        DataError: the package is missing, or no sheet holds rows.
    """
    try:
        import python_calamine
    except ImportError as error:
        raise DataError("reading spreadsheets needs python-calamine: pip install 'flowstone[excel]'") from error
    require_small_sheets(stream)
    try:
        book = python_calamine.CalamineWorkbook.from_filelike(stream)
        for name in book.sheet_names:
            rows = [row for row in book.get_sheet_by_name(name).to_python() if any(cell != "" for cell in row)]
            if rows:
                arrow, notes, read = _table_of(rows, reading)
                others = f" of {len(book.sheet_names)}" if len(book.sheet_names) > 1 else ""
                said = f"read as a spreadsheet, sheet {name!r}{others}, {len(arrow)} rows, {arrow.num_columns} columns"
                return arrow, [said, *notes], read
    except BaseException as error:
        if type(error).__name__ == "PanicException":  # of a library in Rust; it is no Exception
            raise DataError("the spreadsheet is damaged") from error
        raise
    raise DataError("the spreadsheet is empty")


def _table_of(rows: Sequence[Sequence[Any]], reading: Reading) -> tuple[pa.Table, list[str], Reading]:
    width = max(map(len, rows))
    start = next((i for i, row in enumerate(rows) if sum(cell != "" for cell in row) * 2 > width), 0)
    rows = rows[start:]
    words = [[_word(cell) for cell in row] for row in rows[:500]]
    header, units = find_header(words)
    notes = [f"{start} lines before the table are skipped"] if start else []
    names, unused = columns_named(words[0] if header else None, words[header + units :], notes)
    values = rows[header + units :]
    columns = {
        name: [None if _word(row[i]).strip() == "" or is_gap(_word(row[i])) else row[i] for row in values]
        for i, name in enumerate(names)
        if name not in unused
    }
    if not columns:
        return pa.table({}), notes, reading
    arrow = from_object(columns).arrow
    arrow = pa.table({name: _as_integers(arrow.column(name)) for name in arrow.column_names})
    codes = [name for name in arrow.column_names if _is_code(arrow.column(name))]
    arrow, day_first = understood(arrow, reading, notes, point=reading.decimal or ".", as_text=codes)
    return arrow, notes, replace(reading, day_first=day_first)


def _word(cell: Any) -> str:
    if isinstance(cell, datetime.datetime | datetime.date):
        return cell.isoformat()[:10]
    return str(cell)


def _as_integers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whole floats as integers, as a spreadsheet knows no integers."""
    if not pa.types.is_floating(column.type):
        return column
    whole = compute.all(compute.equal(column, compute.floor(column)), skip_nulls=True).as_py()
    small = compute.all(compute.less(compute.abs(column), 2.0**53), skip_nulls=True).as_py()
    return column.cast(pa.int64()) if whole and small else column


def _is_code(column: pa.ChunkedArray) -> bool:
    return pa.types.is_string(column.type) and is_code(compute.drop_null(without_gaps(column)).to_pylist())
