"""Run folders: the files of a training, and how they are read again."""

from flowstone.runs.checkpoint import FORMAT_VERSION, describe, load, read_record, save
from flowstone.runs.folder import Run

__all__ = ["FORMAT_VERSION", "Run", "describe", "load", "read_record", "save"]
