"""What the columns of a table are taken for, and that rows come back from numbers as they were."""

import json
import re
import warnings
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowstone.data.tables import Columns, kinds_of, read_table, write_table
from flowstone.data.tables.facts import Facts
from flowstone.data.tables.values import parse_numbers
from flowstone.errors import CheckpointError, DataError, DataWarning, FlowstoneError, SettingError, UnknownNameError
from flowstone.estimators.context import ContextColumns
from flowstone.mixed import Encoder, columns_of

N = 600


def draws(seed: int = 0):
    return np.random.default_rng(seed)


def kind(values, name: str = "x", **options) -> Any:
    return kinds_of({name: values}, **options).kinds[0]


def normal(digits: int | None = None):
    values = draws().normal(50, 9, N)
    return values if digits is None else values.round(digits)


def with_zeros():
    return np.where(draws().random(N) < 0.6, 0.0, draws(1).lognormal(2, 1, N))


WORDS = np.array(["red", "green", "blue"])
TABLE = {
    "continuous": normal(),
    "price": draws().lognormal(3, 1, N).round(2),
    "count": draws().poisson(2, N),
    "big": draws().integers(10**5, 10**6, N),
    "share": np.clip(draws().normal(0.5, 0.4, N), 0, 1),
    "spend": with_zeros(),
    "angle": draws().random(N) * 360,
    "rating": draws().choice([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], N),
    "flag": draws().integers(0, 2, N),
    "truth": draws().random(N) < 0.3,
    "colour": WORDS[draws().integers(0, 3, N)],
    "day": pa.array(draws().integers(18_000, 19_000, N).astype(np.int32)).cast(pa.date32()),
    "at": pa.array(draws().integers(10**9, 2 * 10**9, N)).cast(pa.timestamp("s", "Europe/Berlin")),
    "same": np.full(N, 7),
    "none": pa.nulls(N),
    "row": np.arange(N),
    "note": [f"free text {i}" for i in range(N)],
    "words": [f"text {i // 10 * 7}" for i in range(N)],
}
EXPECTED = {
    "continuous": "continuous", "price": "gridded", "count": "integer", "big": "integer", "share": "bounded",
    "spend": "positive", "angle": "circular", "rating": "gridded", "flag": "boolean", "truth": "boolean",
    "colour": "categorical", "day": "datetime", "at": "datetime", "same": "constant", "none": "constant",
    "row": "identifier", "note": "identifier", "words": "categorical",
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_each_kind_is_inferred(name):
    assert kind(TABLE[name], name).name == EXPECTED[name]


def test_a_column_of_six_values_is_no_continuous_one():
    """SpecialDay of a public set of shoppers: taken for continuous, it ruined all samples."""
    found = kind(TABLE["rating"])
    assert found.head()["atoms"] == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert (found.head()["rest"], found.head()["step"]) == ("grid", 0.2)
    uneven = kind(draws().choice([0.1234567, 0.5, 7.7654321], N))
    assert uneven.head()["atoms"] == [0.1234567, 0.5, 7.7654321]


def test_atoms_are_single_values_with_mass():
    assert kind(TABLE["spend"]).head() == {
        "name": "x", "atoms": [0.0], "rest": "positive", "low": 0.0, "high": None, "step": None, "anchor": None,
        "gaps": False,
    }  # fmt: skip
    assert kind(normal()).head()["atoms"] == []
    assert kind(draws().integers(0, 2000, N)).head()["atoms"] == []
    inner = np.where(draws().random(N) < 0.1, 50.0, normal())
    assert kind(inner).head()["atoms"] == [50.0]
    share = kind(TABLE["share"]).head()
    assert (share["atoms"], share["rest"], share["low"], share["high"]) == ([0.0, 1.0], "interval", 0.0, 1.0)


def test_a_grid_is_the_step_that_all_values_share():
    assert kind(TABLE["price"]).head()["step"] == 0.01
    assert kind(draws().integers(100, 400, N) * 25).head()["step"] == 25
    assert kind(normal()).head()["rest"] == "real"
    assert kind(normal(4)).describe().treatment == "a density on the real line, rounded to 0.0001"
    fuzzy = draws().integers(0, 300, N) * 0.1  # 0.30000000000000004
    assert kind(fuzzy).head()["step"] == 0.1


def test_short_columns_of_few_rows_are_not_all_atoms():
    assert kind(draws().integers(0, 60, 100)).head()["atoms"] == []
    assert len(kind(draws().integers(0, 60, 5000)).head()["atoms"]) == 60


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "id", "customer_id", "PassengerId", "row_number", "index", "UUID"])
def test_identifiers_by_name(name):
    columns = kinds_of({name: draws().permutation(10 * N)[:N], "x": normal()})
    assert columns.left_out == (name,)
    assert "left out as an identifier" in columns.notes[0]


def test_identifiers_by_their_values():
    assert kind(draws().permutation(N)).name == "identifier"
    assert kind(draws().permutation(N) + 17 * 10**8).name == "integer"  # seconds, in no order
    assert kind(np.cumsum(draws().integers(1, 5, N)), "unix_time").name == "integer"
    with pytest.warns(DataWarning, match=r"grow from row to row; to keep it: kinds=\{'x': 'integer'\}"):
        assert kind(np.cumsum(draws().integers(1, 5, N))).name == "identifier"
    assert kind(np.cumsum(draws().integers(1, 5, N)), kinds={"x": "integer"}).name == "integer"
    assert kind(draws().integers(0, 50, N), "valid").name == "integer"
    assert kind(np.cumsum(draws().random(N))).name == "positive"


