"""Dates that are text in memory: of the same kind as in a file, and text again in samples."""

import json
import warnings
from datetime import date, datetime, timedelta

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import flowstone
from flowstone.data.tables import Columns, kinds_of
from flowstone.data.tables.date_forms import READINGS, find_form, read_form, write_form
from flowstone.errors import CheckpointError, DataError, DataWarning

ROWS = 300
CONTAINERS = {
    "dictionary": lambda columns: columns,
    "rows": lambda columns: [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)],
    "pandas": pd.DataFrame,
    "polars": pl.DataFrame,
    "arrow": pa.table,
}


def days(form: str = "%Y-%m-%d") -> list[str]:
    drawn = np.random.default_rng(0).integers(0, 500, ROWS)
    return [(date(2023, 5, 1) + timedelta(days=int(day))).strftime(form) for day in drawn]


@pytest.fixture
def columns():
    return {"day": days(), "x": np.random.default_rng(1).normal(size=ROWS).tolist()}


@pytest.mark.parametrize("container", CONTAINERS)
def test_they_are_what_they_are_in_a_file(tmp_path, columns, container):
    pd.DataFrame(columns).to_csv(tmp_path / "t.csv", index=False)
    table = CONTAINERS[container](columns)
    of_file, of_memory = kinds_of(tmp_path / "t.csv"), kinds_of(table)
    assert of_memory.heads() == of_file.heads()
    x = of_memory.encode(table)
    assert x.equal(of_file.encode(tmp_path / "t.csv"))
    assert of_memory.decode(x).column("day").to_pylist() == columns["day"]
    assert "column 'day': its texts are dates, %Y-%m-%d" in of_memory.notes


def test_every_form_comes_back_letter_by_letter():
    moments = [datetime(1999, 1, 2, 3, 4) + timedelta(days=97 * k, minutes=61 * k) for k in range(50)]
    for number, form in enumerate(READINGS):
        texts = [*write_form(pa.array(moments, pa.timestamp("s")), form).to_pylist(), None]
        dates = read_form(pa.chunked_array([texts]), form)
        assert dates is not None, form
        assert write_form(dates, form).to_pylist() == texts, form
        if number % 9:  # a table of one in nine: each takes a tenth of a second
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of day and month, and of years of two digits
            columns = kinds_of({"when": texts})
        assert columns.kinds[0].name == "datetime", form
        again = Columns.from_record(json.loads(json.dumps(columns.as_record())))
        decoded = again.decode(again.encode({"when": texts})).column("when")
        assert decoded.to_pylist() == texts, form
        assert decoded.type == pa.string()


def test_texts_in_several_ways_are_written_in_the_longest():
    assert find_form(pa.array(["3/1/2024", "03/20/2024"])) == ("%m/%d/%Y", None)
    assert find_form(pa.array(["3/1/2024", "3/20/2024"])) == ("%-m/%-d/%Y", None)
    assert find_form(pa.array(["2024-03-01", "soon"])) is None
    assert find_form(pa.array(["2024-03-01", "2024-13-01"])) is None
    assert find_form(pa.array([], pa.string())) is None


def test_different_dates_are_no_identifier():
    texts = [(date(2020, 1, 1) + timedelta(days=k)).isoformat() for k in range(ROWS)]
    assert kinds_of({"day": texts}).kinds[0].name == "datetime"


def test_the_user_may_keep_them_as_levels(columns):
    assert kinds_of(columns, {"day": "categorical"}).kinds[0].name == "categorical"
    levels = pd.DataFrame(columns).astype({"day": "category"})
    assert kinds_of(levels).kinds[0].name == "categorical"


def test_what_is_in_doubt_is_said_and_the_form_that_was_learned_is_kept():
    texts = [f"{1 + k % 12:02d}/{1 + k % 9:02d}/2024" for k in range(ROWS)]
    with pytest.warns(DataWarning, match="day and month cannot be told apart .'01/01/2024'.; read with"):
        kinds_of({"day": texts})
    columns = kinds_of({"day": [*texts, "31/12/2024"]})
    first_of_february = columns.encode({"day": ["01/02/2024"]})
    assert first_of_february.item() == (date(2024, 2, 1) - date(1970, 1, 1)).days
    assert columns.encode({"day": ["2024-02-01"]}).equal(first_of_february)
    assert columns.encode({"day": [date(2024, 2, 1)]}).equal(first_of_february)
    with pytest.raises(DataError, match="column 'day', row 1 holds 'soon'; it is datetime"):
        columns.encode({"day": ["soon"]})


