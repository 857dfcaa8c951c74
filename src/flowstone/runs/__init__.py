"""Run folders: the files of a training, and how they are read again."""

from flowstone.runs.checkpoint import FORMAT_VERSION, describe, load, read_record, save
from flowstone.runs.folder import Run
from flowstone.runs.hub import Pushed, pull, push
from flowstone.runs.model_card import model_card

__all__ = [
    "FORMAT_VERSION",
    "Pushed",
    "Run",
    "describe",
    "load",
    "model_card",
    "pull",
    "push",
    "read_record",
    "save",
]