def test_a_sentinel_is_suspected_and_may_be_read_as_a_gap():
    values = np.where(draws().random(N) < 0.02, -999.0, normal())
    with pytest.warns(
        UserWarning, match=r"column 'x': -999, in \d+ rows, may stand for a gap; to read it as one: na=\['-999'\]"
    ):
        found = kind(values)
    assert -999.0 in found.head()["atoms"]
    cleaned = kind(values, na=["-999"])
    assert cleaned.head()["gaps"]
    assert cleaned.head()["atoms"] == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kind(np.arange(-1000, 1000)[draws().permutation(2000)] * 3)


def test_an_angle_needs_its_name_and_its_range():
    assert kind(TABLE["angle"], "wind_direction").name == "circular"
    assert kind(TABLE["angle"], "x").name != "circular"
    with pytest.warns(UserWarning, match="may be an angle"):
        assert kind(TABLE["angle"] / 9, "angle").name != "circular"


def test_atoms_of_angles_are_values_of_the_column():
    values = np.round(draws().uniform(-180, 180, N), 3)
    values[:100] = 0.1
    columns = kinds_of({"x": values}, {"x": "circular(-180,180)"})
    assert columns.heads()[0]["atoms"] == [0.1]
    table = pa.table({"x": values})
    assert ContextColumns.learn(table, {"x": "circular(-180,180)"}).encode(table)[:, 0].sum() == 100


def test_the_users_word_counts():
    table = {"zip": draws().integers(1, 40, N), "size": np.array(["S", "M", "L"])[draws().integers(0, 3, N)]}
    columns = kinds_of(table, {"zip": "categorical", "size": "ordinal(S,M,L)"})
    assert [each.name for each in columns.kinds] == ["categorical", "ordinal"]
    assert columns.encode({"zip": [3], "size": ["L"]})[0, 1] == 2
    assert columns.decode(columns.encode(table)).to_pydict() == {name: list(v.tolist()) for name, v in table.items()}
    assert kind(TABLE["angle"], kinds={"x": "circular(0, 360)"}).head()["rest"] == "circle"
    assert kind(TABLE["price"], kinds={"x": "positive"}).head()["rest"] == "positive"
    assert kind(TABLE["price"], kinds={"x": "bounded(0,10000)"}).head()["high"] == 10000
    assert kind(TABLE["price"], kinds={"x": "continuous"}).head()["rest"] == "real"
    assert kind(TABLE["count"], kinds={"x": "gridded(0.5)"}).head()["step"] == 0.5
    assert kind(["1", "2", "3", "1"], kinds={"x": "integer"}).name == "integer"


@pytest.mark.parametrize(
    ("values", "asked", "error", "message"),
    [
        (TABLE["spend"] - 5, "positive", SettingError, "column 'x' cannot be positive: its least value is -5"),
        (TABLE["spend"], "integer", SettingError, "cannot be integer: it holds "),
        (TABLE["colour"], "positive", SettingError, "cannot be positive: it holds no numbers"),
        (TABLE["colour"], "ordinal(red,green)", SettingError, "level 'blue' is not among red, green"),
        (TABLE["colour"], "boolean", SettingError, "cannot be boolean"),
        (TABLE["colour"], "datetime", SettingError, "cannot be read as dates"),
        (TABLE["share"], "bounded(0,0.5)", SettingError, "it holds 1, beyond 0 … 0.5"),
        (TABLE["share"], "circular(1)", SettingError, "expected two numbers"),
        (TABLE["share"], "bounded(2,1)", SettingError, "the first number must be below the second"),
        (TABLE["share"], "gridded(0.5)", SettingError, "is no multiple of 0.5"),
        (TABLE["share"], "constant", SettingError, "different values and 0 gaps"),
        (TABLE["share"], "positiv", UnknownNameError, "unknown kind 'positiv': did you mean 'positive'"),
        (TABLE["share"], "(", SettingError, "expected a name, such as positive"),
    ],
)
def test_a_kind_that_cannot_be_is_refused(values, asked, error, message):
    with pytest.raises(error) as caught:
        kind(values, kinds={"x": asked})
    assert message in str(caught.value)


def test_columns_without_single_values_leave_a_record_that_can_be_read():
    nested = [pa.array([[1]]), pa.array([{"a": 1}]), pa.array([b"ab"], pa.binary(2)), pa.array([b"a" * 16], pa.uuid())]
    columns = kinds_of({f"c{place}": array.take(pa.array([0] * 9)) for place, array in enumerate(nested)})
    again = Columns.from_record(json.loads(json.dumps(columns.as_record())))
    assert [kind.describe() for kind in again.kinds] == [kind.describe() for kind in columns.kinds]
    assert again.left_out == ("c0", "c1", "c2", "c3")


def test_kinds_that_are_not_by_column_are_refused():
    with pytest.raises(SettingError, match=r"kinds=\['x'\]: expected kinds by column"):
        kinds_of(TABLE, ["x"])  # pyright: ignore[reportArgumentType]


def test_decimals_that_no_float_tells_apart_are_refused():
    values = pa.array([Decimal(10**17 + number) for number in range(100)])
    with pytest.raises(DataError, match="'x' holds decimals that float64 cannot tell apart, such as 1000") as caught:
        kind(values)
    assert caught.value.remedy == {"exclude": ["x"]}
    assert kind(pa.array([Decimal(number) / 8 for number in range(100)])).name == "positive"


