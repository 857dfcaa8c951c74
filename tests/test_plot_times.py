"""Axes of dates and times have a few round ticks with short labels."""

from datetime import date, datetime, timedelta
from typing import Literal

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.figure import Figure

from flowstone.data.dataset import Dataset
from flowstone.data.rows import Rows
from flowstone.data.tables import kinds_of
from flowstone.plot.columns import ColumnScale

ROWS = 400
STAMP = pa.timestamp("s")


def scale_of(column: pa.Array) -> ColumnScale:
    """As pictures of a table with this column have it."""
    kinds = kinds_of(pa.table({"when": column}))
    rows = Rows(kinds.encode({"when": column}))
    formats = Dataset(("when",), (), rows, rows, rows, {}, kinds=kinds).formats
    return ColumnScale(rows.x[:, 0], None, formats["when"])


def ticks_of(scale: ColumnScale, which: Literal["x", "y"] = "x", **options) -> tuple[np.ndarray, list[str]]:
    ax = Figure().add_subplot()
    scale.label(ax, which, **options)
    axis = ax.xaxis if which == "x" else ax.yaxis
    assert {label.get_rotation() for label in axis.get_ticklabels()} == {0.0}
    return np.array(axis.get_ticklocs()), [label.get_text() for label in axis.get_ticklabels()]


def moments(first: datetime, span: timedelta, kind: pa.DataType = STAMP) -> pa.Array:
    return pa.array([first + span * (k / ROWS) for k in range(ROWS)], kind)


@pytest.mark.parametrize(
    ("span", "labels"),
    [
        (timedelta(seconds=40), ["07:45:15\n27 Dec\n2023", "07:45:30", "07:45:45"]),
        (timedelta(minutes=50), ["07:45\n27 Dec\n2023", "08:00", "08:15", "08:30"]),
        (timedelta(hours=30), ["12:00\n27 Dec\n2023", "00:00\n28 Dec", "12:00"]),
        (timedelta(days=6), ["29 Dec\n2023", "31 Dec", "2 Jan\n2024"]),
        (timedelta(days=50), ["8 Jan\n2024", "22 Jan", "5 Feb"]),
        (timedelta(days=400), ["Jan\n2024", "Apr", "Jul", "Oct", "Jan\n2025"]),
        (timedelta(days=4 * 365), ["2024", "2025", "2026", "2027", "2028"]),
        (timedelta(days=50 * 365), ["2030", "2040", "2050", "2060", "2070"]),
        (timedelta(days=300 * 365), ["2100", "2200", "2300"]),
    ],
)
def test_ticks_are_few_round_and_even(span, labels):
    first = datetime(2023, 12, 27, 7, 45, 13)
    scale = scale_of(moments(first, span))
    places, found = ticks_of(scale)
    assert found == labels
    gaps = np.diff(places)
    assert gaps.max() < 1.12 * gaps.min()  # months have 28 to 31 days
    assert 2 <= len(ticks_of(scale, most=5)[0]) <= 4


def test_a_tick_lies_where_its_label_says():
    days = [date(2024, 1, 1) + timedelta(days=3 * k) for k in range(ROWS)]
    places, labels = ticks_of(scale_of(pa.array(days)))
    assert labels == ["2024", "2025", "2026", "2027"]
    assert places.tolist() == [(date(year, 1, 1) - date(1970, 1, 1)).days for year in range(2024, 2028)]


@pytest.mark.parametrize("kind", [pa.timestamp("ns", "Asia/Kathmandu"), pa.timestamp("ms", "+05:45")])
def test_ticks_of_a_zone_are_round_on_its_clocks(kind):
    scale = scale_of(moments(datetime(2024, 3, 1, 21), timedelta(hours=5), pa.timestamp(kind.unit, "UTC")).cast(kind))
    places, labels = ticks_of(scale)
    assert scale.written is not None
    assert labels == ["04:00\n2 Mar\n2024", "06:00"]
    assert scale.written(places[0]).startswith("2024-03-02 04:00:00")


def test_times_of_day_and_spans():
    whole = np.arange(0, 86_400, 120, dtype=np.int32)
    assert ticks_of(scale_of(pa.array(whole, pa.time32("s"))))[1] == ["00:00", "06:00", "12:00", "18:00", "00:00"]
    places, labels = ticks_of(scale_of(pa.array(whole.astype(np.int64) * 10, pa.duration("s"))))
    assert labels == ["0 d", "2 d", "4 d", "6 d", "8 d", "10 d"]
    assert places.tolist() == [86_400 * day for day in range(0, 11, 2)]


def test_few_moments_have_labels_of_their_own():
    hours = [datetime(2024, 3, 1, 6) + timedelta(hours=6 * (k % 8)) for k in range(ROWS)]
    places, labels = ticks_of(scale_of(pa.array(hours, STAMP)))
    assert places.tolist() == [0, 2, 4, 6]
    assert labels == ["06:00\n1 Mar\n2024", "18:00", "06:00\n2 Mar", "18:00"]


def test_upwards_the_first_line_of_a_label_is_at_its_tick():
    scale = scale_of(moments(datetime(2023, 12, 27), timedelta(hours=30)))
    assert ticks_of(scale, "y")[1] == ["\n\n00:00\n27 Dec\n2023", "12:00", "\n00:00\n28 Dec"]


def test_ticks_below_a_second_have_its_parts():
    labels = ticks_of(scale_of(moments(datetime(2024, 3, 1, 9), timedelta(seconds=2), pa.timestamp("ms"))))[1]
    assert labels == ["00 s\n09:00\n1 Mar\n2024", "00.5 s", "01 s", "01.5 s", "02 s"]
    tiny = pa.array(range(ROWS), pa.timestamp("ns"))
    assert len(ticks_of(scale_of(tiny))[1]) == 2


def test_the_years_that_dates_have_end_an_axis():
    days = pa.array([date(1, 1, 1), *[date(5000, 1, 1) + timedelta(days=k) for k in range(ROWS)], date(9999, 12, 31)])
    with pytest.warns(UserWarning, match="far from all dates"):
        scale = scale_of(days)
    scale.low, scale.high = -719_162.0, 2_932_896.0
    assert ticks_of(scale)[1] == ["2000", "4000", "6000", "8000"]
