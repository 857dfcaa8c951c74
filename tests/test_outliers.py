"""FlowOutlierDetector: the interface of scikit-learn, p-values that are valid, and the right column to blame."""

import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from sklearn.utils.estimator_checks import parametrize_with_checks

import flowstone
from flowstone import FlowDensity, FlowOutlierDetector
from flowstone.errors import CheckpointError, DataError, SettingError, UnknownNameError
from flowstone.estimators.neighbourhood import Neighbourhood
from flowstone.evaluation import blamed_terms, conformal_p_values

rng = np.random.default_rng(0)
MIX = np.array([[2.0, 0, 0], [1.9, 0.3, 0], [0, 0.5, 0.2]])
X = rng.normal(size=(300, 3)) @ MIX.T + [10, 0, 5]
FRAME = pd.DataFrame({"age": rng.normal(40, 9, 300), "sex": rng.choice(["f", "m"], 300)})
FRAME["height"] = np.where(FRAME["sex"] == "f", 160, 185) + rng.normal(0, 4, 300)
GAPS = FRAME.mask(rng.random(FRAME.shape) < 0.1)


@pytest.fixture(scope="module")
def detector() -> FlowOutlierDetector:
    return FlowOutlierDetector(contamination=0.05, random_state=0).fit(X)


@parametrize_with_checks([FlowOutlierDetector(models=("independent", "gaussian"))])  # quick ones
def test_it_passes_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


def test_the_names_of_scikit_learn_and_of_pyod_say_the_same(detector):
    scores = detector.score_samples(X)
    np.testing.assert_allclose(detector.decision_function(X), scores - detector.offset_)
    assert np.array_equal(detector.predict(X), np.where(detector.decision_function(X) < 0, -1, 1))
    np.testing.assert_allclose(detector.decision_scores_, -scores)
    assert detector.threshold_ == -detector.offset_
    assert np.array_equal(detector.labels_ == 1, detector.predict(X) == -1)
    assert detector.labels_.sum() == 15  # 5% of 300
    again = FlowOutlierDetector(contamination=0.05, random_state=0).fit_predict(X)
    assert np.array_equal(again, detector.predict(X))


def test_confidence_is_least_at_the_threshold(detector):
    path = np.linspace(0, 20, 60)[:, None] * [1.0, -1.0, 0.0] + X.mean(0)
    confidence, scores = detector.predict_confidence(path), detector.score_samples(path)
    assert (confidence >= 0).all()
    assert (confidence <= 1).all()
    assert confidence[scores.argmin()] > 0.99
    assert confidence[scores.argmax()] > 0.99
    assert detector.predict_confidence(X)[np.abs(detector.decision_function(X)).argmin()] < 0.7


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(0, 10_000), st.sampled_from([0, 1, 5]))
def test_p_values_of_exchangeable_scores_are_valid(count, seed, ties):
    draws = np.random.default_rng(seed).normal(size=(2000, count + 1))
    draws = np.round(draws * ties) if ties else draws
    p = np.array([conformal_p_values(row[1:], row[:1])[0] for row in draws])
    assert p.min() >= 1 / (count + 1)
    assert p.max() <= 1
    for level in (0.05, 0.1, 0.25, 0.5):
        assert (p <= level).mean() <= level + 5 * np.sqrt(level / len(p))


def test_p_values_of_a_detector_are_valid_on_average_over_what_it_was_learned_from():
    shares = []
    for seed in range(25):
        random = np.random.default_rng(seed)
        rows = random.standard_t(4, size=(1100, 2)).round(1)  # heavy tails, values that repeat
        fitted = FlowOutlierDetector(models="gaussian", random_state=seed).fit(rows[:100])
        shares.append([(fitted.p_values(rows[100:]) <= level).mean() for level in (0.1, 0.2, 0.5)])
    mean, error = np.mean(shares, 0), np.std(shares, 0) / 5
    assert (mean <= np.array([0.1, 0.2, 0.5]) + 3 * error).all()
    assert (mean >= np.array([0.05, 0.13, 0.4]) - 3 * error).all()  # 20 held-out rows: 2/21, 4/21, 10/21


def test_far_rows_are_anomalies_with_the_least_p_value(detector):
    far = X[:5] + np.array([0, 40, 0])
    assert (detector.predict(far) == -1).all()
    np.testing.assert_allclose(detector.p_values(far), 1 / 61)
    assert (detector.score_samples(X[:5] + np.array([0, 400, 0])) < detector.score_samples(far)).all()


def test_a_row_that_is_too_likely_is_an_anomaly():
    wide = np.random.default_rng(1).normal(size=(600, 60))  # in 60 dimensions none of them lies near the mean
    fitted = FlowOutlierDetector(models="gaussian", random_state=0).fit(wide)
    middle = np.zeros((1, 60))
    density = fitted.density_
    assert density.score_samples(middle) > density.score_samples(wide).max()
    terms = fitted._terms(torch.zeros(1, 60, dtype=torch.float64))
    reflected = fitted._score(torch.zeros(1, 60, dtype=torch.float64))
    fitted._most_likely = 1e6  # never too likely
    assert terms[0, 0] == -density.score_samples(middle)[0]
    assert reflected < fitted._score(torch.zeros(1, 60, dtype=torch.float64))