def test_all_problems_are_said_at_once():
    mixed = [*map(str, normal(3)[:-1]), "broken"]
    wide = draws().integers(-(2**62), 2**62, N)
    table = {"a": mixed, "b": [*normal()[1:], np.inf], "c": wide, "d": normal()}
    with pytest.raises(DataError) as caught:
        kinds_of({**table, "c": np.where(np.arange(N) == 3, wide[0], wide)})
    message = str(caught.value)
    assert "3 columns cannot be taken as they are" in message
    assert f"column 'a' holds numbers, but row {N} holds 'broken' (such rows: 1)" in message
    assert f"column 'b', row {N} is infinite" in message
    assert "column 'c' holds whole numbers further apart than 2^53" in message
    assert caught.value.remedy == {"na": ["broken", "inf", "-inf"], "exclude": ["c"]}
    with pytest.warns(DataWarning, match="column 'a': its texts are all numbers") as doubts:
        kinds_of(table, exclude=caught.value.remedy["exclude"], na=caught.value.remedy["na"])
    doubt: Any = doubts[0].message
    columns = kinds_of(table, doubt.remedy["kinds"], caught.value.remedy["exclude"], na=caught.value.remedy["na"])
    assert columns.names == ("a", "b", "d")


def test_a_text_among_few_different_numbers_is_in_doubt(tmp_path):
    values = [str(number % 7) for number in range(300)]
    with pytest.warns(DataWarning, match="column 'x': it holds numbers, but row 301 holds 'Total' .such rows: 1."):
        assert kind([*values, "Total"]).name == "categorical"
    (tmp_path / "t.csv").write_text("\n".join(["x", *values, "Total"]))
    assert kinds_of(tmp_path / "t.csv", na=["Total"]).kinds[0].name == "integer"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kind([*values, *["7 or more"] * 20]).name == "categorical"


def test_numbers_with_units_are_in_doubt():
    for unit in (" kg", "M", " km/h", "°"):
        with pytest.warns(DataWarning, match=rf"column 'x': its texts are numbers with units, such as '0.0{unit}'"):
            assert kind([f"{number % 40 / 8}{unit}" for number in range(100)]).name == "categorical"
    for words in ([f"{number % 40}b" for number in range(100)], [f"{number % 5}.5 kg" for number in range(100)]):
        assert kind(words).name == "categorical"


def test_a_text_in_many_rows_of_different_numbers_is_named():
    values = [*(f"{number / 8}" for number in range(240)), *["<0.5"] * 80]
    with pytest.raises(DataError, match=r"'x' holds numbers, but row 241 holds '<0.5' \(such rows: 80\)") as caught:
        kind(values)
    assert caught.value.remedy == {"na": ["<0.5"]}
    assert kind(values, kinds={"x": "categorical"}).name == "categorical"
    assert kind([*map(str, range(100)), *(f"V{number}" for number in range(60))] * 2).name == "categorical"


@pytest.mark.parametrize("form", ["%Y-%m-%d", "%d.%m.%Y %H:%M", "%m/%d/%Y"])
def test_a_text_among_dates_is_named(tmp_path, form):
    def kind_of(cells, **options):
        (tmp_path / "t.csv").write_text(
            "\n".join(["x,y", *(f"{cell},{number % 3}" for number, cell in enumerate(cells))])
        )
        return kinds_of(tmp_path / "t.csv", **options).kinds[0].name

    start = datetime(2020, 1, 1)
    dates = [(start + timedelta(days=number * 7919 % 151 * 9)).strftime(form) for number in range(200)]
    assert kind_of(dates) == "datetime"
    for broken in ("2020-13-45", "99999-01-01", "soon"):
        with pytest.raises(DataError, match=f"column 'x' holds dates, but row 201 holds '{broken}'") as caught:
            kind_of([*dates, broken])
        assert caught.value.remedy == {"na": [broken]}
        assert kind_of([*dates, broken], na=[broken]) == "datetime"
        assert kind_of([*dates, broken], kinds={"x": "categorical"}) == "categorical"
    assert kind_of([*(f"word {number % 90}" for number in range(200)), *dates[:2]]) == "categorical"


def test_numbers_beyond_2_to_the_53_are_exact():
    values = 2**60 + draws().integers(0, 10**6, N)
    columns = kinds_of({"x": values})
    assert columns.decode(columns.encode({"x": values})).column("x").to_pylist() == values.tolist()
    unsigned = np.uint64(2**64 - 1) - draws().integers(0, 10**6, N).astype(np.uint64)
    columns = kinds_of({"x": unsigned})
    assert columns.decode(columns.encode({"x": unsigned})).column("x").to_pylist() == unsigned.tolist()


@pytest.mark.parametrize(
    "values",
    [
        2**53 - 20_000 + draws().integers(0, 3000, N),
        1e9 + draws().integers(0, 200, N) / 100,
        1e12 + np.where(draws().random(N) < 0.3, 50, draws(1).integers(0, 400, N)) / 10,
        np.datetime64("2024-03-01", "ms") + draws().integers(0, 900_000, N).astype("timedelta64[ms]"),
    ],
    ids=["integers", "cents", "tenths", "milliseconds"],
)
def test_values_far_from_zero_keep_their_grid(values):
    columns = kinds_of({"x": values})
    x = columns.encode({"x": values})
    assert columns.heads()[0]["rest"] == "grid"
    assert columns.decode(x).column("x").to_pylist() == pa.array(values).to_pylist()
    encoder = Encoder(columns_of(1, columns.heads()), 16)
    encoder.initialize(x)
    encoded = encoder.encode(x)
    assert encoded.possible.all()
    assert (encoded.high > encoded.low).all()
    assert np.isin(x, columns.heads()[0]["atoms"]).sum() == (encoded.option < len(columns.heads()[0]["atoms"])).sum()


