"""Data: turns names and paths into arrays. Nothing here depends on flows.

Names are imported when they are first used, so that ``flowstone.data.request`` is read without waiting for torch.
"""

from typing import TYPE_CHECKING

from flowstone.lazy import lazy_names

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

__getattr__, __dir__ = lazy_names(
    __name__,
    __all__,
    {
        "dataset": ["Dataset"],
        "image_sets": ["IMAGE_SETS", "ImageSet"],
        "images": ["NamedRows", "context_of", "read_images"],
        "noise": ["add_noise", "noise_widths"],
        "request": ["DataRequest"],
        "rows": ["Rows"],
        "source": ["open_source", "reopen"],
        "tables": ["Columns", "Table", "kinds_of", "read_table"],
        "toy": ["TOYS", "Toy"],
    },
)
