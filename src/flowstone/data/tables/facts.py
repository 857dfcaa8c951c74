"""Facts: what a column shows, on which the kinds decide. Every rule of the inference that counts values is here.

Atoms
    A column of at most ``SHORT`` different values that come ten times on average, or of a dozen that come twice, is
    made of atoms: each value holds mass. In others a value is an atom if at least 0.2% of the rows, and ten of them,
    have it, and five times as many as its twenty neighbours on average. A value at a bound of a positive or bounded
    column is always an atom, as is a suspected sentinel.
Grid
    The step of a column is the largest one of which all differences are multiples, among whole numbers and decimals
    of up to six digits. Whole numbers are on a grid; decimals are, if values repeat (at most 95% are different) and the
    middle 90% of the values span at most 10,000 steps. Where whole numbers span more than a million steps, the grid is
    too fine to matter and the column is continuous, its samples rounded.
Bounds
    A column is positive if no value is below 0, and the least one is 0 or the least positive one is less than a quarter
    of the median of the positive ones. A column that is not of whole numbers is bounded by 0 and 1, or 0 and 100, if it
    comes within 5% of both; any other column is bounded by its own ends where both are atoms.
Sentinels
    -999, 9999.9, -32768, 1e20 and the like at an end, further from the other values than those are from each other, are
    suspected; so is any value but 0 that at least 1% of the rows (and five) have, twice as far away.
Identifiers
    Whole numbers, all different, that count up by one, from 0 or 1 if they are not in order; that grow from row to row,
    unless the column is named like a time (in doubt); text, all different; and columns named like an index or id whose
    values are mostly different.
"""

import math
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from flowstone.data.tables.arrow import compute
from flowstone.data.tables.date_forms import DIGITS, find_form, read_form
from flowstone.data.tables.types import is_number, is_temporal, is_text

__all__ = ["FEW", "GROWING", "SHORT", "Facts", "difference", "digits_of", "ticks_per_unit"]

SHORT = 128
FEW, REPEATS, FEW_REPEATS = 12, 10, 2
MASS, LEAST_COUNT, PROMINENCE, NEIGHBOURS, MOST_ATOMS = 0.002, 10, 5.0, 10, 128
DECIMALS, MOST_STEPS, FINEST = 6, 10_000, 1_000_000
EXACT = 2**53
FUZZ = 1e-14  # rounding errors of sums, relative to the value
LEAST_DATES, DATE_NUMBERS = 8, (18000101, 22001231)  # different dates that are whole numbers; the ends of their range
ENOUGH = 20  # rows from which "all different" means something
SENTINELS = {
    sign * float(digit * count + tail)
    for digit in "98"
    for count in range(2, 8)
    for tail in ("", f".{digit}", f".{digit * 2}")
    for sign in (-1, 1)
}
SENTINELS |= {-200.0, -32768.0, 32767.0, 65535.0, -(2.0**31), 2.0**31 - 1, 2.0**32 - 1, 1e20, -1e20, 1e30, -1e30}
REPEATED, LEAST_REPEATED = 0.01, 5  # of the rows, from which a value that stands apart is suspected
ID_NAME = re.compile(
    r"^(|(?i:unnamed.*)|column_1|index|idx|id|(?i:.*[_\- .]id|id[_\- .].*|row[_\- ]?(id|names?|number|num|no|nr)?)|#"
    r"|__index_level_\d+__|level_\d+|(?i:nr|no\.?)|.*(?i:uuid|guid)|.*[a-z]I[dD])$"
)
GROWING = "its whole numbers grow from row to row"
TIME_NAME = re.compile(r"time|date|year|day|epoch|stamp|hour|month", re.IGNORECASE)
UNIT = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