def test_a_tenth_of_scattered_anomalies_among_the_rows_is_trimmed():
    random = np.random.default_rng(3)

    def rows(normal: int, anomalous: int) -> np.ndarray:
        return np.concatenate([random.normal(size=(normal, 5)), 3 * random.normal(size=(anomalous, 5))])

    learned, judged = rows(450, 50), rows(1000, 1000)
    truth = np.repeat([0, 1], 1000)
    clean = FlowOutlierDetector(random_state=0).fit(learned[:450]).score_samples(judged)
    trimmed = FlowOutlierDetector(trim=0.1, random_state=0).fit(learned).score_samples(judged)
    plain = FlowOutlierDetector(random_state=0).fit(learned).score_samples(judged)
    areas = [roc_auc_score(truth, -scores) for scores in (clean, trimmed, plain)]
    assert areas[0] > 0.9
    assert areas[1] > areas[0] - 0.02
    assert areas[1] > areas[2]


def test_a_group_of_anomalies_among_the_rows_does_not_make_others_of_it_normal():
    """Each of them has near neighbours, so that not all can be trimmed, and their group looks normal from nearby."""
    random = np.random.default_rng(0)

    def rows(normal: int, anomalous: int) -> np.ndarray:
        return np.concatenate(
            [random.normal(size=(normal, 4)), [4, 0, 0, 0] + 0.3 * random.normal(size=(anomalous, 4))]
        )

    learned, judged = rows(470, 30), rows(500, 500)
    truth = np.repeat([0, 1], 500)
    trimmed, plain = (FlowOutlierDetector(trim=trim, random_state=0).fit(learned) for trim in (0.1, 0.0))
    assert roc_auc_score(truth, -plain.score_samples(judged)) < 0.85
    assert roc_auc_score(truth, -trimmed.score_samples(judged)) > 0.9


@pytest.mark.parametrize("models", ["gaussian", "independent", ("independent", "gaussian", "mixture")])
def test_blame_finds_the_column_that_was_changed(models):
    fitted = FlowOutlierDetector(models=models, random_state=0).fit(X)
    for index in range(3):
        changed = X[:40].copy()
        changed[:, index] += 9
        blame = fitted.blame(changed)
        assert blame.shape == (40, 3)
        assert (blame.argmax(1) == index).mean() > 0.9
        changed[:, index] = 1e200  # whose square no float64 holds
        assert (fitted.blame(changed).argmax(1) == index).all()


def test_terms_of_blame_are_conditionals():
    """Of a mixture and a blend, against the integral over the column; in the units of the data."""
    density = FlowDensity(models=("independent", "gaussian", "mixture"), random_state=0).fit(X)
    mixture = FlowDensity(models="mixture", random_state=0).fit(X)
    rows = torch.from_numpy(X[:3])
    for flow in (density.flow_, mixture.flow_):
        terms = blamed_terms(flow, rows, values=rows)
        for index in range(3):
            grid = torch.linspace(X[:, index].min() - 20, X[:, index].max() + 20, 40_001, dtype=torch.float64)
            for row in range(3):
                changed = rows[row].repeat(len(grid), 1)
                changed[:, index] = grid
                with torch.no_grad():
                    whole = torch.trapezoid(flow.log_prob(changed.to(flow.data_dtype)).double().exp(), grid).log()
                    own = flow.log_prob(rows[[row]].to(flow.data_dtype)).double()
                assert terms[row, index] == pytest.approx((own - whole).item(), abs=2e-3)


def test_other_densities_blame_what_could_be_won():
    torch.manual_seed(0)
    flow = flowstone.maf(3, hidden=(8,)).eval()
    rows = torch.from_numpy(X[:20]).float()
    terms = blamed_terms(flow, rows, values=rows)
    assert (terms <= 0).all()
    changed = rows.clone()
    changed[:, 1] = rows[:, 1].sort().values[10]
    with torch.no_grad():
        won = (flow.log_prob(changed) - flow.log_prob(rows)).numpy()
    assert (terms[:, 1] <= -won + 1e-5).all()
    gaps = torch.full((5, 3), torch.nan)  # a column of gaps alone has no values to try
    gaps[:, :2] = rows[:5, :2]
    table = flowstone.recipes.mixed(3, order="given", width=8).eval()
    assert np.isfinite(blamed_terms(table, rows, values=gaps)).all()


@pytest.mark.parametrize("frame", [FRAME, GAPS])
def test_frames_of_several_kinds_with_gaps(frame, tmp_path):
    fitted = FlowOutlierDetector(models="independent", random_state=0).fit(frame)
    strange = pd.DataFrame({"age": [40.0, 400.0], "sex": ["f", "m"], "height": [160.0, 185.0]})
    assert fitted.predict(strange).tolist() == [1, -1]
    assert fitted.blamed_columns_ == ["age", "sex", "height"]
    assert fitted.blame(strange)[1].argmax() == 0
    gap = pd.DataFrame({"age": [np.nan], "sex": ["f"], "height": [160.0]})
    if frame is GAPS:
        assert fitted.blame(gap)[0, 0] == 0
    fitted.save(tmp_path / "saved")
    kept = FlowOutlierDetector.load(tmp_path / "saved")
    assert np.array_equal(kept.score_samples(strange), fitted.score_samples(strange))
    assert np.array_equal(kept.blame(strange), fitted.blame(strange))