def test_a_grid_needs_numbers_between_its_values():
    found = kind(2.0**53 - 20_000 + draws().integers(0, 3000, N))  # an integer has an origin that is subtracted
    assert (found.name, found.step) == ("continuous", 1)


def test_many_levels_are_grouped_and_drawn_by_frequency():
    levels = np.array([f"level {i}" for i in range(5000)])
    shares = 1 / np.arange(1, 5001)
    values = levels[draws().choice(5000, 40_000, p=shares / shares.sum())]
    columns = kinds_of({"x": values})
    found = columns.modelled[0]
    assert len(found.head()["atoms"]) == 256
    assert "the 255 most frequent are kept" in columns.notes[0]
    x = columns.encode({"x": values})
    back = np.array(columns.decode(x, seed=1).column("x").to_pylist())
    kept = x[:, 0].numpy() < 255
    assert (back[kept] == values[kept]).all()
    assert set(back[~kept]) <= set(values[~kept])
    assert columns.encode({"x": ["never seen"]}).item() == 255
    assert columns.decode(x, seed=1).equals(columns.decode(x, seed=1))
    two = kinds_of({"x": values, "y": values})
    rare = two.decode(np.full((300, 2), 255.0), seed=1)
    assert (rare.column("x").to_numpy() == rare.column("y").to_numpy()).mean() < 0.1  # they are drawn apart


def test_values_that_a_kind_does_not_know_are_named():
    columns = kinds_of({"c": WORDS[draws().integers(0, 3, N)], "n": normal(), "b": TABLE["truth"], "d": TABLE["day"]})
    for name, value, message in (
        ("c", "gren", "column 'c', row 2: unknown level 'gren': did you mean 'green'?"),
        ("c", "zzz", "unknown level 'zzz': its levels are blue, green, red"),
        ("n", "1x", "column 'n', row 2 holds '1x'"),
        ("b", 2, "column 'b', row 2 is 2; it is boolean"),
        ("d", "soon", "column 'd', row 2 holds"),
    ):
        good = {"c": "red", "n": "1", "b": 1, "d": "2020-01-01"}[name]
        rest = {"c": ["red"] * 2, "n": [1.0] * 2, "b": [True] * 2, "d": [date(2020, 1, 1)] * 2}
        with pytest.raises(DataError) as caught:
            columns.encode(rest | {name: [good, value]})
        assert message in str(caught.value)
    with pytest.raises(DataError, match="no column 'd'"):
        columns.encode({"c": ["red"], "n": [1.0], "b": [True]})
    partial = columns.encode({"c": ["red"]}, partial=True)
    assert partial.isnan().tolist() == [[False, True, True, True]]
    with pytest.raises(DataError, match="did you mean"):
        columns.kind("cc")


def test_samples_keep_to_type_grid_and_bounds():
    table = {
        "price": TABLE["price"],
        "count": TABLE["count"].astype(np.int8),
        "share": TABLE["share"],
        "angle": TABLE["angle"],
        "same": TABLE["same"],
    }
    columns = kinds_of(table, {"angle": "circular(0,360)"})
    back = columns.decode([[-3.337, 300.0, 1.5, 725.0], [1.23456, -2.0, 0.25, -5.0], [np.nan] * 4])
    assert back.column_names == list(table)
    assert back.to_pylist() == [
        {"price": 0.0, "count": 127, "share": 1.0, "angle": 5.0, "same": 7},
        {"price": 1.23, "count": 0, "share": 0.25, "angle": 355.0, "same": 7},
        {"price": None, "count": None, "share": None, "angle": None, "same": 7},
    ]
    assert back.schema.types[1] == pa.int8()


FLOATS = st.floats(-1e6, 1e6, allow_nan=False)
DAYS = st.dates(date(1900, 1, 1), date(2100, 1, 1))
MOMENTS = st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1))
COLUMNS = {
    "float64": (FLOATS, pa.float64()),
    "float32": (st.floats(-1e6, 1e6, width=32), pa.float32()),
    "tiny": (st.floats(0, 1e-40), pa.float64()),
    "huge": (st.floats(-1e300, 1e300), pa.float64()),
    "tenths": (st.integers(-1000, 1000).map(lambda i: i / 10), pa.float64()),
    "int8": (st.integers(-128, 127), pa.int8()),
    "int32": (st.integers(-(2**31), 2**31 - 1), pa.int32()),
    "uint64": (st.integers(2**64 - 2**50, 2**64 - 1), pa.uint64()),
    "int64": (st.integers(2**62, 2**62 + 2**52), pa.int64()),
    "decimal": (st.integers(-(10**9), 10**9).map(lambda i: Decimal(i).scaleb(-2)), pa.decimal128(12, 2)),
    "bool": (st.booleans(), pa.bool_()),
    "string": (st.sampled_from(["a", "b", "ü", "c d"]), pa.string()),
    "large": (st.sampled_from(["a", "b"]), pa.large_string()),
    "dictionary": (st.sampled_from(["x", "y"]), pa.dictionary(pa.int8(), pa.string())),
    "ordered": (st.sampled_from(["x", "y"]), pa.dictionary(pa.int32(), pa.string(), ordered=True)),
    "date32": (DAYS, pa.date32()),
    "date64": (DAYS, pa.date64()),
    "seconds": (MOMENTS.map(lambda t: t.replace(microsecond=0)), pa.timestamp("s")),
    "micro": (MOMENTS, pa.timestamp("us")),
    "nano": (MOMENTS, pa.timestamp("ns")),
    "zone": (MOMENTS.map(lambda t: t.replace(tzinfo=UTC)), pa.timestamp("us", "Europe/Berlin")),
    "time": (st.times().map(lambda t: t.replace(microsecond=0)), pa.time32("s")),
    "time64": (st.times(), pa.time64("us")),
    "duration": (st.timedeltas(timedelta(0), timedelta(9999)), pa.duration("us")),
}


