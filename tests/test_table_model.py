"""Models of tables: a table in; samples, likelihoods, gaps filled and any columns given, as tables."""

import datetime
import math
import pickle
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

import flowstone
from flowstone.errors import CheckpointError, DataError, SettingError, UnknownNameError
from flowstone.table_model import TableModel, learn

SMALL = {"width": 16, "blocks": 1, "bins": 4, "pieces": 16}


def rows(n: int = 400) -> pa.Table:
    """People whose height follows from their sex, with gaps, atoms, a constant, a date and an id."""
    rng = np.random.default_rng(0)
    sex = rng.choice(["F", "M"], n)
    spent = np.where(rng.random(n) < 0.5, 0.0, np.round(rng.exponential(30, n), 2))
    cities = [
        None if gap else str(city)
        for gap, city in zip(rng.random(n) < 0.1, rng.choice(["Bern", "Oslo"], n), strict=True)
    ]
    day = datetime.date(2024, 1, 1)
    return pa.table({
        "id": np.arange(n) + 7000,
        "sex": pa.array(sex).dictionary_encode(),
        "age": pa.array(rng.integers(18, 80, n), pa.int16()),
        "height": np.where(sex == "F", 165.0, 178.0) + rng.normal(0, 6, n),
        "spent": spent,
        "city": cities,
        "unit": ["m"] * n,
        "active": rng.random(n) < 0.3,
        "day": [day + datetime.timedelta(days=int(d)) for d in rng.integers(0, 300, n)],
    })  # fmt: skip


@pytest.fixture(scope="module")
def table():
    return rows()


@pytest.fixture(scope="module")
def model(table):
    return learn(table, steps=60, progress=False, arguments=SMALL)


def test_samples_are_rows_of_the_same_table(model, table):
    drawn = model.sample(300, seed=1)
    kept = [name for name in table.column_names if name != "id"]
    assert drawn.column_names == kept
    assert drawn.schema.types == table.select(kept).schema.types
    assert set(drawn.column("unit").to_pylist()) == {"m"}
    assert set(drawn.column("city").to_pylist()) == {"Bern", "Oslo"}
    ages = drawn.column("age").to_numpy()
    assert ((ages >= 0) & (ages < 120)).all()
    spent = drawn.column("spent").to_numpy()
    assert (spent >= 0).all()
    assert 0.2 < (spent == 0).mean() < 0.8
    assert np.allclose(spent, np.round(spent, 2), atol=1e-9)
    assert drawn.equals(model.sample(300, seed=1))
    assert not drawn.equals(model.sample(300, seed=2))


def test_gaps_are_drawn_where_asked(model):
    assert model.sample(300, seed=1).column("city").null_count == 0
    drawn = model.sample(300, seed=1, gaps=True)
    assert 0 < drawn.column("city").null_count < 120
    assert drawn.column("age").null_count == 0


def test_given_values_stay(model):
    drawn = model.sample(50, {"sex": "M", "age": 40, "day": datetime.date(2024, 5, 1)}, seed=0)
    assert set(drawn.column("sex").to_pylist()) == {"M"}
    assert set(drawn.column("age").to_pylist()) == {40}
    assert set(drawn.column("day").to_pylist()) == {datetime.date(2024, 5, 1)}


def test_of_several_values_each_comes_by_its_probability(model):
    given = {"sex": ["F", "M"], "city": ["Oslo", "Bern"], "active": True}
    drawn = model.sample(4000, given, seed=0)
    x = torch.full((2, len(model.columns.names)), torch.nan, dtype=torch.float64)
    place = {name: index for index, name in enumerate(model.columns.names)}
    x[:, place["sex"]], x[:, place["active"]] = torch.tensor([0.0, 1.0], dtype=torch.float64), 1.0
    with torch.no_grad():
        share = model.density.log_prob(
            x, order=[place["active"], *(i for i in range(x.shape[1]) if i != place["active"])]
        )
    wanted = share.softmax(0)[0].item()
    found = (np.array(drawn.column("sex").to_pylist()) == "F").mean()
    assert abs(found - wanted) < 4 * (wanted * (1 - wanted) / 4000) ** 0.5
    assert set(drawn.column("city").to_pylist()) == {"Oslo", "Bern"}


