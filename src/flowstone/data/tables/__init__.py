"""Tables: any file or object that holds one, its columns' kinds, and back.

Names are imported when they are first used, so that a command's help need not wait for pyarrow.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowstone.data.tables.columns import Columns, decide, kinds_of
    from flowstone.data.tables.read import READABLE, STANDARD_INPUT, files_of, is_pattern, is_table, read_table
    from flowstone.data.tables.table import Table
    from flowstone.data.tables.write import check_writable, write_arrays, write_pieces, write_table

_HOME = {
    "Columns": "columns",
    "READABLE": "read",
    "STANDARD_INPUT": "read",
    "Table": "table",
    "check_writable": "write",
    "decide": "columns",
    "files_of": "read",
    "is_pattern": "read",
    "is_table": "read",
    "kinds_of": "columns",
    "read_table": "read",
    "write_arrays": "write",
    "write_pieces": "write",
    "write_table": "write",
}

__all__ = [
    "READABLE",
    "STANDARD_INPUT",
    "Columns",
    "Table",
    "check_writable",
    "decide",
    "files_of",
    "is_pattern",
    "is_table",
    "kinds_of",
    "read_table",
    "write_arrays",
    "write_pieces",
    "write_table",
]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'flowstone.data.tables' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"flowstone.data.tables.{_HOME[name]}"), name)
    globals()[name] = value
    return value
