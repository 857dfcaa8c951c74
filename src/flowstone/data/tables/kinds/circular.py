"""Circular: angles and other numbers whose ends are one point."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from flowstone.data.tables.facts import Facts
from flowstone.data.tables.kinds.arguments import two_numbers
from flowstone.data.tables.kinds.numbers import Numbers

__all__ = ["Circular"]

NAMES = re.compile(
    r"angle|direction|bearing|heading|azimuth|winddir|wind_dir|degrees|(^|[_ (])deg($|[_ )])|°", re.IGNORECASE
)
TURNS = ((0.0, 360.0), (-180.0, 180.0))


@dataclass(frozen=True, kw_only=True)
class Circular(Numbers):
    """Numbers on a circle: ``high`` is ``low`` again."""

    name = "circular"
    rest = "circle"
    takes = True

    @classmethod
    def infer(cls, facts: Facts) -> "Circular | None":
        """The kind of a column whose name speaks of degrees and whose values go all the way round."""
        if facts.type is None or not facts.is_numeric or facts.per_unit > 1 or not len(facts.unique):
            return None
        named, (least, greatest) = bool(NAMES.search(facts.name)), facts.unique[[0, -1]]
        turn = next(((a, b) for a, b in TURNS if a <= least < a + 15 and b - 15 < greatest <= b), None)
        if named and turn:
            facts.notes.append(f"its name and range say degrees: circular from {turn[0]:g} to {turn[1]:g}")
            return cls._made(facts, *turn)
        if named and least >= -360 and greatest <= 360:
            requested = {facts.name: "circular(0,360)"}
            facts.doubt("its name, not its range, says that it may be an angle", "if it is one", kinds=requested)
        return None

    @classmethod
    def requested(cls, facts: Facts, arguments: Sequence[str]) -> "Circular":
        if not facts.is_numeric or not len(facts.unique):
            raise cls.refuse(facts, "it holds no numbers")
        ends = two_numbers(cls.name, arguments)
        if ends is None:
            least, greatest = facts.unique[[0, -1]]
            ends = next((turn for turn in TURNS if turn[0] <= least and greatest <= turn[1]), None)
            if ends is None:
                raise cls.refuse(facts, "its values are no degrees; name the ends, as in circular(0,24)")
        return cls._made(facts, *ends)

    @classmethod
    def _made(cls, facts: Facts, low: float, high: float) -> "Circular":
        wrapped = _wrapped(np.array(facts.atoms), low, high)
        atoms = () if facts.is_short else tuple(sorted(set(wrapped.tolist())))
        return cls.of(facts, low=low, high=high, atoms=atoms)

    def encode(self, column: pa.ChunkedArray, where: str, start: int = 0) -> np.ndarray:
        return self._wrapped(super().encode(column, where, start))

    def decode(self, values: np.ndarray, *, seed: int = 0) -> pa.Array:
        wrapped = self._wrapped(self.on_grid(self._wrapped(np.asarray(values, dtype=np.float64))))
        return super().decode(wrapped, seed=seed)

    def treatment(self) -> str:
        return f"a density on the circle from {self.low:g} to {self.high:g}" + (
            f", rounded to {self.step:g}" if self.step else ""
        )

    def _wrapped(self, values: np.ndarray) -> np.ndarray:
        return _wrapped(values, *self._ends())

    def _ends(self) -> tuple[Any, Any]:
        return self.low, self.high


def _wrapped(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Angles between the two ends of their circle; those that are, and NaN, as they are."""
    inside = (values >= low) & (values < high)
    wrapped = low + np.mod(values - low, high - low)
    wrapped = np.where(wrapped < high, wrapped, low)  # just below the lower end, by rounding
    return np.where(inside | np.isnan(values), values, wrapped)
