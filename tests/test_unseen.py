"""Levels that a categorical column did not have when it was learned: scored by a documented rule, refused elsewhere."""

import itertools
import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

import flowstone
from cases import disturb, same
from flowstone import FlowDensity, FlowOutlierDetector
from flowstone.data.tables import Columns, Unseen, kinds_of, warn_unseen
from flowstone.errors import DataError, DataWarning, SettingError
from flowstone.estimators.neighbourhood import Scale
from flowstone.mixed import Column, MixedDensity
from flowstone.recipes import mixed
from flowstone.table_model import TableModel

NAN, N = math.nan, 120
SMALL: dict[str, Any] = {"width": 16, "blocks": 1, "bins": 4, "pieces": 16}
SCORED = {"sex": ["F", "X", "X", "M"], "size": ["S", "M", "XL", None], "height": [170.0, 171.0, 172.0, 173.0]}
both_orders = pytest.mark.parametrize("order", ["any", "given"])


def people() -> dict[str, list]:
    rng = np.random.default_rng(0)
    gaps = rng.random(N) < 0.1
    sizes = [None if gap else str(size) for gap, size in zip(gaps, rng.choice(["S", "M", "L"], N), strict=True)]
    return {"sex": rng.choice(["F", "M"], N).tolist(), "size": sizes, "height": rng.normal(170, 8, N).tolist()}


@pytest.fixture(scope="module")
def model() -> TableModel:
    """A density of people, whose sizes are ordinal and have gaps."""
    columns = kinds_of(people(), {"size": "ordinal(S,M,L)"})
    torch.manual_seed(0)
    density = mixed(3, columns=columns.heads(), **SMALL)
    density.initialize(columns.encode(people()))
    disturb(density, 1.0)
    return TableModel(density.double().eval(), columns)


def unseen_of(model: TableModel) -> tuple[float, float]:
    """The probability of unseen levels of sex and size: one in as many as there were values, and one more."""
    return 1 / (N + 1), 1 / (N - people()["size"].count(None) + 1)


# The density


@both_orders
@pytest.mark.parametrize("several", [False, True])
def test_the_total_mass_is_the_product_over_columns(float64, order, several):
    columns = [
        {"name": "a", "atoms": [0, 1, 2], "rest": None, "unseen": 0.1},
        {"name": "b", "atoms": [1], "rest": "grid", "step": 1, "low": 0, "high": 1},
        {"name": "c", "atoms": [0, 1], "rest": None, "gaps": True, "unseen": 0.03},
    ]
    torch.manual_seed(1)
    made = mixed(3, columns=columns, order=order, **SMALL)
    disturb(made, 1.0)
    known = torch.tensor(list(itertools.product([0, 1, 2], [0, 1], [0, 1])), dtype=torch.float64)
    all_rows = torch.tensor(list(itertools.product([0, 1, 2, 3], [0, 1], [0, 1, 2])), dtype=torch.float64)
    how: dict[str, Any] = {"order": [[0, 1, 2], [2, 0, 1]]} if several and order == "any" else {}
    same(made.log_prob(known, **how).exp().sum(), torch.tensor(1.0, dtype=torch.float64), 1e-9)
    same(made.log_prob(all_rows, **how).exp().sum(), torch.tensor(1.1 * 1.03, dtype=torch.float64), 1e-9)


@both_orders
def test_an_unseen_value_is_its_probability_times_the_others_without_it(float64, order):
    columns = [
        {"name": "a", "atoms": [0, 1], "rest": None, "gaps": True, "unseen": 0.1},
        {"name": "x", "rest": "real"},
        {"name": "b", "atoms": [0, 1], "rest": None},
    ]
    torch.manual_seed(2)
    made = mixed(3, columns=columns, order=order, **SMALL)
    disturb(made, 1.0)
    x = torch.tensor([[2.0, 0.5, 1.0], [7.5, -1.0, 0.0]], dtype=torch.float64)  # whatever is none of the atoms
    without = x.clone()
    without[:, 0] = NAN
    same(made.log_prob(x), math.log(0.1) + made.log_prob(without), 1e-12)
    terms = made.column_log_prob(x, gaps="event")
    zero = made.column_log_prob(torch.tensor([[0.0, 0.5, 1.0]], dtype=torch.float64), gaps="event")[0, 0]
    there = zero - made.column_log_prob(torch.tensor([[0.0, 0.5, 1.0]], dtype=torch.float64))[0, 0]
    same(terms[:, 0], (math.log(0.1) + there).expand(2), 1e-12)  # a value is there, and it is an unseen one
    same(terms[:, 1:], made.column_log_prob(without)[:, 1:], 1e-12)
    impossible = torch.tensor([[0.0, 0.5, 2.0]], dtype=torch.float64)
    assert made.log_prob(impossible).item() == -math.inf
    with pytest.raises(DataError, match="column 'a' is 2"):
        made.require_possible(x, "rows")