def test_of_several_lists_each_combination_comes_by_its_probability(model):
    given = {"sex": ["F", "M"], "age": [20, 70], "active": True}
    one, other = (model.sample(4000, dict(values), seed=0) for values in (given.items(), reversed(given.items())))
    x = model.encode({"sex": ["F", "F", "M", "M"], "age": [20, 70, 20, 70], "active": [True] * 4}, partial=True)
    known = torch.tensor([name == "active" for name in model.columns.names])
    with torch.no_grad():
        wanted = model.density.conditional_log_prob(x, known).softmax(0).numpy()
    for drawn in (one, other):
        x = model.encode(drawn)[:, [model.columns.names.index(name) for name in ("sex", "age")]]
        found = [((x == torch.tensor([sex, age])).all(1)).double().mean() for sex in (0, 1) for age in (20, 70)]
        assert (np.abs(np.array(found) - wanted) < 4 * (wanted * (1 - wanted) / 4000) ** 0.5).all()
    with pytest.raises(SettingError, match="given age, spent: 1500625 combinations"):
        model.sample(1, {"age": list(range(1225)), "spent": list(range(1225))})


def test_what_is_drawn_beside_a_list_of_values_is_drawn_given_them(model):
    drawn = model.sample(4000, {"active": [True, False]}, seed=0)
    active, women = (np.array(drawn.column(name).to_pylist()) for name in ("active", "sex"))
    for value in (True, False):
        alone = np.array(model.sample(4000, {"active": value}, seed=1).column("sex").to_pylist()) == "F"
        found, error = (women == "F")[active == value], alone.std() * (1 / (active == value).sum() + 1 / 4000) ** 0.5
        assert abs(found.mean() - alone.mean()) < 4 * error


def test_each_row_of_known_values_has_its_samples(model):
    drawn = model.sample_given(pa.table({"sex": ["F", "M"], "age": [30, None]}), 3, seed=0)
    assert drawn.column("sex").to_pylist() == ["F"] * 3 + ["M"] * 3
    assert drawn.column("age").to_pylist()[:3] == [30] * 3
    assert drawn.column("age").null_count == 0


@pytest.mark.parametrize("n", [2, 5])
def test_samples_of_known_values_come_in_chunks(model, monkeypatch, n):
    monkeypatch.setattr("flowstone.table_model.CHUNK", 3)
    known = pa.table({"sex": ["F", "M", "F"]})
    chunks = list(model.stream_given(known, n, seed=0))
    assert len(chunks) >= 3
    assert max(map(len, chunks)) <= 3
    drawn = pa.concat_tables(chunks)
    assert drawn.column("sex").to_pylist() == ["F"] * n + ["M"] * n + ["F"] * n
    assert len(set(drawn.column("height").to_pylist())) == 3 * n  # no chunk repeats another
    assert drawn.equals(model.sample_given(known, n, seed=0))


def test_likelihoods_are_those_of_the_density(model, table):
    x = model.encode(table)
    with torch.no_grad():
        assert np.array_equal(model.log_prob(table), model.density.log_prob(x).double().numpy())
        event = model.density.log_prob(x, gaps="event").double().numpy()
    assert np.array_equal(model.log_prob(table, gaps="event"), event)
    terms = model.column_log_prob(table.slice(0, 20))
    assert terms.column_names == list(model.columns.names)
    assert [name for name in terms.column_names if terms.column(name).null_count] == ["city"]
    others = torch.ones(x.shape[1], dtype=torch.bool)
    others[2] = False
    with torch.no_grad():
        wanted = model.density.conditional_log_prob(x[:20], others).double().numpy()
    assert np.allclose(terms.column(model.columns.names[2]).to_numpy(), wanted)


@pytest.mark.parametrize("how", ["draw", "likely"])
def test_imputation_fills_gaps_and_changes_nothing_else(model, table, how):
    holes = {name: table.column(name).to_pylist() for name in table.column_names}
    holes["spent"][1] = 12.345  # not on the grid of cents, and stays as it is
    for name in ("age", "height", "sex", "day", "spent"):
        holes[name] = [None if row % 3 == 0 else value for row, value in enumerate(holes[name])]
    holed = pa.table({name: pa.array(values, table.schema.field(name).type) for name, values in holes.items()})
    filled = model.impute(holed, how=how, seed=3)
    assert filled.schema.names == table.schema.names
    for name in table.column_names:
        column = filled.column(name).to_pylist()
        assert None not in column
        assert all(new == old for new, old in zip(column, holes[name], strict=True) if old is not None)
    assert filled.equals(model.impute(holed, how=how, seed=3))
    assert filled.equals(model.impute(holed, how=how, seed=4)) == (how == "likely")