@given(st.data())
@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.filterwarnings("ignore:.*may stand for a gap", "ignore:.*far from all dates")
def test_every_type_comes_back(name, data):
    cells, type_ = COLUMNS[name]
    values = data.draw(st.lists(st.none() | cells, min_size=1, max_size=60))
    table = pa.table({"x": pa.array(values, type_), "y": pa.array(range(len(values)), pa.int16())})
    columns = kinds_of(table)
    columns = Columns.from_record(json.loads(json.dumps(columns.as_record())))
    x = columns.encode(table)
    assert x.dtype == torch.float64
    assert x.shape == (len(values), len(columns.names))
    back = columns.decode(x)
    assert back.schema.equals(table.select(back.column_names).schema)
    if "x" in back.column_names:
        assert back.column("x").to_pylist() == table.column("x").to_pylist()
    for head in columns.heads():
        json.dumps(head)


@given(st.data())
def test_each_kind_comes_back_from_its_record(data):
    names = data.draw(st.lists(st.sampled_from(sorted(TABLE)), min_size=1, unique=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        columns = kinds_of({name: TABLE[name] for name in names})
    again = Columns.from_record(json.loads(json.dumps(columns.as_record())))
    assert again.kinds == columns.kinds
    table = read_table({name: TABLE[name] for name in names})
    back = again.decode(again.encode(table))
    kept = [name for name in names if again.kind(name).name != "identifier"]
    assert back.column_names == kept
    assert back.to_pydict() == table.arrow.select(kept).to_pydict()


def test_tables_with_little_in_them():
    assert kinds_of({"a": [1, 1], "b": ["x", "x"]}).names == ()
    assert kinds_of({"id": range(30)}).names == ()
    assert kinds_of({"a": [1.5]}).kinds[0].name == "constant"
    one = kinds_of({"a": [5, None, 5, None]})
    assert one.heads()[0]["gaps"]
    assert one.decode(one.encode({"a": [5, None]})).column("a").to_pylist() == [5, None]
    with pytest.raises(FlowstoneError, match="no column 'b'"):
        kinds_of({"a": [1]}, {"b": "positive"})
    assert len(kinds_of({f"c{i}": normal() for i in range(300)}).names) == 300


def test_dates_out_of_the_usual_range_are_doubted_and_kept():
    values = [date(2020, 1, 1 + i % 28) for i in range(N)] + [date(9999, 12, 31)]
    with pytest.warns(UserWarning, match="9999-12-31 is far from all dates that are usual"):
        columns = kinds_of({"x": values})
    assert columns.decode(columns.encode({"x": values})).column("x").to_pylist() == values
    assert columns.decode([[1e300]]).column("x").to_pylist() == [date(9999, 12, 31)]
    times = kinds_of({"x": [datetime(2020, 1, 1, 1 + i % 20) for i in range(N)]})
    assert times.decode([[-1e300]]).num_rows == 1
    noon = kinds_of({"x": [time(1 + i % 20, 30) for i in range(N)]})
    assert noon.decode([[25.5 * 3600]]).column("x").to_pylist() == [time(1, 30)]


@given(
    digits=st.integers(0, 6), power=st.integers(-2, 4), short=st.booleans(), seed=st.integers(0, 10**6),
    types=st.tuples(*[st.sampled_from(["float32", "float64"])] * 2),
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*may stand for a gap")
def test_every_value_is_possible_in_single_and_double_precision(digits, power, short, seed, types):
    values = draws(seed).normal(1, 1, 400) * 10.0**power
    values = draws(seed).choice(values[:9], 400) if short else np.where(values > 10.0**power, 0.7, values)
    values = values.round(digits).astype(types[0])
    columns = kinds_of({"x": values})
    if not columns.names:
        return
    learned = columns.encode({"x": values})
    same = columns.encode({"x": np.array(values, dtype=types[1])})
    encoder = Encoder(columns_of(1, columns.heads()), 16)
    assert encoder.encode(learned).possible.all()
    if types == ("float32", "float64") or np.array_equal(values, values.astype(types[1])):
        assert encoder.encode(same).possible.all()
    decimal = columns.encode({"x": np.array([float(str(value)) for value in values])})
    assert encoder.encode(decimal).possible.all()
    if columns.heads()[0]["atoms"]:
        assert torch.equal(encoder.encode(decimal).option, encoder.encode(learned).option)


def test_decimals_in_single_precision_are_on_their_grid():
    columns = kinds_of({"x": normal(2).astype("float32")})
    assert columns.kinds[0].name == "gridded"
    encoded = Encoder(columns_of(1, columns.heads()), 16).encode(columns.encode({"x": normal(2).astype("float32")}))
    assert encoded.possible.all()


@pytest.mark.parametrize("as_dictionary", [False, True])
def test_text_with_some_repetitions_is_left_out(as_dictionary):
    values = pa.array([f"some words {number}" for number in draws().integers(0, 400, N)])
    found = kind(values.dictionary_encode() if as_dictionary else values)
    assert found.name == "text"
    assert kinds_of({"x": values, "y": normal()}).names == ("y",)


def test_whole_numbers_of_many_digits_in_text_are_exact():
    parsed = parse_numbers(pa.chunked_array([[str(2**63 - 1), "7"]]))
    assert parsed is not None
    assert parsed.to_pylist() == [2**63 - 1, 7]
    parsed = parse_numbers(pa.chunked_array([[str(2**64 - 1), "7"]]))
    assert parsed is not None
    assert parsed.to_pylist() == [2**64 - 1, 7]


@pytest.mark.parametrize(
    ("column", "field", "value"),
    [
        ("color", "levels", ["red", 10**15]),
        ("color", "level_type", "int64"),
        ("color", "type", "no type"),
        ("color", "kind", "no kind"),
        ("color", "grouped_counts", ["many"]),
        ("count", "atoms", [[None]]),
        ("count", "origin", None),
        ("count", "step", "1"),
        ("count", "missing", 0.5),
        ("unit", "value", [1]),
        ("unit", "value_type", "int64"),
    ],
)
def test_records_that_were_not_written_are_refused(column, field, value):
    table = {"color": WORDS[draws().integers(3, size=N)], "count": TABLE["count"], "unit": ["m"] * N}
    columns = kinds_of({name: np.asarray(values) for name, values in table.items()})
    record = json.loads(json.dumps(columns.as_record()))
    assert Columns.from_record(record).kinds == columns.kinds
    place = list(table).index(column)
    record[place][field] = value
    with pytest.raises(CheckpointError, match=f"^column {place + 1}: not a description that") as refused:
        Columns.from_record(record)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("learned", "asked", "said"),
    [
        (
            [date(2021, 1, 2), date(2021, 1, 5)],
            ["2021-01-03", "2021-02-30"],
            "row 2 holds '2021-02-30'; it is datetime",
        ),
        ([time(10, 20), time(11, 50)], [None, "25:00"], "row 2 holds '25:00'; it is datetime"),
        ([True, False], ["true", "maybe"], "row 2 holds 'maybe'; it is boolean: true or false"),
    ],
)
def test_the_value_that_is_none_of_its_kind_is_named(learned, asked, said):
    with pytest.raises(DataError, match=f"column 'a', {said}"):
        kinds_of({"a": learned * 20}).encode({"a": asked})


def test_text_without_any_value_is_gaps():
    empty = pa.table({"a": pa.array([None, None], pa.string())})
    for values in ([1, 2, 4], [date(2021, 1, 1), date(2021, 1, 2)]):
        assert kinds_of({"a": values * 10}).encode(empty).isnan().all()


def test_times_of_day_stay_on_their_grid_at_its_ends():
    columns = kinds_of({"a": [time(0, 10), time(12, 30), time(23, 50)] * 10})
    drawn = columns.decode([[86_400.0 * 5], [-500.0]]).column("a").to_pylist()
    assert [(each.minute % 10, each.second) for each in drawn] == [(0, 0), (0, 0)]


@pytest.mark.parametrize("sentinel", [-999.9, 999.9, 9999.99, -200, -32768, 65535, 1e20, -7777, 555.5])
def test_values_that_stand_for_gaps_are_suspected_and_atoms(sentinel):
    values = [round(0.1 * i, 1) for i in range(100)] + [sentinel] * 6
    with pytest.warns(
        DataWarning, match=rf"column 'x': {re.escape(f'{sentinel:.10g}')}, in 6 rows, may stand for a gap"
    ):
        columns = kinds_of({"x": values, "y": [i * 0.37 % 1.1 for i in range(106)]})
    assert float(sentinel) in columns.modelled[0].head()["atoms"]
    assert kinds_of({"x": values}, na=[str(sentinel)]).kinds[0].missing == 6


def test_a_sentinel_at_each_end_and_none_among_counts():
    facts = Facts("x", pa.chunked_array([[*range(50), -999, -999, 9999, 9999]]))
    assert facts.sentinels == (-999.0, 9999.0)
    assert not Facts("x", pa.chunked_array([[0.0] * 90 + [100.0 + i for i in range(50)]])).sentinels
    assert not Facts("x", pa.chunked_array([[*range(50), 400]])).sentinels


def test_text_of_numbers_in_a_frame_is_in_doubt():
    with pytest.warns(DataWarning) as caught:
        columns = kinds_of({"x": [str(0.7 * i) for i in range(30)], "zip": [f"0{i}" for i in range(30)]})
    assert [str(each.message).split(": ", 1)[1] for each in caught] == [
        "column 'x': its texts are all numbers, and are taken for words; to read numbers: kinds={'x': 'continuous'}",
    ]
    assert [kind.name for kind in columns.kinds] == ["identifier"] * 2
    assert [kind.name for kind in kinds_of({"x": ["0.5", "1.5", "7"] * 9}, {"x": "continuous"}).kinds] == ["continuous"]


@pytest.mark.parametrize("rows", [0, 2])
@pytest.mark.parametrize("kind", [pa.null(), pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())])
def test_a_chunk_of_gaps_alone_is_encoded_whatever_its_type(kind, rows):
    days = np.arange(40) // 2
    columns = kinds_of({
        "day": pa.array(days.astype(np.int32)).cast(pa.date32()),
        "at": pa.array(days).cast(pa.timestamp("us")),
        "x": days * 0.37,
        "count": days,
        "sex": ["F", "M"] * 20,
        "is_in": [True, False] * 20,
    })  # fmt: skip
    gaps = pa.table({name: pa.nulls(rows, kind) for name in columns.names})
    x = columns.encode(read_table(gaps, empty=True))
    assert x.shape == (rows, 6)
    assert x.isnan().all()


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_truth_values_may_be_text(kind):
    columns = kinds_of({"is_in": [True, False] * 20})
    x = columns.encode(pa.table({"is_in": pa.array(["true", None, "False"], kind)}))
    np.testing.assert_array_equal(x.numpy(), [[1.0], [np.nan], [0.0]])


@pytest.mark.parametrize("kind", [pa.decimal128(1, 0), pa.decimal128(5, 2)])
def test_decimals_of_0_and_1_come_back(kind):
    values = [Decimal(k % 2) for k in range(40)]
    columns = kinds_of({"x": pa.array(values, kind)})
    assert columns.kinds[0].name == "boolean"
    found = Columns.from_record(columns.as_record()).decode(columns.encode({"x": pa.array(values, kind)})).column("x")
    assert (found.type, found.to_pylist()) == (kind, values)


@pytest.mark.parametrize(
    "levels", [[time(9), time(8)], [date(2024, 1, 1), date(1950, 1, 1)], [Decimal("1.5"), Decimal("0.5")]]
)
def test_levels_in_an_order_may_be_of_any_type(levels):
    column = pa.DictionaryArray.from_arrays(pa.array([0, 1] * 20, pa.int8()), pa.array(levels), ordered=True)
    columns = kinds_of({"x": column})
    assert columns.kinds[0].name == "ordinal"
    x = columns.encode({"x": column})
    assert x[:2].tolist() == [[0.0], [1.0]]
    found = Columns.from_record(columns.as_record()).decode(x).column("x")
    assert (found.type, found.to_pylist()) == (column.type, column.to_pylist())


def test_moments_more_centuries_apart_than_64_bits_hold_nanoseconds():
    ticks = draws().integers(-9 * 10**9, 9 * 10**9, 60) * 10**9 + 5
    column = pa.array(ticks, pa.timestamp("ns"))
    columns = kinds_of({"x": column})
    kind: Any = columns.kinds[0]
    assert kind.ticks % 10**9 == 0
    assert columns.decode(columns.encode({"x": column})).column("x").to_pylist() == column.to_pylist()
    fine = pa.array([-(9 * 10**18) + 1, -8 * 10**18, 9 * 10**18], pa.timestamp("ns"))  # float64 rounds these
    columns = kinds_of({"x": fine})
    found = columns.decode(columns.encode({"x": fine})).column("x")
    assert np.abs(np.asarray(found.cast(pa.int64())) - np.asarray(fine.cast(pa.int64()))).max() < 10_000


@pytest.mark.parametrize("unit", ["ns", "us"])
def test_moments_beyond_what_the_type_of_a_column_holds_are_refused(unit):
    columns = kinds_of({"x": pa.array(draws().integers(0, 10**9, 60), pa.timestamp("s")).cast(pa.timestamp(unit))})
    far = pa.array([0, 10_413_792_000 if unit == "ns" else 2**62], pa.timestamp("s"))
    with pytest.raises(DataError, match=rf"'x' holds what timestamp\[{unit}\] cannot hold"):
        columns.encode({"x": far})
    if unit == "ns":
        with pytest.raises(DataError, match="cannot hold"):
            columns.encode({"x": pa.array([date(2300, 1, 1)])})
    finer = pa.array([10**9 + 1], pa.timestamp("ns"))
    assert columns.encode({"x": finer}).isfinite().all()


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint64()])
def test_large_whole_numbers_may_come_as_floats_and_decimals(kind):
    start = 2**53 if kind == pa.int64() else 2**63
    columns = kinds_of({"x": pa.array([start + 4096 * int(k) for k in draws().integers(0, 50, 60)], kind)})
    found: Any = columns.kinds[0]
    origin = found.origin
    floats = pa.array([float(start + 4096), None, np.nan, np.inf])
    assert columns.encode({"x": floats})[:, 0].nan_to_num(-1).tolist() == [
        start + 4096 - origin, -1, -1, torch.finfo(torch.float64).max
    ]  # fmt: skip
    assert columns.encode({"x": pa.array([Decimal(start + 1)], pa.decimal128(20, 0))}).item() == start + 1 - origin


