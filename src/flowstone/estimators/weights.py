"""Weights of rows as repetitions, so that a weight of 2 is the row twice."""

from typing import Any

import numpy as np

__all__ = ["checked_weights", "repetitions"]

MOST = 10_000_000  # rows that whole weights may make


def repetitions(weights: Any, rows: int, seed: int) -> np.ndarray | None:
    """How often each row counts, ``(rows,)``; None where all count once.

    Whole weights are taken as they are, if they make at most ten million rows. Others are divided by their mean, and
    each is then the next whole number below it or above it, at random, so that it is right in expectation.

    Raises:
        ValueError: a weight is negative, NaN, infinite or no number, or all are 0, or there is not one for each row.
    """
    if weights is None:
        return None
    values = checked_weights(weights, rows)
    if (values == np.round(values)).all() and values.max() <= MOST and values.sum() <= MOST:
        return None if (values == 1).all() else values.astype(np.int64)
    shares = values / values.max()  # so that no sum of large weights is infinite
    shares /= shares.mean()
    below = np.floor(shares)
    return (below + (np.random.default_rng(seed).random(rows) < shares - below)).astype(np.int64)


def checked_weights(weights: Any, rows: int) -> np.ndarray:
    """A weight for each row, float64, ``(rows,)``; one number is the weight of each.

    Raises:
        ValueError: as of ``repetitions``.
    """
    try:
        given = np.asarray(weights)
        values = given.astype(np.float64, casting="safe" if given.dtype.kind == "c" else "unsafe")
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"sample_weight: expected numbers, a weight for each row ({error})") from error
    values = np.full(rows, values) if values.ndim == 0 else values
    if values.shape != (rows,):
        raise ValueError(f"sample_weight has shape {values.shape}; X has {rows} rows, so {(rows,)} is expected")
    bad = ~np.isfinite(values) | (values < 0)
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(f"sample_weight[{row}] is {values[row]:g}; weights are finite and not negative")
    if not values.any():
        raise ValueError("sample_weight: all weights are zero, so no row counts")
    return values
