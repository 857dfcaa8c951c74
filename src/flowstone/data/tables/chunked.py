"""ChunkedTable: a large Parquet or text table, read a chunk of rows at a time."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from flowstone.data.guards import naming_the_file
from flowstone.data.tables.frames import plain_layout
from flowstone.data.tables.parquet import ParquetReader
from flowstone.data.tables.partitions import partition_values, with_partitions
from flowstone.data.tables.read import (
    STANDARD_INPUT,
    TEXT,
    as_shown,
    checked,
    files_of,
    in_types,
    pandas_index,
    read_in_one_notation,
    together,
    with_gaps,
)
from flowstone.data.tables.reading import Reading
from flowstone.data.tables.streams import inner_suffix, open_bytes
from flowstone.data.tables.table import Table
from flowstone.data.tables.text_chunks import TextChunks, scan_text

__all__ = ["LARGE", "ChunkedTable", "open_chunked"]

LARGE = 1 << 26  # bytes of files from which a table is read in chunks
BATCH = 1 << 16  # rows of a Parquet file decoded at a time
BUFFER = 1 << 20  # bytes of a column read at a time, so that row groups of any size fit


@dataclass(frozen=True)
class ChunkedTable:
    """A table in files, of which a chunk is in memory at a time. Its rows, types and notes are those of ``read_table``.

    Attributes:
        head: the table without its rows: path, names, types, notes, index.
        rows: how many rows it has.
        files: what it is read from.
        partitions: for each file, the values that its folders hold, by column.
    """

    head: Table
    rows: int
    files: tuple["ParquetChunks | TextFile", ...]
    partitions: tuple[Mapping[str, pa.Scalar], ...]

    def __len__(self) -> int:
        return self.rows

    @property
    def paths(self) -> list[Path]:
        """The files, in the order of their rows."""
        return [file.path for file in self.files]

    def chunks(self, size: int, start: int = 0) -> Iterator[Table]:
        """The rows from row ``start`` on, so many at a time; the last chunk may be smaller."""
        for arrow in _in_blocks(self._from(start), size):
            yield with_gaps(replace(self.head, arrow=arrow, start=start), self.head.reading.na)
            start += len(arrow)

    def _from(self, start: int) -> Iterator[pa.Table]:
        for file, values in zip(self.files, self.partitions, strict=True):
            if max(0, start) < file.rows:
                for arrow in file.read(max(0, start)):
                    whole = with_partitions(arrow.replace_schema_metadata(None), values)
                    yield in_types(file.path, whole, self.head.arrow.schema)
            start -= file.rows


@dataclass(frozen=True)
class ParquetChunks:
    """A Parquet file."""

    path: Path
    schema: pa.Schema
    rows: int

    @classmethod
    def of(cls, path: Path) -> "ParquetChunks":
        """The file at a path."""
        with naming_the_file(path, ".parquet"), ParquetReader(path, path.stat().st_size) as reader:
            return cls(path, reader.schema, reader.file.metadata.num_rows)

    @property
    def head(self) -> Table:
        """The table without its rows."""
        note = f"read as Parquet, {self.rows} rows, {len(self.schema)} columns"
        empty = plain_layout(self.schema.empty_table()).replace_schema_metadata(None)
        return Table(self.path, empty, (note,), pandas_index(self.schema))

    def read(self, start: int) -> Iterator[pa.Table]:
        """The rows from row ``start`` on. Row groups before it are not read.

        Nothing is buffered in advance: pyarrow would keep that of all row groups until the last one is read.
        """
        with (
            naming_the_file(self.path, ".parquet"),
            ParquetReader(self.path, self.path.stat().st_size, buffer_size=BUFFER, pre_buffer=False) as reader,
        ):
            groups = list(range(reader.file.num_row_groups))
            while groups and (rows := reader.file.metadata.row_group(groups[0]).num_rows) <= start:
                start -= rows
                del groups[0]
            yield from map(plain_layout, _skip(reader.batches(BATCH, groups), start))


@dataclass(frozen=True)
class TextFile:
    """A text file, plain or compressed."""

    path: Path
    text: TextChunks

    @classmethod
    def of(cls, path: Path, reading: Reading) -> "TextFile":
        """The file at a path, whose dialect and types are found by reading it once."""
        with naming_the_file(path, inner_suffix(path)):
            return cls(path, scan_text(str(path), lambda: open_bytes(path), reading))

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self.text.rows

    @property
    def head(self) -> Table:
        """The table without its rows."""
        return Table(self.path, self.text.schema.empty_table(), self.text.notes, reading=self.text.reading)

    def read(self, start: int) -> Iterator[pa.Table]:
        """The rows from row ``start`` on; those before it are read and dropped."""
        with naming_the_file(self.path, inner_suffix(self.path)):
            yield from _skip(self.text, start)


def open_chunked(
    source: str | os.PathLike[str],
    *,
    at_least: int | None = None,
    **options: Any,
) -> ChunkedTable | None:
    """A large table that can be read in chunks: Parquet, or text that may be compressed, one file or several.

    None for all other sources, and for tables whose files are smaller than ``at_least`` bytes together (``LARGE``, if
    it is not set): ``read_table`` reads those whole.

    Args:
        options: those of ``Reading``.

    Raises:
        DataError: for the same reasons as ``read_table``.
    """
    if str(source) in STANDARD_INPUT:
        return None
    paths = files_of(str(source))
    if not all(path.is_file() and _streams(path) for path in paths):
        return None
    if sum(path.stat().st_size for path in paths) < (LARGE if at_least is None else at_least):
        return None
    reading = Reading(**options)
    files = read_in_one_notation(paths, reading, _opened, lambda file: file.head)
    rows = sum(file.rows for file in files)
    partitions = tuple(partition_values(Path(source), paths))
    heads = [
        replace(file.head, arrow=with_partitions(file.head.arrow, values))
        for file, values in zip(files, partitions, strict=True)
    ]
    head = replace(together(Path(source), heads, rows), reading=as_shown(heads, reading))
    return ChunkedTable(with_gaps(checked(head, rows), reading.na), rows, tuple(files), partitions)


def _opened(path: Path, reading: Reading) -> ParquetChunks | TextFile:
    return ParquetChunks.of(path) if path.suffix.lower() == ".parquet" else TextFile.of(path, reading)


def _streams(path: Path) -> bool:
    return path.suffix.lower() == ".parquet" or inner_suffix(path) in TEXT


def _skip(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The tables without their first rows."""
    for table in tables:
        if rows < len(table):
            yield table.slice(rows)
        rows = max(0, rows - len(table))


def _in_blocks(tables: Iterable[pa.Table], size: int) -> Iterator[pa.Table]:
    """The same rows, ``size`` at a time."""
    held: list[pa.Table] = []
    count = 0
    for table in tables:
        taken = 0
        while count + len(table) - taken >= size:
            yield pa.concat_tables([*held, table.slice(taken, size - count)])
            held, count, taken = [], 0, taken + size - count
        if taken < len(table):
            held.append(table.slice(taken))
            count += len(table) - taken
    if held:
        yield pa.concat_tables(held)
