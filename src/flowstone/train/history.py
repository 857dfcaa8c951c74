"""History: the figures of a training, step by step."""

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass, field, fields
from pathlib import Path

from flowstone.errors import CheckpointError
from flowstone.files import read_bytes, write_atomically

__all__ = ["History", "Record"]


@dataclass(frozen=True)
class Record:
    """One line of ``history.csv``: means since the line before; NLL in nats; how often the training had recovered."""

    step: int
    seconds: float
    train_nll: float
    val_nll: float
    learning_rate: float
    grad_norm: float
    recoveries: int = 0


@dataclass
class History:
    """The records of a training, and how it ended.

    Attributes:
        records: one for each validation.
        recoveries: for each time that something was not finite and the training went on, what was wrong and from where
            it went on.
        stopped: ``"finished"``, ``"patience"`` (validation no longer improved), ``"interrupted"`` (Ctrl-C),
            ``"terminated"`` (SIGTERM) or ``"not finite"``.
    """

    records: list[Record] = field(default_factory=list)
    stopped: str = "finished"
    recoveries: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    @property
    def best(self) -> Record:
        """The record with the lowest validation NLL: the one whose weights are kept."""
        return min(self.records, key=lambda record: (math.isnan(record.val_nll), record.val_nll))

    def column(self, name: str) -> list[float]:
        """All values of one field, in order of steps."""
        return [getattr(record, name) for record in self.records]

    def save(self, path: Path) -> None:
        """Write ``history.csv``."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(field.name for field in fields(Record))
        writer.writerows(astuple(record) for record in self.records)
        write_atomically(path, text.getvalue().encode())

    @classmethod
    def load(cls, path: Path) -> "History":
        """Read ``history.csv``."""
        content = read_bytes(Path(path))
        try:
            file = io.StringIO(content.decode(), newline="")
            rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
            return cls([Record(int(row.pop("step")), recoveries=int(row.pop("recoveries", 0)), **row) for row in rows])
        except (csv.Error, TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
            raise CheckpointError(f"{path}: not a history that Flowstone wrote ({error})") from error

    def as_dicts(self) -> list[dict[str, float]]:
        """The records as plain dictionaries, for JSON."""
        return [asdict(record) for record in self.records]