@pytest.mark.parametrize("head", [{"atoms": [0], "rest": None, "unseen": 1.0}, {"unseen": 0.1}])
def test_a_column_has_no_other_probability_of_unseen_values(head):
    with pytest.raises(SettingError, match="column 'x': unseen="):
        Column.of({"name": "x", **head})


# The kinds


def test_the_probability_is_one_in_the_values_that_were_there_and_one_more():
    columns = kinds_of(people(), {"size": "ordinal(S,M,L)"})
    missing = people()["size"].count(None)
    assert missing > 0
    assert [head.get("unseen") for head in columns.heads()] == [1 / (N + 1), 1 / (N - missing + 1), None]
    record = [{**kind, "rows": 0, "missing": 0} for kind in columns.as_record()]  # not counted
    assert [head.get("unseen") for head in Columns.from_record(record).heads()] == [1 / 3, 1 / 4, None]


def test_levels_beyond_the_last_are_of_the_rest_where_there_is_one():
    words = [f"word {number}" for number in np.random.default_rng(0).integers(0, 300, 3000)]
    columns = kinds_of({"w": words}, {"w": "categorical"})
    found: list[Unseen] = []
    assert columns.encode({"w": ["never seen"]}, unseen=found).item() == 255
    assert found == []
    assert columns.heads()[0]["unseen"] is None


def test_values_of_other_types_are_unseen_levels_and_nan_is_a_gap():
    columns = kinds_of({"c": [1, 2, 7] * 30}, {"c": "categorical"})
    for values, expected in (
        ([1, 3, 7], [0, 3, 2]),
        (["1", "red", "7"], [0, 3, 2]),
        ([1.0, 2.5, 7.0], [0, 3, 2]),
        (pa.array(["1", "red", "7"]).dictionary_encode(), [0, 3, 2]),
    ):
        found: list[Unseen] = []
        assert columns.encode(pa.table({"c": values}), unseen=found)[:, 0].tolist() == expected
        assert [(each.row, each.rows) for each in found] == [(2, 1)]
        with pytest.raises(DataError, match="column 'c', row 2: unknown level"):
            columns.encode(pa.table({"c": values}))
    assert columns.encode(pa.table({"c": [1.0, NAN]})).isnan()[:, 0].tolist() == [False, True]


def test_a_third_truth_value_is_refused():
    columns = kinds_of({"b": [True, False] * 20})
    with pytest.raises(DataError, match="it is boolean"):
        columns.encode({"b": [2]}, unseen=[])


def test_chunks_are_warned_of_together():
    first = Unseen("t.csv", "c", "'x'", 3, 2, "did you mean 'y'?", 0.125)
    other = Unseen("t.csv", "d", "5", 9, 1, "its levels are 1, 2", 0.5)
    with pytest.warns(DataWarning) as told:
        warn_unseen([first, other, Unseen("t.csv", "c", "'z'", 11, 4, "its levels are y", 0.125)])
    assert [str(each.message) for each in told] == [
        "t.csv: column 'c', row 3: unknown level 'x' (did you mean 'y'?): scored as another level, of probability "
        "0.125 (6 such rows)",
        "t.csv: column 'd', row 9: unknown level 5 (its levels are 1, 2): scored as another level, of probability 0.5 "
        "(1 such row)",
    ]


# Tables in


def scored_without(model: TableModel) -> np.ndarray:
    """The log-likelihoods of ``SCORED`` from those without unseen levels."""
    sex, size = map(math.log, unseen_of(model))
    known = {**SCORED, "sex": ["F", None, None, "M"], "size": ["S", "M", None, None]}
    return model.log_prob(known) + np.array([0.0, sex, sex + size, 0.0])


def test_a_table_is_scored_and_its_unseen_levels_are_named(model):
    with pytest.warns(DataWarning) as told:
        found = model.log_prob(SCORED)
    np.testing.assert_allclose(found, scored_without(model), atol=1e-9)
    assert [str(each.message).split(": ", 1)[1] for each in told] == [
        "column 'sex', row 2: unknown level 'X' (its levels are F, M): scored as another level, of probability "
        "0.008264 (2 such rows)",
        "column 'size', row 3: unknown level 'XL' (did you mean 'L'?): scored as another level, of probability "
        f"{unseen_of(model)[1]:.4g} (1 such row)",
    ]


def test_that_values_are_there_counts_where_gaps_are_events(model):
    with pytest.warns(DataWarning):
        found = model.log_prob(SCORED, gaps="event")
    density = model.density
    assert isinstance(density, MixedDensity)
    some_size = torch.tensor([[2.0, 0.0, NAN]], dtype=torch.float64)  # of the unseen sex of row 3
    there = density.column_log_prob(some_size, gaps="event") - density.column_log_prob(some_size)
    sex, size = map(math.log, unseen_of(model))
    height = model.log_prob({"sex": [None], "size": [None], "height": SCORED["height"][2:3]})
    np.testing.assert_allclose(found[2], sex + size + there[0, 1].item() + height[0], atol=1e-9)