def test_samples_stay_within_what_a_narrow_type_holds():
    decimals = pa.array([Decimal(int(k)) / 100 for k in draws().integers(-999, 999, 60)], pa.decimal128(3, 2))
    columns = kinds_of({"x": decimals}, {"x": "continuous"})
    assert columns.decode([[12.3], [-50.0], [1.234]]).column("x").to_pylist() == [
        Decimal("9.99"), Decimal("-9.99"), Decimal("1.23")
    ]  # fmt: skip
    for dtype in (np.float16, np.float32):
        columns = kinds_of({"x": draws().normal(size=60).astype(dtype)})
        assert columns.decode([[1e39], [-1e39]]).column("x").to_pylist() == [np.finfo(dtype).max, np.finfo(dtype).min]


def test_what_is_rounded_to_0_has_no_sign():
    columns = kinds_of({"x": draws().lognormal(3, 1, 400).round(2) + 0.01}, {"x": "positive"})
    assert str(columns.decode([[0.001]]).column("x")[0].as_py()) == "0.0"


def test_an_angle_just_below_the_lower_end_is_within_the_circle():
    columns = kinds_of({"x": draws().random(60) * 360}, {"x": "circular(0,360)"})
    assert columns.encode({"x": [-1e-20, 360.0, 359.5]})[:, 0].tolist() == [0.0, 0.0, 359.5]


