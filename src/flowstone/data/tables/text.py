"""Text files to Arrow tables: the dialect from the first rows, then pyarrow's reader of CSV over the whole file."""

import csv
import io
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import IO, Any

import pyarrow as pa
import pyarrow.csv

from flowstone.data.tables.arrow import compute
from flowstone.data.tables.dialect import LONG_CELL, SAMPLE, Dialect, sniff
from flowstone.data.tables.reading import Reading
from flowstone.data.tables.streams import encoding_of
from flowstone.data.tables.values import (
    MISSING,
    SHARES,
    DateReading,
    date_readings,
    differs_by_order,
    first_cell,
    in_order,
    order_shown,
    parse_numbers,
    signs_of,
    without_gaps,
)
from flowstone.errors import DataError, DataWarning

__all__ = [
    "BadRows",
    "chosen_dates",
    "csv_options",
    "csv_source",
    "dialect_of",
    "has_only_names",
    "is_empty",
    "read_text",
    "require_closed",
    "said",
    "sign_notes",
    "understood",
    "without_blank_rows",
]

CHUNK = 1 << 16
OTHER_FORMS = (
    (re.compile(r"\s*\[?\s*\{\s*\"[^\"\n]*\"\s*:"), "JSON; its name must end in .jsonl or .json"),
    (re.compile(r"\s*<(?:!doctype|html|\?xml)", re.IGNORECASE), "HTML or XML, no table"),
    (re.compile(r"%PDF-"), "a PDF, no table"),
)
BATCH = 2000  # lines that are rewritten at a time


def read_text(where: str, opened: Callable[[], IO[bytes]], reading: Reading) -> tuple[pa.Table, list[str], Reading]:
    """A table from text; what was understood; and the reading with what the cells show filled in.

    Args:
        where: the file, for messages.
        opened: gives the bytes from their beginning, each time it is called.
        reading: how it is to be read.
    """
    encoding, dialect = dialect_of(where, opened, reading)
    bad = BadRows(dialect)
    try:
        with opened() as stream:
            source, options = csv_source(stream, encoding, dialect), csv_options(encoding, dialect, bad, reading.na)
            table = pyarrow.csv.read_csv(source, **options)
    except pa.ArrowInvalid as error:
        if "straddl" in str(error):
            raise DataError(f"{where}: {LONG_CELL}") from error
        if not has_only_names(error):
            raise
        table = pa.table({name: pa.nulls(0) for name in dialect.names})
    require_closed(opened, table, len(table), encoding, dialect)
    notes = [*dialect.notes, *bad.notes(where, skip_bad=reading.skip_bad)]
    table = _without_unused(table, dialect)
    table, day_first = understood(table, reading, notes, point=dialect.point, as_text=dialect.as_text)
    table = without_blank_rows(table, notes)
    read = replace(reading, encoding=encoding, decimal=dialect.decimal, day_first=day_first)
    return table, [said(encoding, dialect, len(table), table.num_columns), *notes], read


def has_only_names(error: pa.ArrowInvalid) -> bool:
    """Whether pyarrow found a line of names, and no end of line."""
    return "skip initial" in str(error) or "Empty CSV" in str(error)


def require_closed(opened: Callable[[], IO[bytes]], last: pa.Table, row: int, encoding: str, dialect: Dialect) -> None:
    """Refuse a quote that is opened and never closed: it takes all lines to the end of the file into one cell.

    Args:
        last: some rows, of which the last is that of the file.
        row: its number.
    """
    cells = [column[-1].as_py() for column in last.columns if len(column) and pa.types.is_string(column.type)]
    if not dialect.quote or not any(cell and "\n" in cell for cell in cells):
        return
    with opened() as stream:
        text = io.TextIOWrapper(stream, encoding=encoding)
        if sum(piece.count(dialect.quote) for piece in iter(lambda: text.read(CHUNK), "")) % 2:
            raise DataError(
                f"row {row}: a quote ({dialect.quote}) is opened and never closed, so that all lines below are one cell"
            )


def said(encoding: str, dialect: Dialect, rows: int, columns: int) -> str:
    """The form of a text and its size in one line."""
    shown = "" if encoding == "utf-8" else f"{encoding} "
    return f"read as {shown}{dialect.said()}, {rows} rows, {columns} columns"


