"""Text cells and what they mean: numbers in their many notations, dates, and gaps.

A number may have a currency before or after it, a percent sign, a sign in Unicode, brackets or a minus behind it for
below zero, and groups of three digits parted by ``, . '`` or a space (or by commas as in India, ``1,23,456``). Whether
a comma is a decimal one is decided by evidence: ``1,5`` and ``1.234,5`` show that it is, ``1.5``, ``1,234.5`` and
``1,234,567`` that it is not; ``1,234`` alone shows nothing.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import pyarrow as pa

from flowstone.data.limits import NUMBER as NUMBER_LENGTH
from flowstone.data.tables.arrow import compute

__all__ = [
    "DATE_READINGS",
    "MISSING",
    "SOME",
    "DateReading",
    "NumberReading",
    "date_mask",
    "date_readings",
    "decimal_mark",
    "differs_by_order",
    "first_cell",
    "in_order",
    "is_gap",
    "looks_dated",
    "looks_typed",
    "number_mask",
    "number_readings",
    "order_shown",
    "parse_dates",
    "parse_numbers",
    "possible_numbers",
    "signs_of",
    "without_gaps",
]

MISSING = (
    "", "NA", "N/A", "n/a", "na", "#N/A", "#N/A N/A", "#NA", "<NA>", "NaN", "nan", "NAN", "-nan", "-NaN", "NULL",
    "null", "Null", "None", "none", "NONE", "?", "-", "--", "---", ".", "..", "...", "nil", "NIL", "NaT", "—", "–",
    "#DIV/0!", "#VALUE!", "#REF!", "#NULL!", "#NUM!", "#NAME?", "n.a.", "N.A.", "\\N", "(null)", "(NULL)", "<null>",
    "<NULL>", "[null]", "[NULL]",
)  # fmt: skip
CODES = (
    "AED|ARS|AUD|BGN|BRL|CAD|CHF|CLP|CNY|COP|CZK|DKK|EGP|EUR|GBP|HKD|HUF|IDR|ILS|"
    "INR|ISK|JPY|KES|KRW|MXN|MYR|NGN|NOK|NZD|PEN|PHP|PLN|RMB|RON|RUB|SAR|SEK|SGD|THB|TRY|TWD|UAH|USD|VND|ZAR"
)
SIGNS = "$¢£¤¥৳฿\u20a0-\u20cf"
WORDS = (r"zł", r"kr\.?", "Kč", r"S?Fr\.", "Ft", "lei", "TL", r"Rs\.?", r"руб\.?", r"грн\.?", r"лв\.?")
CURRENCY = "|".join((rf"[A-Z]{{0,3}}[{SIGNS}]", CODES, *WORDS))
SHARES = "%‰"
SPACES = " \u00a0\u202f\u2009"
BEFORE = f"^([+-]?)(?:{CURRENCY})[{SPACES}]*([+-]?)"
AFTER = rf"[{SPACES}]*(?:{CURRENCY}|[{SHARES}]|\.[-–—])$"  # 12.- is a price in whole francs
BRACKETS = r"^\(([^()+-]*)\)$"
MINUS, MINUS_BEHIND = "−", r"^(\d[\d.,]*)-$"
EXPONENT = r"(?:[eE][+-]?\d+|[dD][+-]\d{2,3})?"  # with d as Fortran writes it
LAKHS = r"\d{1,2}(?:,\d{2})+,\d{3}"
PLAINER = ((MINUS, "-"), (BRACKETS, r"-\1"), (BEFORE, r"\1\2"), (AFTER, ""), (MINUS_BEHIND, r"-\1"))
GROUPS = {".": ",'’" + SPACES, ",": ".'’" + SPACES}
ONE_GROUPED = {
    point: "|".join(rf"\d{{1,3}}(?:{re.escape(mark)}\d{{3}})+" for mark in marks) + f"|{LAKHS}" * (point == ".")
    for point, marks in GROUPS.items()
}
NUMBER = {
    point: rf"^[+-]?(?:(?:{grouped})(?:{p}\d*)?|(?:\d+(?:{p}\d*)?|{p}\d+){EXPONENT})$"
    for point, grouped in ONE_GROUPED.items()
    for p in [re.escape(point)]
}
INTEGER = r"^[+-]?\d+$"
SPECIAL = r"^[+-]?(?:inf|Inf|INF|infinity|Infinity)$"
EVIDENCE = {  # 1,5 and 1,2345; 0,123; 1234,567; 1.234,567; 1.234.567; 1,234e5
    mark: re.compile(
        rf"^[+-]?(?:\d*{m}(?:\d{{1,2}}|\d{{4,}})|0\d*{m}\d+|\d{{4,}}{m}\d+|[\d{other}]*\d[{other}]\d{{3}}{m}\d+"
        rf"|\d{{1,3}}(?:{group})+{group}|\d*{m}\d+[eEdD][+-]?\d+)$"
    )
    for mark, m, group, other in (
        (",", ",", r"\.\d{3}", ".' \u00a0\u202f"),
        (".", r"\.", r",\d{2,3}", ",' \u00a0\u202f"),
    )
}
DAY, MONTH, WORD = r"(?P<day>\d{1,2})", r"\d{1,2}", r"[A-Za-z]{3,9}\.?"
DATES = (  # what a date looks like, and its format
    (rf"\d{{4}}-{MONTH}-{DAY}", "%Y-%m-%d"),
    (rf"\d{{4}}/{MONTH}/{DAY}", "%Y/%m/%d"),
    (rf"\d{{4}}\.{MONTH}\.{DAY}", "%Y.%m.%d"),
    (rf"{DAY}\.{MONTH}\.\d{{4}}", "%d.%m.%Y"),
    (rf"{MONTH}/{DAY}/\d{{4}}", "%m/%d/%Y"),
    (rf"{DAY}/{MONTH}/\d{{4}}", "%d/%m/%Y"),
    (rf"{DAY}-{MONTH}-\d{{4}}", "%d-%m-%Y"),
    (rf"{MONTH}-{DAY}-\d{{4}}", "%m-%d-%Y"),
    (rf"{DAY}[- ]{WORD}[- ]\d{{4}}", "%d %b %Y"),
    (rf"{WORD} {DAY},? \d{{4}}", "%b %d %Y"),
    (rf"{MONTH}/{DAY}/\d{{2}}", "%m/%d/%y"),
    (rf"{DAY}/{MONTH}/\d{{2}}", "%d/%m/%y"),
    (rf"{DAY}\.{MONTH}\.\d{{2}}", "%d.%m.%y"),
    (rf"{DAY}[- ]{WORD}[- ]\d{{2}}", "%d %b %y"),
)
CLOCKS = (  # what a time of day looks like, and its format
    (r"\d{1,2}:\d{2}:\d{2}", "%H:%M:%S"),
    (r"\d{1,2}:\d{2}", "%H:%M"),
    (r"\d{1,2}:\d{2}:\d{2} ?[AaPp][Mm]", "%I:%M:%S %p"),
    (r"\d{1,2}:\d{2} ?[AaPp][Mm]", "%I:%M %p"),
)
FRACTION = r"[.,](?P<digits>\d{1,6})$"  # of a second
COMPACT = r"\d{6}(?P<day>\d{2})[T ]\d{6}", "%Y%m%d %H%M%S"
UTC = r" (?:UTC|GMT)"
ORDERS = {"%m/%d/%Y": "%d/%m/%Y", "%d-%m-%Y": "%m-%d-%Y", "%m/%d/%y": "%d/%m/%y"}  # both orders of day and month
ORDERS |= {other: form for form, other in ORDERS.items()}
DATE_LIKE = re.compile(
    "^(?:"
    + "|".join(look.replace("?P<day>", "?:") for look, _ in DATES)
    + f"|{COMPACT[0].replace('?P<day>', '?:')}"
    + ")(?:[ T]\\d{1,2}:\\d{2}.*)?$|^(?:"
    + "|".join(look for look, _ in CLOCKS)
    + ")(?:[.,]\\d{1,6})?$"
)
BOOLEAN = {"true", "false"}
SOME = 100  # cells that tell whether a column may hold dates


def is_gap(cell: str, na: Sequence[str] = ()) -> bool:
    """Whether a cell means that there is no value."""
    cell = cell.strip()
    return cell in MISSING or cell in na


def looks_dated(cell: str) -> bool:
    """Whether a cell begins as a date does."""
    return DATE_LIKE.match(cell.strip()) is not None


def looks_typed(cell: str) -> bool:
    """Whether a cell is a number, a date or a truth value rather than a word."""
    cell = cell.strip()
    if len(cell) > NUMBER_LENGTH:
        return False
    return bool(
        cell.lower() in BOOLEAN
        or re.match(SPECIAL, plain := _plain(cell))
        or re.match(NUMBER["."], plain)
        or re.match(NUMBER[","], plain)
        or DATE_LIKE.match(cell)
    )


def decimal_mark(cells: Iterable[str]) -> tuple[str | None, str | None]:
    """The decimal mark of the cells of a table, or None where no cell shows it; and a cell that shows it.

    >>> decimal_mark(["12", "1.234,5"])
    (',', '1.234,5')
    """
    counts, shown = {",": 0, ".": 0}, {}
    for cell in cells:
        if len(cell := cell.strip()) > NUMBER_LENGTH:
            continue
        plain = _plain(cell)
        for mark, evidence in EVIDENCE.items():
            if evidence.match(plain):
                counts[mark] += 1
                shown.setdefault(mark, cell)
    best = max(counts, key=lambda mark: counts[mark])
    return (best, shown[best]) if counts[best] else (None, None)


@dataclass(frozen=True)
class NumberReading:
    """One way to read cells as numbers.

    Attributes:
        mark: the decimal mark.
        type: int64, uint64 or float64.
    """

    mark: str
    type: pa.DataType

    def parse(self, column: pa.ChunkedArray) -> pa.ChunkedArray:
        """The cells as numbers; ArrowInvalid where one cannot be read."""
        return compute.cast(_plain_numbers(_bare(column), self.mark), self.type)


@dataclass(frozen=True)
class DateReading:
    """One way to read cells as dates or times: a regular expression that all of them match, a format, and a type."""

    look: str
    form: str
    type: pa.DataType

    def parse(self, column: pa.ChunkedArray) -> pa.ChunkedArray:
        """The cells as dates or times; null where one cannot be read."""
        parsed = self.stamps(compute.utf8_trim_whitespace(column))
        zone = getattr(self.type, "tz", None)
        return compute.assume_timezone(parsed, zone) if zone else compute.cast(parsed, self.type)

    def stamps(self, text: pa.ChunkedArray) -> pa.ChunkedArray:
        """Trimmed cells as timestamps; null where one cannot be read, or names a day that its month does not have."""
        plain = compute.replace_substring_regex(text, UTC + "$", "")
        plain = compute.replace_substring_regex(plain, r"[T]" if "b" not in self.form else r"[-,.]", " ")
        parsed = compute.strptime(plain, format=self.form, unit="s", error_is_null=True)
        if "?P<day>" not in self.look:
            return parsed
        day = compute.struct_field(compute.extract_regex(text, self.look), "day")
        exists = compute.equal(compute.cast(day, pa.int64()), compute.day(parsed))  # 30 February is read as 2 March
        return compute.if_else(exists, parsed, pa.scalar(None, parsed.type))

    @property
    def day_first(self) -> bool | None:
        """Whether the day comes before the month, where both are numbers and the year is last; None for others."""
        return {"%d": True, "%m": False}.get(self.form[:2]) if "b" not in self.form else None

    @property
    def other_order(self) -> "DateReading | None":
        """The reading that takes day for month, where both orders are usual."""
        form = self.form.partition(" ")[0]
        other = ORDERS.get(form, form) + self.form.removeprefix(form)
        same = (each for each in DATE_READINGS if each.form == other != self.form)
        return next((each for each in same if each.type == self.type), None)

    def doubt(self, first: str, *, ambiguous: bool) -> str | None:
        """What is in doubt about this reading of cells, of which ``first`` is the first.

        Args:
            ambiguous: whether ``other_order`` reads all cells, too, and some of them as another day, and nothing else
                tells the order.
        """
        doubts = ["years of two digits are taken for 1969 to 2068"] if "%y" in self.form else []
        if ambiguous:
            read, other = ("day", False) if self.day_first else ("month", True)
            told = f"read with the {read} first; day_first={other} reads the other order"
            doubts.append(f"day and month cannot be told apart ({first!r}); {told}")
        return "; ".join(doubts) or None


@dataclass(frozen=True)
class FractionReading(DateReading):
    """One way to read moments or times of day with parts of a second."""

    def stamps(self, text: pa.ChunkedArray) -> pa.ChunkedArray:
        whole = super().stamps(compute.replace_substring_regex(text, FRACTION, ""))
        digits = compute.struct_field(compute.extract_regex(text, FRACTION), "digits")
        ticks = compute.cast(compute.utf8_rpad(compute.fill_null(digits, "0"), 6, "0"), pa.int64())
        return compute.add(compute.cast(whole, pa.timestamp("us")), compute.cast(ticks, pa.duration("us")))


NUMBER_TYPES = (pa.int64(), pa.uint64(), pa.float64())
DATE_READINGS = (
    *(DateReading(f"^{look}$", form, pa.date32()) for look, form in DATES),
    *(
        DateReading(f"^{look}[ T]{clock}{zone}$", f"{form} {time_form}", pa.timestamp("s", "UTC" if zone else None))
        for look, form in DATES
        for clock, time_form in CLOCKS
        for zone in ("", UTC)
    ),
    *(DateReading(f"^{clock}$", form, pa.time32("s")) for clock, form in CLOCKS),
    DateReading(f"^{COMPACT[0]}$", COMPACT[1], pa.timestamp("s")),
    *(
        FractionReading(f"^{look}[ T]{CLOCKS[0][0]}(?:{FRACTION})?$", f"{form} {CLOCKS[0][1]}", pa.timestamp("us"))
        for look, form in DATES
    ),
    FractionReading(f"^{CLOCKS[0][0]}(?:{FRACTION})?$", CLOCKS[0][1], pa.time64("us")),
)


def possible_numbers(point: str = ".") -> tuple[NumberReading, ...]:
    """The readings of numbers in the order in which they are tried: first by the decimal mark ``point``."""
    marks = (point, "," if point == "." else ".")
    return tuple(NumberReading(mark, kind) for mark in marks for kind in NUMBER_TYPES)


def number_readings(column: pa.ChunkedArray, among: Iterable[NumberReading]) -> Iterator[NumberReading]:
    """Those of the readings by which every cell is a number or a gap, in their order."""
    text, plain, whole = _bare(column), {}, {}
    for reading in among:
        mark = reading.mark
        if mark not in plain:
            numeric = compute.all(_are_numbers(text, mark), skip_nulls=True).as_py()
            plain[mark] = _plain_numbers(text, mark) if numeric else None
            integers = numeric and compute.match_substring_regex(plain[mark], INTEGER)
            whole[mark] = numeric and compute.all(integers, skip_nulls=True).as_py()
        if plain[mark] is None:
            continue
        if pa.types.is_floating(reading.type) or (whole[mark] and _fits(plain[mark], reading.type)):
            yield reading


def date_readings(column: pa.ChunkedArray, among: Iterable[DateReading] = DATE_READINGS) -> Iterator[DateReading]:
    """Those of the readings by which every cell is a date or a gap, in their order."""
    text = compute.utf8_trim_whitespace(column)
    first = first_cell(text)
    for reading in among:
        if first is not None and not re.match(reading.look, first):
            continue
        if not compute.all(compute.match_substring_regex(text, reading.look), skip_nulls=True).as_py():
            continue
        if reading.stamps(text).null_count == column.null_count:
            yield reading


def parse_numbers(column: pa.ChunkedArray, point: str = ".") -> pa.ChunkedArray | None:
    """Text as int64, uint64 or float64, where every cell is a number or a gap; None where one is not.

    Args:
        column: strings without gap markers.
        point: the decimal mark that is tried first; the other one is tried where a cell cannot be read by it.
    """
    reading = next(number_readings(column, possible_numbers(point)), None)
    return None if reading is None else reading.parse(column)


def number_mask(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Which cells are numbers, by either decimal mark; null where there is none."""
    text = _bare(column)
    return compute.or_(_are_numbers(text, "."), _are_numbers(text, ","))


