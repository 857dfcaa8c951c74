"""History: the figures of a training, step by step."""

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from flowstone.errors import CheckpointError, SettingError
from flowstone.files import read_bytes, write_atomically
from flowstone.notebook import html_table

if TYPE_CHECKING:
    import pandas

__all__ = ["History", "Record"]

SHOWN = 10  # records in the table by which a history shows itself, besides the best one
COLUMNS = ("step", "seconds", "train", "val", "learning rate", "grad norm", "")


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


@dataclass(repr=False)
class History:
    """The records of a training, and how it ended. It shows itself as a table of some of the records.

    Attributes:
        records: one for each validation.
        recoveries: for each time that something was not finite and the training went on, what was wrong and from where
            it went on.
        stopped: ``"finished"``, ``"patience"`` (validation no longer improved), ``"interrupted"`` (Ctrl-C),
            ``"terminated"`` (SIGTERM) or ``"not finite"``.
        direct: whether all gradients were computed directly, none by autograd.

    >>> History([Record(0, 0.0, 2.9, 2.8, 5e-5, 0.0), Record(100, 1.5, 2.1, 2.2, 5e-3, 1.2)])
    History: 2 validations, finished
    step  seconds   train     val  learning rate  grad norm
       0      0.0  2.9000  2.8000       5.00e-05       0.00
     100      1.5  2.1000  2.2000       5.00e-03       1.20  best
    """

    records: list[Record] = field(default_factory=list)
    stopped: str = "finished"
    recoveries: list[str] = field(default_factory=list)
    direct: bool = False

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __repr__(self) -> str:
        rows = [COLUMNS, *self._rows()] if self.records else []
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        return "\n".join([self._title(), *(line.rstrip() for line in lines)])

    def _repr_html_(self) -> str:
        return html_table(self._rows(), header=COLUMNS, caption=self._title())

    def _title(self) -> str:
        recovered = f", recoveries: {len(self.recoveries)}" if self.recoveries else ""
        return f"History: {len(self)} validation{'s' * (len(self) != 1)}, {self.stopped}{recovered}"

    def _rows(self) -> list[tuple[str, ...]]:
        """The cells of up to ``SHOWN`` records, evenly spaced, the best one among them."""
        if not self.records:
            return []
        last, best = len(self) - 1, self.records.index(self.best)
        chosen = {round(index * last / (SHOWN - 1)) for index in range(SHOWN)} if last >= SHOWN else {*range(last + 1)}
        return [_cells(self.records[index], "best" if index == best else "") for index in sorted(chosen | {best})]

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

    def to_pandas(self) -> "pandas.DataFrame":
        """The records as a DataFrame of pandas. One of polars is ``polars.DataFrame(history.as_dicts())``.

        Raises:
            SettingError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise SettingError("to_pandas needs pandas, which is not installed: pip install pandas") from error
        return pandas.DataFrame(self.as_dicts(), columns=[field.name for field in fields(Record)])


def _cells(record: Record, note: str) -> tuple[str, ...]:
    nll = (f"{record.train_nll:.4f}", f"{record.val_nll:.4f}")
    return (
        str(record.step),
        f"{record.seconds:.1f}",
        *nll,
        f"{record.learning_rate:.2e}",
        f"{record.grad_norm:.2f}",
        note,
    )
