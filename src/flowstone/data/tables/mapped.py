"""A large table in a temporary file that is mapped into memory: used like any table, and held by the disk."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa

from flowstone.bars import counting_bar
from flowstone.data.tables.chunked import ChunkedTable
from flowstone.data.tables.table import Table
from flowstone.errors import DataError

__all__ = ["mapped_table"]

ROWS = 1 << 17  # read and written at a time


@contextmanager
def mapped_table(table: ChunkedTable, *, progress: bool = False) -> Iterator[Table]:
    """A context with all rows of a table that is read in chunks, in one pass.

    The columns are decoded into an Arrow file in the folder of temporary files, and the system keeps in memory what
    there is room for. The file is deleted when the context ends.

    Args:
        progress: a bar while the table is read, if stderr is a terminal.

    Raises:
        DataError: the file cannot be written: the disk is full.
    """
    with TemporaryDirectory(prefix="flowstone-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "table.arrow"
        schema = table.head.arrow.schema
        options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=False, unify_dictionaries=False)
        try:
            with (
                counting_bar(f"reading {table.head.path.name}", len(table), enabled=progress, rate="rows") as advance,
                pa.OSFile(str(path), "wb") as file,
                pa.ipc.new_stream(file, schema, options=options) as writer,
            ):
                for chunk in table.chunks(ROWS):
                    writer.write_table(chunk.arrow)
                    advance(len(chunk))
        except OSError as error:
            raise DataError(
                f"{table.head.path}: its rows cannot be written to {folder} ({error.strerror or error}): name another "
                "folder of temporary files in the environment variable TMPDIR"
            ) from error
        with pa.memory_map(str(path)) as mapped, pa.ipc.open_stream(mapped) as reader:
            yield replace(table.head, arrow=reader.read_all())
