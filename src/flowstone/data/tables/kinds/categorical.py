"""Categorical: levels without an order."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from flowstone.data.tables.arrow import compute
from flowstone.data.tables.facts import Facts
from flowstone.data.tables.kinds.kind import Description, ModelledKind
from flowstone.data.tables.types import is_temporal, is_text, plain_type, python_value, type_from_record, type_to_record
from flowstone.data.tables.unseen import Unseen
from flowstone.errors import DataError

__all__ = ["MOST_LEVELS", "Categorical"]

MOST_LEVELS = 255  # more are grouped
LONG_TEXT = 0.5  # of the rows: with more different values than that, text is no category


@dataclass(frozen=True, kw_only=True)
class Categorical(ModelledKind):
    """Levels 0 … K − 1.

    Of more than ``MOST_LEVELS`` levels the most frequent ones are kept, and all others are one more level: the rest.
    In samples a row of the rest is given one of the grouped levels, drawn by its frequency.

    Attributes:
        levels: texts, numbers or truth values, in the order of their indices.
        level_type: Arrow's type of a level.
        grouped, grouped_counts: the levels of the rest and how often each came; empty where there is no rest.
    """

    name = "categorical"
    ordered = False
    levels: tuple[Any, ...] = ()
    level_type: str = "string"
    grouped: tuple[Any, ...] = ()
    grouped_counts: tuple[int, ...] = ()

    @classmethod
    def infer(cls, facts: Facts) -> "Categorical | None":
        dictionary = pa.types.is_dictionary(facts.type)
        if not (dictionary or is_text(facts.type)) or not facts.distinct:
            return None
        if facts.distinct > MOST_LEVELS and facts.distinct > LONG_TEXT * len(facts.present):
            return None
        return cls.requested(facts, ())

    @classmethod
    def requested(cls, facts: Facts, arguments: Sequence[str]) -> "Categorical":
        if not facts.distinct:
            raise cls.refuse(facts, "it holds no values")
        values, counts = facts.level_counts
        values = compute.cast(values, plain_type(values.type))
        by_count = np.argsort(-counts, kind="stable")
        kept, rest = by_count[:MOST_LEVELS], by_count[MOST_LEVELS:]
        levels = values.to_pylist()
        if len(rest):
            facts.notes.append(
                f"{facts.distinct} levels: the {MOST_LEVELS} most frequent are kept, the others are one level"
            )
        return cls(
            **cls.common(facts),
            levels=tuple(sorted((levels[i] for i in kept), key=_order)),
            level_type=type_to_record(values.type),
            grouped=tuple(levels[i] for i in rest),
            grouped_counts=tuple(int(counts[i]) for i in rest),
        )

    @property
    def unseen(self) -> float | None:
        r"""The probability of a level that was not learned, in rows that are scored, by a rule of succession:

        $$ p = 1 / (n + 1) $$

        with n the number of values that the column had in the table that was learned from, at least one for each level.
        None where there is a rest, which such a level then belongs to.
        """
        return None if self.grouped else 1 / (max(self.rows - self.missing, len(self.levels)) + 1)

    def encode(
        self, column: pa.ChunkedArray, where: str, start: int = 0, unseen: list[Unseen] | None = None
    ) -> np.ndarray:
        """As ``ModelledKind.encode``. A level that was not learned belongs to the rest; where there is none, it is an
        error, or with a list ``unseen``, to which it is added, has the index K.
        """
        if pa.types.is_dictionary(column.type):
            column = compute.cast(column, column.type.value_type)
        if pa.types.is_floating(column.type):
            column = compute.if_else(compute.is_nan(column), pa.scalar(None, column.type), column)
        plain = self._plain(column, where, start, all_known=unseen is None)
        known = pa.array([*self.levels, *self.grouped], type_from_record(self.level_type))
        found = compute.index_in(plain, value_set=known)
        unknown = compute.and_(compute.is_null(found), compute.is_valid(column))
        values = np.array(compute.cast(found, pa.float64()).to_numpy(), dtype=np.float64)
        if compute.any(unknown).as_py():
            if unseen is not None and self.unseen is not None:
                row, count, hint = self._first(column, unknown)
                value = repr(python_value(column[row]))
                unseen.append(Unseen(where, self.column, value, start + row + 1, count, hint, self.unseen))
            elif not self.grouped:
                self._refuse(plain, unknown, where, start)
            values[np.asarray(unknown)] = len(self.levels)
        return np.where(values > len(self.levels), float(len(self.levels)), values)

    def decode(self, values: np.ndarray, *, seed: int = 0) -> pa.Array:
        values = np.asarray(values, dtype=np.float64)
        gaps, count = np.isnan(values), len(self.levels)
        index = np.clip(np.round(np.where(gaps, 0.0, values)), 0, count - (not self.grouped)).astype(np.int64)
        rest = np.flatnonzero((index == count) & ~gaps)
        if len(rest):
            shares = np.array(self.grouped_counts) / sum(self.grouped_counts)
            random = np.random.default_rng([seed, *self.column.encode()])  # columns of one table are drawn apart
            index[rest] = count + random.choice(len(shares), len(rest), p=shares)
        known = pa.array([*self.levels, *self.grouped], type_from_record(self.level_type))
        if pa.types.is_dictionary(self.type):  # all levels in their order, so that any two samples have the same
            indices = pa.array(index, mask=gaps).cast(self.type.index_type)
            return pa.DictionaryArray.from_arrays(indices, known.cast(self.type.value_type), ordered=self.type.ordered)
        return known.take(pa.array(index, mask=gaps)).cast(self.type)

    def head(self) -> dict[str, Any]:
        count = len(self.levels) + bool(self.grouped)
        return {
            "name": self.column, "atoms": [float(i) for i in range(count)], "rest": None, "low": None, "high": None,
            "step": None, "anchor": None, "gaps": self.missing > 0, "unseen": self.unseen,
        }  # fmt: skip

    def describe(self) -> Description:
        shown = ", ".join(map(str, self.levels[:4])) + (", …" if len(self.levels) > 4 else "")
        rest = f"; {len(self.grouped)} rare ones as one" if self.grouped else ""
        return Description(shown, f"a probability for each of {len(self.levels)} levels{rest}")

    def _plain(self, column: pa.ChunkedArray, where: str, start: int, *, all_known: bool) -> pa.ChunkedArray:
        """The column in the type of the levels; a value that has none is refused, or null if not all need be known."""
        kind = type_from_record(self.level_type)
        try:
            return self._cast(column, kind)
        except pa.ArrowException as error:
            if not all_known:
                return self._cast_each(column, kind)
            text = compute.cast(column, pa.string())
            known = pa.array(map(str, self.levels), pa.string())
            bad = compute.and_(compute.invert(compute.is_in(text, value_set=known)), compute.is_valid(text))
            if compute.any(bad).as_py():
                self._refuse(text, bad, where, start)
            raise DataError(f"{where}: column {self.column!r} is of type {column.type}, not {kind}") from error

    def _cast(self, values: Any, kind: pa.DataType) -> Any:
        """A column, or one value, in the type of the levels."""
        own = self.type.value_type if pa.types.is_dictionary(self.type) else self.type
        if not is_temporal(own) and not pa.types.is_decimal(own):
            return values.cast(kind)
        if pa.types.is_decimal(own) and pa.types.is_integer(values.type):  # of which Arrow asks for 19 digits
            values = values.cast(pa.string())
        plain = values.cast(own)
        exact = plain.cast(pa.string()).cast(values.type) if pa.types.is_floating(values.type) else values
        if not compute.all(compute.equal(exact, values)).as_py():
            raise pa.ArrowInvalid(f"digits that {own} does not hold")
        return plain.cast(kind)

    def _cast_each(self, column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
        """The column in the type of the levels, null where a value is of none."""
        values, found = compute.unique(column), []
        for place in range(len(values)):
            try:
                found.append(self._cast(values.slice(place, 1), kind)[0].as_py())
            except pa.ArrowException:
                found.append(None)
        return compute.take(pa.array(found, kind), compute.index_in(column, value_set=values))

    def _first(self, column: pa.ChunkedArray, unknown: pa.ChunkedArray) -> tuple[int, int, str]:
        """The first row of an unknown level, how many rows hold one, and the nearest level or what levels there are."""
        row = compute.index(unknown, True).as_py()
        near = difflib.get_close_matches(str(python_value(column[row])), list(map(str, self.levels)), n=1)
        known = ", ".join(map(str, self.levels[:8])) + (", …" if len(self.levels) > 8 else "")
        hint = f"did you mean {near[0]!r}?" if near else f"its levels are {known}"
        return row, compute.sum(unknown).as_py(), hint

    def _refuse(self, column: pa.ChunkedArray, unknown: pa.ChunkedArray, where: str, start: int) -> None:
        row, count, hint = self._first(column, unknown)
        place = f"column {self.column!r}, row {start + row + 1}"
        rows = f" ({count} such rows)" if count > 1 else ""
        raise DataError(f"{where}: {place}: unknown level {python_value(column[row])!r}{rows}: {hint}")


def _order(level: Any) -> tuple[int, Any]:
    return (0, level) if isinstance(level, int | float) else (1, str(level))
