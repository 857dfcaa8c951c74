"""What cells of text do not show, the order of day and month and the decimal mark: asked for, or as others show it."""

import warnings
from datetime import date

import numpy as np
import pandas as pd
import pytest

import flowstone as library
from commands import flowstone
from flowstone.data.tables import Columns, kinds_of, open_chunked, read_table
from flowstone.errors import SettingError, UnknownNameError
from flowstone.runs import Run
from test_table_reading import spreadsheet

AMBIGUOUS, OTHER = "03/04/2024", "05/06/2023"
APRIL, MARCH = date(2024, 4, 3), date(2024, 3, 4)
CLEAR = {True: "24/12/2024", False: "12/24/2024"}


@pytest.fixture(autouse=True)
def doubts_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def text_of(path, **columns):
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def first_day(table):
    return table.arrow.column("when")[0].as_py()


@pytest.mark.parametrize(("day_first", "expected"), [(True, APRIL), (False, MARCH)])
def test_the_order_that_is_asked_for(tmp_path, day_first, expected):
    path = text_of(tmp_path / "t.csv", when=[AMBIGUOUS, OTHER], x=[1.5, 2.5])
    assert first_day(read_table(path, day_first=day_first)) == expected
    chunked = open_chunked(path, at_least=0, day_first=day_first)
    assert chunked is not None
    assert first_day(next(chunked.chunks(10))) == expected
    spreadsheet(tmp_path / "t.xlsx", [["when", "x"], [AMBIGUOUS, 1.5], [OTHER, 2.5]])
    assert first_day(read_table(tmp_path / "t.xlsx", day_first=day_first)) == expected
    columns = kinds_of({"when": [AMBIGUOUS, OTHER]}, day_first=day_first)
    assert columns.encode({"when": [AMBIGUOUS]}).item() == (expected - date(1970, 1, 1)).days


@pytest.mark.parametrize("day_first", [True, False])
def test_cells_that_show_the_order_are_read_as_they_show(tmp_path, day_first):
    path = text_of(tmp_path / "t.csv", when=[AMBIGUOUS, CLEAR[day_first]], x=[1.5, 2.5])
    expected = APRIL if day_first else MARCH
    assert first_day(read_table(path, day_first=not day_first)) == expected
    assert read_table(path).reading.day_first is day_first


@pytest.mark.parametrize("day_first", [True, False])
def test_another_column_shows_the_order(tmp_path, day_first):
    path = text_of(tmp_path / "t.csv", when=[AMBIGUOUS, OTHER], until=[CLEAR[day_first]] * 2)
    expected = APRIL if day_first else MARCH
    assert first_day(read_table(path)) == expected
    chunked = open_chunked(path, at_least=0)
    assert chunked is not None
    assert first_day(next(chunked.chunks(10))) == expected
    assert chunked.head.reading.day_first is day_first
    assert first_day(read_table(path, day_first=not day_first)) == expected


def test_columns_that_contradict_each_other_show_nothing(tmp_path):
    path = text_of(tmp_path / "t.csv", when=[AMBIGUOUS, OTHER], a=[CLEAR[True]] * 2, b=[CLEAR[False]] * 2)
    with pytest.warns(UserWarning, match="the month first; day_first=True reads the other order"):
        assert first_day(read_table(path)) == MARCH


def test_another_file_shows_the_order(tmp_path):
    text_of(tmp_path / "a.csv", when=[AMBIGUOUS, OTHER], x=[1.5, 2.5])
    text_of(tmp_path / "b.csv", when=[CLEAR[True], OTHER], x=[1.5, 2.5])
    with pytest.warns(UserWarning, match="cannot be told apart"):
        first_day(read_table(tmp_path / "a.csv"))
    assert first_day(read_table(tmp_path)) == APRIL
    chunked = open_chunked(tmp_path, at_least=0)
    assert chunked is not None
    assert first_day(next(chunked.chunks(10))) == APRIL


def test_a_spreadsheet_says_its_doubts(tmp_path):
    spreadsheet(tmp_path / "t.xlsx", [["when", "x"], [AMBIGUOUS, 1.5], [OTHER, 2.5]])
    with pytest.warns(UserWarning, match="column 'when': day and month cannot be told apart"):
        assert first_day(read_table(tmp_path / "t.xlsx")) == MARCH


def test_the_decimal_mark_that_is_asked_for(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a;b\n1,234;x\n5,678;y\n")
    assert read_table(path, decimal=",").arrow.column("a").to_pylist() == [1.234, 5.678]
    assert read_table(path, decimal=".").arrow.column("a").to_pylist() == [1234, 5678]
    path.write_text("a;b\n1,5;1,234\n5,678;5,678\n")  # the first column shows it for both
    assert read_table(path, decimal=".").arrow.column("b").to_pylist() == [1.234, 5.678]


def test_an_option_that_it_cannot_have(tmp_path):
    path = text_of(tmp_path / "t.csv", x=[1.5, 2.5])
    with pytest.raises(UnknownNameError, match="unknown decimal ';'"):
        read_table(path, decimal=";")
    with pytest.raises(SettingError, match="day_first='yes'"):
        read_table(path, day_first="yes")  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A table of days and of decimal commas, both shown by its cells, and the run that learned from it."""
    folder = tmp_path_factory.mktemp("notation")
    generator = np.random.default_rng(0)
    days, months = generator.integers(1, 29, 200), generator.integers(1, 13, 200)
    lines = [f"{d:02d}/{m:02d}/2024;{x:.3f}".replace(".", ",") for d, m, x in zip(days, months, days / 3, strict=True)]
    path = folder / "t.csv"
    path.write_text("when;x\n" + "\n".join(lines) + "\n")
    flowstone("train", path, "--out", folder / "run", "--steps", 5, "--set", "width=8")
    return folder


def test_new_rows_are_read_as_those_that_were_learned(learned, capsys):
    new = learned / "new.csv"
    new.write_text(f"when;x\n{AMBIGUOUS};1,333\n")
    table = Run(learned / "run").read(new)
    assert first_day(table) == APRIL
    assert table.arrow.column("x").to_pylist() == [1.333]
    chunked = Run(learned / "run").chunked(new, at_least=0)
    assert chunked is not None
    assert first_day(next(chunked.chunks(10))) == APRIL
    flowstone("score", learned / "run", new, "--out", "-")
    written = capsys.readouterr()
    assert APRIL.isoformat() in written.out
    assert written.err == ""


def test_frames_of_text_are_read_as_the_file_that_was_learned(learned):
    columns = Run(learned / "run").kinds
    assert columns is not None
    day = columns.encode({"when": [AMBIGUOUS], "x": [1.0]})[0, 0].item()
    assert day == (APRIL - date(1970, 1, 1)).days
    assert Columns.from_record(columns.as_record()).day_first is True


def test_a_model_of_the_library_reads_alike(learned, tmp_path):
    model = library.learn(learned / "t.csv", steps=2, progress=False)
    model.save(tmp_path / "model")
    text_of(tmp_path / "new.csv", when=[AMBIGUOUS], x=[1.0])
    expected = model.log_prob({"when": [APRIL], "x": [1.0]})
    for each in (model, library.TableModel.load(tmp_path / "model")):
        assert np.allclose(each.log_prob(tmp_path / "new.csv"), expected)