def test_gaps_of_a_constant_column_are_filled_with_its_value(model, table):
    place = table.column_names.index("unit")
    units = pa.array([None, "m"] * 10)
    holed = table.slice(0, 20).set_column(place, "unit", units)
    assert model.impute(holed, seed=0).equals(model.impute(table.slice(0, 20), seed=0))
    labels = holed.set_column(place, "unit", units.dictionary_encode())
    assert model.impute(labels, seed=0).column("unit").to_pylist() == ["m"] * 20
    with pytest.raises(DataError, match=r"'unit' is of type int64, which does not hold what fills its gaps \('m'\)"):
        model.impute(holed.set_column(place, "unit", pa.array([None, 1] * 10)))


@pytest.mark.parametrize("name", ["sex", "age", "height", "city", "active", "day"])
@pytest.mark.parametrize("values", [[[1], None], [{"a": 1}, None]], ids=["lists", "structs"])
def test_columns_of_types_that_no_kind_reads_are_named(model, table, name, values):
    rows = table.slice(0, 2).set_column(table.column_names.index(name), name, pa.array(values))
    for act in (model.log_prob, model.impute, model.column_log_prob):
        with pytest.raises(DataError, match=f"column '{name}'.* of type|column '{name}', row 1"):
            act(rows)
    with pytest.raises((DataError, SettingError), match=f"given {name}"):
        model.sample(1, {name: [values[0]]})


def test_labels_that_are_whole_numbers_are_filled(model, table):
    ages = pa.array([40, None, 30], pa.int32()).dictionary_encode()
    place = table.column_names.index("height")
    filled = model.impute(table.slice(0, 3).set_column(place, "height", ages), seed=0).column("height")
    assert filled.type == ages.type
    assert filled.null_count == 0


def test_a_saved_model_is_the_same(model, table, tmp_path):
    model.save(tmp_path / "model")
    loaded = TableModel.load(tmp_path / "model")
    assert np.array_equal(loaded.log_prob(table), model.log_prob(table))
    assert loaded.sample(20, seed=0).equals(model.sample(20, seed=0))
    flowstone.save(flowstone.nice(2), tmp_path / "flow")
    with pytest.raises(CheckpointError, match="no kinds of columns"):
        TableModel.load(tmp_path / "flow")


def test_what_meant_a_gap_when_it_was_learned_does_so_later(tmp_path):
    values = np.random.default_rng(0).normal(size=(100, 2))
    values[::4, 1] = -999
    learned = learn({"a": values[:, 0], "b": values[:, 1]}, na=["-999"], steps=2, progress=False, arguments=SMALL)
    learned.save(tmp_path / "model")
    marked, plain = ({"a": [0.1, 0.2], "b": [gap, 0.4]} for gap in (-999.0, None))
    for each in (learned, TableModel.load(tmp_path / "model")):
        assert np.array_equal(each.log_prob(marked), each.log_prob(plain))
        assert each.impute(marked, seed=0).equals(each.impute(plain, seed=0))
        assert each.sample_given(marked, seed=0).equals(each.sample_given(plain, seed=0))


def test_levels_keep_their_order_and_chunks_their_types():
    rng = np.random.default_rng(0)
    codes, kind = rng.integers(0, 3, 100), pa.dictionary(pa.int8(), pa.string(), ordered=True)
    sizes = pa.DictionaryArray.from_arrays(
        pa.array(codes, pa.int8(), mask=codes == 1), ["small", "large", "giant"], ordered=True
    )
    table = pa.table({"size": sizes, "x": rng.normal(size=100)})
    model = learn(table, steps=2, progress=False, arguments=SMALL)
    for rows in (model.sample(3, seed=0), *(model.impute(table.slice(0, count)) for count in (100, 5, 0))):
        assert rows.schema.field("size").type == kind
        levels = [chunk.dictionary.to_pylist() for chunk in rows.column("size").chunks if len(chunk)]
        assert levels == [["small", "large", "giant"]] * len(levels)
    assert model.impute(table).column("size").null_count == 0


