"""FlowDensity behaves as scikit-learn's estimators do, and is not worse than simple models."""

import pickle
from typing import Any, cast

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sklearn
import torch
from joblib import Parallel, delayed
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.datasets import load_iris, load_wine, make_moons
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, cross_val_score, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import flowstone
from flowstone import FlowDensity, FlowOutlierDetector
from flowstone.data import Rows
from flowstone.errors import CheckpointError, DataError, FlowstoneError, SettingError, UnknownNameError
from flowstone.estimators import candidates, ladder
from flowstone.estimators.context import ContextColumns
from flowstone.estimators.tables import in_container
from flowstone.estimators.weights import repetitions
from flowstone.mixed import MixedDensity

SIMPLE = ("independent", "gaussian", "mixture")
COMPONENTS, SHAPES = candidates.COMPONENTS, candidates.SHAPES
rng = np.random.default_rng(0)
X = rng.normal(size=(150, 3)) @ np.array([[2.0, 0, 0], [1, 1, 0], [0, 0.5, 0.2]]) + 10
FRAME = pd.DataFrame({"age": rng.integers(20, 60, 300), "sex": rng.choice(["f", "m"], 300)})
FRAME["height"] = np.where(FRAME["sex"] == "f", 165, 178) + rng.normal(0, 6, 300)
GAPS = FRAME.mask(rng.random(FRAME.shape) < 0.1)


@pytest.fixture
def few_steps(monkeypatch):
    """Trainings of 100 steps, whatever the machine."""
    suggested = MixedDensity.training_settings
    monkeypatch.setattr("flowstone.train.settings.STEPS", 100)
    monkeypatch.setattr(MixedDensity, "training_settings", lambda self, rows: {**suggested(self, rows), "steps": 100})


@pytest.fixture(autouse=True)
def few_mixtures(monkeypatch):
    """Two families of one, two and four components are tried: enough for a choice among families and sizes."""
    monkeypatch.setattr(candidates, "COMPONENTS", (1, 2, 4))
    monkeypatch.setattr(candidates, "SHAPES", {name: SHAPES[name] for name in ("full", "tied")})


@parametrize_with_checks([FlowDensity()])
def test_it_passes_the_checks_of_scikit_learn(estimator, check, monkeypatch):
    monkeypatch.setattr(candidates, "COMPONENTS", (1, 2))
    check(estimator)


def test_mixtures_are_fitted_once(monkeypatch):
    """Components that scikit-learn's mixture gives are not sought by the prior's own before."""
    monkeypatch.setattr("flowstone.priors.mixture.best_mixture", None)
    FlowDensity(models=SIMPLE, random_state=0).fit(X)


def test_scores_are_densities_in_the_units_of_x():
    density = FlowDensity(models=SIMPLE, random_state=0).fit(X)
    moved = FlowDensity(models=SIMPLE, random_state=0).fit(1000 * X - 5)
    np.testing.assert_allclose(
        moved.score_samples(1000 * X - 5), density.score_samples(X) - 3 * np.log(1000), atol=1e-6
    )
    assert density.score(X) == pytest.approx(density.score_samples(X).mean())


@pytest.mark.parametrize("models", [("gaussian",), ("mixture",), ("independent",), SIMPLE])
def test_latents_come_back(models):
    density = FlowDensity(models=models, random_state=0).fit(X)
    z = density.transform(X)
    assert z.shape == X.shape
    np.testing.assert_allclose(density.inverse_transform(z), X, atol=1e-6)


@pytest.mark.parametrize("model", ["spline", "mixed"])
def test_latents_of_flows_with_nets_come_back(model, few_steps):
    moons = make_moons(600, noise=0.05, random_state=0)[0]
    density = FlowDensity(models=model, random_state=0).fit(moons)
    np.testing.assert_allclose(density.inverse_transform(density.transform(moons)), moons, atol=1e-4)
    assert density.history_ is not None


def test_the_same_seed_repeats_exactly_and_another_does_not():
    one, same = (FlowDensity(models=SIMPLE, random_state=3).fit(X) for _ in range(2))
    assert np.array_equal(one.score_samples(X), same.score_samples(X))
    assert np.array_equal(one.sample(5, random_state=1), same.sample(5, random_state=1))
    assert not np.array_equal(one.sample(5, random_state=1), one.sample(5, random_state=2))


@pytest.mark.parametrize("weight", [1e308, 0.1, 5e-324])
def test_equal_weights_are_once_each(weight):
    np.testing.assert_array_equal(repetitions(np.full(20, weight), 20, seed=0), np.ones(20))


def test_whole_weights_are_repetitions_and_order_does_not_matter():
    weights = rng.integers(0, 4, len(X))
    weighted = FlowDensity(random_state=0).fit(X, sample_weight=weights)
    repeated = FlowDensity(random_state=0).fit(np.repeat(X, weights, axis=0)[::-1])
    assert np.array_equal(weighted.score_samples(X), repeated.score_samples(X))
    half = FlowDensity(random_state=0).fit(X, sample_weight=np.full(len(X), 0.5))
    assert np.array_equal(half.score_samples(X), FlowDensity(random_state=0).fit(X).score_samples(X))


def test_other_weights_are_right_in_expectation():
    weights = np.where(X[:, 0] > 10, 3.3, 0.7)
    means = []
    for seed in range(20):
        density: Any = FlowDensity(models="gaussian", random_state=seed).fit(X, sample_weight=weights)
        means.append(density.flow_.bijection.mean[0].item())
    assert np.mean(means) == pytest.approx(np.average(X[:, 0], weights=weights), abs=0.03)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.full(150, -1.0), r"sample_weight\[0\] is -1"),
        (np.r_[np.ones(149), np.nan], r"sample_weight\[149\] is nan"),
        (np.zeros(150), "all weights are zero"),
        (np.ones(149), r"sample_weight has shape \(149,\); X has 150 rows"),
        (np.ones((150, 2)), r"sample_weight has shape \(150, 2\)"),
        (["heavy"] * 150, "sample_weight: expected numbers"),
    ],
)
def test_weights_that_cannot_be_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        FlowDensity().fit(X, sample_weight=weights)


