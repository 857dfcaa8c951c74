"""Weights of rows as repetitions, so that a weight of 2 is the row twice."""

from typing import Any

import numpy as np
from sklearn.utils.validation import check_consistent_length, column_or_1d

__all__ = ["repetitions"]


def repetitions(weights: Any, rows: int, seed: int) -> np.ndarray | None:
    """How often each row counts, ``(rows,)``; None where all count once.

    Whole weights are taken as they are. Others are divided by their mean, and each is then the next whole number below
    it or above it, at random, so that it is right in expectation.

    Raises:
        ValueError: a weight is negative, NaN or infinite, or all are 0; the message names the row.
    """
    if weights is None:
        return None
    weights = np.asarray(weights, dtype=np.float64)
    values = np.full(rows, weights) if weights.ndim == 0 else column_or_1d(weights)
    check_consistent_length(values, np.empty(rows))
    bad = ~np.isfinite(values) | (values < 0)
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(f"sample_weight: row {row} has weight {values[row]:g}; weights are finite and not negative")
    if not values.any():
        raise ValueError("sample_weight: all weights are zero, so there is no row to learn from")
    if (values == np.round(values)).all():
        return None if (values == 1).all() else values.astype(np.int64)
    shares = values / values.mean()
    below = np.floor(shares)
    return (below + (np.random.default_rng(seed).random(rows) < shares - below)).astype(np.int64)
