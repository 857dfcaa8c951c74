"""SplitRows: the rows of a table as numbers, shuffled into a test, a validation and a training part."""

import shutil
import tempfile

import numpy as np

from flowstone.errors import DataError

__all__ = ["SplitRows", "empty_array"]

IN_MEMORY = 1 << 31  # bytes; larger arrays are kept in a temporary file


class SplitRows:
    """Rows of float64, split 80/10/10 by a seed. They are put in chunk by chunk, and lie in the order of the split, so
    that each part is a slice of one array and none is copied.

    Args:
        rows, columns: how many there are.
        seed: of the split.

    >>> split = SplitRows(20, 1, seed=0)
    >>> split.put(0, np.arange(20.0)[:, None])
    >>> len(split.test), len(split.validation), sorted(split.values[:, 0].tolist()) == list(range(20))
    (2, 2, True)
    """

    def __init__(self, rows: int, columns: int, seed: int) -> None:
        order = np.random.default_rng(seed).permutation(rows)
        self.place = np.empty_like(order)
        self.place[order] = np.arange(rows)
        self.values = empty_array((rows, columns))

    def put(self, start: int, values: np.ndarray) -> None:
        """Put in the rows of the table from row ``start`` on."""
        self.values[self.place[start : start + len(values)]] = values

    def add(self, start: int, values: np.ndarray) -> None:
        """Add numbers to the rows of the table from row ``start`` on."""
        self.values[self.place[start : start + len(values)]] += values

    @property
    def test(self) -> np.ndarray:
        """A tenth of the rows."""
        return self.values[: len(self.values) // 10]

    @property
    def validation(self) -> np.ndarray:
        """Another tenth of the rows."""
        tenth = len(self.values) // 10
        return self.values[tenth : 2 * tenth]

    @property
    def train(self) -> np.ndarray:
        """All other rows."""
        return self.values[2 * (len(self.values) // 10) :]


def empty_array(shape: tuple[int, int]) -> np.ndarray:
    """An array of float64 without values: in memory, or where it is larger than ``IN_MEMORY`` in a temporary file, of
    which the system keeps in memory what there is room for.

    Raises:
        DataError: the folder of temporary files does not have so much room.
    """
    size = 8 * shape[0] * shape[1]
    if size <= IN_MEMORY:
        return np.empty(shape)
    _require_room(size)
    with tempfile.TemporaryFile() as file:  # it has no name, so that nothing is left when the process ends
        return np.memmap(file, np.float64, "w+", shape=shape).view(np.ndarray)


def _require_room(size: int) -> None:
    """Raise DataError where the folder of temporary files does not have room for so many bytes."""
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if size > free:
        raise DataError(
            f"{folder} has {free / 1e9:.1f} GB free; the rows of the table need {size / 1e9:.1f}: name another folder "
            "of temporary files in the environment variable TMPDIR"
        )