@pytest.mark.parametrize("load", [load_iris, load_wine])
def test_it_is_not_worse_than_the_best_mixture_on_held_out_rows(load, monkeypatch):
    monkeypatch.setattr(candidates, "COMPONENTS", COMPONENTS)
    monkeypatch.setattr(candidates, "SHAPES", SHAPES)
    data = load().data
    order = np.random.default_rng(0).permutation(len(data))
    train, test = data[order[len(data) // 4 :]], data[order[: len(data) // 4]]
    peers = [GaussianMixture(k, random_state=0).fit(train) for k in (1, 2, 3)]
    best = max(peers, key=lambda each: np.mean(cross_val_score(clone(each), train)))
    score = FlowDensity(random_state=0).fit(train).score_samples(test)
    assert score.mean() > best.score(test) - score.std() / np.sqrt(len(test))


def test_it_works_with_pipelines_searches_clones_and_processes():
    pipeline = make_pipeline(StandardScaler(), FlowDensity(models=SIMPLE, random_state=0)).fit(X)
    assert np.isfinite(pipeline.score(X))
    search = GridSearchCV(FlowDensity(random_state=0), {"models": ["independent", "gaussian"]}, cv=3).fit(X)
    assert search.best_params_ == {"models": "gaussian"}
    best: Any = clone(search.best_estimator_)
    assert best.get_params()["models"] == "gaussian"
    fitted = FlowDensity(models=SIMPLE, random_state=0).fit(X)
    scores = Parallel(n_jobs=2)(delayed(fitted.score)(part) for part in np.array_split(X, 2))
    assert scores == pytest.approx([fitted.score(part) for part in np.array_split(X, 2)])


@pytest.mark.parametrize("as_container", [pd.DataFrame, pl.DataFrame, pa.table], ids=["pandas", "polars", "arrow"])
def test_frames_come_back_as_the_same_kind(as_container):
    columns = {"a": X[:, 0], "b": X[:, 1], "one": np.ones(len(X))}
    frame = as_container(columns)
    density = FlowDensity(models=SIMPLE, random_state=0).fit(frame)
    assert list(density.feature_names_in_) == ["a", "b", "one"]
    drawn = density.sample(7)
    assert type(drawn) is type(frame)
    assert drawn.shape == (7, 3)
    assert set(np.asarray(drawn["one"])) == {1.0}
    array = FlowDensity(models=SIMPLE, random_state=0).fit(X[:, :2])
    np.testing.assert_allclose(density.score_samples(frame), array.score_samples(X[:, :2]))
    other = as_container({**columns, "one": np.full(len(X), 2.0)})
    assert (density.score_samples(other) == -np.inf).all()


@pytest.mark.parametrize("convert", [lambda frame: frame, pl.from_pandas], ids=["pandas", "polars"])
def test_frames_of_several_kinds(convert, few_steps):
    frame = convert(GAPS)
    density = FlowDensity(random_state=0, models="mixed").fit(frame)
    assert density.kinds_ == {"age": "integer", "sex": "categorical", "height": "continuous"}
    assert np.isfinite(density.score_samples(frame)).all()
    drawn = density.sample(200, {"sex": "f"}, random_state=0)
    assert type(drawn) is type(frame)
    assert set(drawn["sex"]) == {"f"}
    filled = density.impute(frame, random_state=0)
    assert type(filled) is type(frame)
    assert np.asarray(pa.table(filled)["height"].is_null()).sum() == 0
    with pytest.raises(SettingError, match="column 'age' has no latents"):
        density.transform(frame)


def test_arrays_with_gaps_are_learned_and_filled(few_steps):
    gappy = np.where(rng.random(X.shape) < 0.1, np.nan, X)
    density = FlowDensity(random_state=0, models="mixed").fit(gappy)
    assert np.isfinite(density.score_samples(gappy)).all()
    filled = density.impute(gappy, random_state=0)
    assert not np.isnan(filled).any()
    known = ~np.isnan(gappy)
    assert np.array_equal(filled[known], gappy[known])
    assert density.sample(4, given={0: 9.0})[:, 0].tolist() == [9.0] * 4


def test_constants_are_found_beside_gaps_and_values_that_are_known_stay(few_steps):
    gappy = np.c_[np.where(rng.random(X.shape) < 0.1, np.nan, X), np.full(len(X), 4.0)]
    gappy[:3, 3] = np.nan
    gappy[:, 0] = np.nan_to_num(gappy[:, 0], nan=9.0)
    density = FlowDensity(random_state=0, models="mixed").fit(gappy)
    other = gappy[:6].copy()
    other[5, 3] = 7.0
    filled = density.impute(other, random_state=0)
    assert filled[:, 3].tolist() == [4.0] * 5 + [7.0]
    assert density.score_samples(other)[5] == -np.inf
    assert np.isfinite(density.score_samples(other)[:5]).all()
    with pytest.raises(SettingError, match=r"given x3=5\.0: it was 4 in all rows"):
        density.sample(2, given={3: 5.0})
    with pytest.raises(ValueError, match="column 'x1' holds no value"):
        FlowDensity().fit(np.c_[X[:, 0], np.full(len(X), np.nan)])


def test_gaps_in_constant_columns_need_no_other_model():
    density = FlowDensity(models="gaussian", random_state=0).fit(np.c_[X, np.ones(len(X))])
    assert density.impute(np.c_[X[:2], [[np.nan], [1.0]]])[:, 3].tolist() == [1.0, 1.0]


def test_it_is_saved_without_pickle_and_pickled_for_joblib(tmp_path):
    for made, rows in ((FlowDensity(models=SIMPLE, random_state=0).fit(X), X), (_of_kinds(), FRAME)):
        flowstone.save(made, tmp_path / "d")
        again = FlowDensity.load(tmp_path / "d")
        assert np.array_equal(again.score_samples(rows), made.score_samples(rows))
        assert again.get_params()["models"] == made.models
        if rows is X:
            assert np.array_equal(again.sample(3, random_state=0), made.sample(3, random_state=0))
        copied = pickle.loads(pickle.dumps(made))
        assert np.array_equal(copied.score_samples(rows), made.score_samples(rows))
    flowstone.save(flowstone.nice(2), tmp_path / "nice")
    with pytest.raises(CheckpointError, match="it holds no estimator"):
        FlowDensity.load(tmp_path / "nice")


def _of_kinds() -> FlowDensity:
    return FlowDensity(models="independent", random_state=0).fit(FRAME)


def test_settings_and_rows_that_cannot_be_are_refused():
    with pytest.raises(UnknownNameError, match="did you mean 'gaussian'"):
        FlowDensity(models="guassian").fit(X)
    with pytest.raises(UnknownNameError, match="kinds"):
        FlowDensity(kinds="all").fit(X)
    with pytest.raises(ValueError, match="all 5 rows are equal"):
        FlowDensity().fit(np.ones((5, 2)))
    with pytest.raises(ValueError, match=r"X\[1, 0\] is infinite"):
        FlowDensity().fit(np.array([[1.0, 2], [np.inf, 3], [4, 5]]))
    with pytest.raises(SettingError, match="none of them is for"):
        FlowDensity(models="gaussian").fit(FRAME)
    with pytest.raises(SettingError, match="fit with models='mixed'"):
        FlowDensity(models=SIMPLE).fit(X).sample(2, given={0: 1.0})
    with pytest.raises(DataError, match="unknown level 'x'"):
        _of_kinds().impute(FRAME.assign(sex="x"))


def test_what_each_candidate_is_worth_is_printed(capsys):
    FlowDensity(models=SIMPLE, random_state=0, verbose=True).fit(X)
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("independent columns: -")
    assert told[-1].startswith("chosen: mixture of ")


# --- context ----------------------------------------------------------------------------------------------------------


def line(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows that are a line in their context, and noise."""
    generator = np.random.default_rng(seed)
    context = generator.normal(3, 2, (n, 2))
    x = context @ np.array([[1.0, 0], [2, -1]]) + generator.normal(0, [0.5, 2], (n, 2)) + 7
    return x, context


def test_a_linear_density_given_a_context_is_that_of_its_regression():
    x, context = line(8000)
    density = FlowDensity(models="gaussian", random_state=0).fit(x, context=context)
    at = np.array([[1.0, 5.0], [4.0, 2.0]])
    spread: Any = np.diag([0.25, 4.0])
    wanted = [multivariate_normal(each @ [[1, 0], [2, -1]] + 7, spread) for each in at]
    for each, known in zip(at, wanted, strict=True):
        likely = known.rvs(50, random_state=0)
        np.testing.assert_allclose(density.score_samples(likely, context=each[None]), known.logpdf(likely), atol=0.12)
    drawn = density.sample(4000, context=at, random_state=0)
    assert drawn.shape == (8000, 2)
    assert drawn[:4000].mean(0) == pytest.approx(wanted[0].mean, abs=0.2)
    assert drawn[4000:].mean(0) == pytest.approx(wanted[1].mean, abs=0.2)
    np.testing.assert_allclose(density.inverse_transform(density.transform(x, context), context), x, atol=1e-8)
    assert density.score(x, context=context) == pytest.approx(density.score_samples(x, context).mean())


def test_a_column_that_its_context_explains_keeps_its_small_spread():
    generator = np.random.default_rng(0)
    context = generator.normal(size=100)
    x = np.column_stack([context + 0.01 * generator.normal(size=100), generator.normal(size=100)])
    drawn = (
        FlowDensity(models="gaussian", random_state=0)
        .fit(x, context=context)
        .sample(2000, context=[0.5], random_state=0)
    )
    assert drawn[:, 0].std() < 0.03
    assert drawn[:, 1].std() == pytest.approx(1, abs=0.25)


def test_candidates_are_judged_given_the_context(few_steps):
    generator = np.random.default_rng(0)
    context = generator.uniform(-2, 2, 800)
    x = np.where(generator.random(800) < 0.5, context, -context)[:, None] + generator.normal(0, 0.1, (800, 1))
    density = FlowDensity(models=("gaussian", "spline"), random_state=0).fit(x, context=context)
    worth = {judgement.name: judgement.log_likelihood for judgement in density.candidates_}
    assert worth["spline"] > worth["Gaussian"] + 0.5
    two = density.sample(300, context=[1.5], random_state=0)
    assert 0.3 < (two > 0).mean() < 0.7
    assert (np.abs(np.abs(two) - 1.5) < 0.6).mean() > 0.8


def test_weights_and_order_of_rows_carry_their_context():
    x, context = line(120)
    weights = rng.integers(0, 3, 120)
    weighted = FlowDensity(models=SIMPLE, random_state=0).fit(x, sample_weight=weights, context=context)
    repeated = FlowDensity(models=SIMPLE, random_state=0).fit(
        np.repeat(x, weights, axis=0)[::-1], context=np.repeat(context, weights, axis=0)[::-1]
    )
    assert np.array_equal(weighted.score_samples(x, context), repeated.score_samples(x, context))
    ties = np.sign(x)  # rows alike, each with a context of its own
    one, other = (FlowDensity(models="mixture", random_state=0) for _ in range(2))
    one.fit(ties, context=context)
    other.fit(ties[::-1], context=context[::-1])
    assert np.array_equal(one.score_samples(ties, context), other.score_samples(ties, context))


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame, pa.table])
def test_a_context_of_columns_of_any_kind(frame, tmp_path, few_steps):
    generator = np.random.default_rng(0)
    sex, age = generator.choice(["f", "m"], 400), generator.uniform(20, 60, 400)
    x = np.where(sex == "f", 165, 178) + generator.normal(0, 3, 400)
    ages = [None if gap else float(each) for gap, each in zip(generator.random(400) < 0.1, age, strict=True)]
    context = frame({"sex": sex.tolist(), "age": ages})
    density: Any = FlowDensity(models=("gaussian",), random_state=0).fit(x[:, None], context=context)
    assert density.context_.features == 4
    asked = frame({"sex": ["f", "m"], "age": [None, 30.0]})
    drawn = density.sample(500, context=asked, random_state=0)
    assert drawn[:500].mean() == pytest.approx(165, abs=1)
    assert drawn[500:].mean() == pytest.approx(178, abs=1)
    flowstone.save(density, tmp_path)
    again = FlowDensity.load(tmp_path)
    assert np.array_equal(again.score_samples(x[:2, None], asked), density.score_samples(x[:2, None], asked))
    with pytest.raises(DataError, match="sex"):
        density.score_samples(x[:2, None], frame({"sex": ["f", "x"], "age": [1.0, 2.0]}))


def test_rows_of_several_kinds_given_a_context(few_steps):
    context = FRAME[["height"]]
    density = FlowDensity(random_state=0).fit(GAPS[["age", "sex"]], context=context)
    drawn = density.sample(3, {"sex": "f"}, context=context[:2], random_state=0)
    assert list(drawn["sex"]) == ["f"] * 6
    small_and_tall = density.sample(200, context=pd.DataFrame({"height": [155.0, 190.0]}), random_state=0)
    assert (small_and_tall["sex"][:200] == "f").mean() > 0.8
    assert (small_and_tall["sex"][200:] == "m").mean() > 0.8
    filled = density.impute(GAPS[["age", "sex"]][:20], context[:20], random_state=0)
    assert not filled.isna().any().any()
    assert np.isfinite(density.score_samples(GAPS[["age", "sex"]], context)).all()
    with pytest.raises(SettingError, match="several values"):
        density.sample(2, {"sex": ["f", "m"]}, context=context[:2])


def test_contexts_that_cannot_be_are_refused():
    x, context = line(60)
    density = FlowDensity(models="gaussian", random_state=0).fit(x, context=context)
    with pytest.raises(SettingError, match=r"fitted with a context \(context0, context1\): give one"):
        density.score_samples(x)
    with pytest.raises(DataError, match="the context has 3 rows, X has 60"):
        density.score_samples(x, context[:3])
    with pytest.raises(DataError, match="the context has 1 columns; 2 were fitted"):
        density.score_samples(x, context[:, :1])
    with pytest.raises(DataError, match="column 'context1', row 2 is nan"):
        density.score_samples(x, np.where(np.arange(120).reshape(60, 2) == 3, np.nan, context))
    with pytest.raises(DataError, match="the context has 59 rows"):
        FlowDensity().fit(x, context=context[:59])
    with pytest.raises(SettingError, match="fitted without one"):
        FlowDensity(models="gaussian").fit(x).score_samples(x, context)
    of_levels = FlowDensity(models="gaussian").fit(x, context=pd.DataFrame({"k": pd.Categorical(list("ab") * 30)}))
    with pytest.raises(DataError, match="the context: column 'k', row 2 is missing"):
        of_levels.score_samples(x[:2], pd.DataFrame({"k": pd.Categorical(["a", None])}))


def test_sample_weights_and_context_are_routed():
    x, context = line(90)
    with sklearn.config_context(enable_metadata_routing=True):
        density: Any = FlowDensity(models="gaussian", random_state=0)
        density = density.set_fit_request(context=True).set_score_request(context=True)
        scores = cross_validate(density, x, cv=3, params={"context": context})["test_score"]
        pipeline = make_pipeline(StandardScaler(), density).fit(x, context=context)
        assert np.isfinite(pipeline.score(x, context=context))
    plain = cross_val_score(FlowDensity(models="gaussian", random_state=0), x, cv=3)
    assert (scores > plain + 0.5).all()


def test_conditionals_have_samples_likelihoods_quantiles_and_tails(few_steps):
    density = FlowDensity(models="mixed", random_state=0).fit(FRAME)
    women, all_rows = density.conditional({"sex": "f"}), density.conditional({})
    drawn = women.sample(400, random_state=0)
    assert set(drawn["sex"]) == {"f"}
    assert drawn["height"].mean() == pytest.approx(165, abs=2.5)
    low, middle, high = women.quantile("height", [0.05, 0.5, 0.95])
    assert low < middle < high
    assert women.cdf("height", middle) == pytest.approx(0.5, abs=0.02)
    assert middle == pytest.approx(drawn["height"].median(), abs=1.5)
    assert np.array_equal(women.score_samples(FRAME[:9]), women.score_samples(FRAME[:9].assign(sex="m")))
    share = all_rows.probabilities("sex")
    assert share["f"] + share["m"] == pytest.approx(1)
    joint = density.score_samples(FRAME[:30])
    given_sex, of_sex = women.score_samples(FRAME[:30]), np.log(share["f"])
    women_rows = (FRAME["sex"] == "f").to_numpy()[:30]
    np.testing.assert_allclose((given_sex + of_sex)[women_rows], joint[women_rows], atol=1.5)  # another order
    with pytest.raises(SettingError, match="'sex' is given"):
        women.quantile("sex", 0.5)
    for asked in (lambda: all_rows.quantile("sex", 0.5), lambda: all_rows.cdf("sex", "f")):
        with pytest.raises(SettingError, match="no order: ask its probabilities"):
            asked()
    with pytest.raises(UnknownNameError, match="did you mean 'height'"):
        women.cdf("hight", 170)
    with pytest.raises(SettingError, match="between 0 and 1"):
        women.quantile("height", 1.5)
    with pytest.raises(SettingError, match="models='mixed'"):
        FlowDensity(models="gaussian").fit(X).conditional({0: 1.0})


def test_probabilities_are_those_of_rows_and_of_samples():
    random = np.random.default_rng(0)
    levels = [f"level {number % 300}" for number in range(600)]  # 45 of which share a probability
    count = np.where(random.random(600) < 0.3, 30, random.integers(0, 90, 600))
    frame = pd.DataFrame({"count": count, "level": levels})
    kinds = {"count": "integer", "level": "categorical"}
    found = FlowDensity(kinds=kinds, models="independent", random_state=0).fit(frame).conditional({})
    share = found.probabilities("count")
    asked = pd.DataFrame({"count": list(share), "level": [None] * len(share)})
    np.testing.assert_allclose(np.log(list(share.values())), found.score_samples(asked), rtol=1e-5)
    share = found.probabilities("level")
    assert sorted(share) == sorted(set(levels))
    assert sum(share.values()) == pytest.approx(1)
    assert max(share.values()) < 2 * min(share.values())


def test_latents_of_a_frame_come_back_with_its_constant_columns():
    frame = pd.DataFrame({"unit": ["m"] * len(X), "x": X[:, 0], "y": X[:, 1]})
    density = FlowDensity(kinds="infer", models="independent", random_state=0).fit(frame)
    back = density.inverse_transform(density.transform(frame))
    assert list(back) == list(frame)
    assert set(back["unit"]) == {"m"}
    np.testing.assert_allclose(back[["x", "y"]], frame[["x", "y"]], rtol=1e-5)


def test_conditionals_of_arrays_keep_constant_columns(few_steps):
    rows = np.column_stack([X[:, 0], np.full(len(X), 5.0), X[:, 1]])
    density = FlowDensity(models="mixed", random_state=0).fit(rows)
    drawn = density.conditional({0: 12.0}).sample(5, random_state=0)
    assert (drawn[:, 0] == 12).all()
    assert (drawn[:, 1] == 5).all()
    above = density.conditional({0: 12.0})  # numbers are those of the array's columns, the constant one among them
    assert above.cdf(2, X[:, 1].mean()) == above.cdf("x2", X[:, 1].mean())
    assert 0 < above.cdf(2, X[:, 1].mean()) < 1
    assert above.cdf(cast(Any, np.int64(2)), 9.0) == above.cdf(2, 9.0)
    with pytest.raises(SettingError, match="'x1' is constant or left out"):
        above.cdf(1, 5.0)
    for value in (np.nan, None, "5"):
        with pytest.raises(SettingError, match=f"value={value!r}: expected a value of column 'x2'"):
            above.cdf(2, value)
    for probabilities in ("a", [[0.1]], None):
        with pytest.raises(SettingError, match="they lie between 0 and 1"):
            above.quantile(2, cast(Any, probabilities))


@pytest.mark.parametrize(
    ("settings", "rows", "message"),
    [
        ({}, np.full((60, 2), 2**60) + np.arange(120).reshape(60, 2), r"X\[0, 0\] is .* beyond 2\^53"),
        ({}, pd.date_range("2020", periods=60).to_numpy()[:, None], "column 0 of X holds dates"),
        ({}, np.array([[1.0, 2.0], [3.0, "tall"]], dtype=object), r"X\[1, 1\] holds 'tall'"),
        ({}, np.where(X[3, 1] == X, np.inf, X), r"X\[3, 1\] is infinite"),
        ({}, X[:, 0], r"X has shape \(150,\); expected \(rows, columns\)"),
        ({}, pd.Series(X[:, 0]), "X is a Series, which has no columns"),
        ({}, {"a": X[:, 0]}, "X is a dict; expected an array"),
        ({}, pl.DataFrame({"a": X[:, 0]}).lazy(), "X is a LazyFrame"),
        ({}, pd.DataFrame(X[:, :2], columns=["a", "a"]), "column name 'a' of X occurs more than once"),
        ({}, X + 1j, "Complex data not supported"),
        ({"kinds": {"weight": "positive"}}, FRAME, "unknown column 'weight'"),
        ({"time_limit": 0}, X, "time_limit=0 must be positive"),
        ({"device": "gpu"}, X, "device='gpu' cannot be used"),
    ],
)
def test_rows_and_settings_that_would_lose_their_meaning_are_refused(settings, rows, message):
    with pytest.raises(FlowstoneError, match=message):
        FlowDensity(models="independent", **settings).fit(rows)


def test_what_is_masked_is_a_gap():
    masked = np.ma.masked_array(X, mask=X > 12)
    density = FlowDensity(models="independent", random_state=0).fit(masked)
    assert np.array_equal(density.score_samples(masked), density.score_samples(masked.filled(np.nan)))
    assert not np.array_equal(density.score_samples(masked), density.score_samples(X))


def test_names_of_two_levels_and_batches_of_arrow_are_names():
    frame = pd.DataFrame(X[:, :2], columns=pd.MultiIndex.from_tuples([("a", "b"), ("a", "c")]))
    density = FlowDensity(models="independent", random_state=0).fit(frame)
    assert list(density.sample(2).columns) == list(density.kinds_) == ["('a', 'b')", "('a', 'c')"]
    batch = pa.record_batch({"a": X[:, 0], "b": X[:, 1]})
    assert FlowDensity(models="independent", random_state=0).fit(batch).sample(2).column_names == ["a", "b"]


def test_weights_that_make_too_many_rows_are_shares():
    weights = np.where(X[:, 0] > 10, 3e12, 1e12)
    density: Any = FlowDensity(models="gaussian", random_state=0).fit(X, sample_weight=weights)
    assert density.flow_.bijection.mean[0].item() == pytest.approx(np.average(X[:, 0], weights=weights), abs=0.3)


def test_levels_keep_their_order_and_type(few_steps):
    sizes = pd.Categorical(["M", "L"] * 150, categories=["S", "M", "L"], ordered=True)
    drawn = FlowDensity(models="independent", random_state=0).fit(FRAME.assign(size=sizes)).sample(1, random_state=0)
    assert drawn["size"].dtype == sizes.dtype
    frame = pl.DataFrame({"a": X[:, 0], "size": pl.Series(["M", "L", None] * 50, dtype=pl.Enum(["S", "M", "L"]))})
    density = FlowDensity(models="mixed", random_state=0).fit(frame)
    assert density.sample(1, random_state=0).schema == density.impute(frame).schema == frame.schema


def test_columns_keep_the_types_of_their_frame(tmp_path):
    numbers, words = rng.integers(0, 9, 200), rng.choice(["a", "b"], 200)
    frame: Any = pd.DataFrame({"x": rng.normal(size=200), "cut": pd.cut(rng.normal(size=200), 3)})
    frame["level"] = pd.Categorical(words, categories=["b", "a", "c"])
    frame["id"] = pd.Series(2**60 + 7 * np.arange(200), dtype="Int64")
    plain = {"Int16": numbers, "Float32": numbers, "boolean": numbers > 4, "string": words, "object": words}
    plain |= {"Sparse[float64, nan]": numbers, "int64[pyarrow]": numbers}
    for kind, values in plain.items():
        frame[kind] = pd.Series(values).astype(kind)
    frame["decimal"] = frame["Int16"].astype(pd.ArrowDtype(pa.decimal128(9, 2)))
    frame["period"] = pd.period_range("2000", periods=200, freq="M")
    frame = frame.apply(lambda column: column.where(np.arange(200) % 9 > 0))
    density: Any = FlowDensity(models="independent", random_state=0).fit(frame)
    kept = frame.dtypes.drop("id")
    assert density.sample(5).dtypes.equals(kept)
    filled = density.impute(frame)
    assert filled.dtypes.equals(frame.dtypes)
    assert not filled[kept.index].isna().any(axis=None)
    assert filled[frame["x"].notna()].equals(frame[frame["x"].notna()])
    assert filled["id"].equals(frame["id"])
    flowstone.save(density, tmp_path)
    assert FlowDensity.load(tmp_path).sample(5)[[*plain, "decimal", "period"]].dtypes.equals(frame.dtypes[4:])


@pytest.mark.parametrize("kind", ["int64", "Int64"])
def test_samples_between_whole_numbers_are_not_cut_to_them(kind):
    frame = pd.DataFrame({"a": pd.Series(rng.integers(0, 1000, 200), dtype=kind), "b": rng.normal(size=200)})
    drawn = FlowDensity(models="gaussian", random_state=0).fit(frame).sample(20)
    assert drawn["a"].dtype == np.float64
    assert (drawn["a"] % 1 > 0).all()


def test_levels_that_a_type_lacks_are_not_lost():
    table = pa.table({"level": pa.array(["a", "z"]).dictionary_encode()})
    made = in_container(table, "pandas", {"level": pd.CategoricalDtype(["a", "b"])})
    assert made["level"].tolist() == ["a", "z"]


@pytest.mark.parametrize("kinds", ["auto", "infer"])
def test_columns_of_polars_keep_their_types(kinds, tmp_path):
    types: Any = {"wide": pl.Int128, "narrow": pl.Float32, "words": pl.Enum(["a", "b", "c"])}
    frame = pl.DataFrame({"wide": [1, 2, 3, 4] * 50, "narrow": rng.normal(size=200), "words": ["a", "b"] * 100})
    frame = frame.cast(types)
    frame = frame.drop("wide", "words") if kinds == "auto" else frame
    density: Any = FlowDensity(models="independent", kinds=kinds, random_state=0).fit(frame)
    flowstone.save(density, tmp_path)
    for rows in (density.sample(2), density.impute(frame), FlowDensity.load(tmp_path).sample(2)):
        assert rows.schema == frame.schema


def test_whole_numbers_of_a_context_that_no_float_tells_apart_are_named():
    context = pd.DataFrame({"c": 2**60 + np.arange(len(X))})
    with pytest.raises(DataError, match=r"the context: column 'c', row 1 is 1152921504606846976: whole numbers beyond"):
        FlowDensity(models="gaussian").fit(X, context=context)


def test_lists_in_a_constant_column_are_other_values():
    frame = pd.DataFrame({"a": X[:, 0], "word": ["x", "y", "y"] * (len(X) // 3), "one": 1})
    density = FlowDensity(models="independent", random_state=0).fit(frame)
    lists = frame.assign(one=[[1]] * len(frame))
    assert (density.score_samples(lists) == -np.inf).all()


def test_an_infinite_context_is_named():
    x, context = line(60)
    of_kinds = pd.DataFrame({"level": ["a", "b"] * 30, "size": context[:, 0]})
    density = FlowDensity(models="gaussian").fit(x, context=of_kinds)
    of_kinds.loc[3, "size"] = np.inf
    with pytest.raises(DataError, match="column 'size', row 4 is infinite"):
        density.score_samples(x, of_kinds)
    context[3, 1] = np.inf
    with pytest.raises(DataError, match="column 'context1', row 4 is infinite"):
        FlowDensity(models="gaussian").fit(x, context=context)


@pytest.mark.parametrize(("library", "frame"), [("pandas", pd.DataFrame), ("polars", pl.DataFrame)])
def test_latents_come_in_the_container_that_is_set(library, frame):
    rows = frame({"a": X[:, 0], "b": X[:, 1]})
    density = FlowDensity(models="gaussian", random_state=0).set_output(transform=library).fit(rows)
    latents = density.transform(rows)
    assert isinstance(latents, frame)
    assert list(latents.columns) == list(density.get_feature_names_out()) == ["flowdensity0", "flowdensity1"]
    back = density.inverse_transform(latents)
    np.testing.assert_allclose(back.to_numpy(), X[:, :2], atol=1e-8)


def test_the_trainings_share_the_time_limit(monkeypatch):
    given, train = [], flowstone.fit

    def recorded(density, x, *, minutes, **options):
        given.append(minutes)
        return train(density, x, **{**options, "steps": 20})

    monkeypatch.setattr("flowstone.estimators.candidates.fit", recorded)
    context = np.random.default_rng(0).normal(size=(600, 1))
    FlowDensity(time_limit=90, random_state=0).fit(2 * context, context=context)
    assert len(given) >= 12  # four nets in three folds
    assert sum(given) <= 1.5
    assert min(given) > 0.05


def test_what_a_context_becomes():
    angles = np.repeat(np.arange(0.0, 360.0, 5.0), 3)
    frame = pd.DataFrame(
        {"city": ["Bern", None, "Oslo"] * 72, "wind": angles, "size": np.random.default_rng(0).normal(5, 1, 216)}
    )
    frame.loc[::2, "size"] = np.nan
    context = ContextColumns.learn(frame, {"wind": "circular(0,360)"})
    asked = pd.DataFrame({"city": ["Oslo", None, "Bern"], "wind": [90.0, 180.0, 0.0], "size": [4.0, np.nan, 6.0]})
    mean = frame["size"].mean()
    np.testing.assert_allclose(
        context.encode(asked),
        [[0, 1, 0, 1, 0, 4, 0], [0, 0, 1, 0, -1, mean, 1], [1, 0, 0, 0, 1, 6, 0]],
        atol=1e-12,
    )
    assert context.features == 7


def test_the_weights_of_candidates_are_those_of_the_blend():
    density: Any = FlowDensity(models=SIMPLE, random_state=0).fit(np.r_[X, X[:60] + 9])
    weights = sorted(each.weight for each in density.candidates_ if each.weight)
    np.testing.assert_allclose(weights, sorted(density.flow_.weights.tolist()), atol=1e-12)
    assert sum(weights) == pytest.approx(1)


def test_where_nothing_is_blended_the_likeliest_has_all():
    values = {"worse": torch.full((5,), -2.0), "best": torch.full((5,), -1.0), "worst": torch.full((5,), -3.0)}
    assert ladder._weights(values, blended=False) == {"best": 1.0}
    shares = ladder._weights(values, blended=True)
    assert max(shares, key=shares.__getitem__) == "best"


def test_a_wide_context_that_says_nothing_is_ignored_where_rows_are_few():
    generator = np.random.default_rng(0)
    theta, noise = generator.normal(size=(20, 2)), generator.normal(size=(20, 50))
    new, more = generator.normal(size=(200, 2)), generator.normal(size=(200, 50))
    density = FlowDensity(models="gaussian", random_state=0).fit(theta, context=noise)
    alone = FlowDensity(models="gaussian", random_state=0).fit(theta)
    assert density.score(new, context=more) > alone.score(new) - 0.3


def test_a_candidate_with_members_shares_its_weight_among_them(monkeypatch):
    rows, seeds = Rows(torch.from_numpy(X[:, :2])), []
    monkeypatch.setattr(ladder, "_weights", lambda *_, **__: {"several": 0.75, "one": 0.25})

    def fit(rows, seed, _minutes):
        seeds.append(seed)
        return candidates._mixture(rows, seed, None, count=3, shape=candidates.Shape("diag"))

    tried = [candidates.Candidate("several", fit, members=3), candidates.Candidate("one", fit)]
    density: Any = ladder.choose(tried, rows, seed=5, minutes=None, blended=True, say=lambda _: None)[0]
    assert seeds[-4:] == [5, 6, 7, 5]
    assert density.weights.tolist() == pytest.approx([0.25] * 4)


@pytest.mark.parametrize("kinds", ["auto", "infer"])
def test_filled_frames_keep_their_index(kinds):
    frame = pd.DataFrame(X, columns=list("abcdefghijklm")[: X.shape[1]], index=np.arange(len(X))[::-1] + 1000)
    frame.iloc[::7, 0] = np.nan
    density = FlowDensity(models="mixed", kinds=kinds, time_limit=1, random_state=0).fit(frame)
    filled = density.impute(frame, random_state=0)
    assert filled.index.equals(frame.index)
    assert not filled.isna().any(axis=None)


@pytest.mark.parametrize("labels", [range(3), [30, 10, 20], pd.date_range("2020", periods=3)])
def test_columns_of_pandas_may_have_numbers_in_place_of_names(labels):
    frame = pd.DataFrame(X, columns=labels)
    density = FlowDensity(models="independent", random_state=0).fit(frame)
    np.testing.assert_array_equal(density.score_samples(frame), density.score_samples(X))
    assert list(density.sample(2).columns) == [0, 1, 2]
    assert list(density.impute(frame).columns) == list(labels)
    frame.iloc[40, 1] = np.inf
    with pytest.raises(DataError, match="row 41 is infinite"):
        density.fit(frame)
    assert len(FlowDensity(models="independent").fit(pd.DataFrame(X[:2])).sample(1).columns) == 3


@pytest.mark.parametrize("container", [np.asarray, pd.DataFrame, pa.table])
@pytest.mark.filterwarnings("ignore:X (has|does not have valid) feature names")
def test_what_is_filled_is_of_the_kind_of_what_had_gaps(container):
    learned = X if container is np.asarray else container(dict(zip("abc", X.T, strict=True)))
    density = FlowDensity(models="independent", random_state=0).fit(learned)
    frame = pd.DataFrame(X, columns=list("abc"), index=np.arange(len(X)) + 7)
    for rows in (X, frame, pl.from_pandas(frame), pa.Table.from_pandas(frame, preserve_index=False)):
        filled: Any = density.impute(rows)
        assert type(filled) is type(rows)
        if rows is not X:
            assert list(filled.schema.names if isinstance(filled, pa.Table) else filled.columns) == list("abc")
    assert density.impute(frame).index.equals(frame.index)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (np.inf, DataError, r"X\[1, 0\] is infinite"),
        ("inf", DataError, r"X\[1, 0\] is infinite"),
        (2**60, DataError, r"X\[1, 0\] is 1152921504606846976: whole numbers beyond 2\^53"),
        (-(2**70), DataError, r"X\[1, 0\] is -1180591620717411303424: whole numbers"),
        (pd.Timestamp("2020"), DataError, r"X\[1, 0\] holds a date"),
        (pd.NA, TypeError, r"X\[1, 0\] holds <NA>"),
    ],
)
def test_objects_that_are_no_numbers_are_named(value, error, message):
    rows = np.array([[1.0, 2.0], [value, 4.0], [5.0, 7.0]], dtype=object)
    with pytest.raises(error, match=message):
        FlowDensity(models="independent").fit(rows)


@pytest.mark.parametrize("make", [lambda x: x.requires_grad_(), lambda x: x.bfloat16()], ids=["gradient", "bfloat16"])
def test_tensors_of_any_kind_are_rows_and_contexts(make):
    x, context = (make(torch.tensor(part)) for part in line(60))
    density = FlowDensity(models="gaussian", random_state=0).fit(x, context=context)
    assert np.isfinite(density.score(x, context=context))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros(9, dtype=[("a", float)]), r"structured array: pandas.DataFrame\(X\)"),
        (pa.Table.from_arrays([pa.array(X[:, 0])] * 2, names=["a", "a"]), "column name 'a' of X occurs more than once"),
    ],
)
def test_containers_that_are_no_rows_are_named(rows, message):
    with pytest.raises(DataError, match=message):
        FlowDensity(models="independent").fit(rows)


def test_a_context_that_cannot_be_read_is_named():
    x, context = line(60)
    density = FlowDensity(models="gaussian", random_state=0).fit(x, context=context)
    with pytest.raises(DataError, match="the context is a dict; expected an array"):
        density.score_samples(x, {"a": context[:, 0], "b": context[:, 1]})
    with pytest.raises(DataError, match="structured array"):
        density.score_samples(x, np.zeros(60, dtype=[("a", float)]))
    with pytest.raises(DataError, match="the context: no column 'context0'"):
        density.score_samples(x, pd.DataFrame(context, columns=["a", "b"]))
    with pytest.raises(DataError, match="fitted as numbers without gaps; column 'context1', row 1 is nan"):
        density.score_samples(x[:1], [[1.0, np.nan]])


def test_arrow_without_learned_names_is_read_in_its_order():
    density = FlowDensity(models="independent", random_state=0).fit(X)
    table = pa.table(dict(zip("abc", X.T, strict=True)))
    np.testing.assert_array_equal(density.score_samples(table), density.score_samples(X))
    with pytest.raises(ValueError, match="2 features"):
        density.score_samples(table.drop(["c"]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kinds": None}, "kinds=None: expected 'auto', 'infer', or kinds by column"),
        ({"kinds": ["a"]}, r"kinds=\['a'\]: expected"),
        ({"kinds": {"x0": "integer"}}, "X has no names of columns; give a frame"),
        ({"models": None}, "models=None: expected 'auto', or one or several of independent"),
        ({"models": 3}, "models=3: expected"),
    ],
)
@pytest.mark.parametrize("estimator", [FlowDensity, FlowOutlierDetector])
def test_settings_of_another_type_are_refused(estimator, settings, message):
    with pytest.raises(SettingError, match=message):
        estimator(**settings).fit(X)


@pytest.mark.parametrize("estimator", [FlowDensity, FlowOutlierDetector])
def test_kinds_of_columns_that_are_not_there_are_refused(estimator):
    for name in ("agee", 3):
        with pytest.raises(UnknownNameError, match=f"unknown column '{name}'"):
            estimator(models="independent", kinds={name: "integer"}).fit(FRAME)


@pytest.mark.parametrize("estimator", [FlowDensity, FlowOutlierDetector])
def test_settings_of_numpy_and_torch_are_saved(estimator, tmp_path):
    settings = {"models": np.array(["gaussian"]), "time_limit": np.float32(3), "device": torch.device("cpu")}
    estimator(**settings).fit(X[:30]).save(tmp_path)
    again = estimator.load(tmp_path).get_params()
    assert (again["models"], again["time_limit"], again["device"]) == (("gaussian",), 3.0, "cpu")


def test_generators_of_numpy_are_random_states():
    one, same = (
        FlowDensity(models="gaussian", random_state=np.random.default_rng(3))
        .fit(X)
        .sample(cast(Any, np.int64(4)), random_state=np.random.default_rng(5))
        for _ in range(2)
    )
    assert one.shape == (4, 3)
    assert np.array_equal(one, same)


@pytest.mark.parametrize("estimator", [FlowDensity, FlowOutlierDetector])
def test_gaps_that_the_model_cannot_read_are_named(estimator):
    fitted = estimator(models="gaussian", random_state=0).fit(X)
    gappy = X.copy()
    gappy[7, 1] = np.nan
    with pytest.raises(DataError, match="column 'x1', row 8 is missing"):
        fitted.score_samples(gappy)


def test_a_single_gap_does_not_make_a_row_strange():
    gappy = X.copy()
    gappy[3, 0] = np.nan
    for seed in (0, 9):  # the row is learned from, then held out
        scores = FlowOutlierDetector(time_limit=1, random_state=seed).fit(gappy).decision_scores_
        assert scores[3] < scores.max()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.zeros(150), "all weights are zero"),
        (-np.ones(150), r"sample_weight\[0\] is -1"),
        (np.r_[np.ones(149), np.nan], r"sample_weight\[149\] is nan"),
        (np.ones(3), r"has shape \(3,\)"),
        (np.ones(150) * 1j, "expected numbers"),
        ("a", "expected numbers"),
    ],
)
def test_weights_of_a_score_are_checked_as_those_of_a_fit(weights, message):
    density = FlowDensity(models="gaussian", random_state=0).fit(X)
    for use in (density.score, density.fit):
        with pytest.raises(ValueError, match=message):
            use(X, sample_weight=weights)


def test_rows_of_weight_zero_do_not_count_in_a_score():
    rows = np.c_[X, np.ones(len(X))]
    density = FlowDensity(models="gaussian", random_state=0).fit(rows)
    impossible = np.r_[rows, rows[:1] + 1]
    weights = np.r_[np.full(len(X), 1e308), 0.0]
    assert density.score(impossible, sample_weight=weights) == pytest.approx(density.score(rows))


def test_rows_that_a_model_cannot_be_fitted_to_are_counted():
    with pytest.raises(DataError, match="Gaussian cannot be fitted to these 4 rows"):
        FlowDensity(models="gaussian").fit(np.repeat(X[:2], 2, axis=0))


def test_latents_of_learned_rows_are_given_their_context():
    x, context = line(60)
    density: Any = FlowDensity(models="gaussian", random_state=0)
    latents = density.fit_transform(x, context=context)
    assert np.array_equal(latents, density.transform(x, context))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({0: np.nan}, "given x0=nan: expected a finite number"),
        ({0: np.inf}, "given x0=inf: expected a finite number"),
        ([("x0", 1.0)], "given is a list; expected values by column"),
        (pd.Series({"x0": 1.0}), "given is a Series"),
    ],
)
def test_values_that_cannot_be_given_are_refused(given, message):
    density = FlowDensity(models="mixed", time_limit=0.1, random_state=0).fit(X)
    assert density.sample(2, {np.int64(0): 9.0})[:, 0].tolist() == [9.0, 9.0]
    for use in (lambda: density.sample(2, given), lambda: density.conditional(given)):
        with pytest.raises(SettingError, match=message):
            use()
