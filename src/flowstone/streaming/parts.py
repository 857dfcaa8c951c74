"""Parts: the finished pieces of a long work on a table, in a folder beside its output, so that the work can go on."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather

from flowstone.errors import CheckpointError, OutputError
from flowstone.files import UNFINISHED, atomic_path, make_folder, read_json, to_json, write_atomically

__all__ = ["Parts", "parts_folder"]

RECORD = "parts.json"


def parts_folder(out: Path) -> Path:
    """The folder of the parts of an output."""
    return out.with_name(f"{out.name}.parts")


class Parts:
    """Numbered tables in the folder ``<output>.parts``. Each is written completely or not at all.

    Args:
        out: the output.
        record: by name, plain values on which the parts depend; parts with another record are deleted.

    Attributes:
        count: how many parts are finished.
        said: a sentence about parts that were there already; None where there were none.

    Raises:
        OutputError: the folder holds files that are no parts.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> out = Path(folder.name) / "scored.parquet"
    >>> parts = Parts(out, {"table": "a"})
    >>> parts.add(pa.table({"x": [1, 2]}))
    >>> Parts(out, {"table": "a"}).count, Parts(out, {"table": "b"}).count
    (1, 0)
    """

    def __init__(self, out: Path, record: Mapping[str, Any]) -> None:
        self.folder = parts_folder(out)
        self.count, self.said = 0, None
        record = json.loads(to_json(record))
        before = self._record()
        if before is not None:
            different = [name for name in record if before.get(name) != record[name]]
            if different:
                self.said = f"{self.folder} is of another {' and '.join(different)}: the work starts anew"
                self.remove()
            else:
                while self._path(self.count).exists():
                    self.count += 1
                if self.count:
                    self.said = f"parts that are finished, in {self.folder}: {self.count}; the work goes on behind them"
        make_folder(self.folder)
        if before != record:
            write_atomically(self.folder / RECORD, to_json(record).encode())

    def add(self, table: pa.Table) -> None:
        """Write the next part."""
        with atomic_path(self._path(self.count)) as temporary:
            pyarrow.feather.write_feather(table, str(temporary), compression="lz4")
        self.count += 1

    def __iter__(self) -> Iterator[pa.Table]:
        """The parts in their order.

        Raises:
            OutputError: one of them cannot be read.
        """
        for number in range(self.count):
            path = self._path(number)
            try:
                yield pyarrow.feather.read_table(str(path), memory_map=False)
            except (OSError, pa.ArrowException) as error:
                raise OutputError(f"{path}: cannot be read ({error}); delete {self.folder} to start anew") from error

    def remove(self) -> None:
        """Delete the folder."""
        try:
            for path in self._files():
                path.unlink()
            self.folder.rmdir()
        except OSError as error:
            raise OutputError(f"cannot delete {self.folder}: {error.strerror or error}") from error

    def _path(self, number: int) -> Path:
        return self.folder / f"part-{number + 1:06d}.arrow"

    def _files(self) -> list[Path]:
        """The files that this class writes, also the beginnings of those that a broken-off work left."""
        patterns = ("part-*.arrow", RECORD, f"{UNFINISHED}part*")
        return [path for pattern in patterns for path in self.folder.glob(pattern)]

    def _record(self) -> dict[str, Any] | None:
        """The record of the folder as it is; None where there is no folder, or nothing in it."""
        if not self.folder.exists() or (self.folder.is_dir() and not any(self.folder.iterdir())):
            return None
        strange = set(self.folder.iterdir()) - set(self._files()) if self.folder.is_dir() else {self.folder}
        if strange:
            odd = min(strange).name
            raise OutputError(f"{self.folder} is for parts of the output, but holds {odd!r}: move it away")
        try:
            record = read_json(self.folder / RECORD)
        except CheckpointError:  # it was broken off before anything was finished
            return {}
        return record if isinstance(record, dict) else {}
