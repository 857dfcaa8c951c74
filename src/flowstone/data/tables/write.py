"""Tables and arrays written to files, all of a file or nothing."""

import sys
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from flowstone.errors import OutputError
from flowstone.files import atomic_path

__all__ = ["STDOUT", "check_writable", "require_types", "write_arrays", "write_chunks", "write_table"]


STDOUT = Path("-")


def check_writable(path: Path, endings: Sequence[str] = (".csv", ".parquet")) -> None:
    """Refuse a name that cannot be written to, before any work is done for it; ``-`` is standard output."""
    if path == STDOUT and ".csv" in endings:
        return
    if path.suffix.lower() not in endings:
        raise OutputError(f"cannot write {path}: its name must end in {', '.join(endings)}")
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: no folder {path.parent}")
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder")


def write_table(path: Path, table: pa.Table) -> None:
    """Write ``.csv`` or ``.parquet`` by the ending of the name, all of it or nothing."""
    write_chunks(path, [table])


def write_chunks(path: Path, tables: Iterable[pa.Table]) -> None:
    """Write a table that comes in chunks, at least one; each is written as it comes. ``-`` prints them as CSV."""
    check_writable(path)
    chunks = iter(tables)
    first = next(chunks)
    require_types(path, first.schema)
    if path.suffix.lower() != ".parquet":
        chunks = (_with_text(path, chunk) for chunk in chain([first], chunks))
        first = next(chunks)
    if path == STDOUT:
        _print_chunks(chain([first], chunks))
        return
    with atomic_path(path) as temporary, _writer(path, temporary, first.schema) as writer:
        for chunk in chain([first], chunks):
            writer.write_table(chunk)


def require_types(path: Path, schema: pa.Schema) -> None:
    """Refuse columns of types that the file cannot hold, such as lists in ``.csv``, before any work is done for it."""
    for field in schema:
        try:
            _writer(path, pa.BufferOutputStream(), pa.schema([field])).close()
        except pa.ArrowException as error:
            other = "" if path.suffix.lower() == ".parquet" else "; .parquet may"
            form = path.suffix.lower() or ".csv"
            raise OutputError(
                f"cannot write {path}: {form} cannot hold column {field.name!r} of type {field.type}{other}"
            ) from error


def _with_text(path: Path, table: pa.Table) -> pa.Table:
    """The table with its columns of bytes as text, which is all that ``.csv`` holds."""
    for place, field in enumerate(table.schema):
        if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
            try:
                text = table.column(place).cast(pa.large_string())
            except pa.ArrowException as error:
                raise OutputError(
                    f"cannot write {path}: column {field.name!r} holds bytes that are no text; .parquet holds them"
                ) from error
            table = table.set_column(place, field.name, text)
    return table


def _writer(path: Path, sink: Any, schema: pa.Schema) -> Any:
    """What writes tables of a schema to a sink, in the format that the path names."""
    if path.suffix.lower() == ".parquet":
        import pyarrow.parquet

        return pyarrow.parquet.ParquetWriter(sink, schema)
    import pyarrow.csv

    return pyarrow.csv.CSVWriter(sink, schema)


def _print_chunks(tables: Iterable[pa.Table]) -> None:
    """CSV on standard output, the names once."""
    import pyarrow.csv

    for number, table in enumerate(tables):
        if number and not len(table):
            continue  # pyarrow writes uninitialised memory for a batch without rows where it writes no names
        options = pyarrow.csv.WriteOptions(include_header=number == 0)
        try:
            pyarrow.csv.write_csv(table.combine_chunks(), sys.stdout.buffer, options)
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(f"cannot write to standard output: {error.strerror or error}") from error


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write ``.npz``, all of it or nothing."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
