"""The run folder: the files of a training, and how they are read again."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flowstone.data import Dataset, NamedRows, Rows, Table, add_noise, noise_widths, read_images, read_table, reopen
from flowstone.data.tables import ChunkedTable, Columns, open_chunked
from flowstone.density import Density
from flowstone.errors import CheckpointError, FlowstoneError, OutputError, SettingError
from flowstone.files import make_folder, to_json, write_atomically
from flowstone.runs.checkpoint import load, read_record
from flowstone.train.history import History
from flowstone.train.settings import Settings

__all__ = ["Run"]


class Run:
    """A folder written by ``flowstone train``.

    It holds ``flow.json`` (the description of the density and its data), ``flow.safetensors`` (its weights),
    ``history.csv``, ``metrics.json``, ``plots/`` and ``resume/`` (the state of the training).
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    @classmethod
    def create(cls, folder: Path | str) -> "Run":
        """A new, empty run folder; one that holds anything is never written over."""
        run = cls(folder)
        if run.folder.is_dir() and not any(run.folder.iterdir()):
            return run
        if run.folder.exists():
            resume = {"resume": str(run.folder / "resume")}
            raise OutputError(f"{folder} exists: choose another folder; to continue its training", remedy=resume)
        make_folder(run.folder, new=True)
        return run

    @classmethod
    def create_numbered(cls, folder: Path) -> "Run":
        """The first of ``folder``, ``folder-2``, ``folder-3``, … that does not exist yet."""
        number = 1
        while (chosen := folder if number == 1 else folder.with_name(f"{folder.name}-{number}")).exists():
            number += 1
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
        make_folder(self.folder / "plots")
        return self.folder / "plots"

    @property
    def finished(self) -> bool:
        """Whether the training has ended and was evaluated on the test part."""
        return (self.folder / "metrics.json").exists()

    @property
    def digest(self) -> str:
        """Of the description and the weights of the density: another density has another one."""
        digest = hashlib.sha256()
        for name in ("flow.json", "flow.safetensors"):
            digest.update(hashlib.sha256((self.folder / name).read_bytes()).digest())
        return digest.hexdigest()

    def density(self, device: torch.device | str = "cpu") -> Density:
        """The trained density."""
        read_record(self.folder)  # first, for its error where this is no run folder
        if not (self.folder / "flow.safetensors").exists():
            resume = {"resume": str(self.folder / "resume")}
            raise CheckpointError(
                f"{self.folder} holds no weights: its training was interrupted; to continue it", remedy=resume
            )
        return load(self.folder, device=device)

    def dataset(self, *, data_dir: Path | str | None = None, progress: bool = False) -> Dataset:
        """The data that the density was trained on, split in the same way; ``data_dir`` is the folder of image sets."""
        return reopen(self._recorded("data"), data_dir=data_dir, progress=progress)

    def settings(self) -> Settings:
        """The settings of its training."""
        try:
            return Settings().override(self._recorded("training"))
        except FlowstoneError as error:
            raise CheckpointError(f"{self.folder / 'flow.json'}: {error}") from error

    def _recorded(self, name: str) -> dict[str, Any]:
        if not isinstance(recorded := self.record.get(name), dict):
            raise CheckpointError(f"{self.folder / 'flow.json'}: it has no {name}: a training by the command writes it")
        return recorded

    @property
    def of_images(self) -> bool:
        """Whether the density was trained on images."""
        return self.record.get("data", {}).get("kind") == "images"

    @property
    def of_mixed_columns(self) -> bool:
        """Whether the density was trained on rows encoded by the kinds of their columns."""
        return bool(self.record.get("data", {}).get("mixed"))

    def images(self, source: str, *, data_dir: Path | str | None = None, skip_bad: bool = False) -> NamedRows:
        """Images as the density takes them: a folder, an array, or the test part of a set by its name."""
        return read_images(source, self.record["data"], data_dir=data_dir, skip_bad=skip_bad)

    def metrics(self) -> dict[str, Any]:
        """``metrics.json``; empty where the training has not ended."""
        path = self.folder / "metrics.json"
        try:
            return json.loads(path.read_text()) if path.exists() else {}
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error})") from error

    @property
    def kinds(self) -> Columns | None:
        """The kinds of the columns of the table it was trained on; None of toys, images and older runs."""
        schema = self.record.get("data", {}).get("schema")
        return None if schema is None else Columns.from_record(schema)

    def read(self, path: Path | str, *, na: Sequence[str] = (), **reading: Any) -> Table:
        """A table as the training read its own: what meant a gap there does here.

        Args:
            na: further texts or numbers that mean a gap.
            reading: ``encoding`` and ``skip_bad`` of ``read_table``.
        """
        return read_table(path, na=[*self.record.get("data", {}).get("na", ()), *na], **reading)

    def chunked(self, path: Path | str, *, na: Sequence[str] = (), **reading: Any) -> ChunkedTable | None:
        """A large table to be read in chunks; None of tables that ``read`` reads whole (see ``open_chunked``).

        Arguments are those of ``read``.
        """
        return open_chunked(path, na=[*self.record.get("data", {}).get("na", ()), *na], **reading)

    def table(self, path: Path | str | Table, *, drop_missing: bool = False) -> tuple[Table, Rows]:
        """A table and its rows as the density takes them; its columns are found by name, others are ignored.

        A .npy has no names: its columns are taken in order, features first, then context.
        """
        if self.of_images:
            raise SettingError(
                f"{self.folder} is of images; {getattr(path, 'path', path)} cannot be read as a table of them"
            )
        features, context = self.columns()
        table = path if isinstance(path, Table) else self.read(path)
        if table.path.suffix.lower() == ".npy":
            table = table.renamed([*features, *context])
        table, values = table.finite([*features, *context], drop_missing=drop_missing)
        rows = torch.from_numpy(values)
        return table, Rows(rows[:, : len(features)], rows[:, len(features) :] if context else None)

    def rows(self, path: Path | str | Table, *, drop_missing: bool = False) -> tuple[Rows, dict[str, float]]:
        """The rows of a table to evaluate on, and the noise added to them.

        It is the noise of the training, on the columns in which values repeat in this table, too.
        """
        _, rows = self.table(path, drop_missing=drop_missing)
        data, (features, _) = self.record.get("data", {}), self.columns()
        values = rows.x.numpy()
        widths = np.array([data.get("noise", {}).get(name, 0.0) for name in features]) * (noise_widths(values) > 0)
        noisy = torch.from_numpy(add_noise(values, widths, data.get("seed", 0)))
        return Rows(noisy, rows.context), {n: float(w) for n, w in zip(features, widths, strict=True) if w > 0}

    def columns(self) -> tuple[list[str], list[str]]:
        """Names of the features and of the context; x1, x2, … where the record has none."""
        record = self.record
        features = record.get("columns") or [f"x{i + 1}" for i in range(record["event_shape"][0])]
        return features, record.get("context_columns", [])

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write one of the JSON files."""
        write_atomically(self.folder / name, (to_json(content) + "\n").encode())