def test_levels_of_decimals_are_found_among_other_types():
    columns = kinds_of({"x": pa.array([Decimal("1.50"), Decimal("2.00")] * 30)}, {"x": "categorical"})
    for same in ([1.5, 2.0], ["1.5", "2"], [Decimal("1.5"), Decimal("2.0")]):
        assert columns.encode({"x": same})[:, 0].tolist() == [0.0, 1.0]
    assert columns.encode({"x": [2]}).item() == 1.0
    with pytest.raises(DataError, match="unknown level"):
        columns.encode({"x": [1.503]})
    unseen: list = []
    assert columns.encode({"x": [1.503, 2.0]}, unseen=unseen)[:, 0].tolist() == [2.0, 1.0]
    assert len(unseen) == 1


def test_truth_values_as_text_may_have_gaps_and_blanks():
    columns = kinds_of({"x": [True, False] * 30})
    found = columns.encode({"x": pa.array([" true", "NA", "", "False "])})[:, 0]
    assert found.nan_to_num(-1).tolist() == [1, -1, -1, 0]
    assert columns.encode({"x": pa.array(["true"]).dictionary_encode()}).item() == 1
    with pytest.raises(DataError, match="row 2 holds 'maybe'"):
        columns.encode({"x": ["NA", "maybe"]})


