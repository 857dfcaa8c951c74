"""Noise for columns with repeated values, which have no density without it."""

from collections.abc import Iterator, Sequence

import numpy as np

__all__ = ["add_noise", "atoms", "noise_pieces", "noise_widths"]

CHUNK = 1 << 18  # rows at a time


def noise_widths(values: np.ndarray) -> np.ndarray:
    """Width of the uniform noise that each column ``(rows, D)`` needs to have a density, 0 where it needs none.

    A column in which one value fills more than 0.1% of the rows, and at least two of them, is discrete or rounded: it
    gets noise as wide as its smallest gap, at most 5% of its standard deviation. Gaps below a millionth of the
    deviation are rounding errors (0.1 + 0.2 beside 0.3) and not gaps.
    """
    widths = np.zeros(values.shape[1])
    for index, column in enumerate(values.T):
        distinct, counts = np.unique(column, return_counts=True)
        if len(distinct) > 1 and counts.max() > max(1, 0.001 * len(column)):
            gaps = np.diff(distinct)
            widths[index] = min(gaps[gaps > 1e-6 * column.std()].min(), 0.05 * column.std())
    return widths


def atoms(names: Sequence[str], values: np.ndarray, widths: np.ndarray) -> dict[str, float]:
    """Columns of otherwise continuous values in which one value fills over 1% of the rows, each with that value.

    Noise as narrow as the gaps of the continuous part leaves a spike there that says little about the rest.
    """
    values_of = {}
    for name, column, width in zip(names, values.T, widths, strict=True):
        distinct, counts = np.unique(column, return_counts=True)
        if counts.max() > max(1, 0.01 * len(column)) and width < 1e-3 * column.std():
            values_of[name] = float(distinct[counts.argmax()])
    return values_of


def add_noise(values: np.ndarray, widths: np.ndarray, seed: int, *, first: int = 0) -> np.ndarray:
    """``values`` plus uniform noise centred on 0, so that a value stays the middle of its own cell.

    Args:
        first: how many rows of the same table come before these, whose noise is then the same as in the whole table.
    """
    values = values.copy()
    for start, noise in noise_pieces(len(values), widths, seed, first=first):
        values[start : start + len(noise)] += noise
    return values


def noise_pieces(rows: int, widths: np.ndarray, seed: int, *, first: int = 0) -> Iterator[tuple[int, np.ndarray]]:
    """The noise that ``add_noise`` adds to so many rows, in pieces, each with the number of its first row."""
    random = np.random.default_rng(np.random.PCG64(seed).advance(first * len(widths)))
    for start in range(0, rows, CHUNK):
        yield start, (random.random((min(CHUNK, rows - start), len(widths))) - 0.5) * widths
