"""Data: everything that turns a name or a path into arrays. Knows nothing of flows."""

from flowstone.data.rows import Rows
from flowstone.data.source import Dataset, add_noise, noise_widths, open_source, reopen
from flowstone.data.tables import Table, read_table
from flowstone.data.toy import TOYS, Toy

__all__ = [
    "TOYS",
    "Dataset",
    "Rows",
    "Table",
    "Toy",
    "add_noise",
    "noise_widths",
    "open_source",
    "read_table",
    "reopen",
]
