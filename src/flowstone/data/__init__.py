"""Data: everything that turns a name or a path into arrays. Knows nothing of flows.

Names are imported when they are first used, so that ``flowstone.data.request`` is read without waiting for torch.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowstone.data.dataset import Dataset
    from flowstone.data.image_sets import IMAGE_SETS, ImageSet
    from flowstone.data.images import NamedRows, context_of, read_images
    from flowstone.data.noise import add_noise, noise_widths
    from flowstone.data.request import DataRequest
    from flowstone.data.rows import Rows
    from flowstone.data.source import open_source, reopen
    from flowstone.data.tables import Columns, Table, kinds_of, read_table
    from flowstone.data.toy import TOYS, Toy

_HOME = {
    "IMAGE_SETS": "image_sets",
    "TOYS": "toy",
    "Columns": "tables",
    "DataRequest": "request",
    "Dataset": "dataset",
    "ImageSet": "image_sets",
    "NamedRows": "images",
    "Rows": "rows",
    "Table": "tables",
    "Toy": "toy",
    "add_noise": "noise",
    "context_of": "images",
    "kinds_of": "tables",
    "noise_widths": "noise",
    "open_source": "source",
    "read_images": "images",
    "read_table": "tables",
    "reopen": "source",
}

__all__ = [
    "IMAGE_SETS",
    "TOYS",
    "Columns",
    "DataRequest",
    "Dataset",
    "ImageSet",
    "NamedRows",
    "Rows",
    "Table",
    "Toy",
    "add_noise",
    "context_of",
    "kinds_of",
    "noise_widths",
    "open_source",
    "read_images",
    "read_table",
    "reopen",
]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'flowstone.data' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"flowstone.data.{_HOME[name]}"), name)
    globals()[name] = value
    return value
