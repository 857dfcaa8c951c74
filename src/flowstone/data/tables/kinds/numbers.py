"""What kinds of numbers share: atoms, a grid, an origin, and the way to float64 and back."""

import math
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from flowstone.data.tables.arrow import compute
from flowstone.data.tables.facts import Facts, difference, ticks_per_unit
from flowstone.data.tables.kinds.kind import Description, ModelledKind
from flowstone.data.tables.types import is_number, is_temporal, is_text, plain_type, python_value
from flowstone.data.tables.values import date_mask, number_mask, parse_dates, parse_numbers, without_gaps
from flowstone.errors import DataError

__all__ = ["Numbers", "shown"]

MOST_DIGITS = 16
LEAST_DIGITS = 6  # that are shown of a number with a fraction
DAY = 86_400
OFF_GRID = 1e-6  # of a step: what is nearer to a value of the grid is that value


@dataclass(frozen=True, kw_only=True)
class Numbers(ModelledKind):
    """A column of numbers, dates or times: abstract.

    Attributes:
        atoms: values that hold mass of their own.
        step, anchor: of the grid that values are rounded to, ``anchor + k step``; or None.
        ticks: the step of whole numbers and times in units of their type, as float64 may not hold it.
        origin: what is subtracted from whole numbers that float64 could not hold otherwise, in ticks of their type.
        low, high: where the domain ends, or None.
        least, greatest: the ends of the values that were seen.
    """

    rest: ClassVar[str] = "real"
    atoms: tuple[float, ...] = ()
    step: float | None = None
    anchor: float = 0.0
    ticks: int = 0
    origin: int = 0
    low: float | None = None
    high: float | None = None
    least: float | None = None
    greatest: float | None = None

    @classmethod
    def of(cls, facts: Facts, **changed: Any):
        """The kind with the atoms, grid and range of a column."""
        unique = facts.unique
        made = {
            "atoms": facts.atoms,
            "step": facts.step if cls.rest == "grid" else facts.resolution,
            "anchor": float(unique[0]) if len(unique) else 0.0,
            "ticks": facts.ticks,
            "origin": facts.origin,
            "least": float(unique[0]) if len(unique) else None,
            "greatest": float(unique[-1]) if len(unique) else None,
        }
        return cls(**cls.common(facts), **made | changed)

    def encode(self, column: pa.ChunkedArray, where: str, start: int = 0) -> np.ndarray:
        column = _as_numbers(column, self, where, start)
        per_unit = ticks_per_unit(self.type)
        if self.origin and not is_temporal(self.type) and not pa.types.is_integer(column.type):
            values = _less_origin(column, self.origin)
        elif is_temporal(self.type) or self.origin:
            gaps = np.asarray(column.is_null())
            ticks = difference(_ticks(column, self.type), self.origin)
            values = np.where(gaps, np.nan, ticks.astype(np.float64) / per_unit)
        else:
            values = np.array(compute.cast(column, pa.float64(), safe=False).to_numpy(), dtype=np.float64)
        return self._snapped(values, column.type)

    def dates_of(self, text: pa.ChunkedArray) -> pa.ChunkedArray | None:
        """Text without gap markers as dates or times; None where a cell is neither."""
        parsed = parse_dates(text)
        return None if parsed is None else parsed[0]

    def decode(self, values: np.ndarray, *, seed: int = 0) -> pa.Array:
        values = np.asarray(values, dtype=np.float64)
        gaps = np.isnan(values)
        values = np.clip(np.where(gaps, 0.0, values), *self._limits())
        if is_temporal(self.type) or self.origin:
            return self._of_ticks(values, gaps)
        values = np.where(np.isin(values, self.atoms), values, self.on_grid(values))
        if pa.types.is_integer(self.type):
            information = np.iinfo(self.type.to_pandas_dtype())
            whole = np.clip(np.round(values), max(information.min, -(2.0**62)), min(information.max, 2.0**62))
            return pa.array(whole.astype(np.int64), mask=gaps).cast(self.type)
        most = _greatest_number(self.type)
        array = pa.array(np.clip(values, -most, most), mask=gaps)
        return array.cast(self.type, safe=False)

    def head(self) -> dict[str, Any]:
        return {
            "name": self.column,
            "atoms": list(self.atoms),
            "rest": self.rest,
            "low": self.low,
            "high": self.high,
            "step": self.step if self.rest == "grid" else None,
            "anchor": self.anchor if self.rest == "grid" else None,
            "gaps": self.missing > 0,
        }

    def describe(self) -> Description:
        numerous = len(self.atoms) > 6
        return Description(
            range=f"{self.said(self.least)} … {self.said(self.greatest)}",
            treatment=self.treatment(),
            atoms=f"{len(self.atoms)} values" if numerous else ", ".join(map(self.said, self.atoms)),
            grid="" if self.step is None else f"{self.step:g}",
        )

    def treatment(self) -> str:
        """What the density does with the column, in a few words."""
        ends = {
            (False, False): "on the real line",
            (True, False): f"above {shown(self.low)}",
            (False, True): f"below {shown(self.high)}",
            (True, True): f"between {shown(self.low)} and {shown(self.high)}",
        }[self.low is not None, self.high is not None]
        return f"a density {ends}" + (f", rounded to {self.step:g}" if self.step else "")

    def said(self, value: float | None) -> str:
        """A number of the tensor as the table shows it."""
        if value is None:
            return ""
        if is_temporal(self.type) or self.origin:
            return str(python_value(self._of_ticks(np.array([value]), np.array([False]))[0]))
        on_grid = value if value in self.atoms else float(self.on_grid(np.array(value)))
        return shown(on_grid, self._significant)

    def on_grid(self, values: np.ndarray) -> np.ndarray:
        """Values rounded to the column's grid, where it has one."""
        if self.step is None:
            return values
        on_grid = self.anchor + np.round((values - self.anchor) / self.step) * self.step
        if self._digits is not None:  # more digits would change large values
            on_grid = np.round(on_grid, self._digits)
        return on_grid + 0.0  # 0 in place of -0

    @property
    def _significant(self) -> int:
        """How many digits tell values apart that differ by a hundred-thousandth of the range."""
        least, greatest = self.least or 0.0, self.greatest or 0.0
        largest, width = max(abs(least), abs(greatest)), greatest - least
        return LEAST_DIGITS + (math.ceil(math.log10(min(largest / width, 1e11))) if 0 < width < largest else 0)

    @property
    def _digits(self) -> int | None:
        """How many digits behind the point step and anchor have; None for more than there can be."""
        ends = (self.step or 0.0, self.anchor)
        return next((n for n in range(MOST_DIGITS) if all(round(end, n) == end for end in ends)), None)

    def _snapped(self, values: np.ndarray, kind: pa.DataType) -> np.ndarray:
        """Move values that only rounding errors separate from the grid, or from an atom, onto it."""
        if pa.types.is_integer(self.type) or is_temporal(self.type):
            return values
        narrow = [each.to_pandas_dtype() for each in (kind, self.type) if each in (pa.float16(), pa.float32())]
        with np.errstate(invalid="ignore", over="ignore"):  # of infinite values
            if self.type in (pa.float16(), pa.float32()):  # text has fewer digits of them than float64
                short = values.astype(self.type.to_pandas_dtype()).astype(np.float64)
                values = np.where(np.isinf(short), values, short)
            for dtype in narrow:
                values = _snapped_to(np.asarray(self.atoms), values, dtype)
            if self.step is None:
                return values
            rounded = self.on_grid(values)
            near = np.abs(values - rounded) <= OFF_GRID * self.step
            for dtype in narrow:
                near |= rounded.astype(dtype) == values.astype(dtype)
            return np.where(near, rounded, values)

    def _of_ticks(self, values: np.ndarray, gaps: np.ndarray) -> pa.Array:
        """A column of times or large integers, by whole numbers all the way: float64 does not hold their ticks."""
        per_unit = ticks_per_unit(self.type)
        step = max(1, self.ticks)
        anchor = round(self.anchor * per_unit)
        base = anchor + self.origin
        fits = step < 2**63 and -(2**63) <= base < 2**63
        least, greatest = _ticks_limits(self.type)
        low, high = -((base - least) // step), (greatest - base) // step  # on the grid
        steps = np.clip(np.round((values * per_unit - anchor) / step), low, high)
        if not fits or np.abs(steps).max(initial=0) * step > 2**63 - 1024:  # in Python's numbers
            whole = [min(max(int(each) * step + base, least), greatest) for each in steps]
            return pa.array(whole, plain_type(self.type), mask=gaps).cast(self.type)
        steps = steps.astype(np.int64) * step
        low, high = (min(max(end - base, -(2**63)), 2**63 - 1) for end in (least, greatest))
        ticks = np.clip(steps, low, high).astype(np.uint64 if self.type == pa.uint64() else np.int64)
        ticks = ticks + ticks.dtype.type(base)
        return pa.array(ticks, mask=gaps).cast(plain_type(self.type)).cast(self.type)

    def _limits(self) -> tuple[float, float]:
        low, high = (-np.inf if self.low is None else self.low), (np.inf if self.high is None else self.high)
        atoms = self.atoms or (0.0,)
        return min(low, *atoms), max(high, *atoms)


def shown(value: float | None, digits: int = LEAST_DIGITS) -> str:
    """A number as short as it can be, with so many significant digits at most where it is no whole number."""
    if value is None:
        return ""
    return str(int(value)) if abs(value) < 1e15 and value == int(value) else f"{value:.{digits}g}"


def _as_numbers(column: pa.ChunkedArray, kind: Numbers, where: str, start: int) -> pa.ChunkedArray:
    """The column in a type of numbers or times, with what cannot be one refused by its row."""
    if pa.types.is_dictionary(column.type):
        column = compute.cast(column, column.type.value_type)
    if is_text(column.type):
        column = without_gaps(compute.cast(column, pa.string()))
        if column.null_count == len(column):  # a chunk of gaps has no form
            column = pa.chunked_array([pa.nulls(len(column))])
    if is_temporal(kind.type):
        return _as_times(column, kind, where, start)
    if is_text(column.type):
        parsed = parse_numbers(column)
        if parsed is None:
            row = compute.index(compute.fill_null(number_mask(column), True), False).as_py()
            held = f"row {start + row + 1} holds {column[row].as_py()!r}"
            raise DataError(f"{where}: column {kind.column!r}, {held}; it is {kind.name}: a number")
        return parsed
    if pa.types.is_null(column.type):
        return compute.cast(column, pa.float64())
    if not is_number(column.type) and not pa.types.is_boolean(column.type):
        raise DataError(f"{where}: column {kind.column!r} is of type {column.type}; it is {kind.name}: a number")
    return column


def _as_times(column: pa.ChunkedArray, kind: Numbers, where: str, start: int) -> pa.ChunkedArray:
    if is_text(column.type):
        parsed = kind.dates_of(column)
        if parsed is None:
            with suppress(pa.ArrowException):  # as Arrow writes moments
                return column.cast(kind.type)
            row = max(0, compute.index(compute.fill_null(_mask_of_dates(column), True), False).as_py())
            held = f"row {start + row + 1} holds {column[row].as_py()!r}"
            raise DataError(f"{where}: column {kind.column!r}, {held}; it is {kind.name}: a date or a time")
        column = parsed
    try:
        stamps = pa.types.is_timestamp(column.type) and pa.types.is_timestamp(kind.type)
        if stamps and column.type.tz is None and kind.type.tz:
            column = compute.assume_timezone(column, kind.type.tz)
        return column.cast(kind.type, safe=_is_coarser(column.type, kind.type))
    except pa.ArrowInvalid as error:
        said = str(error).splitlines()[0]
        raise DataError(f"{where}: column {kind.column!r} holds what {kind.type} cannot hold ({said})") from error
    except pa.ArrowException as error:
        raise DataError(f"{where}: column {kind.column!r} is of type {column.type}, not {kind.type}") from error


def _is_coarser(kind: pa.DataType, other: pa.DataType) -> bool:
    """Whether moments or spans have longer ticks than those of another type, which may then not reach as far."""
    if not is_temporal(kind) or pa.types.is_date(other):
        return False
    return ticks_per_unit(kind) < ticks_per_unit(other) * (DAY if pa.types.is_date(kind) else 1)


def _mask_of_dates(text: pa.ChunkedArray) -> pa.ChunkedArray:
    """Which cells are dates or times in the form of most of them; null where there is none."""
    return compute.if_else(compute.is_valid(text), date_mask(text), pa.scalar(None, pa.bool_()))


def _less_origin(column: pa.ChunkedArray, origin: int) -> np.ndarray:
    """Floats or decimals less an origin that float64 may not hold; NaN for gaps."""
    values = (np.nan if value is None else value for value in column.to_pylist())
    exact = [float(Fraction(value) - origin) if np.isfinite(float(value)) else value for value in values]
    return np.array(exact, dtype=np.float64)


def _ticks(column: pa.ChunkedArray, kind: pa.DataType) -> np.ndarray:
    """Whole ticks, before the origin is subtracted; 0 for gaps."""
    if is_temporal(kind):
        column = compute.cast(column, pa.int32() if kind.bit_width == 32 else pa.int64())
    values = compute.fill_null(column, 0).to_numpy()
    return values.astype(object) if values.dtype == np.uint64 else values.astype(np.int64)


def _ticks_limits(kind: pa.DataType) -> tuple[int, int]:
    """The least and the greatest tick: years 1 to 9999, which Python's dates hold; a day for times."""
    per_unit = ticks_per_unit(kind)
    if pa.types.is_time(kind):
        return 0, 86_400 * per_unit - 1
    if pa.types.is_integer(kind):
        information = np.iinfo(kind.to_pandas_dtype())
        return int(information.min), int(information.max)
    days = 1 if pa.types.is_date(kind) else 86_400
    least, most = -719_162 * days * per_unit, (2_932_897 * days * per_unit) - 1
    if pa.types.is_duration(kind):
        return -(2**63), 2**63 - 1
    return max(least, -(2**63)), min(most, 2**63 - 1)


def _greatest_number(kind: pa.DataType) -> float:
    """The greatest number that a type of floats or decimals holds."""
    if not pa.types.is_decimal(kind):
        return float(np.finfo(kind.to_pandas_dtype()).max)
    most = Fraction(10**kind.precision - 1) / Fraction(10) ** kind.scale
    return float(most) if Fraction(float(most)) <= most else float(np.nextafter(float(most), 0))


def _snapped_to(atoms: np.ndarray, values: np.ndarray, dtype: Any) -> np.ndarray:
    """Replace values that equal an atom, when both are rounded to a narrow type, by that atom."""
    if not len(atoms):
        return values
    rounded = np.sort(atoms).astype(dtype)
    index = np.searchsorted(rounded, values.astype(dtype)).clip(max=len(atoms) - 1)
    return np.where(rounded[index] == values.astype(dtype), np.sort(atoms)[index], values)
