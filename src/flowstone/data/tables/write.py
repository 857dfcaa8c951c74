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

__all__ = ["STDOUT", "check_writable", "write_arrays", "write_chunks", "write_table"]


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
    if path == STDOUT:
        _print_chunks(chain([first], chunks))
        return
    with atomic_path(path) as temporary:
        if path.suffix.lower() == ".parquet":
            import pyarrow.parquet

            writer: Any = pyarrow.parquet.ParquetWriter(temporary, first.schema)
        else:
            import pyarrow.csv

            writer = pyarrow.csv.CSVWriter(temporary, first.schema)
        with writer:
            for chunk in chain([first], chunks):
                writer.write_table(chunk)


def _print_chunks(tables: Iterable[pa.Table]) -> None:
    """CSV on standard output, the names once."""
    import pyarrow.csv

    for number, table in enumerate(tables):
        if number and not len(table):
            continue  # pyarrow writes uninitialised memory for a batch without rows where it writes no names
        options = pyarrow.csv.WriteOptions(include_header=number == 0)
        pyarrow.csv.write_csv(table.combine_chunks(), sys.stdout.buffer, options)
    sys.stdout.flush()


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write ``.npz``, all of it or nothing."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
