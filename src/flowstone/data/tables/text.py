"""Text files to Arrow tables: the dialect from the first rows, then pyarrow's reader of CSV over the whole file."""

import csv
import io
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import IO, Any

import pyarrow as pa
import pyarrow.csv

from flowstone.data.tables.arrow import compute
from flowstone.data.tables.dialect import LONG_CELL, SAMPLE, Dialect, sniff
from flowstone.data.tables.streams import encoding_of
from flowstone.data.tables.values import MISSING, SHARES, parse_dates, parse_numbers, signs_of, without_gaps
from flowstone.errors import DataError, DataWarning

__all__ = [
    "BadRows",
    "csv_options",
    "csv_source",
    "dialect_of",
    "has_only_names",
    "is_empty",
    "read_text",
    "require_closed",
    "said",
    "sign_notes",
    "without_blank_rows",
]

PIECE = 1 << 16
OTHER_FORMS = (
    (re.compile(r"\s*\[?\s*\{\s*\"[^\"\n]*\"\s*:"), "JSON; its name must end in .jsonl or .json"),
    (re.compile(r"\s*<(?:!doctype|html|\?xml)", re.IGNORECASE), "HTML or XML, no table"),
    (re.compile(r"%PDF-"), "a PDF, no table"),
)
BATCH = 2000  # lines that are rewritten at a time


def read_text(
    where: str, opened: Callable[[], IO[bytes]], *, na: Sequence[str] = (), encoding: str | None = None,
    skip_bad: bool = False,
) -> tuple[pa.Table, list[str]]:  # fmt: skip
    """A table from text, and what was understood.

    Args:
        where: the file, for messages.
        opened: gives the bytes from their beginning, each time it is called.
        na: further texts that mean a gap.
        encoding: of the text; without it, see ``encoding_of``.
        skip_bad: leave out rows with too many or too few fields.
    """
    encoding, dialect = dialect_of(where, opened, na=na, encoding=encoding)
    bad = BadRows(dialect)
    try:
        with opened() as stream:
            source, options = csv_source(stream, encoding, dialect), csv_options(encoding, dialect, bad, na)
            table = pyarrow.csv.read_csv(source, **options)
    except pa.ArrowInvalid as error:
        if "straddl" in str(error):
            raise DataError(f"{where}: {LONG_CELL}") from error
        if not has_only_names(error):
            raise
        table = pa.table({name: pa.nulls(0) for name in dialect.names})
    require_closed(opened, table, len(table), encoding, dialect)
    notes = [*dialect.notes, *bad.notes(where, skip_bad=skip_bad)]
    table = _without_unused(table, dialect)
    columns = [_understood(name, table.column(name), dialect, na, notes) for name in table.column_names]
    table = without_blank_rows(pa.table(columns, names=table.column_names), notes)
    return table, [said(encoding, dialect, len(table), table.num_columns), *notes]


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
        if sum(piece.count(dialect.quote) for piece in iter(lambda: text.read(PIECE), "")) % 2:
            raise DataError(
                f"row {row}: a quote ({dialect.quote}) is opened and never closed, so that all lines below are one cell"
            )


def said(encoding: str, dialect: Dialect, rows: int, columns: int) -> str:
    """The form of a text and its size in one line."""
    shown = "" if encoding == "utf-8" else f"{encoding} "
    return f"read as {shown}{dialect.said()}, {rows} rows, {columns} columns"


def dialect_of(
    where: str, opened: Callable[[], IO[bytes]], *, na: Sequence[str], encoding: str | None
) -> tuple[str, Dialect]:
    """The encoding of a text, found from its bytes where none is given, and its dialect."""
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
    return encoding, sniff(sample, na=na)


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


def _understood(
    name: str, column: pa.ChunkedArray, dialect: Dialect, na: Sequence[str], notes: list[str]
) -> pa.ChunkedArray:
    """A column of text as what its cells are: numbers in another notation, dates, or text."""
    if not pa.types.is_string(column.type):
        return column
    column = without_gaps(column, na)
    if name in dialect.as_text or column.null_count == len(column):
        return column
    numbers = parse_numbers(column, dialect.point)
    if numbers is not None:
        notes.extend(sign_notes(name, signs_of(column)))
        return numbers
    dates = parse_dates(column)
    if dates is None:
        return column
    parsed, doubt = dates
    if doubt:
        notes.append(f"in doubt: column {name!r}: {doubt}")
    return parsed


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
