"""Tables: any file or object that holds one, its columns' kinds, and back.

Names are imported when they are first used, so that a command's help need not wait for pyarrow.
"""

from typing import TYPE_CHECKING

from flowstone.lazy import lazy_names

if TYPE_CHECKING:
    from flowstone.data.tables.chunked import ChunkedTable, open_chunked
    from flowstone.data.tables.columns import Columns, decide, kinds_of
    from flowstone.data.tables.mapped import mapped_table
    from flowstone.data.tables.read import READABLE, STANDARD_INPUT, files_of, is_pattern, is_table, read_table
    from flowstone.data.tables.table import Table
    from flowstone.data.tables.unseen import Unseen, warn_unseen
    from flowstone.data.tables.write import (
        STDOUT,
        check_writable,
        require_types,
        write_arrays,
        write_chunks,
        write_table,
    )

__all__ = [
    "READABLE",
    "STANDARD_INPUT",
    "STDOUT",
    "ChunkedTable",
    "Columns",
    "Table",
    "Unseen",
    "check_writable",
    "decide",
    "files_of",
    "is_pattern",
    "is_table",
    "kinds_of",
    "mapped_table",
    "open_chunked",
    "read_table",
    "require_types",
    "warn_unseen",
    "write_arrays",
    "write_chunks",
    "write_table",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    __all__,
    {
        "chunked": ["ChunkedTable", "open_chunked"],
        "columns": ["Columns", "decide", "kinds_of"],
        "mapped": ["mapped_table"],
        "read": ["READABLE", "STANDARD_INPUT", "files_of", "is_pattern", "is_table", "read_table"],
        "table": ["Table"],
        "unseen": ["Unseen", "warn_unseen"],
        "write": ["STDOUT", "check_writable", "require_types", "write_arrays", "write_chunks", "write_table"],
    },
)
