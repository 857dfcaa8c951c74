"""Unseen levels: values of a categorical column that it did not have when it was learned, in rows that are scored."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace

from flowstone.errors import DataWarning

__all__ = ["Unseen", "warn_unseen"]


@dataclass(frozen=True)
class Unseen:
    """The unseen levels of one column of a table, or of a chunk of one.

    Attributes:
        where: the name of the table.
        column: the name of the column.
        value, row: the first such level, in words, and its row in the table, from 1.
        rows: how many rows hold this or another such level.
        hint: the nearest level that was learned, or what levels there are.
        probability: the probability that each such level is given.
    """

    where: str
    column: str
    value: str
    row: int
    rows: int
    hint: str
    probability: float

    def __str__(self) -> str:
        count = f"{self.rows} such row" + "s" * (self.rows > 1)
        return (
            f"{self.where}: column {self.column!r}, row {self.row}: unknown level {self.value} ({self.hint}): "
            f"scored as another level, of probability {self.probability:.4g} ({count})"
        )


def warn_unseen(found: Iterable[Unseen]) -> None:
    """A DataWarning for each column; what was found in several chunks counts together.

    Args:
        found: chunk after chunk.
    """
    columns: dict[str, Unseen] = {}
    for each in found:
        first = columns.get(each.column)
        columns[each.column] = each if first is None else replace(first, rows=first.rows + each.rows)
    for each in columns.values():
        warnings.warn(DataWarning(str(each)), stacklevel=4)
