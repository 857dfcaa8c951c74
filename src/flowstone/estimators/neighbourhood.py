"""How near rows lie to rows that are known: distance to one neighbour and a kernel density, from the same distances."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import logsumexp
from sklearn.metrics import pairwise_distances_chunked
from torch import Tensor

__all__ = ["Neighbourhood", "Scale"]

MOST_ROWS = 5000  # to which distances are computed
NEAREST = 1e-6  # a distance, relative to a point's length, below which points count as equal
BANDWIDTHS = np.geomspace(0.05, 2, 12)
SMOOTHING = 2.0  # times the likeliest bandwidth
TRIED = 1000  # rows by which the bandwidth is chosen


class Scale:
    """Rows as points: numbers standardised, a category as indicators of its levels, of which two lie 1 apart.

    A gap lies at the mean of its column, and a level that was not learned 1 from each that was.

    Args:
        center, width: mean and standard deviation of each column of numbers, ``(columns,)``; 0 and 1 of categories.
        levels: the levels of each column; none of numbers.
    """

    def __init__(self, center: np.ndarray, width: np.ndarray, levels: Sequence[Sequence[float]]) -> None:
        self.center, self.width, self.levels = center, width, [list(each) for each in levels]

    @classmethod
    def of(cls, x: Tensor, heads: Sequence[Mapping[str, Any]] | None) -> "Scale":
        """The scale of rows, ``(rows, columns)``.

        Args:
            heads: what the columns are; None where all are numbers.
        """
        levels = [[]] * x.shape[1] if heads is None else [h["atoms"] if h["rest"] is None else [] for h in heads]
        whole = np.nan_to_num(_filled(x.numpy()))
        is_number = np.array([not each for each in levels])
        width = whole.std(0)
        return cls(np.where(is_number, whole.mean(0), 0.0), np.where(is_number & (width > 0), width, 1.0), levels)

    def __call__(self, x: Tensor) -> np.ndarray:
        values = (x.numpy() - self.center) / self.width
        parts = [
            _indicators(values[:, [index]], levels) if levels else np.nan_to_num(values[:, [index]])
            for index, levels in enumerate(self.levels)
        ]
        return np.concatenate(parts, 1).clip(-1e100, 1e100)


class Neighbourhood:
    """Known points, from which the distances of other points are measured.

    A point that is among them is not its own neighbour: of those at distance 0 one is left out.

    Args:
        points: ``(rows, width)``, of which the first 5000 are used.
        neighbour: which neighbour's distance is measured, 1 for the nearest. A group of fewer points than this that
            lies apart is far from its neighbours, too.
        bandwidth: of the kernel density; None: twice the one under which left-out points are likeliest.
    """

    def __init__(self, points: np.ndarray, neighbour: int = 1, bandwidth: float | None = None) -> None:
        self.points = points[:MOST_ROWS]
        self.neighbour = neighbour
        self.bandwidth = SMOOTHING * self._likeliest() if bandwidth is None else bandwidth

    def log_distance(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log of the distance to the neighbour, and minus the log of the mean of Gaussian kernels."""
        index = self.neighbour - 1

        def reduce(d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return np.partition(d, index)[:, index], _log_kernel(d, self.bandwidth)

        distance, kernel = (np.concatenate(part) for part in zip(*self._reduced(points, reduce), strict=True))
        return np.log(np.maximum(distance, NEAREST)), -kernel

    def _likeliest(self) -> float:
        """The bandwidth under which points are likeliest given all others."""
        dimension = self.points.shape[1]
        found = self._reduced(
            self.points[:TRIED],
            lambda d: np.stack([_log_kernel(d, h) - dimension * np.log(h) for h in BANDWIDTHS], 1),
        )
        return float(BANDWIDTHS[np.concatenate(list(found)).mean(0).argmax()])

    def _reduced(self, points: np.ndarray, reduce: Any) -> Any:
        """What ``reduce`` makes of the distances of points from all neighbours, a part at a time."""

        def without_self(distances: np.ndarray, start: int) -> Any:
            rows = np.arange(len(distances))
            nearest = distances.argmin(1)
            rounding = NEAREST * (1 + np.linalg.norm(points[start : start + len(rows)], axis=1))
            same = (distances[rows, nearest] <= rounding) & (distances.shape[1] > 1)
            distances[rows[same], nearest[same]] = np.inf
            return reduce(distances)

        return pairwise_distances_chunked(points, self.points, reduce_func=without_self, working_memory=64)


def _indicators(values: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """Points of a category, ``(rows, levels)``, from its values, ``(rows, 1)``: corners of a simplex of side 1, whose
    last corner, all of whose coordinates are the same, is of values that are none of the levels.
    """
    found = (values == np.array(levels)) / np.sqrt(2)
    count = len(levels)
    corner = (np.sqrt(2) - np.sqrt(2 + 2 * count)) / (2 * count)
    return np.where(found.any(1, keepdims=True) | np.isnan(values), found, corner)


def _log_kernel(distances: np.ndarray, bandwidth: float) -> np.ndarray:
    return logsumexp(-0.5 * np.square(distances / bandwidth), axis=1) - np.log(distances.shape[1])


def _filled(x: np.ndarray) -> np.ndarray:
    """Gaps replaced by the mean of their column."""
    counts = np.maximum((~np.isnan(x)).sum(0), 1)
    return np.where(np.isnan(x), np.nansum(x, 0) / counts, x)
