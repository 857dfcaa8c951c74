"""Whether synthetic rows repeat training rows: distances to the nearest training rows and to held-out rows."""

from dataclasses import dataclass

import numpy as np
import torch

from flowstone.errors import DataError
from flowstone.evaluation.overlap import shared_rows

__all__ = ["NearestRows", "nearest_rows"]

BLOCK = 256  # rows whose distances to all others are in memory at once


@dataclass(frozen=True)
class NearestRows:
    """How near synthetic rows are to training rows.

    Attributes:
        nearer_to_training: share of synthetic rows that are nearer to a training row than to any held-out row, among
            equal numbers of both; ties count half. 0.5 where nothing is memorized, 1 where every row is.
        stderr: standard error of this share where nothing is memorized: its deviation over all choices of which of the
            rows that it is made of are the training rows. With few held-out rows it is large, however many synthetic
            rows there are.
        copies: share of synthetic rows that equal a training row in every column.
        copies_held_out: the same share for held-out rows, which equal training rows by chance alone.
    """

    nearer_to_training: float
    stderr: float
    copies: float
    copies_held_out: float


def nearest_rows(
    training: np.ndarray,
    held_out: np.ndarray,
    synthetic: np.ndarray,
    categorical: np.ndarray | None = None,
    *,
    seed: int = 0,
    most: int = 5000,
) -> NearestRows:
    """Compare the distances from synthetic rows to training rows with those to held-out rows.

    The distance sums over columns: 0 or 1 of a categorical column, and where one value is a gap; else the difference
    of the two values over the column's interquartile range, or its full range where that is 0.

    Args:
        training, held_out, synthetic: ``(rows, columns)``, float64; NaN is a gap.
        categorical: ``(columns,)``, True where numbers are codes of levels.
        seed: seed of the choice of rows.
        most: the largest number of rows of each table that are compared.

    Raises:
        DataError: the tables have different columns.

    >>> import numpy as np
    >>> rows = np.random.default_rng(0).normal(size=(300, 2))
    >>> found = nearest_rows(rows[:100], rows[100:200], rows[:100])  # copies
    >>> found.nearer_to_training, round(found.stderr, 2)
    (1.0, 0.04)
    """
    widths = {table.shape[1] for table in (training, held_out, synthetic)}
    if len(widths) > 1:
        raise DataError(f"tables of {' and '.join(map(str, sorted(widths)))} columns cannot be compared")
    coded = np.zeros(training.shape[1], bool) if categorical is None else np.asarray(categorical, bool)
    spread, rng = _spread(training, coded), np.random.default_rng(seed)
    n = min(len(training), len(held_out), most)
    a, b, c = (
        table[rng.permutation(len(table))[:size]] / spread
        for table, size in ((training, n), (held_out, n), (synthetic, most))
    )
    (to_training, first), (to_held_out, second) = _nearest(c, a, coded), _nearest(c, b, coded)
    nearer, farther = to_training < to_held_out, to_training > to_held_out
    share = (nearer.mean() + (~farther).mean()) / 2
    each = np.concatenate((np.bincount(first, nearer, n), np.bincount(second, farther, n))) / len(c)
    learned = torch.from_numpy(training)
    copies = (shared_rows(learned, torch.from_numpy(table)) / len(table) for table in (synthetic, held_out))
    return NearestRows(float(share), _error_of_share(each), *copies)


def _error_of_share(shares: np.ndarray) -> float:
    """The deviation of the sum of a random half of these numbers."""
    return float(np.sqrt(len(shares) * shares.var(ddof=1) / 4))


def _spread(training: np.ndarray, coded: np.ndarray) -> np.ndarray:
    """The difference that counts as a distance of 1 in each column."""
    values = np.where(np.isnan(training).all(0), 0.0, training)  # a column without values has no spread
    low, high = np.nanquantile(values, 0.25, 0), np.nanquantile(values, 0.75, 0)
    spread = np.where(high > low, high - low, np.nanmax(values, 0) - np.nanmin(values, 0))
    return np.where(coded | ~(spread > 0), 1.0, spread)


def _nearest(rows: np.ndarray, others: np.ndarray, coded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distance of each row to the nearest of the others, and which one it is."""
    nearest, which = np.empty(len(rows)), np.empty(len(rows), np.int64)
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        distance = np.zeros((len(block), len(others)))
        for a, b, is_code in zip(block.T, others.T, coded, strict=True):
            distance += _distance(a[:, None], b, is_code=is_code)
        nearest[start : start + BLOCK], which[start : start + BLOCK] = distance.min(1), distance.argmin(1)
    return nearest, which


def _distance(a: np.ndarray, b: np.ndarray, *, is_code: bool) -> np.ndarray:
    apart = (a != b).astype(float) if is_code else np.abs(a - b)
    gaps = np.isnan(a).astype(int) + np.isnan(b)
    return np.where(gaps == 0, apart, gaps % 2)  # two gaps have distance 0, a gap and a number 1