def test_the_term_of_a_column_is_its_probability(model):
    with pytest.warns(DataWarning):
        terms = model.column_log_prob(SCORED)
    sex, size = map(math.log, unseen_of(model))
    assert terms.column("sex").to_pylist()[1:3] == pytest.approx([sex, sex], abs=1e-12)
    assert terms.column("size").to_pylist()[2] == pytest.approx(size, abs=1e-12)
    others = model.column_log_prob({"sex": [None], "size": ["M"], "height": [171.0]})
    assert terms.column("height")[1].as_py() == pytest.approx(others.column("height")[0].as_py(), abs=1e-9)


@pytest.mark.parametrize(
    "ask",
    [
        lambda model: model.sample(1, {"sex": "X"}),
        lambda model: model.sample_given({"sex": ["F", "X"]}, 1),
        lambda model: model.impute(SCORED),
        lambda model: model.quantiles(SCORED, "height", [0.5]),
        lambda model: model.tail(SCORED, "height"),
        lambda model: model.encode(SCORED),
        lambda model: model.known_row({"sex": "X"}),
    ],
)
def test_where_values_are_given_they_are_refused(model, ask):
    with pytest.raises(DataError, match=r"unknown level 'X'.*: its levels are F, M"):
        ask(model)


def test_densities_that_have_no_such_probability_refuse_them(model):
    heads = [{key: value for key, value in head.items() if key != "unseen"} for head in model.columns.heads()]
    with pytest.raises(DataError, match="unknown level 'X'"):
        TableModel(mixed(3, columns=heads, **SMALL), model.columns).log_prob(SCORED)
    with pytest.raises(DataError, match="unknown level 'X'"):
        TableModel(flowstone.nice(3), model.columns).log_prob(SCORED)


def test_folders_have_it_and_older_ones_get_it_from_the_kinds(model, tmp_path):
    model.save(tmp_path / "new")
    heads = json.loads((tmp_path / "new" / "flow.json").read_text())["arguments"]["columns"]
    assert [head.get("unseen") for head in heads] == [*unseen_of(model), None]
    old = mixed(3, columns=[{k: v for k, v in head.items() if k != "unseen"} for head in heads], **SMALL).double()
    old.load_state_dict(model.density.state_dict())
    TableModel(old, model.columns).save(tmp_path / "old")
    for name in ("new", "old"):
        with pytest.warns(DataWarning):
            found = TableModel.load(tmp_path / name).log_prob(SCORED)
        np.testing.assert_allclose(found, scored_without(model), atol=1e-9)
        density = flowstone.load(tmp_path / name)
        assert isinstance(density, MixedDensity)
        assert [column.unseen for column in density.columns] == [*unseen_of(model), None]


# Estimators


FRAME = pd.DataFrame({"sex": people()["sex"], "height": people()["height"]})
NEW = pd.DataFrame({"sex": ["F", "X"], "height": [170.0, 170.0]})


def test_an_estimator_scores_them(tmp_path):
    made = FlowDensity(models="independent", random_state=0).fit(FRAME)
    with pytest.warns(DataWarning, match=r"column 'sex', row 2: unknown level 'X' .*0.008264 \(1 such row\)"):
        found = made.score_samples(NEW)
    height = made.score_samples(NEW.assign(sex=None))[1]
    assert found[1] == pytest.approx(height - math.log(N + 1), abs=1e-5)
    made.save(tmp_path)
    with pytest.warns(DataWarning):
        assert np.array_equal(FlowDensity.load(tmp_path).score_samples(NEW), found)
    with pytest.warns(DataWarning):
        assert made.score(NEW) == pytest.approx(found.mean())
    for ask in (
        lambda: made.conditional({"sex": "X"}),
        lambda: made.sample(1, {"sex": "X"}),
        lambda: made.impute(NEW),
    ):
        with pytest.raises(DataError, match="unknown level 'X'"):
            ask()
    given = FlowDensity(models="gaussian", random_state=0).fit(FRAME[["height"]].to_numpy(), context=FRAME[["sex"]])
    with pytest.raises(DataError, match="unknown level 'X'"):
        given.score_samples(NEW[["height"]].to_numpy(), context=NEW[["sex"]])


def test_they_make_a_row_more_anomalous():
    detector = FlowOutlierDetector(models="independent", random_state=0).fit(FRAME)
    with pytest.warns(DataWarning, match="unknown level 'X'"):
        scores = detector.score_samples(NEW)
    assert np.isfinite(scores).all()
    assert scores[1] < scores[0]
    with pytest.warns(DataWarning, match="unknown level 'X'"):
        p_values = detector.p_values(NEW)
    assert p_values[1] < p_values[0]
    with pytest.warns(DataWarning, match="unknown level 'X'"):
        assert detector.blame(NEW)[1].argmax() == 0


@pytest.mark.parametrize("count", [1, 2, 5])
def test_they_lie_as_far_from_all_levels_as_these_from_each_other(count):
    head = {"atoms": [float(level) for level in range(count)], "rest": None}
    points = Scale.of(torch.zeros(2, 1), [head])(torch.arange(count + 1, dtype=torch.float64)[:, None])
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.testing.assert_allclose(distances, 1 - np.eye(count + 1), atol=1e-12)