@pytest.mark.parametrize("how", ["draw", "likely"])
def test_a_chunk_without_rows_is_filled(model, table, how):
    assert model.impute(table.slice(0, 0), how=how).schema == table.schema
    with pytest.raises(DataError, match="the table is empty"):
        model.log_prob(table.slice(0, 0))


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"sexx": "F"}, UnknownNameError, "did you mean 'sex'"),
        ({"id": 3}, SettingError, "column 'id' is identifier: it is not part of the density"),
        ({"sex": "Female"}, DataError, "unknown level 'Female'"),
        ({"age": "old"}, DataError, "holds 'old'"),
        ({"spent": -5.0}, SettingError, "no such value can be"),
        ({"sex": []}, SettingError, "no value"),
        ({"age": pd.NA}, SettingError, "it is a gap"),
        ({3: 1.0}, UnknownNameError, "unknown column '3'"),
        ([("sex", "F")], SettingError, "given is a list; expected values by column"),
        ("sex", SettingError, "given is a str"),
    ],
)
def test_bad_values_given(model, given, error, words):
    with pytest.raises(error, match=words) as raised:
        model.sample(1, given)
    assert "\n" not in str(raised.value)
    sent = pickle.loads(pickle.dumps(raised.value))  # as one process sends it to another
    assert (type(sent), str(sent)) == (error, str(raised.value))


@pytest.mark.parametrize(
    "values", [pd.Series(["F"]), pl.Series(["F"]), pa.array(["F"]), {"F"}, np.array("F"), np.str_("F")]
)
def test_given_values_may_be_in_any_container(model, values):
    assert model.sample(2, {"sex": values}, seed=0).column("sex").to_pylist() == ["F", "F"]


@pytest.mark.parametrize("seed", [-1, 2**70, 1.5, "a"])
def test_seeds_that_cannot_be_are_named(model, table, seed):
    for use in (lambda: model.sample(1, seed=seed), lambda: learn(table, seed=seed)):
        with pytest.raises(SettingError, match=f"seed={seed!r}"):
            use()


def test_a_fixed_order_says_what_it_cannot_do(table):
    ordered = learn(table, steps=2, progress=False, arguments=SMALL | {"order": "given"})
    assert ordered.sample(3, {"sex": "F"}, seed=0).column("sex").to_pylist() == ["F"] * 3
    with pytest.raises(SettingError, match="fixed order"):
        ordered.sample(3, {"active": True})


def test_a_flow_of_whole_rows_is_a_model_too():
    numbers = np.random.default_rng(0).normal(size=(200, 2)) * 3.1
    flow = learn(numbers, recipe="nice", steps=2, progress=False)
    assert flow.sample(5, seed=0).column_names == ["x1", "x2"]
    assert np.isfinite(flow.log_prob(numbers)).all()
    with pytest.raises(SettingError, match="recipe='mixed'"):
        flow.impute(numbers)
    numbers[3, 1] = np.nan
    with pytest.raises(DataError, match="column 'x2', row 4 is missing"):
        learn(numbers, recipe="nice", steps=2, progress=False)


def test_learning_leaves_the_global_random_state_as_it_was():
    before = torch.get_rng_state()
    flowstone.learn({"a": np.random.default_rng(0).normal(size=200)}, steps=1, progress=False)
    assert torch.equal(torch.get_rng_state(), before)


def test_tables_that_hold_nothing_to_learn():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(DataError, match="no column is left"):
            learn({"id": list(range(100)), "unit": ["m"] * 100}, progress=False)
    with pytest.raises(DataError, match="3 rows"):
        learn({"x": [0.5, 1.25, 7.125], "y": [1.5, 0.25, 3.375]}, progress=False)


