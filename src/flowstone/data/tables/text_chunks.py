"""Text files in chunks: one pass finds the types of their columns, and further ones read the rows with these types.

The types are those of the whole file. pyarrow's reader tries types in the order of ``LADDER`` until one holds every
cell; in chunks it knows the first cells alone, so the first pass begins anew with the next type of a column wherever a
cell does not fit. Numbers in other notations and dates are then found among the columns of text: the readings that all
chunks allow are those that the whole column allows.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import IO

import pyarrow as pa
import pyarrow.csv

from flowstone.data.tables.dialect import LONG_CELL, Dialect
from flowstone.data.tables.reading import Reading
from flowstone.data.tables.text import (
    BadRows,
    chosen_dates,
    csv_options,
    csv_source,
    dialect_of,
    has_only_names,
    is_empty,
    require_closed,
    said,
    sign_notes,
    without_blank_rows,
)
from flowstone.data.tables.values import (
    DATE_READINGS,
    DateReading,
    NumberReading,
    date_readings,
    differs_by_order,
    first_cell,
    number_readings,
    possible_numbers,
    signs_of,
    without_gaps,
)
from flowstone.errors import DataError

__all__ = ["TextChunks", "scan_text"]

LADDER = (
    pa.null(), pa.int64(), pa.bool_(), pa.date32(), pa.time32("s"), pa.timestamp("s"), pa.timestamp("ns"),
    pa.timestamp("s", "UTC"), pa.timestamp("ns", "UTC"), pa.float64(), pa.string(), pa.binary(),
)  # fmt: skip
BLOCK = 1 << 20  # bytes of a file that pyarrow reads at a time
MISFIT = re.compile(r"In CSV column #(\d+): .*conversion error", re.DOTALL)


@dataclass(frozen=True)
class TextChunks:
    """A text file whose dialect and types are known.

    Attributes:
        schema: names and types of its columns.
        rows: how many there are.
        notes: what was understood.
        reading: the options by which it is read, with what its cells showed in place of what was not set.
    """

    opened: Callable[[], IO[bytes]]
    encoding: str
    dialect: Dialect
    types: Mapping[str, pa.DataType]
    readings: Mapping[str, NumberReading | DateReading]
    schema: pa.Schema
    rows: int
    notes: tuple[str, ...]
    reading: Reading

    def __iter__(self) -> Iterator[pa.Table]:
        """The rows, in chunks of any size."""
        for table in _batches(
            self.opened, self.encoding, self.dialect, BadRows(self.dialect), self.reading.na, self.types
        ):
            columns = [self._column(name, table.column(name)) for name in self.schema.names]
            yield without_blank_rows(pa.table(columns, schema=self.schema), [])

    def _column(self, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
        if not pa.types.is_string(column.type):
            return column
        column = without_gaps(column, self.reading.na)
        return self.readings[name].parse(column) if name in self.readings else column


def scan_text(where: str, opened: Callable[[], IO[bytes]], reading: Reading) -> TextChunks:
    """Find the dialect and the types of a text file in one pass (or a few, where the first rows mislead), in memory
    that does not grow with the file. Arguments and errors are those of ``read_text``.
    """
    encoding, dialect = dialect_of(where, opened, reading)
    types: dict[str, pa.DataType] = {}
    while True:
        bad, found = BadRows(dialect), _Found(dialect, tuple(reading.na))
        try:
            for table in _batches(opened, encoding, dialect, bad, reading.na, types):
                types = {name: table.schema.field(name).type for name in table.column_names}
                found.add(table)
            break
        except pa.ArrowInvalid as error:
            if "straddl" in str(error):
                raise DataError(f"{where}: {LONG_CELL}") from error
            if has_only_names(error):
                break
            types = _loosened(types, dialect, error)
    require_closed(opened, found.last, found.rows, encoding, dialect)
    notes = [*dialect.notes, *bad.notes(where, skip_bad=reading.skip_bad)]
    names = [name for name in dialect.names if name not in dialect.unused or name in found.used]
    readings, day_first = found.readings(names, reading.day_first, notes)
    rows, blank = found.rows, found.blank if len(names) > 1 else 0
    if blank:
        notes.append(f"rows without any value left out: {blank}")
    types = {name: types.get(name, pa.null()) for name in dialect.names}
    schema = pa.schema([(name, readings[name].type if name in readings else types[name]) for name in names])
    notes = (said(encoding, dialect, rows - blank, len(names)), *notes)
    read = replace(reading, encoding=encoding, decimal=dialect.decimal, day_first=day_first)
    return TextChunks(opened, encoding, dialect, types, readings, schema, rows - blank, notes, read)


def _batches(
    opened: Callable[[], IO[bytes]],
    encoding: str,
    dialect: Dialect,
    bad: BadRows,
    na: Sequence[str],
    types: Mapping[str, pa.DataType],
) -> Iterator[pa.Table]:
    with opened() as stream:
        source, options = csv_source(stream, encoding, dialect), csv_options(encoding, dialect, bad, na, types)
        options["read_options"].block_size = BLOCK
        with pyarrow.csv.open_csv(source, **options) as reader:
            for batch in reader:
                yield pa.Table.from_batches([batch])


def _loosened(types: Mapping[str, pa.DataType], dialect: Dialect, error: pa.ArrowInvalid) -> dict[str, pa.DataType]:
    """The types with the next one for the column that the error is about; the error again where it is about none."""
    match = MISFIT.search(str(error))
    name = dialect.names[int(match[1])] if match else None
    if name is None or name not in types or name in dialect.as_text or types[name] == LADDER[-1]:
        raise error
    return {**types, name: LADDER[LADDER.index(types[name]) + 1]}


@dataclass
class _Found:
    """What the chunks of a text have shown so far.

    Attributes:
        rows, blank: how many rows there are, and how many of them are separators alone.
        last: the last rows.
        used: columns that hold a value.
        possible: of columns of text, the readings that all chunks allow.
        first: of these columns, the first cell that is no gap.
        signs: of columns that may be numbers, their percent and currency signs.
        other_day: columns in which another order of day and month means other days.
    """

    dialect: Dialect
    na: tuple[str, ...]
    rows: int = 0
    blank: int = 0
    last: pa.Table = field(default_factory=lambda: pa.table({}))
    used: set[str] = field(default_factory=set)
    possible: dict[str, tuple[list[NumberReading], list[DateReading]]] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)
    signs: dict[str, set[str]] = field(default_factory=dict)
    other_day: set[str] = field(default_factory=set)

    def add(self, table: pa.Table) -> None:
        """Take in the next chunk."""
        texts = {name for name in table.column_names if pa.types.is_string(table.schema.field(name).type)}
        for place, name in enumerate(table.column_names):
            if name in texts:
                table = table.set_column(place, name, without_gaps(table.column(name), self.na))
        self.used |= {name for name in table.column_names if not is_empty(table.column(name))}
        self.rows += len(table)
        self.last = table if len(table) else self.last
        self.blank += len(table) - len(without_blank_rows(table, []))
        for name in texts.difference(self.dialect.as_text):
            self._narrow(name, table.column(name))

    def _narrow(self, name: str, column: pa.ChunkedArray) -> None:
        cell = first_cell(column)
        if cell is None:
            return
        self.first.setdefault(name, cell)
        numbers, dates = self.possible.get(name, (possible_numbers(self.dialect.point), DATE_READINGS))
        numbers, dates = list(number_readings(column, numbers)), list(date_readings(column, dates))
        self.possible[name] = numbers, dates
        if numbers:
            self.signs.setdefault(name, set()).update(signs_of(column))
        if dates and name not in self.other_day and any(differs_by_order(column, each) for each in dates):
            self.other_day.add(name)

    def readings(
        self, names: Sequence[str], day_first: bool | None, notes: list[str]
    ) -> tuple[dict[str, NumberReading | DateReading], bool | None]:
        """How columns of text are to be read, and ``day_first`` as they show; what is to be said goes to ``notes``."""
        numbers = {name: self.possible[name][0] for name in names if name in self.possible}
        chosen = {name: possible[0] for name, possible in numbers.items() if possible}
        for name in chosen:
            notes.extend(sign_notes(name, self.signs[name]))
        dates = {name: self.possible[name][1] for name in numbers if name not in chosen and self.possible[name][1]}
        differing = {name for name in self.other_day if name in dates and dates[name][0].other_order in dates[name]}
        of_dates, day_first = chosen_dates(dates, day_first, differing, self.first, notes)
        return chosen | of_dates, day_first
