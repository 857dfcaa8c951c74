"""The description of a column of a mixed density: the values that hold mass, and the domain of all others."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flowstone.errors import SettingError, UnknownNameError

__all__ = ["MOST_OFF_GRID", "OFF_GRID", "ROUNDING", "Column", "columns_of"]

RESTS = ("real", "positive", "interval", "circle", "grid")
MOST_SHOWN = 8  # atoms in a message
OFF_GRID = 1e-6  # in steps: what is nearer to a value of the grid is that value
ROUNDING, MOST_OFF_GRID = 2.0**-51, 0.25  # of float64, relative to the value; in steps
KEYS = ("name", "atoms", "rest", "low", "high", "step", "anchor", "gaps", "unseen")


@dataclass(frozen=True)
class Column:
    r"""The kind of distribution that one column has.

    A value is one of the ``atoms``, each of which holds mass of its own, or it belongs to the rest: a density on a
    domain, or probabilities on a grid $a, a + h, a + 2h, \dots$ A categorical column is all atoms.

    Attributes:
        name: the column's name.
        atoms: values that hold mass, ascending.
        rest: None where there are atoms alone; ``real``: all numbers; ``positive``: those above ``low`` (0 where None);
            ``interval``: those from ``low`` to ``high``; ``circle``: the same, and both ends are one point;
            ``grid``: ``anchor + k * step``, with ``low`` none lower, with ``high`` none higher.
        low, high, step: of the rest.
        anchor: a value of the grid; None: ``low``, or 0 where there is none.
        gaps: whether a value may be missing, and being missing has a probability.
        unseen: where there is no rest, the probability of a value that is none of the atoms, in addition to theirs;
            None: such a value is impossible.

    >>> Column.of({"name": "hours", "atoms": [40.0], "rest": "grid", "low": 0.0, "step": 1.0}).options
    2
    """

    name: str
    atoms: tuple[float, ...] = ()
    rest: str | None = "real"
    low: float | None = None
    high: float | None = None
    step: float | None = None
    anchor: float | None = None
    gaps: bool = False
    unseen: float | None = None

    @classmethod
    def of(cls, head: Mapping[str, Any]) -> "Column":
        """From a record such as JSON holds.

        Raises:
            SettingError, UnknownNameError: no column can be as the record says; the message names the column.
        """
        for key in head:
            if key not in KEYS:
                raise UnknownNameError(f"key of column {head.get('name')!r}:", key, KEYS)
        atoms = tuple(sorted(float(atom) for atom in head.get("atoms", ())))
        column = cls(**{**head, "atoms": atoms})
        column._check()
        return column._on_circle() if column.rest == "circle" else column

    @property
    def options(self) -> int:
        """The number of options for a value: each of the atoms, and the rest, if there is one."""
        return len(self.atoms) + (self.rest is not None)

    @property
    def is_continuous(self) -> bool:
        """Whether the column has a rest; a grid with atoms does not count, as such a column has few values."""
        return self.rest is not None and not (self.rest == "grid" and self.atoms)

    @property
    def origin(self) -> float:
        """A value of the grid."""
        return (self.low or 0.0) if self.anchor is None else self.anchor

    @property
    def ends(self) -> tuple[float | None, float | None]:
        """The least and the greatest value of the grid; None where it has no end."""
        return self._on_grid(self.low, math.ceil), self._on_grid(self.high, math.floor)

    def _on_circle(self) -> "Column":
        """The same with its atoms between the two ends of its circle, the high end being the low one."""
        low, high = self.low or 0.0, self.high or 0.0
        turned = (atom if low <= atom < high else low + (atom - low) % (high - low) for atom in self.atoms)
        # Just below the low end, rounding gives the high one.
        return replace(self, atoms=tuple(sorted({atom if atom < high else low for atom in turned})))

    def _on_grid(self, end: float | None, inward: Callable[[float], int]) -> float | None:
        """The value of the grid that is nearest to an end of the domain, and within."""
        if end is None or self.step is None:
            return end
        steps = (end - self.origin) / self.step
        near = abs(steps - round(steps)) < min(OFF_GRID + ROUNDING * abs(end) / self.step, MOST_OFF_GRID)
        return end if near else self.origin + inward(steps) * self.step

    @property
    def border(self) -> tuple[float | None, float | None]:
        """The ends of the domain of the rest; None for an end that is open."""
        if self.rest == "positive":
            return self.low or 0.0, None
        if self.rest == "grid" and self.step is not None:
            half, (low, high) = self.step / 2, self.ends
            return None if low is None else low - half, None if high is None else high + half
        return (self.low, self.high) if self.rest in ("interval", "circle") else (None, None)

    @property
    def values(self) -> str:
        """Which values are possible, in words."""
        low, high = (self.low, self.high) if self.rest == "grid" else self.border
        ends = ("" if low is None else f" from {low:g}") + ("" if high is None else f" to {high:g}")
        grid = "" if self.step is None else f" on the grid {self.origin:g} + k * {self.step:g}"
        shown = ", ".join(f"{atom:g}" for atom in self.atoms[:MOST_SHOWN]) + ", …" * (len(self.atoms) > MOST_SHOWN)
        return " or ".join([shown] * bool(shown) + [f"any number{ends}{grid}"] * (self.rest is not None))

    def _check(self) -> None:
        if not isinstance(self.name, str):
            raise SettingError(f"a column's name is text, not {self.name!r}")
        if self.rest is not None and self.rest not in RESTS:
            raise UnknownNameError(f"rest of column {self.name!r}:", str(self.rest), RESTS)
        if self.options == 0:
            raise SettingError(f"column {self.name!r} has neither atoms nor a rest: no value is left for it")
        if len(set(self.atoms)) < len(self.atoms) or not all(map(math.isfinite, self.atoms)):
            raise SettingError(f"column {self.name!r}: its atoms are different, finite numbers")
        if self.rest in ("interval", "circle") and (self.low is None or self.high is None):
            raise SettingError(f"column {self.name!r}: rest={self.rest!r} needs low and high")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise SettingError(f"column {self.name!r}: low={self.low} must be below high={self.high}")
        if self.unseen is not None and not (self.rest is None and 0 < self.unseen < 1):
            raise SettingError(f"column {self.name!r}: unseen={self.unseen} is between 0 and 1, and rest is None")
        if self.rest == "grid" and not (self.step is not None and 0 < self.step < math.inf):
            raise SettingError(f"column {self.name!r}: a grid needs a positive step, not {self.step}")
        low, high = self.ends
        if self.rest == "grid" and low is not None and high is not None and not low <= high:
            raise SettingError(f"column {self.name!r}: no value of its grid is between {self.low} and {self.high}")


def columns_of(features: int, heads: Sequence[Mapping[str, Any]] | None) -> tuple[Column, ...]:
    """The columns that these records describe; without records, ``features`` columns of real numbers.

    Raises:
        SettingError: their number is not ``features``, or two have the same name.
    """
    if heads is None:
        return tuple(Column(f"x{index + 1}") for index in range(features))
    columns = tuple(Column.of(head) for head in heads)
    if len(columns) != features or features < 1:
        raise SettingError(f"features={features}, but {len(columns)} columns are described")
    names = [column.name for column in columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SettingError(f"two columns are called {twice[0]!r}")
    return columns
