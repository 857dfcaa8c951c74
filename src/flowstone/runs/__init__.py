"""Run folders: what a training leaves on disk, and how to find it again."""

from flowstone.runs.checkpoint import FORMAT_VERSION, describe, load, read_record, save
from flowstone.runs.folder import Run

__all__ = ["FORMAT_VERSION", "Run", "describe", "load", "read_record", "save"]
