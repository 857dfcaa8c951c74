"""Axes of dates and times: ticks at a few round moments, with short labels."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, time, timedelta

import numpy as np

from flowstone.data.times import TimeFormat

__all__ = ["time_labels", "time_ticks"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST, LAST = -62_135_500_000, 253_402_200_000  # seconds: within the years 1 to 9999 in every zone
MONDAY = datetime(1, 1, 1)  # a midnight from which days are counted
# Steps between ticks, from coarse to fine: years and months, counted in months; then days to microseconds.
MONTHS = (*(12 * years for years in (2000, 1000, 500, 200, 100, 50, 20, 10, 5, 2, 1)), 6, 3, 2, 1)
DAYS = tuple(timedelta(days=count * 10**power) for power in range(5, -1, -1) for count in (5, 2, 1))  # of spans
WEEKS = tuple(timedelta(days=days) for days in (14, 7, 4, 2, 1))  # of moments
SHORT = (
    *(timedelta(hours=hours) for hours in (12, 6, 3, 2, 1)),
    *(timedelta(minutes=minutes) for minutes in (30, 15, 10, 5, 2, 1)),
    *(timedelta(seconds=seconds) for seconds in (30, 15, 10, 5, 2, 1)),
    *(timedelta(microseconds=count * 10**power) for power in range(5, -1, -1) for count in (5, 2, 1)),
)
UNITS = {"d": 86_400_000_000, "h": 3_600_000_000, "min": 60_000_000, "s": 1_000_000, "ms": 1000, "µs": 1}
MICROSECOND = timedelta(microseconds=1)
MOST = 6  # ticks, where labels are short
APART = 2  # characters between two labels


def time_ticks(written: TimeFormat, low: float, high: float, wide: float) -> tuple[list[float], list[str]]:
    r"""Ticks between two numbers of a column of times, and their labels.

    Moments and times of day are round: years, months, days, hours … Below its label the first tick has what is coarser,
    such as the day and the year of an hour, and so has each tick where that changes. Spans are round numbers of days,
    hours, minutes or seconds.

    Args:
        wide: how many characters fit along the axis, by which ticks are more or fewer, but two at least.

    >>> time_ticks(TimeFormat(str, "moment", unit=86_400), 19_700, 20_100, 24)
    ([19723.0, 19905.0, 20089.0], ['Jan\n2024', 'Jul', 'Jan\n2025'])
    """
    character, found = (high - low) / wide, None
    for places in (_round_spans if written.what == "span" else _round_moments)(written, low, high):
        if len(places) < 2:
            continue
        labels = time_labels(written, places)
        longest = max(len(line) for label in labels for line in label.splitlines())
        if len(places) <= MOST and (longest + APART) * character <= min(np.diff(places)):
            found = places, labels
        elif found is None:
            ends = [places[0], places[-1]]
            return ends, time_labels(written, ends)
        else:
            break
    return found or ([low, high], [written(low), written(high)])


def time_labels(written: TimeFormat, values: Sequence[float]) -> list[str]:
    r"""Labels of numbers of a column of times, in their order; see ``time_ticks``.

    >>> time_labels(TimeFormat(str, "moment"), [0, 3600, 86400])
    ['00:00\n1 Jan\n1970', '01:00', '00:00\n2 Jan']
    """
    if written.what == "span":
        whole = [_since_start(written, value) // MICROSECOND for value in values]
        name, unit = next((name, unit) for name, unit in UNITS.items() if all(each % unit == 0 for each in whole))
        return [f"{each // unit} {name}" for each in whole]
    moments, labels, before = [_clock_time(written, value) for value in values], [], []
    for moment in moments:
        lines = _lines(moment, moments)[: 1 if written.what == "time of day" else None]
        changed = [place for place, line in enumerate(lines) if line not in before]
        labels.append("\n".join(lines[: max(changed, default=0) + 1]))
        before = lines
    return labels


def _since_start(written: TimeFormat, value: float) -> timedelta:
    return timedelta(seconds=float(np.clip(written.seconds(value), FIRST, LAST)))


def _clock_time(written: TimeFormat, value: float) -> datetime:
    """A moment as clocks in its zone show it."""
    return (EPOCH + _since_start(written, value)).astimezone(written.zone or UTC).replace(tzinfo=None)


def _round_spans(written: TimeFormat, low: float, high: float) -> Iterator[list[float]]:
    """The multiples of ever finer steps."""
    start, end = _since_start(written, low), _since_start(written, high)
    for step in (*DAYS, *SHORT):
        counts = range(-(-start // step), end // step + 1)
        yield [written.value((count * step).total_seconds()) for count in counts]


def _round_moments(written: TimeFormat, low: float, high: float) -> Iterator[list[float]]:
    start, end = _clock_time(written, low), _clock_time(written, high)
    first, last = (12 * moment.year + moment.month - 1 for moment in (start, end))

    def values(moments: Iterable[datetime]) -> list[float]:
        inside = [moment.replace(tzinfo=written.zone or UTC) for moment in moments if start <= moment <= end]
        return [written.value((moment - EPOCH).total_seconds()) for moment in inside]

    for step in MONTHS:
        months = range(-(-max(first, 12) // step) * step, last + 1, step)
        yield values(datetime(month // 12, month % 12 + 1, 1) for month in months)
    for step in (*WEEKS, *SHORT):
        counts = range(-((MONDAY - start) // step), (end - MONDAY) // step + 1)
        yield values(MONDAY + count * step for count in counts)


def _lines(moment: datetime, among: Sequence[datetime]) -> list[str]:
    """The parts of a moment, from fine to coarse, without those that say nothing in any, such as midnight."""
    year, day, clock = f"{moment.year}", f"{moment.day} {moment:%b}", f"{moment:%H:%M}"
    if any(each.microsecond for each in among):
        return [f"{moment:%S.%f}".rstrip("0").rstrip(".") + " s", clock, day, year]
    if any(each.second for each in among):
        return [f"{moment:%H:%M:%S}", day, year]
    if any(each.time() != time() for each in among):
        return [clock, day, year]
    if any(each.day != 1 for each in among):
        return [day, year]
    return [f"{moment:%b}", year] if any(each.month != 1 for each in among) else [year]
