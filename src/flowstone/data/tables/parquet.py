"""Parquet files whose decoded rows are in proportion to their size: a few hundred bytes can hold gigabytes."""

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet

from flowstone.data.limits import COLUMNS, UNPACKED, most_unpacked
from flowstone.data.tables.arrow import compute
from flowstone.errors import DataError

__all__ = ["ParquetReader", "read_parquet", "require_proportion", "require_valid"]

WIDTH = 8  # bytes of a number


def read_parquet(source: IO[bytes] | Path, size: int) -> pa.Table:
    """All rows of a Parquet file of ``size`` bytes.

    Raises:
        DataError: they take far more memory than the file, or are damaged. Other errors are those of pyarrow.
    """
    with ParquetReader(source, size) as reader:
        return reader.read()


class ParquetReader:
    """A Parquet file, opened within limits. Texts that the file holds once for many rows are decoded once, and become
    plain only after their length is counted; those within nested columns are read a few rows at a time.

    Args:
        options: further ones of pyarrow's ``ParquetFile``.
    """

    def __init__(self, source: IO[bytes] | Path, size: int, **options: Any) -> None:
        self.most = most_unpacked(size)
        self.file = pyarrow.parquet.ParquetFile(source, **options)
        self.schema = self.file.schema_arrow
        require_proportion(self.file.metadata.num_rows, len(self.schema), size)
        longest = _longest_texts(self.file, self.most)
        repeated = [name for name in longest if name in self.schema.names]
        self.rows = min((max(1, UNPACKED // longest[name]) for name in longest if name not in repeated), default=None)
        if repeated:
            self.file.close()
            self.file = pyarrow.parquet.ParquetFile(source, read_dictionary=repeated, **options)

    def __enter__(self) -> "ParquetReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def read(self) -> pa.Table:
        """All rows."""
        if self.rows is None:
            table = self._plain(self.file.read())
            require_valid(table)
            return table
        pieces, size = [self.schema.empty_table()], 0
        for piece in self.batches(self.rows, list(range(self.file.num_row_groups))):
            size += piece.nbytes
            if size > self.most:
                raise DataError(f"its rows take more than {self.most} bytes, far more than the file")
            pieces.append(piece)
        return pa.concat_tables(pieces).combine_chunks()

    def batches(self, rows: int, groups: list[int]) -> Iterator[pa.Table]:
        """The rows of some row groups, so many at a time, or fewer."""
        for batch in self.file.iter_batches(min(rows, self.rows or rows), row_groups=groups):
            table = self._plain(pa.Table.from_batches([batch]))
            require_valid(table)
            yield table

    def _plain(self, table: pa.Table) -> pa.Table:
        """The table in the types of the file's schema."""
        size = 0
        for place, field in enumerate(self.schema):
            column = table.column(place)
            if column.type == field.type:
                continue
            size += _plain_size(column)
            if size > self.most:
                raise DataError(f"its texts take more than {self.most} bytes, far more than the file")
            table = table.set_column(place, field, column.cast(field.type))
        return table


def require_proportion(rows: int, columns: int, size: int) -> None:
    """Refuse a table that is far larger than the file of ``size`` bytes that holds it."""
    if columns > COLUMNS:
        raise DataError(f"{columns} columns; at most {COLUMNS} are read")
    if rows * max(columns, 1) * WIDTH > most_unpacked(size):
        raise DataError(f"{rows} rows of {columns} columns in {size} bytes: they take far more memory than the file")


def require_valid(table: pa.Table) -> None:
    """Refuse a table whose offsets point elsewhere, or whose texts are no UTF-8."""
    for name, column in zip(table.column_names, table.columns, strict=True):
        try:
            column.validate(full=True)
        except pa.ArrowException as error:
            raise DataError(f"column {name!r} is damaged: {str(error).splitlines()[0]}") from error


def _longest_texts(file: pyarrow.parquet.ParquetFile, most: int) -> dict[str, int]:
    """The columns of texts that would take more than ``most`` bytes if each were as long as all together in the file,
    and that length.
    """
    size: dict[str, int] = {}
    longest: dict[str, int] = {}
    metadata = file.metadata
    for group in range(metadata.num_row_groups):
        for place in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(place)
            if chunk.physical_type == "BYTE_ARRAY" and any("DICTIONARY" in each for each in chunk.encodings):
                name, length = chunk.path_in_schema, max(chunk.total_uncompressed_size, 1)
                size[name] = size.get(name, 0) + max(chunk.num_values, 0) * length
                longest[name] = max(longest.get(name, 0), length)
    return {name: length for name, length in longest.items() if size[name] > most}


def _plain_size(column: pa.ChunkedArray) -> int:
    """Bytes of the texts of a column that may hold each text once, in a dictionary."""
    size = 0
    for chunk in column.chunks:
        if not pa.types.is_dictionary(chunk.type):
            continue
        lengths = compute.cast(compute.binary_length(chunk.dictionary), pa.int64())
        size += compute.sum(lengths.take(chunk.indices)).as_py() or 0
    return size
