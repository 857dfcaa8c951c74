"""Text cells and what they mean: numbers in their many notations, dates, and gaps.

A number may have a currency before or after it, a percent sign, a sign in Unicode, brackets for below zero, and groups
of three digits parted by ``, . '`` or a space. Whether a comma is a decimal one is decided by evidence: ``1,5`` and
``1.234,5`` show that it is, ``1.5`` and ``1,234.5`` that it is not; ``1,234`` alone shows nothing.
"""

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress

import pyarrow as pa

from flowstone.data.tables.arrow import compute

__all__ = [
    "MISSING",
    "decimal_mark",
    "is_gap",
    "looks_typed",
    "number_mask",
    "parse_dates",
    "parse_numbers",
    "without_gaps",
]

MISSING = (
    "", "NA", "N/A", "n/a", "na", "#N/A", "#N/A N/A", "#NA", "<NA>", "NaN", "nan", "NAN", "-nan", "-NaN", "NULL",
    "null", "Null", "None", "none", "?", "-", "--", "---", ".", "..", "...", "nil", "NIL", "NaT", "—", "–", "#DIV/0!",
    "#VALUE!", "#REF!", "#NULL!",
)  # fmt: skip
CURRENCY = "€|\\$|£|¥|₹|₽|₩|₺|₴|zł|kr|Kč|US\\$|R\\$|Fr\\.|EUR|USD|GBP|CHF|JPY|CNY|INR|SEK|NOK|DKK|PLN|CAD|AUD|BRL"
SPACES = " \u00a0\u202f\u2009"
BEFORE = f"^([+-]?)(?:{CURRENCY})[{SPACES}]*([+-]?)"
AFTER = f"[{SPACES}]*(?:{CURRENCY}|%)$"
BRACKETS = r"^\(([^()+-]*)\)$"
MINUS = "−"
EXPONENT = r"(?:[eE][+-]?\d+)?"
GROUPS = {".": ",'’" + SPACES, ",": ".'’" + SPACES}
ONE_GROUPED = {
    point: "|".join(rf"\d{{1,3}}(?:{re.escape(mark)}\d{{3}})+" for mark in marks) for point, marks in GROUPS.items()
}
NUMBER = {
    point: rf"^[+-]?(?:(?:\d+|{grouped})(?:{re.escape(point)}\d*)?|{re.escape(point)}\d+){EXPONENT}$"
    for point, grouped in ONE_GROUPED.items()
}
INTEGER = r"^[+-]?\d+$"
SPECIAL = r"^[+-]?(?:inf|Inf|INF|infinity|Infinity)$"
EVIDENCE = {  # 1,5 and 1,2345; 0,123; 1234,567; 1.234,567
    mark: re.compile(
        rf"^[+-]?(?:\d*{m}(?:\d{{1,2}}|\d{{4,}})|0\d*{m}\d+|\d{{4,}}{m}\d+|[\d{other}]*\d[{other}]\d{{3}}{m}\d+)$"
    )
    for mark, m, other in ((",", ",", ".' \u00a0\u202f"), (".", r"\.", ",' \u00a0\u202f"))
}
DATES = (  # what a date looks like, and its format
    (r"^\d{4}-\d{1,2}-\d{1,2}$", "%Y-%m-%d"),
    (r"^\d{4}/\d{1,2}/\d{1,2}$", "%Y/%m/%d"),
    (r"^\d{1,2}\.\d{1,2}\.\d{4}$", "%d.%m.%Y"),
    (r"^\d{1,2}/\d{1,2}/\d{4}$", "%m/%d/%Y"),
    (r"^\d{1,2}/\d{1,2}/\d{4}$", "%d/%m/%Y"),
    (r"^\d{1,2}-\d{1,2}-\d{4}$", "%d-%m-%Y"),
    (r"^\d{1,2}-\d{1,2}-\d{4}$", "%m-%d-%Y"),
    (r"^\d{1,2}[- ][A-Za-z]{3}[- ]\d{4}$", "%d %b %Y"),
    (r"^[A-Za-z]{3} \d{1,2},? \d{4}$", "%b %d %Y"),
    (r"^\d{1,2}/\d{1,2}/\d{2}$", "%m/%d/%y"),
    (r"^\d{1,2}/\d{1,2}/\d{2}$", "%d/%m/%y"),
    (r"^\d{1,2}\.\d{1,2}\.\d{2}$", "%d.%m.%y"),
    (r"^\d{1,2}[- ][A-Za-z]{3}[- ]\d{2}$", "%d %b %y"),
)
TIMES = ((r"", ""), (r"[ T]\d{1,2}:\d{2}:\d{2}", " %H:%M:%S"), (r"[ T]\d{1,2}:\d{2}", " %H:%M"))
ORDERS = {
    "%m/%d/%Y": "%d/%m/%Y",
    "%d-%m-%Y": "%m-%d-%Y",
    "%m/%d/%y": "%d/%m/%y",
}  # tried first, and the other way round
DATE_LIKE = re.compile("|".join(look[:-1] for look, _ in DATES) + r"|^\d{1,2}:\d{2}(?::\d{2})?$")
BOOLEAN = {"true", "false"}


