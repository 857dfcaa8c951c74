"""Judges of synthetic tables: two-sample test, nearest rows, train on synthetic."""

import sys

import numpy as np
import pytest

from flowstone.errors import DataError, SettingError
from flowstone.evaluation import classifier_two_sample_test, nearest_rows, train_on_synthetic
from flowstone.evaluation.nearest_rows import _nearest, _spread


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def mixed_rows(rng, n, *, shift=0.0):
    """A number, a level that follows from it, and a number with gaps."""
    number = rng.normal(shift, 1, n)
    level = (number + rng.normal(0, 0.5, n) > 0).astype(float)
    return np.column_stack((number, level, np.where(rng.random(n) < 0.2, np.nan, rng.exponential(size=n))))


CODED = np.array([False, True, False])


def test_rows_of_one_distribution_cannot_be_told_apart(rng):
    result = classifier_two_sample_test(mixed_rows(rng, 1500), mixed_rows(rng, 1200), CODED)
    assert abs(result.auc - 0.5) < 4 * result.stderr
    assert result.score == 1 - (2 * max(0.5, result.auc) - 1)


def test_broken_dependence_is_noticed_though_every_column_is_right(rng):
    real, other = mixed_rows(rng, 1500), mixed_rows(rng, 1500)
    other[:, 1] = rng.permutation(other[:, 1])
    assert classifier_two_sample_test(real, other, CODED).score < 0.6


def test_gaps_are_part_of_the_comparison(rng):
    real, other = mixed_rows(rng, 800), mixed_rows(rng, 800)
    assert classifier_two_sample_test(real, np.nan_to_num(other), CODED).score < 0.85


def test_the_error_of_an_auc_is_that_of_repeated_tables(rng):
    results = [
        classifier_two_sample_test(rng.normal(size=(200, 1)), rng.normal(size=(200, 1)), seed=k) for k in range(30)
    ]
    spread = np.std([each.auc for each in results])
    assert 0.6 < spread / np.mean([each.stderr for each in results]) < 1.6


def test_tables_of_other_columns_are_refused(rng):
    with pytest.raises(DataError, match="2 and 3 columns"):
        classifier_two_sample_test(rng.normal(size=(9, 2)), rng.normal(size=(9, 3)))
    with pytest.raises(DataError, match="2 and 3 columns"):
        nearest_rows(rng.normal(size=(9, 2)), rng.normal(size=(9, 3)), rng.normal(size=(9, 2)))
    with pytest.raises(DataError, match="2 rows cannot be split into 3 folds"):
        classifier_two_sample_test(rng.normal(size=(9, 2)), rng.normal(size=(2, 2)))


def test_memorized_rows_are_nearer_to_training_rows(rng):
    training, held_out, fresh = (mixed_rows(rng, 500) for _ in range(3))
    honest, memorized = (
        nearest_rows(training, held_out, fresh, CODED),
        nearest_rows(training, held_out, training, CODED),
    )
    assert abs(honest.nearer_to_training - 0.5) < 0.1
    assert (honest.copies, honest.copies_held_out) == (0.0, 0.0)
    assert memorized.nearer_to_training > 0.99
    assert memorized.copies == 1.0


def test_chance_copies_of_short_columns_are_those_of_held_out_rows(rng):
    training, held_out, fresh = (rng.integers(0, 3, (400, 2)).astype(float) for _ in range(3))
    result = nearest_rows(training, held_out, fresh, np.array([True, True]))
    assert result.copies == result.copies_held_out == 1.0
    assert result.nearer_to_training == 0.5


@pytest.mark.parametrize("count", [5, 60])
def test_the_error_of_the_nearer_share_is_that_of_repeated_tables(rng, count):
    tables = ([rng.normal(size=(n, 2)) for n in (count, count, 800)] for _ in range(60))
    found = [nearest_rows(*each) for each in tables]
    spread = np.std([each.nearer_to_training for each in found])
    assert np.mean([each.stderr for each in found]) == pytest.approx(spread, rel=0.3)


def test_distances_count_levels_gaps_and_spreads():
    training = np.array([[0.0, 1.0, 10.0], [1.0, 2.0, 30.0], [2.0, 1.0, np.nan]])
    spread = _spread(training, CODED)
    assert spread.tolist() == [1.0, 1.0, 10.0]
    row = np.array([[0.5, 2.0, np.nan]])
    distances = [_nearest(row / spread, other[None] / spread, CODED)[0].item() for other in training]
    assert distances == [0.5 + 1 + 1, 0.5 + 0 + 1, 1.5 + 1 + 0]


@pytest.mark.parametrize(("target", "measure"), [(0, "r2"), (1, "auc")])
def test_independent_columns_are_worth_less_than_real_rows(rng, target, measure):
    real, test, good = (mixed_rows(rng, 1500) for _ in range(3))
    bad = np.column_stack([rng.permutation(column) for column in good.T])
    fair, poor = (train_on_synthetic(real, rows, test, target, CODED) for rows in (good, bad))
    assert fair.measure == measure
    assert abs(fair.synthetic - fair.real) < 0.05
    assert poor.synthetic < poor.real - 0.2


def test_levels_are_scored_by_accuracy_and_gaps_of_the_target_are_left_out(rng):
    level = rng.integers(0, 3, 900).astype(float)
    rows = np.column_stack((level + rng.normal(0, 0.1, 900), np.where(rng.random(900) < 0.1, np.nan, level)))
    result = train_on_synthetic(rows[:300], rows[300:600], rows[600:], 1, np.array([False, True]))
    assert result.measure == "accuracy"
    assert result.real > 0.95
    with pytest.raises(DataError, match="one value alone"):
        train_on_synthetic(np.ones((5, 2)), np.ones((5, 2)), np.ones((5, 2)), 1)


def test_columns_without_values_are_left_to_no_tree(rng):
    real, other = mixed_rows(rng, 300), mixed_rows(rng, 300)
    real[:, 2] = other[:, 2] = np.nan
    result = classifier_two_sample_test(real, other, CODED)
    assert abs(result.auc - 0.5) < 4 * result.stderr
    assert train_on_synthetic(real, other, mixed_rows(rng, 300), 1, CODED).real > 0.8
    assert nearest_rows(real, mixed_rows(rng, 300), other, CODED).copies == 0


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_target_that_cannot_be_scored_or_learned_has_no_score(rng, value):
    real, test, synthetic = (mixed_rows(rng, 200) for _ in range(3))
    constant = test.copy()
    constant[:, 1] = value
    scores = train_on_synthetic(real, synthetic, constant, 1, CODED)
    assert np.isnan([scores.synthetic, scores.real]).all()
    synthetic[:, 1] = np.nan
    scores = train_on_synthetic(real, synthetic, test, 1, CODED)
    assert np.isnan(scores.synthetic)
    assert scores.real > 0.8


def test_codes_of_many_levels_are_numbers_to_the_trees(rng):
    real, other = (np.column_stack((rng.integers(0, 300, 900), rng.normal(size=900))).astype(float) for _ in range(2))
    assert classifier_two_sample_test(real, other, np.array([True, False])).score > 0.8


def test_a_missing_classifier_is_said_in_one_line(rng, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    for judge in (
        lambda: classifier_two_sample_test(rng.normal(size=(9, 2)), rng.normal(size=(9, 2))),
        lambda: train_on_synthetic(np.eye(5), np.eye(5), np.eye(5), 1),
    ):
        with pytest.raises(SettingError, match="install scikit-learn"):
            judge()