def test_it_is_copied_pickled_and_saved(detector, tmp_path):
    copied: Any = clone(detector)
    assert copied.get_params() == detector.get_params()
    assert np.array_equal(pickle.loads(pickle.dumps(detector)).p_values(X), detector.p_values(X))
    detector.save(tmp_path / "saved")
    kept = FlowOutlierDetector.load(tmp_path / "saved")
    for name in ("score_samples", "p_values", "blame", "predict", "predict_confidence"):
        assert np.array_equal(getattr(kept, name)(X), getattr(detector, name)(X))
    assert np.array_equal(kept.labels_, detector.labels_)
    assert not list(tmp_path.rglob("*.pkl"))
    (tmp_path / "saved" / "detector.safetensors").unlink()
    with pytest.raises(CheckpointError, match="holds no detector"):
        FlowOutlierDetector.load(tmp_path / "saved")


def test_a_trimmed_detector_scores_the_same_when_it_was_saved(tmp_path):
    fitted = FlowOutlierDetector(trim=0.1, models="gaussian", random_state=0).fit(X)
    fitted.save(tmp_path)
    assert np.array_equal(FlowOutlierDetector.load(tmp_path).score_samples(X), fitted.score_samples(X))


def test_a_seed_repeats_exactly(detector):
    again = FlowOutlierDetector(contamination=0.05, random_state=0).fit(X)
    assert np.array_equal(again.score_samples(X), detector.score_samples(X))
    other = FlowOutlierDetector(contamination=0.05, random_state=1).fit(X)
    assert not np.array_equal(other.score_samples(X), detector.score_samples(X))


def test_a_constant_column_with_another_value_is_strange():
    rows = np.c_[X, np.full(len(X), 7.0)]
    fitted = FlowOutlierDetector(random_state=0).fit(rows)
    other = rows[:1] + np.array([0, 0, 0, 30])
    assert fitted.predict(other).tolist() == [-1]
    assert fitted.blame(other)[0].argmax() == 3


@pytest.mark.parametrize(("size", "neighbour"), [(1, 1), (7, 1), (7, 3), (300, 30)])
def test_a_point_is_not_its_own_neighbour(size, neighbour):
    points = np.random.default_rng(0).normal(size=(size + 1, 4)) * 100
    distance, _ = Neighbourhood(points, neighbour, 1.0).log_distance(points)
    pairs = np.linalg.norm(points[:, None] - points[None], axis=2) + np.diag(np.full(size + 1, np.inf))
    np.testing.assert_allclose(np.exp(distance), np.sort(pairs, 1)[:, neighbour - 1], rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "rows", "error", "message"),
    [
        ({"contamination": 0}, X, SettingError, "contamination=0: it is a share"),
        ({"contamination": 0.7}, X, SettingError, "contamination=0.7: it is a share"),
        ({"contamination": "auto"}, X, SettingError, "contamination='auto': it is a share"),
        ({"trim": -0.1}, X, SettingError, "trim=-0.1: it is a share of the rows, at least 0"),
        ({"models": "gausian"}, X, UnknownNameError, "gausian"),
        ({}, X[:2], ValueError, "minimum of 3"),
        ({}, np.ones((9, 2)), ValueError, "all 9 rows are equal"),
        ({}, FRAME.assign(age="x", height="y", sex="f"), DataError, "no column is left"),
    ],
)
def test_what_cannot_be_is_refused(arguments, rows, error, message):
    with pytest.raises(error, match=message):
        FlowOutlierDetector(random_state=0, **arguments).fit(rows)


@pytest.mark.parametrize(
    ("same", "other"),
    [(["DE"] * 60, ["FR"] * 60), ([3] * 60, [4] * 60), ([3] * 60, ["three"] * 60), ([True] * 60, [False] * 60)],
)
def test_another_value_in_a_constant_column_of_a_frame_is_impossible(same, other):
    rows = FRAME[:60].assign(constant=same, gap=None)
    density = FlowDensity(models="independent", random_state=0).fit(rows)
    detector = FlowOutlierDetector(models="independent", random_state=0).fit(rows)
    changed, unknown = rows.assign(constant=other), rows.assign(constant=None, gap=1.0)
    assert (density.score_samples(changed) == -np.inf).all()
    assert np.array_equal(density.score_samples(unknown), density.score_samples(rows))
    assert (detector.predict(changed) == -1).all()
    assert np.array_equal(detector.score_samples(unknown), detector.score_samples(rows))
    blame = detector.blame(changed)
    assert detector.blamed_columns_ == ["age", "sex", "height", "constant", "gap"]
    assert (blame.argmax(1) == 3).all()
    assert np.isfinite(detector.blame(unknown)).all()