def test_quantiles_and_tails_are_of_one_column_given_the_others(model, table):
    few = table.slice(0, 40)
    found = model.quantiles(few, "height", [0.1, 0.5, 0.9])
    assert found.column_names == ["height:0.1", "height:0.5", "height:0.9"]
    low, middle, high = (found.column(name).to_numpy() for name in found.column_names)
    assert (low < middle).all()
    assert (middle < high).all()
    at_median = few.set_column(few.column_names.index("height"), "height", found.column("height:0.5"))
    assert np.abs(model.tail(at_median, "height") - 0.5).max() < 0.02
    days = model.quantiles(few, "day", [0.5]).column("day:0.5")
    assert days.type == table.schema.field("day").type
    above = model.tail(few, "age")
    assert ((above >= 0) & (above <= 1)).all()
    gap = few.set_column(3, "height", pa.nulls(40, pa.float64()))
    assert np.isnan(model.tail(gap, "height")).all()
    with pytest.raises(SettingError, match="'city' has no quantiles and no tails"):
        model.quantiles(few, "city", [0.5])
    with pytest.raises(SettingError, match="between 0 and 1"):
        model.quantiles(few, "height", [2])
    with pytest.raises(UnknownNameError, match="did you mean 'height'"):
        model.tail(few, "hight")


def test_close_probabilities_have_quantiles_of_their_own(model, table):
    found = model.quantiles(table.slice(0, 2), "height", [0.5, 0.9999999, 1])
    assert found.column_names == ["height:0.5", "height:0.9999999", "height:1"]


def test_probabilities_of_numpy_are_probabilities(model, table):
    found = model.quantiles(table.slice(0, 3), "height", np.float32(0.25))
    assert found.equals(model.quantiles(table.slice(0, 3), "height", np.array([0.25])))
    with pytest.raises(SettingError, match="probabilities=half: they lie between 0 and 1"):
        model.quantiles(table.slice(0, 3), "height", "half")


def test_texts_that_mean_a_gap_are_filled(model, table):
    texts = {name: ["NA" if row % 3 else str(each) for row, each in enumerate(table.column(name).to_pylist())]
             for name in ("age", "height", "active", "day")}  # fmt: skip
    rows = pa.table({**{name: table.column(name) for name in table.column_names}, **texts})
    filled = model.impute(rows, seed=0)
    for name, before in texts.items():
        after = filled.column(name).to_pylist()
        assert "NA" not in after
        assert after[::3] == before[::3]


def test_whole_numbers_are_filled_with_the_nearest_ones():
    learned = learn({"x": np.random.default_rng(0).normal(size=60) * 9}, steps=1, arguments=SMALL, progress=False)
    whole, exact = (learned.impute({"x": pa.nulls(200, kind)}, seed=0)["x"] for kind in (pa.int64(), pa.float64()))
    assert whole.to_pylist() == np.round(exact.to_numpy()).tolist()


def test_without_a_seed_rare_levels_are_filled_anew():
    words = [f"w{k}" for k in range(300)] * 2
    learned = learn({"x": words + ["w0"] * 900, "y": list(range(1500))}, kinds={"x": "categorical", "y": "continuous"},
                    steps=1, arguments=SMALL, progress=False)  # fmt: skip
    decoded, seeds = learned.columns.decode, []
    rows = pa.table({"x": pa.array([None] * 4, pa.string()), "y": [1.0] * 4})
    object.__setattr__(learned.columns, "decode", lambda x, seed: seeds.append(seed) or decoded(x, seed=seed))
    learned.impute(rows)
    learned.impute(rows)
    assert seeds[0] != seeds[1]


def test_times_of_day_have_a_density_on_the_circle_of_a_day():
    drawn = np.random.default_rng(0).normal(0, 3000, 300) % 86_400
    times = [(datetime.datetime(2024, 1, 1) + datetime.timedelta(seconds=second)).time() for second in drawn.tolist()]
    density = flowstone.learn(pa.table({"at": pa.array(times)}), steps=20, progress=False).density

    def log_density(seconds):
        return density.log_prob(seconds[:, None].to(density.data_dtype)).double()

    assert log_density(torch.arange(0, 86_400, 60.0)).exp().sum().item() * 60 == pytest.approx(1, abs=0.02)
    before, after = log_density(torch.tensor([86_399.99, 0.0], dtype=torch.float64)).tolist()
    assert before == pytest.approx(after, abs=0.01)
    assert after > 1 - math.log(86_400)  # more than a nat above times that are all alike