@dataclass
class Facts:
    """What one column shows, for the decision about its kind.

    Attributes:
        name: of the column.
        column: its values.
        where: the table, for messages.
        index: whether the table's source says that it is an index.
        day_first: whether the table's dates that were text have the day before the month; None where nothing says so.
        notes: sentences that the decision about its kind adds.
        doubts: the same for what is in doubt, with the options that would decide otherwise.
    """

    name: str
    column: pa.ChunkedArray
    where: str = "table"
    index: bool = False
    day_first: bool | None = None
    doubts: list[tuple[str, str, dict]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def doubt(self, sentence: str, otherwise: str = "", **remedy: Any) -> None:
        """Add a doubt, and the options that would decide otherwise, such as "to keep it"."""
        self.doubts.append((sentence, f"; {otherwise}" if otherwise else "", remedy))

    @property
    def type(self) -> pa.DataType:
        """Arrow's type."""
        return self.column.type

    @cached_property
    def present(self) -> pa.ChunkedArray:
        """The values that are there: without nulls, NaN and, where they are categories, in plain types."""
        column = self.column
        if pa.types.is_dictionary(column.type):
            column = compute.cast(column, column.type.value_type)
        if is_text(column.type) and not pa.types.is_string(column.type):
            column = compute.cast(column, pa.string())
        column = compute.drop_null(column)
        return column.filter(compute.invert(compute.is_nan(column))) if pa.types.is_floating(column.type) else column

    @cached_property
    def missing(self) -> int:
        """How many rows have a gap."""
        return len(self.column) - len(self.present)

    @cached_property
    def level_counts(self) -> tuple[pa.Array, np.ndarray]:
        """The different values in the order in which they come, and how often each does."""
        counts = compute.value_counts(self.present)
        return counts.field("values"), counts.field("counts").to_numpy()

    @cached_property
    def distinct(self) -> int:
        """How many different values there are."""
        return len(self.unique) if self.is_numeric else len(self.level_counts[0])

    @cached_property
    def date_form(self) -> tuple[str, str | None] | None:
        """How a column of text, or of numbers such as 20240131, writes its dates, and what is in doubt about that; None
        of others.
        """
        if is_text(self.type):
            return find_form(self.level_counts[0], self.day_first)
        if not (pa.types.is_integer(self.type) or pa.types.is_floating(self.type)) or self.distinct < LEAST_DATES:
            return None
        if self.unique[0] < DATE_NUMBERS[0] or self.unique[-1] > DATE_NUMBERS[1] or not self.is_integer:
            return None
        texts = pa.chunked_array([pa.array(self.unique.astype(np.int64)).cast(pa.string())])
        return (DIGITS, None) if read_form(texts, DIGITS) is not None else None

    @property
    def is_numeric(self) -> bool:
        """Whether ``values`` are there: numbers, dates and times."""
        return is_number(self.type) or is_temporal(self.type)

    @cached_property
    def per_unit(self) -> int:
        """Ticks of a date or time in a day or second; 1 for numbers."""
        return ticks_per_unit(self.type)

    @cached_property
    def whole_numbers(self) -> np.ndarray | None:
        """Integers, and the ticks of dates and times, without rounding; None for others."""
        if pa.types.is_integer(self.type):
            return self.present.to_numpy()
        if is_temporal(self.type):
            width = pa.int32() if self.type.bit_width == 32 else pa.int64()
            return compute.cast(self.present, width).to_numpy().astype(np.int64)
        return None

    @cached_property
    def origin(self) -> int:
        """What is subtracted so that float64 holds every value, and every half, exactly; 0 where nothing need be."""
        whole = self.whole_numbers
        if whole is None or not len(whole) or max(abs(int(whole.min())), abs(int(whole.max()))) <= EXACT // 2:
            return 0
        return int(whole.min())

    @property
    def too_wide(self) -> bool:
        """Whether float64 cannot hold the differences of the values exactly."""
        whole = None if is_temporal(self.type) else self.whole_numbers
        return whole is not None and len(whole) > 0 and int(whole.max()) - int(whole.min()) > EXACT

    @cached_property
    def values(self) -> np.ndarray:
        """The numbers that are there, as float64, less the origin; dates in days, times in seconds."""
        whole = self.whole_numbers
        if whole is not None:
            shifted = difference(whole, self.origin) if self.origin else whole
            return shifted.astype(np.float64) / self.per_unit
        return np.asarray(compute.cast(self.present, pa.float64(), safe=False).to_numpy(), dtype=np.float64)

    @cached_property
    def _counted(self) -> tuple[np.ndarray, np.ndarray]:
        values = self.values
        if self.digits is not None and not pa.types.is_integer(self.type):
            values = np.round(values, self.digits)  # 0.1 + 0.2 is 0.3
        return np.unique(values, return_counts=True)

    @property
    def unique(self) -> np.ndarray:
        """The different numbers, sorted."""
        return self._counted[0]

    @property
    def counts(self) -> np.ndarray:
        """How often each of ``unique`` comes."""
        return self._counted[1]

    @cached_property
    def finite(self) -> bool:
        """Whether no value is infinite."""
        return bool(np.isfinite(self.values).all())

    @cached_property
    def digits(self) -> int | None:
        """How many digits behind the point all values of a column of numbers have; None where they have too many."""
        if self.per_unit > 1 or not self.finite or not len(self.values):
            return None
        return digits_of(np.unique(self.values), self.type)

    @cached_property
    def resolution(self) -> float | None:
        """What values are rounded to: 10 to the power of minus ``digits``, or the tick of a time; None for neither."""
        if self.per_unit > 1:
            return 1 / self.per_unit
        return None if self.digits is None else 1 / 10**self.digits

    @cached_property
    def ticks(self) -> int:
        """The step of integers, dates and times in units of their type; 0 of others."""
        whole = self.whole_numbers
        if whole is None or not len(whole) or self.too_wide:
            return 0
        whole = whole if whole.dtype == np.uint64 else whole.astype(np.int64)
        distances = (whole - whole.min()).view(np.uint64)  # of 64 bits, which times centuries apart need
        return _greatest_common_step(np.unique(distances))

    @cached_property
    def step(self) -> float | None:
        """The largest step of which all differences of values are multiples; None where there is none."""
        if self.ticks:
            return self.ticks / self.per_unit
        if self.resolution is None:
            return None
        scale = round(1 / self.resolution)
        whole = np.round(self.unique * scale)
        if np.abs(whole).max() > EXACT:
            return None
        return _greatest_common_step(whole.astype(np.int64)) / scale

    @cached_property
    def spread(self) -> float:
        """The distance between the 5% and the 95% quantile."""
        if not len(self.values):
            return 0.0
        low, high = np.quantile(self.values, [0.05, 0.95])
        return float(high - low) or float(np.ptp(self.values))

    @cached_property
    def is_integer(self) -> bool:
        """Whether all values are whole numbers."""
        return self.digits == 0

    @cached_property
    def on_grid(self) -> bool:
        """Whether the grid of the values is one to model: see the rules above."""
        if self.step is None or self.distinct < 2:
            return False
        if np.abs(self.unique[[0, -1]]).max() > EXACT // 2 * self.step:  # float64 does not hold what is between values
            return False
        steps = self.spread / self.step
        if self.is_integer or self.per_unit > 1 or pa.types.is_date(self.type):
            return steps <= FINEST
        return steps <= MOST_STEPS and self.distinct <= 0.95 * len(self.values)

    @cached_property
    def is_short(self) -> bool:
        """Whether there are so few different values that each holds mass."""
        most, times = (FEW, FEW_REPEATS) if self.distinct <= FEW else (SHORT, REPEATS)
        return self.distinct <= most and times * self.distinct <= len(self.values)

    @cached_property
    def sentinels(self) -> tuple[float, ...]:
        """Values that seem to stand for a gap: at most one at each end."""
        if len(self.unique) < 4 or not is_number(self.type):
            return ()
        between = float(np.ptp(self.unique[1:-1]))
        apart = [end for end in (0, -1) if self._stands_apart(end, between)]
        if len(apart) == 1:  # the other end is one of the values
            others = self.unique[1:] if apart[0] == 0 else self.unique[:-1]
            apart = [end for end in apart if self._stands_apart(end, float(np.ptp(others)))]
        return tuple(float(self.unique[end]) for end in apart)

    def _stands_apart(self, end: int, width: float) -> bool:
        """Whether the first or last value is a sentinel beside others that lie so far apart."""
        value, count = float(self.unique[end]), int(self.counts[end])
        distance = abs(value - float(self.unique[1 if end == 0 else -2]))
        if value in SENTINELS and distance > width and (count > 1 or value < 0):
            return True
        often = count >= max(LEAST_REPEATED, REPEATED * len(self.values)) and self.distinct > FEW
        return often and value != 0 and distance > 2 * width

    @cached_property
    def atoms(self) -> tuple[float, ...]:
        """The values that hold mass of their own."""
        unique, counts = self.unique, self.counts
        if self.is_short:
            return tuple(unique.tolist())
        least = max(LEAST_COUNT, MASS * len(self.values))
        found = [i for i in np.flatnonzero(counts >= least) if counts[i] >= PROMINENCE * self._around(int(i))]
        found = sorted(found, key=lambda i: -counts[i])[:MOST_ATOMS]
        chosen = {float(unique[i]) for i in found}
        return tuple(sorted({*chosen, *self.sentinels}))

    @cached_property
    def bounds(self) -> tuple[float | None, float | None]:
        """Where the values end, by the rules above; None for an end that is open."""
        if not is_number(self.type) or self.origin or not len(self.values):
            return None, None
        unique = self.unique[~np.isin(self.unique, self.sentinels)]
        low, high = float(unique[0]), float(unique[-1])
        for end in (1.0, 100.0):
            if low >= 0 and high <= end and low <= 0.05 * end and high >= 0.95 * end and not self.is_integer:
                return 0.0, end
        if not self.is_short and len(self.atoms) > 1 and low in self.atoms and high in self.atoms:
            return low, high
        inner = self.values[self.values > 0]
        if low >= 0 and len(inner) and float(inner.min()) < float(np.median(inner)) / 4:
            return 0.0, None
        return (0.0, None) if low == 0 else (None, None)

    @cached_property
    def looks_like_identifier(self) -> str | None:
        """Why the column seems to name rows rather than to describe them; None where it does not."""
        rows = len(self.present)
        named = bool(ID_NAME.match(self.name.strip()))
        if rows < 3 or self.date_form is not None:
            return None
        if is_text(self.type) or pa.types.is_dictionary(self.type):
            if self.distinct == rows:
                return "its values are all different"
            return "its name says so, and most values are different" if named and 2 * self.distinct > rows else None
        if not is_number(self.type) or not self.finite or not self.is_integer:
            return None
        if self.distinct < rows:
            return "its name says so, and most values are different" if named and 2 * self.distinct > rows else None
        steps = np.diff(self.values)
        in_order = bool((steps > 0).all())
        if rows >= ENOUGH and self.unique[-1] - self.unique[0] == rows - 1 and (in_order or self.unique[0] in (0, 1)):
            return "it counts the rows"
        if named and (rows >= ENOUGH or in_order):
            return "its name says so, and its values are all different"
        if rows >= ENOUGH and in_order and not TIME_NAME.search(self.name):
            return GROWING
        return None

    def _around(self, index: int) -> float:
        """The mean count of a value's neighbours."""
        near = self.counts[max(0, index - NEIGHBOURS) : index + NEIGHBOURS + 1]
        return (near.sum() - self.counts[index]) / max(1, len(near) - 1)


def digits_of(unique: np.ndarray, kind: pa.DataType) -> int | None:
    """The least number of digits behind the point, at most six, to which all of these values are rounded."""
    single = kind in (pa.float32(), pa.float16())
    for digits in range(DECIMALS + 1):
        if np.abs(unique).max() * 10**digits > EXACT:
            return None
        rounded = np.round(unique, digits)
        narrow = kind.to_pandas_dtype() if single else np.float64
        near = rounded.astype(narrow) == unique if single else np.abs(rounded - unique) <= FUZZ * np.abs(unique)
        if near.all():
            return digits
    return None


def ticks_per_unit(kind: pa.DataType) -> int:
    """Ticks in a day for dates, in a second for times; 1 for all else."""
    if pa.types.is_date32(kind):
        return 1
    if pa.types.is_date64(kind):
        return 86_400_000
    return UNIT[kind.unit] if is_temporal(kind) else 1


def difference(whole: np.ndarray, origin: int) -> np.ndarray:
    """``whole - origin``, in Python's numbers where 64 bits do not hold the differences.

    >>> difference(np.array([-(2**63), 2**63 - 1]), -(2**63)).tolist() == [0, 2**64 - 1]
    True
    """
    ends = (whole.min(), whole.max()) if len(whole) else ()
    if not all(-(2**63) <= int(end) - origin < 2**63 for end in ends):
        whole = whole.astype(object)
    return whole - origin


def _greatest_common_step(whole: np.ndarray) -> int:
    """The greatest common divisor of the differences, not of the values: years 1990, 2000, 2010 are on a grid of 10."""
    return max(1, math.gcd(*map(int, np.unique(np.diff(whole)))))