def dialect_of(where: str, opened: Callable[[], IO[bytes]], reading: Reading) -> tuple[str, Dialect]:
    """The encoding of a text, found from its bytes where none is given, and its dialect."""
    encoding = reading.encoding
    if encoding is None:
        with opened() as stream:
            encoding = encoding_of(stream)
        if not encoding.startswith("utf"):
            doubt = (
                f"{where}: the text is not UTF-8; it is read as {encoding}; if letters are wrong, name another, as in"
            )
            other = "cp1250" if encoding == "cp1252" else "cp1252"
            warnings.warn(DataWarning(doubt, remedy={"encoding": other}), stacklevel=6)
    with opened() as stream:
        sample = _sample(stream, encoding)
    form = next((form for start, form in OTHER_FORMS if start.match(sample)), None)
    if form:
        raise DataError(f"the file holds {form}")
    return encoding, sniff(sample, na=reading.na, decimal=reading.decimal)


class BadRows:
    """Counts rows that have too many or too few fields, and remembers the first."""

    def __init__(self, dialect: Dialect) -> None:
        self.width, self.skipped = len(dialect.names), 0 if dialect.rewritten else dialect.skip
        self.count, self.row, self.fields, self.text = 0, 0, 0, ""

    def __call__(self, row: "pyarrow.csv.InvalidRow") -> str:
        if not row.text.strip().startswith(("#", "//")):
            if not self.count:
                self.row = (row.number or 0) - self.skipped
                self.fields, self.text = row.actual_columns, row.text[:60]
            self.count += 1
        return "skip"

    def notes(self, where: str, *, skip_bad: bool) -> list[str]:
        """What is said of them where they may be left out; DataError where there are some that may not be."""
        if self.count and not skip_bad:
            raise DataError(
                f"{where}: row {self.row} has {self.fields} fields instead of {self.width} ({self.text!r}); "
                f"rows of another length: {self.count}; to leave them out",
                remedy={"skip_bad": True},
            )
        return [f"rows of another length left out: {self.count}"] if self.count else []


def _sample(stream: IO[bytes], encoding: str) -> str:
    """The first lines of the text, all of them complete."""
    reader = io.TextIOWrapper(stream, encoding=encoding, newline="")
    try:
        text = reader.read(SAMPLE).removeprefix("\ufeff")
        more = len(text) >= SAMPLE
    except UnicodeError as error:
        raise DataError(f"the text is not {encoding}: {error}", remedy={"encoding": "cp1252"}) from error
    finally:
        reader.detach()
    cut = max(text.rfind("\n"), text.rfind("\r")) if more else -1
    return text[: cut + 1] if cut > 0 else text


def csv_source(stream: IO[bytes], encoding: str, dialect: Dialect) -> Any:
    """What pyarrow's reader of CSV reads a text from."""
    return pa.PythonFile(_Rewritten(stream, encoding, dialect), "r") if dialect.rewritten else stream


def csv_options(
    encoding: str, dialect: Dialect, bad: BadRows, na: Sequence[str], types: Mapping[str, pa.DataType] | None = None
) -> dict[str, Any]:
    """The options of pyarrow's reader for a dialect.

    Args:
        bad: what is called for each row of another length.
        na: further texts that mean a gap.
        types: of columns whose type is known before.
    """
    rewritten = dialect.rewritten
    gaps = [*MISSING, *na]
    return {
        "read_options": pyarrow.csv.ReadOptions(
            use_threads=False,  # with threads, rows have no numbers
            skip_rows=0 if rewritten else dialect.skip,
            column_names=list(dialect.names),
            encoding="utf8" if rewritten or encoding == "utf-8" else encoding,
        ),
        "parse_options": pyarrow.csv.ParseOptions(
            delimiter="," if rewritten else dialect.separator,
            quote_char='"' if rewritten else dialect.quote,
            escape_char=False if rewritten else dialect.escape or False,
            newlines_in_values=True,
            invalid_row_handler=bad,
        ),
        "convert_options": pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(dialect.as_text, pa.string()) | dict(types or {}),
            null_values=[*gaps, *(f" {gap}" for gap in gaps)],
            true_values=["True", "TRUE", "true"],
            false_values=["False", "FALSE", "false"],
            strings_can_be_null=True,
            decimal_point=dialect.point,
        ),
    }


