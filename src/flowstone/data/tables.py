"""Tables: numbers in named columns, from .csv, .parquet or .npy, and back."""

import codecs
import csv
import difflib
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flowstone.errors import DataError, OutputError
from flowstone.files import atomic_path

__all__ = ["READABLE", "Table", "check_writable", "read_table", "write_arrays", "write_chunks", "write_table"]

READABLE = (".csv", ".parquet", ".npy")


@dataclass(frozen=True)
class Table:
    """A table as it was read; ``numbers`` checks and converts its columns."""

    path: Path
    arrow: pa.Table

    @property
    def columns(self) -> list[str]:
        return self.arrow.column_names

    def __len__(self) -> int:
        return self.arrow.num_rows

    def require(self, columns: Iterable[str]) -> None:
        """DataError where one of these columns is missing."""
        for name in columns:
            if name not in self.columns:
                near = difflib.get_close_matches(name, self.columns, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(self.columns)}"
                raise DataError(f"{self.path}: no column {name!r}: {hint}")

    def numbers(self, columns: Sequence[str]) -> np.ndarray:
        """``(rows, len(columns))`` in float64; missing values become NaN.

        Raises:
            DataError: a column is missing or not numeric; the message names it, and the row of the first text.
        """
        self.require(columns)
        return np.stack([np.empty(len(self)), *map(self._number_column, columns)], 1)[:, 1:]

    def finite(self, columns: Sequence[str], *, drop_missing: bool = False) -> tuple["Table", np.ndarray]:
        """``numbers`` with every value finite: rows with a NaN or infinity are an error, or left out."""
        values = self.numbers(columns)
        good = np.isfinite(values).all(1)
        if good.all():
            return self, values
        if not drop_missing:
            row, column = np.argwhere(~np.isfinite(values))[0]
            what = "missing or NaN" if np.isnan(values[row, column]) else "infinite"
            raise DataError(
                f"{self.path}: column {columns[column]!r}, row {row + 1} is {what}; {int((~good).sum())} of "
                f"{len(self)} rows hold such values; to leave them out",
                remedy={"drop_missing": True},
            )
        return Table(self.path, self.arrow.filter(pa.array(good))), values[good]

    def renamed(self, names: Sequence[str]) -> "Table":
        """The same table under other column names, as many as it has columns."""
        if len(names) != len(self.columns):
            raise DataError(f"{self.path}: {len(self.columns)} columns, expected {len(names)}: {', '.join(names)}")
        return Table(self.path, self.arrow.rename_columns(list(names)))

    def _number_column(self, name: str) -> np.ndarray:
        column = self.arrow.column(name)
        kind = column.type
        if not (
            pa.types.is_integer(kind)
            or pa.types.is_floating(kind)
            or pa.types.is_decimal(kind)
            or pa.types.is_boolean(kind)
        ):
            raise DataError(f"{self.path}: column {name!r} is not numeric ({_first_text(column)})")
        return np.array(pc.cast(column, pa.float64(), safe=False).to_numpy())  # 2**53 + 1 may lose its last digit


def read_table(path: Path | str) -> Table:
    """Read a table by the ending of its name.

    Raises:
        DataError: missing, empty, of another kind, or not readable as what its name says.
    """
    path = Path(path)
    if path.suffix.lower() not in READABLE:
        what = "a folder" if path.is_dir() else repr(path.suffix) if path.suffix else "a name without an ending"
        raise DataError(f"{path}: cannot read {what}; tables are {', '.join(READABLE)}")
    if not path.is_file():
        siblings = [file.name for file in path.parent.glob("*")] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, siblings, n=1)
        raise DataError(f"{path}: no such file" + (f"; did you mean {near[0]!r}?" if near else ""))
    try:
        arrow = {".csv": _read_csv, ".parquet": _read_parquet, ".npy": _read_npy}[path.suffix.lower()](path)
    except DataError:
        raise
    except (pa.ArrowException, OSError, ValueError, EOFError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: cannot be read as {path.suffix}: {reason}") from error
    repeated = sorted({name for name in arrow.column_names if arrow.column_names.count(name) > 1})
    if repeated:
        raise DataError(f"{path}: column name {repeated[0]!r} occurs more than once")
    if arrow.num_rows == 0 or arrow.num_columns == 0:
        raise DataError(f"{path}: the table is empty ({arrow.num_rows} rows, {arrow.num_columns} columns)")
    return Table(path, arrow)


def check_writable(path: Path, endings: Sequence[str] = (".csv", ".parquet")) -> None:
    """Refuse a name that cannot be written to, before any work is done for it."""
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
    """Write a table that comes in chunks, of which there is at least one; each is written as it comes."""
    check_writable(path)
    chunks = iter(tables)
    first = next(chunks)
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


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write ``.npz``, all of it or nothing."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]


def _read_csv(path: Path) -> pa.Table:
    import pyarrow.csv

    encoding = _encoding_of(path)
    with path.open(newline="", encoding=encoding) as file:
        first = file.readline()
    if not first.strip():
        raise DataError(f"{path}: the file is empty")
    delimiter = max(",;\t", key=first.count)
    header = next(csv.reader([first], delimiter=delimiter))
    # A first line of numbers, with gaps perhaps, is data and not names.
    unnamed = any(map(_is_number, header)) and all(_is_number(name) or not name.strip() for name in header)
    return pyarrow.csv.read_csv(
        path,
        read_options=pyarrow.csv.ReadOptions(
            column_names=[f"x{i + 1}" for i in range(len(header))] if unnamed else None,
            encoding="utf8" if encoding == "utf-8-sig" else encoding,  # which also skips a byte-order mark
        ),
        parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter),
    )


def _encoding_of(path: Path) -> str:
    """UTF-16 by its byte-order mark, UTF-8 where the bytes are valid, else cp1252, with a warning."""
    with path.open("rb") as file:
        if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return "utf-16"
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            while file.read(1 << 20):
                pass
    except UnicodeDecodeError:
        warnings.warn(f"{path}: the text is not UTF-8; it is read as cp1252", stacklevel=4)
        return "cp1252"
    return "utf-8-sig"


def _read_parquet(path: Path) -> pa.Table:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path)


def _read_npy(path: Path) -> pa.Table:
    array = np.load(path, allow_pickle=False)
    if array.ndim != 2 or array.dtype.kind not in "fiub":
        raise DataError(f"{path}: expected a numeric array of shape (rows, columns), got {array.dtype} {array.shape}")
    return pa.table({f"x{i + 1}": array[:, i] for i in range(array.shape[1])})


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _first_text(column: pa.ChunkedArray) -> str:
    for row, value in enumerate(column.to_pylist()):
        if value is not None and not _is_number(str(value)):
            return f"row {row + 1} holds {str(value)!r}"
    return f"type {column.type}"