def date_mask(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    """Which cells are dates, by the reading that takes most of them for dates; none unless half of the first are."""
    text = compute.utf8_trim_whitespace(column)
    best, most = pa.array([False] * len(text)), 0
    first = [cell for cell in text[:SOME].to_pylist() if cell is not None]
    if 2 * sum(DATE_LIKE.match(cell) is not None for cell in first) < len(first):
        return best
    for reading in DATE_READINGS:
        looks = compute.match_substring_regex(text, reading.look)
        dates = compute.and_(looks, compute.is_valid(reading.stamps(text)))
        count = compute.sum(dates).as_py() or 0
        if count > most:
            best, most = dates, count
    return best


def signs_of(column: pa.ChunkedArray) -> set[str]:
    """The percent and currency signs in cells of a column of numbers; an empty one for cells without any."""
    found = compute.extract_regex(compute.drop_null(column), rf"(?P<sign>[{SHARES}]|{CURRENCY})")
    signs = compute.unique(compute.struct_field(found, "sign")) if len(found) else []
    return {sign.as_py() or "" for sign in signs}


def order_shown(columns: Iterable[Sequence[DateReading]]) -> bool | None:
    """Whether the day comes before the month, where the possible readings of some columns show it and all these agree.

    >>> order_shown([list(date_readings(pa.chunked_array([[day]]))) for day in ("3/4/2024", "24/12/2024")])
    True
    """
    orders = [{reading.day_first for reading in readings} for readings in columns]
    shown = {order for each in orders if len(each) == 1 for order in each} - {None}
    return shown.pop() if len(shown) == 1 else None


def in_order(readings: Sequence[DateReading], day_first: bool | None) -> DateReading:
    """The first of the possible readings of a column, if it can be one of this order of day and month."""
    return next((each for each in readings if each.day_first == day_first is not None), readings[0])


def parse_dates(column: pa.ChunkedArray, day_first: bool | None = None) -> tuple[pa.ChunkedArray, str | None] | None:
    """Text as dates or timestamps where every cell is one in the same form, and a doubt about it; else None.

    Args:
        day_first: whether 3/4/2024 is in April, where the cells do not show the order; None: not known.
    """
    readings = list(date_readings(column))
    if not readings:
        return None
    reading, first = in_order(readings, day_first), first_cell(compute.utf8_trim_whitespace(column)) or ""
    ambiguous = day_first is None and differs_by_order(column, reading)
    return reading.parse(column), reading.doubt(first, ambiguous=ambiguous)


def differs_by_order(column: pa.ChunkedArray, reading: DateReading) -> bool:
    """Whether the other order of day and month reads all cells of a column, too, and some as another day."""
    other = reading.other_order
    if other is None or next(date_readings(column, [other]), None) is None:
        return False
    return not reading.parse(column).equals(other.parse(column))


def first_cell(column: pa.ChunkedArray) -> str | None:
    """The first cell that is no gap."""
    present = compute.drop_null(column)
    return present[0].as_py() if len(present) else None


def without_gaps(column: pa.ChunkedArray, na: Sequence[str] = ()) -> pa.ChunkedArray:
    """The strings with blanks around them removed, and those that mean a gap as nulls."""
    text = compute.utf8_trim_whitespace(column)
    gaps = compute.is_in(text, value_set=pa.array([*MISSING, *na], text.type))
    return compute.if_else(gaps, pa.scalar(None, text.type), text)


def _bare(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Cells without blanks, currency and percent signs, with a plain minus for each way to write one."""
    text = compute.utf8_trim_whitespace(column)
    for pattern, instead in PLAINER:
        text = compute.replace_substring_regex(text, pattern, instead)
    return text


def _are_numbers(text: pa.ChunkedArray, mark: str) -> pa.ChunkedArray:
    special = compute.match_substring_regex(text, SPECIAL)
    return compute.or_(compute.match_substring_regex(text, NUMBER[mark]), special)


def _plain_numbers(text: pa.ChunkedArray, mark: str) -> pa.ChunkedArray:
    """Bare cells in the notation that Arrow reads: without groups and plus signs, with a decimal point."""
    plain = compute.replace_substring_regex(text, f"[{re.escape(GROUPS[mark])}]", "")
    plain = compute.replace_substring(plain, mark, ".") if mark == "," else plain
    return compute.replace_substring_regex(compute.replace_substring_regex(plain, "[dD]", "e"), r"^\+", "")


def _fits(text: pa.ChunkedArray, kind: pa.DataType) -> bool:
    """Whether whole numbers are not beyond what a type holds."""
    with suppress(pa.ArrowInvalid):
        compute.cast(text, kind)
        return True
    return False


def _plain(cell: str) -> str:
    for pattern, instead in PLAINER:
        cell = re.sub(pattern, instead, cell)
    return cell