def test_pieces_of_a_table_are_read_as_the_whole(columns):
    from flowstone.data.tables import read_table

    kinds, table = kinds_of(columns), read_table(columns)
    assert kinds.encodes_chunks_separately(table)
    assert not kinds.encodes_chunks_separately(read_table(columns | {"day": days("%d.%m.%Y")}))


def test_a_damaged_form_is_refused(columns):
    record = kinds_of(columns).as_record()
    with pytest.raises(CheckpointError, match="column 1: not a description"):
        Columns.from_record([record[0] | {"form": "%Q"}])


def test_samples_and_filled_gaps_are_text_in_the_form_of_the_table():
    texts = [None if k % 10 == 0 else text for k, text in enumerate(days("%d.%m.%Y"))]
    columns = {"day": texts, "x": [k % 7 for k in range(ROWS)]}
    model = flowstone.learn(columns, steps=5, progress=False, seed=0)
    drawn = model.sample(20, {"day": "24.12.2023"}, seed=0)
    assert set(drawn.column("day").to_pylist()) == {"24.12.2023"}
    assert all(datetime.strptime(text, "%d.%m.%Y") for text in model.sample(20, seed=0).column("day").to_pylist())
    filled = model.impute(columns, seed=0).column("day").to_pylist()
    assert all(
        datetime.strptime(new, "%d.%m.%Y") and old in (new, None) for new, old in zip(filled, texts, strict=True)
    )

    other = model.impute(columns | {"day": [None, *days("%Y/%m/%d")[1:]]}, seed=0).column("day")
    assert datetime.strptime(other[0].as_py(), "%Y/%m/%d")
    dates = [None, *(date(2023, 6, 1) for _ in range(ROWS - 1))]
    assert isinstance(model.impute(columns | {"day": dates}, seed=0).column("day")[0].as_py(), date)


@pytest.mark.parametrize("kind", [pa.int64(), pa.int32(), pa.float64()])
def test_dates_that_are_whole_numbers_stay_such_dates(columns, kind, tmp_path):
    numbers = [None if k % 10 == 0 else int(text) for k, text in enumerate(days("%Y%m%d"))]
    table = pa.table(columns | {"day": pa.array(numbers, kind)})
    model = flowstone.learn(table, steps=5, progress=False, seed=0)
    assert "column 'day': its numbers are dates, %Y%m%d" in model.columns.notes
    drawn, filled = model.sample(50, seed=0).column("day"), model.impute(table, seed=0).column("day")
    assert drawn.type == filled.type == kind
    for number in [*drawn.to_pylist(), *filled.to_pylist()]:
        assert date(2023, 4, 1) < datetime.strptime(str(int(number)), "%Y%m%d").date() < date(2024, 11, 1)
    assert set(model.sample(9, {"day": 20240229}, seed=0).column("day").to_pylist()) == {20240229}
    with pytest.raises(DataError, match=r"column 'day', row 2 is 20240230; it is datetime: a date as %Y%m%d"):
        model.log_prob({"day": [20240229, 20240230], "x": [0.0, 0.0]})
    assert isinstance(model.impute({"day": [None] * 3, "x": [0.0] * 3}, seed=0)["day"][0].as_py(), int | float)
    model.save(tmp_path)
    assert flowstone.TableModel.load(tmp_path).sample(50, seed=0).equals(model.sample(50, seed=0))


def test_whole_numbers_that_are_no_dates_or_are_asked_as_numbers_stay_numbers(columns):
    numbers = [int(text) for text in days("%Y%m%d")]
    assert kinds_of({"day": numbers}, {"day": "integer"}).kinds[0].name == "integer"
    assert kinds_of({"day": [*numbers, 20240431]}).kinds[0].name == "integer"
    assert kinds_of({"day": [20240101 + k for k in range(7)] * 9}).kinds[0].name == "integer"
    assert kinds_of({"day": [*numbers, numbers[0] + 0.5]}).kinds[0].name != "datetime"
    assert kinds_of({"day": [number + 10_000_000 for number in numbers]}).kinds[0].name == "integer"  # of the year 3024


def test_an_estimator_takes_them_and_gives_them_back(columns):
    density = flowstone.FlowDensity(models="independent", random_state=0).fit(pd.DataFrame(columns))
    assert density.kinds_["day"] == "datetime"
    assert all(date.fromisoformat(text) for text in density.sample(10)["day"])