class _Rewritten(io.RawIOBase):
    """The rows of a text as plain CSV in UTF-8: without comments and what is skipped, blanks as separators replaced."""

    def __init__(self, stream: IO[bytes], encoding: str, dialect: Dialect) -> None:
        super().__init__()
        self.pieces, self.held = self._pieces(stream, encoding, dialect), b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while size < 0 or len(self.held) < size:
            piece = next(self.pieces, b"")
            if not piece:
                break
            self.held += piece
        out, self.held = (self.held, b"") if size < 0 else (self.held[:size], self.held[size:])
        return out

    @staticmethod
    def _pieces(stream: IO[bytes], encoding: str, dialect: Dialect) -> Iterator[bytes]:
        def lines() -> Iterator[str]:
            with io.TextIOWrapper(stream, encoding=encoding) as text:
                for number, line in enumerate(text, start=1):
                    is_comment = dialect.comment and line.lstrip().startswith(dialect.comment)
                    if number > dialect.skip and line.strip() and not is_comment:
                        yield line

        held = io.StringIO()
        writer = csv.writer(held, lineterminator="\n")
        for count, row in enumerate(dialect.reader(lines()), start=1):
            if row:
                writer.writerow(row)
            if count % BATCH == 0:
                yield held.getvalue().encode()
                held.seek(0)
                held.truncate()
        yield held.getvalue().encode()


def understood(
    table: pa.Table, reading: Reading, notes: list[str], *, point: str = ".", as_text: Collection[str] = ()
) -> tuple[pa.Table, bool | None]:
    """Columns of text as what their cells are: numbers in another notation, dates, or text; ``day_first`` as shown.

    Args:
        reading: how the table is to be read.
        notes: what was understood, and what is in doubt, is added to it.
        point: the decimal mark.
        as_text: columns that stay text.
    """
    columns = dict(zip(table.column_names, table.columns, strict=True))
    dates: dict[str, list[DateReading]] = {}
    for name, column in columns.items():
        if not pa.types.is_string(column.type):
            continue
        columns[name] = text = without_gaps(column, reading.na)
        if name in as_text or is_empty(text):
            continue
        numbers = parse_numbers(text, point)
        if numbers is not None:
            notes.extend(sign_notes(name, signs_of(text)))
            columns[name] = numbers
        elif found := list(date_readings(text)):
            dates[name] = found
    differing = {name for name, found in dates.items() if differs_by_order(columns[name], found[0])}
    first = {name: first_cell(columns[name]) or "" for name in dates}
    chosen, day_first = chosen_dates(dates, reading.day_first, differing, first, notes)
    columns |= {name: each.parse(columns[name]) for name, each in chosen.items()}
    return pa.table(columns), day_first


def chosen_dates(
    possible: Mapping[str, Sequence[DateReading]],
    day_first: bool | None,
    differing: Collection[str],
    first: Mapping[str, str],
    notes: list[str],
) -> tuple[dict[str, DateReading], bool | None]:
    """The reading of each column of dates, in the order of day and month that some columns show, else as asked; and
    that order.

    Args:
        possible: the readings by which every cell of a column is a date or a gap.
        day_first: as in ``Reading``.
        differing: columns of which another order makes other dates.
        first: their first cells.
        notes: what is in doubt is added to it.
    """
    shown = order_shown(possible.values())
    day_first = day_first if shown is None else shown
    chosen = {name: in_order(readings, day_first) for name, readings in possible.items()}
    for name, each in chosen.items():
        if doubt := each.doubt(first[name], ambiguous=day_first is None and name in differing):
            notes.append(f"in doubt: column {name!r}: {doubt}")
    return chosen, day_first


def sign_notes(name: str, signs: Collection[str]) -> list[str]:
    """What is said of a column of numbers with percent signs or currencies, of which ``""`` is a cell without one."""
    shares, others = sorted(set(signs) & set(SHARES)), sorted(set(signs) - set(SHARES))
    currencies = [sign for sign in others if sign]
    if (shares and others) or len(shares) > 1:
        beside = ", others ".join([*shares, *currencies, *["none"] * ("" in signs)])
        return [f"in doubt: column {name!r}: some of its numbers have the sign {beside}; all signs are left out"]
    if len(currencies) > 1:
        said = ", ".join(currencies)
        return [f"in doubt: column {name!r} holds several currencies ({said}); their signs are left out"]
    return [f"column {name!r}: the signs {shares[0]} are left out"] if shares else []


def _without_unused(table: pa.Table, dialect: Dialect) -> pa.Table:
    empty = [name for name in dialect.unused if is_empty(table.column(name))]
    return table.drop_columns(empty)


def is_empty(column: pa.ChunkedArray) -> bool:
    """Whether all cells are gaps."""
    return column.null_count == len(column)


def without_blank_rows(table: pa.Table, notes: list[str]) -> pa.Table:
    """The table without rows of separators alone, which spreadsheets leave at the end."""
    if table.num_columns < 2 or any(column.null_count == 0 for column in table.columns):
        return table
    some = compute.is_valid(table.column(0))
    for column in table.columns[1:]:
        some = compute.or_(some, compute.is_valid(column))
    kept = table.filter(some)
    if len(kept) < len(table):
        notes.append(f"rows without any value left out: {len(table) - len(kept)}")
    return kept
