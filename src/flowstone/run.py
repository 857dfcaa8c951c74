"""The run folder: what a training leaves behind, and how to find it again."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flowstone.checkpoint import load, read_record
from flowstone.data import Dataset, Rows, Table, add_noise, read_table, reopen
from flowstone.errors import CheckpointError, OutputError
from flowstone.files import write_atomically
from flowstone.flow import Flow
from flowstone.history import History

__all__ = ["Run"]


class Run:
    """A folder written by ``flowstone train``.

    ``flow.json`` what the flow and its data are · ``flow.safetensors`` weights · ``history.csv`` · ``metrics.json`` ·
    ``plots/`` · ``resume/`` the training state.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    @classmethod
    def create(cls, folder: Path | str) -> "Run":
        """A new, empty run folder; one that holds anything is never written over."""
        run = cls(folder)
        if run.folder.exists() and (not run.folder.is_dir() or any(run.folder.iterdir())):
            raise OutputError(f"{folder} exists: choose another --out, or go on with its training by --resume")
        try:
            run.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot write {folder}: {error.strerror}") from error
        return run

    @classmethod
    def create_numbered(cls, folder: Path) -> "Run":
        """The first of ``folder``, ``folder-2``, ``folder-3``, … that does not exist yet."""
        number, chosen = 1, folder
        while chosen.exists():
            number += 1
            chosen = folder.with_name(f"{folder.name}-{number}")
        return cls.create(chosen)

    @property
    def record(self) -> dict[str, Any]:
        """``flow.json``."""
        return read_record(self.folder)

    @property
    def history(self) -> History:
        """``history.csv``."""
        return History.load(self.folder / "history.csv")

    @property
    def plots(self) -> Path:
        """The folder of pictures, made if it is missing."""
        (self.folder / "plots").mkdir(exist_ok=True)
        return self.folder / "plots"

    @property
    def finished(self) -> bool:
        """Whether the training ended and the test part has had its one look."""
        return (self.folder / "metrics.json").exists()

    def flow(self, device: torch.device | str = "cpu") -> Flow:
        """The trained flow."""
        read_record(self.folder)  # a folder that is no run folder is said to be so first
        if not (self.folder / "flow.safetensors").exists():
            raise CheckpointError(f"{self.folder} holds no weights: its training was cut off; go on with --resume")
        return load(self.folder, device=device)

    def dataset(self) -> Dataset:
        """The data that the flow was trained on, split as it was then."""
        if "data" not in self.record:
            raise CheckpointError(f"{self.folder / 'flow.json'}: describes no data; name a table to use")
        return reopen(self.record["data"])

    def metrics(self) -> dict[str, Any]:
        """``metrics.json``; empty where the training has not ended."""
        path = self.folder / "metrics.json"
        try:
            return json.loads(path.read_text()) if path.exists() else {}
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error})") from error

    def table(self, path: Path | str, *, drop_missing: bool = False) -> tuple[Table, Rows]:
        """A table and its rows as the flow wants them; its columns are found by name, others are ignored.

        A .npy has no names: its columns are taken in order, features first, then context.
        """
        features, context = self.columns()
        table = read_table(path)
        if table.path.suffix.lower() == ".npy":
            table = table.renamed([*features, *context])
        table, values = table.finite([*features, *context], drop_missing=drop_missing)
        rows = torch.from_numpy(values)
        return table, Rows(rows[:, : len(features)], rows[:, len(features) :].float() if context else None)

    def rows(self, path: Path | str) -> Rows:
        """The rows of a table to evaluate on, with the same noise on repeated values that the training had."""
        _, part = self.table(path)
        data = self.record.get("data", {})
        widths = np.array([data.get("noise", {}).get(name, 0.0) for name in self.columns()[0]])
        noisy = add_noise(part.x.numpy(), widths, data.get("seed", 0))
        return Rows(torch.from_numpy(noisy), part.context)

    def columns(self) -> tuple[list[str], list[str]]:
        """Names of the features and of the context; x1, x2, … where the record has none."""
        record = self.record
        features = record.get("columns") or [f"x{i + 1}" for i in range(record["event_shape"][0])]
        return features, record.get("context_columns", [])

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write one of the JSON files."""
        write_atomically(self.folder / name, (json.dumps(content, indent=2) + "\n").encode())
