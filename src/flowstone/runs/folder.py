"""The run folder: the files of a training, and how they are read again."""

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flowstone.data import Dataset, NamedRows, Rows, Table, add_noise, noise_widths, read_images, read_table, reopen
from flowstone.data.tables import ChunkedTable, Columns, open_chunked
from flowstone.density import Density
from flowstone.errors import CheckpointError, OutputError, SettingError
from flowstone.files import (
    UNFINISHED,
    make_folder,
    read_json,
    remove_unfinished,
    require_inside,
    to_json,
    write_atomically,
)
from flowstone.runs.checkpoint import RECORD, WEIGHTS, load, read_record, reading
from flowstone.runs.lock import HOLDER, LOCK, RunLock
from flowstone.train.history import History
from flowstone.train.settings import Settings

__all__ = ["METRICS", "Run"]

METRICS = "metrics.json"  # the last file that a training writes


class Run:
    """A folder written by ``flowstone train``.

    It holds ``flow.json`` (the description of the density and its data), ``flow.safetensors`` (its weights),
    ``history.csv``, ``metrics.json``, ``README.md`` (a model card), ``report.html``, ``plots/``, ``resume/`` (the state
    of the training) and, of flows of two columns, ``frames.safetensors`` (samples from its start to its end).
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.lock = RunLock(self.folder)

    @classmethod
    def create(cls, folder: Path | str) -> "Run":
        """A new run folder, locked. A folder that holds anything is never written over, except what a training left
        that was killed before it had written ``flow.json``.

        Raises:
            OutputError: the folder exists, it cannot be written, or another process is making it.
        """
        run = cls(folder)
        if not run._is_new():
            raise run._exists()
        run.lock.acquire()
        if not run._is_new():  # another process has made it meanwhile, and has ended
            run.lock.release()
            raise run._exists()
        remove_unfinished(run.folder)
        return run

    @classmethod
    def create_numbered(cls, folder: Path) -> "Run":
        """The first of ``folder``, ``folder-2``, ``folder-3``, … that does not exist yet."""
        make_folder(folder.parent)
        chosen, number = folder, 1
        while not _made(chosen):
            number += 1
            chosen = folder.with_name(f"{folder.name}-{number}")
        return cls.create(chosen)

    def discard(self) -> None:
        """Remove the folder of a training that did not begin, so that its name is free; one with results stays."""
        first = (RECORD, LOCK, HOLDER)
        if not any(path.is_file() and path.name not in first for path in self.folder.rglob("*")):
            self.lock.release()
            shutil.rmtree(self.folder, ignore_errors=True)

    def _is_new(self) -> bool:
        if not self.folder.is_dir():
            return not os.path.lexists(self.folder)
        left = (LOCK, HOLDER, UNFINISHED)
        return all(path.is_dir() or path.name.startswith(left) for path in self.folder.rglob("*"))

    def _exists(self) -> OutputError:
        resume = {"resume": str(self.folder / "resume")}
        return OutputError(f"{self.folder} exists: choose another folder; to continue its training", remedy=resume)

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
        require_inside(self.folder / "plots")
        make_folder(self.folder / "plots")
        return self.folder / "plots"

    @property
    def finished(self) -> bool:
        """Whether the training has ended and was evaluated on the test part."""
        return (self.folder / METRICS).exists()

    @property
    def digest(self) -> str:
        """A digest of the description and the weights of the density, by which it differs from others."""
        digest = hashlib.sha256()
        for name in (RECORD, WEIGHTS):
            digest.update(hashlib.sha256((self.folder / name).read_bytes()).digest())
        return digest.hexdigest()

    def density(self, device: torch.device | str = "cpu") -> Density:
        """The trained density."""
        self.require_weights()
        return load(self.folder, device=device)

    def require_weights(self) -> None:
        """CheckpointError where this is no run folder, or one of a training that has saved no weights yet."""
        read_record(self.folder)
        if not (self.folder / "flow.safetensors").exists():
            resume = {"resume": str(self.folder / "resume")}
            raise CheckpointError(
                f"{self.folder} holds no weights: its training was interrupted; to continue it", remedy=resume
            )

    def dataset(self, *, data_dir: Path | str | None = None, progress: bool = False) -> Dataset:
        """The data that the density was trained on, split in the same way; ``data_dir`` is the folder of image sets."""
        return reopen(self._recorded("data"), data_dir=data_dir, progress=progress)

    def settings(self) -> Settings:
        """The settings of its training."""
        with reading(self.folder / RECORD):
            return Settings().override(self._recorded("training"))

    def _recorded(self, name: str) -> dict[str, Any]:
        if not isinstance(recorded := self.record.get(name), dict):
            other = "; check and evaluate take other data after RUN" if name == "data" else ""
            raise CheckpointError(
                f"{self.folder / 'flow.json'}: it has no {name}: a training by the command writes it{other}"
            )
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
        path = self.folder / METRICS
        metrics = read_json(path) if path.exists() else {}
        if not isinstance(metrics, dict):
            raise CheckpointError(f"{path}: not metrics that Flowstone wrote")
        return metrics

    @property
    def kinds(self) -> Columns | None:
        """The kinds of the columns of the table it was trained on; None of toys, images and older runs."""
        schema = self.record.get("data", {}).get("schema")
        with reading(self.folder / RECORD):
            return None if schema is None else Columns.from_record(schema)

    def read(self, source: Any, *, na: Sequence[str] = (), **reading: Any) -> Table:
        """Read a table as the training read its own: with the same texts and numbers for gaps, and, where the table
        does not show them, the same decimal mark and order of day and month.

        Args:
            source: a path or an object, as ``read_table`` takes it.
            na: further texts or numbers that mean a gap.
            reading: other options of ``read_table``.
        """
        return read_table(source, **self._reading(na, reading))

    def chunked(self, path: Path | str, *, na: Sequence[str] = (), **reading: Any) -> ChunkedTable | None:
        """A large table to be read in chunks; None for tables that ``read`` reads whole (see ``open_chunked``).

        Arguments are those of ``read``.
        """
        return open_chunked(path, **self._reading(na, reading))

    def _reading(self, na: Sequence[str], requested: Mapping[str, Any]) -> dict[str, Any]:
        data, kinds = self.record.get("data", {}), self.kinds
        known = {"decimal": data.get("decimal"), "day_first": None if kinds is None else kinds.day_first}
        na = [*data.get("na", ()), *na]
        return known | {name: value for name, value in requested.items() if value is not None} | {"na": na}

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

        The noise is that of the training, on those of its columns in which values repeat in this table, too.
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


def _made(folder: Path) -> bool:
    """Make a folder; False where it exists already."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror}") from error
    return True
