"""Data: everything that turns a name or a path into arrays. Knows nothing of flows."""

from flowstone.data.dataset import Dataset
from flowstone.data.image_sets import IMAGE_SETS, ImageSet
from flowstone.data.images import NamedRows, context_of, read_images
from flowstone.data.rows import Rows
from flowstone.data.source import add_noise, noise_widths, open_source, reopen
from flowstone.data.tables import Table, read_table
from flowstone.data.toy import TOYS, Toy

__all__ = [
    "IMAGE_SETS",
    "TOYS",
    "Dataset",
    "ImageSet",
    "NamedRows",
    "Rows",
    "Table",
    "Toy",
    "add_noise",
    "context_of",
    "noise_widths",
    "open_source",
    "read_images",
    "read_table",
    "reopen",
]
