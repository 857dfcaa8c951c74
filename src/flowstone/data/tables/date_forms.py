"""The form in which a column of text writes dates: found, read and written again, letter by letter where it can be.

A form is one of ``strftime``, with ``%-d``, ``%-m`` and ``%-H`` for numbers without a zero before them. Times of
day alone and times of a zone have none.
"""

import itertools
import re
from collections.abc import Iterator

import pyarrow as pa

from flowstone.data.tables.arrow import compute
from flowstone.data.tables.values import (
    DATE_READINGS,
    SOME,
    DateReading,
    date_readings,
    differs_by_order,
    in_order,
    looks_dated,
)

__all__ = ["DIGITS", "READINGS", "find_form", "read_form", "write_form"]

ZEROS = ("%d", "%m", "%H")  # parts that are written with and without a zero before them
DIGITS = "%Y%m%d"  # of whole numbers alone
PARTS = re.compile(r"(%-?[A-Za-z])")


def find_form(levels: pa.Array, day_first: bool | None = None) -> tuple[str, str | None] | None:
    """The form of a column's different texts, and what is in doubt about it; None where one of them is no date.

    Where the texts are written in several ways, such as ``3/1/2024`` and ``03/02/2024``, it is the longer one.

    Args:
        day_first: whether 3/4/2024 is in April, where the texts do not show the order; None: not known.

    >>> find_form(pa.array(["1.3.2024", "24.12.2023"]))
    ('%-d.%-m.%Y', None)
    """
    if not len(levels) or not all(looks_dated(cell) for cell in levels[:SOME].to_pylist()):
        return None
    column = pa.chunked_array([levels])
    readings = list(date_readings(column, WRITTEN))
    if not readings:
        return None
    reading = in_order(readings, day_first)
    text, dates = compute.utf8_trim_whitespace(column), reading.parse(column)
    form = next((form for form in _forms(reading) if write_form(dates, form).equals(text)), reading.form)
    return form, reading.doubt(text[0].as_py(), ambiguous=day_first is None and differs_by_order(column, reading))


def read_form(column: pa.ChunkedArray, form: str) -> pa.ChunkedArray | None:
    """Text without gap markers as dates or timestamps; None where a cell is not of the form.

    >>> read_form(pa.chunked_array([["1.3.2024", None]]), "%-d.%-m.%Y").to_pylist()
    [datetime.date(2024, 3, 1), None]
    """
    reading = READINGS[form]
    return reading.parse(column) if next(date_readings(column, [reading]), None) else None


def write_form(dates: pa.Array | pa.ChunkedArray, form: str) -> pa.Array | pa.ChunkedArray:
    """Dates or timestamps as text.

    >>> write_form(pa.array([19_783, None], pa.date32()), "%-d.%-m.%Y").to_pylist()
    ['1.3.2024', None]
    """
    numbers = {"%-d": compute.day, "%-m": compute.month, "%-H": compute.hour}
    pieces = []
    for part in filter(None, PARTS.split(form)):
        if part in numbers:
            pieces.append(compute.cast(numbers[part](dates), pa.string()))
        else:
            pieces.append(compute.strftime(dates, format=part) if part.startswith("%") else part)
    return compute.binary_join_element_wise(*pieces, "")


def _forms(reading: DateReading) -> Iterator[str]:
    """The forms that a reading reads."""
    date, half_days, clock = reading.form.partition(" %I")
    if half_days:
        times = [f" %I{clock}"]
    else:
        date, with_time, clock = reading.form.partition(" %H")
        times = [f" %H{clock}", f"T%H{clock}"][: 1 if "%b" in date else 2] if with_time else [""]
    dates = [date]
    if date.startswith("%d %b"):
        dates.append(date.replace(" ", "-"))
    elif date.startswith("%b"):
        dates.append(date.replace("%d", "%d,"))
    both = [day + time for day, time in itertools.product(dates, times)]
    yield from both
    for form in both if "%m%d" not in date else ():  # digits that nothing parts keep their zeros
        bare = form
        for part in ZEROS:
            bare = bare.replace(part, part.replace("%", "%-"))
        yield bare
        yield bare.replace("%-H", "%H")


# Those whose text can be written again: dates, with or without a time of day, of no zone.
WRITTEN = tuple(reading for reading in DATE_READINGS if reading.type in (pa.date32(), pa.timestamp("s")))
# Each form, and how it is read; forms of the same reading come one after the other.
READINGS = {form: reading for reading in WRITTEN for form in _forms(reading)}
READINGS[DIGITS] = DateReading(r"^\d{6}(?P<day>\d{2})$", DIGITS, pa.date32())