@pytest.mark.parametrize(
    ("values", "na", "found"),
    [
        (pa.array([Decimal("-99.9"), Decimal(1)], pa.decimal128(5, 2)), "-99.9", [None, Decimal(1)]),
        (pa.array([-99.9, 1], pa.float32()), "-99.9", [None, 1.0]),
        (pa.array(np.array([-99.9, 1], np.float16)), "-99.9", [None, 1.0]),
        (pa.array([2**53 + 1, 2**53]), str(2**53 + 1), [None, 2**53]),
        (pa.array([1, 2], pa.uint8()), "1.0", [None, 2]),
        (pa.array([1, 2], pa.uint8()), "-999", [1, 2]),
        (pa.array([1, 2]), "1.5", [1, 2]),
        (pa.array([1, 2]).dictionary_encode(), "1", [None, 2]),
    ],
)
def test_numbers_that_mean_a_gap_are_those_of_the_type_of_their_column(values, na, found):
    table = read_table({"x": values}, na=[na, "x", "nan", "inf", "1e400"])
    assert table.arrow.column("x").to_pylist() == found


@pytest.mark.parametrize("dtype", ["Int64", "boolean", "string", "category", "datetime64[ns, Europe/Berlin]"])
def test_columns_of_pandas_in_a_dictionary_are_those_of_a_frame(dtype):
    pandas = pytest.importorskip("pandas")
    value = {"Int64": 2**53 + 1, "boolean": True, "datetime64[ns, Europe/Berlin]": "2024-01-01"}.get(dtype, "a")
    frame = pandas.DataFrame({"x": pandas.Series([value, None], dtype=dtype)})
    assert read_table({"x": frame["x"]}).arrow == read_table(frame).arrow


def test_what_is_masked_in_a_context_is_a_gap():
    values = np.ma.masked_array(draws().normal(size=(30, 2)), mask=np.eye(30, 2, dtype=bool))
    learned = ContextColumns.learn(values, {})
    assert learned.features == 4
    assert learned.encode(values).equal(ContextColumns.learn(values.filled(np.nan), {}).encode(values.filled(np.nan)))


def test_the_order_of_levels_stays_where_one_means_a_gap():
    column = pa.DictionaryArray.from_arrays(
        pa.array([3, 0, 1, 2] * 20, pa.int8()), ["S", "M", "none", "L"], ordered=True
    )
    found: Any = kinds_of({"x": column}, na=["none"]).kinds[0]
    assert (found.name, found.levels, found.missing) == ("ordinal", ("S", "M", "L"), 20)


@pytest.mark.parametrize(
    "column",
    [
        pa.array(draws().normal(size=60).astype(np.float32)),
        pa.array(draws().integers(10**16, 10**17, 60)).cast(pa.timestamp("us")),
        pa.array([Decimal(k % 4) / 10 for k in range(60)]).dictionary_encode(),
    ],
    ids=lambda column: str(column.type),
)
def test_a_column_written_as_text_has_the_same_numbers(tmp_path, column):
    table = pa.table({"x": column, "y": draws().normal(size=60)})
    columns = kinds_of(table)
    write_table(tmp_path / "t.csv", table)
    assert columns.encode(tmp_path / "t.csv").equal(columns.encode(table))


@pytest.mark.parametrize(("resolution", "rest"), [(0.000001, "circle"), (1, "grid"), (60, "grid")])
def test_midnight_is_both_ends_of_a_day(resolution, rest):
    drawn = np.random.default_rng(0).normal(0, 7000, 400) % 86_400 // resolution * resolution
    times = [(datetime(2024, 1, 1) + timedelta(seconds=second)).time() for second in drawn.tolist()]
    columns = kinds_of(pa.table({"at": pa.array(times)}))
    head = columns.heads()[0]
    assert (head["rest"], head["low"]) == (rest, 0.0)
    assert 86_400 - 1 < head["high"] <= 86_400
    decoded = columns.decode([[0.0], [86_399.9999999], [86_400.0], [86_460.0]]).column("at").to_pylist()
    assert decoded == [time(0, 0), time(0, 0), time(0, 0), time(0, 1)]