def is_gap(cell: str, na: Sequence[str] = ()) -> bool:
    """Whether a cell means that there is no value."""
    cell = cell.strip()
    return cell in MISSING or cell in na


def looks_typed(cell: str) -> bool:
    """Whether a cell is a number, a date or a truth value rather than a word."""
    cell = cell.strip()
    return bool(
        cell.lower() in BOOLEAN
        or re.match(SPECIAL, plain := _plain(cell))
        or re.match(NUMBER["."], plain)
        or re.match(NUMBER[","], plain)
        or DATE_LIKE.match(cell)
    )


def decimal_mark(cells: Iterable[str]) -> tuple[str | None, str | None]:
    """Of cells of a table: ``","`` or ``"."``, or None where no cell shows it; and a cell that shows it.

    >>> decimal_mark(["12", "1.234,5"])
    (',', '1.234,5')
    """
    counts, shown = {",": 0, ".": 0}, {}
    for cell in cells:
        plain = _plain(cell.strip())
        for mark, evidence in EVIDENCE.items():
            if evidence.match(plain):
                counts[mark] += 1
                shown.setdefault(mark, cell.strip())
    best = max(counts, key=lambda mark: counts[mark])
    return (best, shown[best]) if counts[best] else (None, None)


def parse_numbers(column: pa.ChunkedArray, point: str = ".") -> pa.ChunkedArray | None:
    """Text as int64 or float64, where every cell is a number or a gap; None where one is not.

    Args:
        column: strings without gap markers.
        point: the decimal mark that is tried first; the other one is tried where a cell cannot be read by it.
    """
    text = _bare(column)
    for mark in (point, "," if point == "." else "."):
        if compute.all(_are_numbers(text, mark), skip_nulls=True).as_py():
            plain = compute.replace_substring_regex(text, f"[{re.escape(GROUPS[mark])}]", "")
            return _as_numbers(compute.replace_substring(plain, mark, ".") if mark == "," else plain)
    return None


def number_mask(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Which cells are numbers, by either decimal mark; null where there is none."""
    text = _bare(column)
    return compute.or_(_are_numbers(text, "."), _are_numbers(text, ","))


def parse_dates(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, str | None] | None:
    """Text as dates or timestamps where every cell is one in the same form, and a doubt about it; else None."""
    text = compute.utf8_trim_whitespace(column)
    for (look, form), (time_look, time_form) in ((date, time) for date in DATES for time in TIMES):
        whole = look[:-1] + time_look + "$"
        if not compute.all(compute.match_substring_regex(text, whole), skip_nulls=True).as_py():
            continue
        plain = compute.replace_substring_regex(text, r"[T]" if "b" not in form else r"[-,]", " ")
        parsed = compute.strptime(plain, format=form + time_form, unit="s", error_is_null=True)
        if parsed.null_count > column.null_count:
            continue
        doubts = ["years of two digits are taken for 1969 to 2068"] if "%y" in form else []
        if form in ORDERS:
            other = compute.strptime(plain, format=ORDERS[form] + time_form, unit="s", error_is_null=True)
            if other.null_count == column.null_count and not parsed.equals(other):
                first = next(cell for cell in text.to_pylist() if cell is not None)
                doubts.append(f"day and month cannot be told apart ({first!r}); read as {form}")
        doubt = "; ".join(doubts) or None
        return (parsed if time_form else compute.cast(parsed, pa.date32())), doubt
    return None


def without_gaps(column: pa.ChunkedArray, na: Sequence[str] = ()) -> pa.ChunkedArray:
    """The strings with blanks around them removed, and those that mean a gap as nulls."""
    text = compute.utf8_trim_whitespace(column)
    gaps = compute.is_in(text, value_set=pa.array([*MISSING, *na], text.type))
    return compute.if_else(gaps, pa.scalar(None, text.type), text)


def _bare(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Cells without blanks, currency and percent signs, with a plain minus for each way to write one."""
    text = compute.replace_substring_regex(compute.utf8_trim_whitespace(column), MINUS, "-")
    text = compute.replace_substring_regex(text, BRACKETS, r"-\1")
    text = compute.replace_substring_regex(text, BEFORE, r"\1\2")
    return compute.replace_substring_regex(text, AFTER, "")


def _are_numbers(text: pa.ChunkedArray, mark: str) -> pa.ChunkedArray:
    special = compute.match_substring_regex(text, SPECIAL)
    return compute.or_(compute.match_substring_regex(text, NUMBER[mark]), special)


def _as_numbers(text: pa.ChunkedArray) -> pa.ChunkedArray:
    text = compute.replace_substring_regex(text, r"^\+", "")
    if compute.all(compute.match_substring_regex(text, INTEGER), skip_nulls=True).as_py():
        for kind in (pa.int64(), pa.uint64()):
            with suppress(pa.ArrowInvalid):  # beyond what it holds
                return compute.cast(text, kind)
    return compute.cast(text, pa.float64())


def _plain(cell: str) -> str:
    cell = re.sub(BRACKETS, r"-\1", cell.replace(MINUS, "-"))
    return re.sub(AFTER, "", re.sub(BEFORE, r"\1\2", cell))
