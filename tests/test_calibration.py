"""Ranks, coverage, distribution functions of predictions, and the verdict: of right densities and of wrong ones."""

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import make_moons
from tests.cases import disturb

import flowstone
from flowstone.data import open_source
from flowstone.errors import DataError, SettingError, ShapeError
from flowstone.evaluation import (
    calibration,
    classifier_two_sample_test,
    conditional_pit,
    independent_columns,
    shared_rows,
    uniformity,
    verdict,
)
from flowstone.evaluation.overlap import seen_rows
from flowstone.mixed import MixedDensity
from flowstone.plot import calibration_figure
from flowstone.recipes import gaussian_mixture, mixed

COLUMNS = [
    {"name": "level", "atoms": [0, 1, 2], "rest": None, "gaps": True},
    {"name": "real"},
    {"name": "spike", "atoms": [0.0], "rest": "positive", "low": 0.0, "gaps": True},
    {"name": "count", "rest": "grid", "low": 0.0, "step": 1.0},
    {"name": "hours", "atoms": [40.0], "rest": "grid", "low": 0.0, "high": 99.0, "step": 0.5},
    {"name": "angle", "rest": "circle", "low": 0.0, "high": 360.0},
    {"name": "share", "rest": "interval", "low": 0.0, "high": 1.0},
]
NAMES = [column["name"] for column in COLUMNS]


def made(context_features: int = 0, **settings) -> MixedDensity:
    """A density of columns of every kind, far from independent."""
    torch.manual_seed(0)
    density = mixed(len(COLUMNS), columns=COLUMNS, width=16, context_features=context_features, **settings)
    n, generator = 500, torch.Generator().manual_seed(1)
    normal = torch.randn(n, len(COLUMNS), generator=generator)
    x = torch.stack(
        (
            torch.randint(3, (n,), generator=generator), 4 * normal[:, 1] + 3, normal[:, 2].exp(),
            (3 * normal[:, 3].abs()).round(), (20 + 20 * normal[:, 4].abs()).round().clamp(0, 99),
            (120 * normal[:, 5]).remainder(360), normal[:, 6].sigmoid(),
        ), 1
    ).double()  # fmt: skip
    x[:100, 2], x[100:300, 4], x[50:80, 0] = 0.0, 40.0, torch.nan
    density.initialize(x, torch.randn(n, context_features) if context_features else None)
    disturb(density.net, 0.8)
    return density.eval()


def test_ranks_and_regions_of_a_right_density_are_uniform(float64):
    density = made()
    found = calibration(density, density.sample(3000, seed=1), draws=100, seed=2)
    assert (found.p_values() > 1e-3).all(), found.p_values()
    for level in (0.1, 0.5, 0.9):
        share, error = found.coverage(level)
        assert abs(share - level) < 5 * error + 0.01
    given = made(context_features=2)
    context = torch.randn(800, 2)
    ranked = calibration(given, given.sample(1, context, seed=3)[0], context, draws=40, seed=4)
    assert (ranked.p_values() > 1e-4).all(), ranked.p_values()
    for level in (0.1, 0.9):
        assert abs(ranked.coverage(level)[0] - level) < 0.05


def test_a_wrong_density_is_told_by_column_and_by_coverage():
    torch.manual_seed(0)
    density = gaussian_mixture(3, components=1).double()
    x = torch.randn(2000, 3, dtype=torch.float64)
    density.initialize(x)
    moved = x + torch.tensor([0.0, 0.5, 0.0])
    assert (calibration(density, moved, seed=1).p_values() > 1e-3).tolist() == [True, False, True]
    wide = calibration(density, 2 * x, seed=1)
    assert wide.coverage(0.5)[0] < 0.3
    given = gaussian_mixture(3, context_features=1, components=1).double()
    given.initialize(x, x[:, :1])
    assert calibration(given, 2 * x, x[:, :1], draws=20, seed=1).coverage(0.5)[0] < 0.3
    assert wide.levels.isnan().sum() == 0


@pytest.mark.parametrize("context_features", [0, 1])
def test_regions_of_discrete_rows_hold_what_they_say(float64, context_features):
    torch.manual_seed(0)
    columns = [{"name": "level", "atoms": [0, 1, 2], "rest": None}, {"name": "flag", "atoms": [0, 1], "rest": None}]
    density = mixed(2, columns=columns, width=8, context_features=context_features).float()
    context = torch.randn(1500, 1) if context_features else None
    x = density.sample(1500, seed=100) if context is None else density.sample(1, context, seed=100)[0]
    found = calibration(density, x, context, draws=40, seed=1)
    for level in (0.1, 0.5, 0.9):
        share, error = found.coverage(level)
        assert abs(share - level) < 4 * error


def test_p_values_and_errors_count_the_chance_in_the_draws():
    flow = gaussian_mixture(1, components=1).double()
    found = [calibration(flow, flow.sample(2000, seed=1000 + i), draws=20, seed=2000 * i) for i in range(150)]
    p_values = torch.cat([each.p_values() for each in found])
    assert uniformity(p_values)[1] > 1e-3
    shares, errors = zip(*(each.coverage(0.5) for each in found), strict=True)
    assert np.std(shares) == pytest.approx(np.mean(errors), rel=0.2)
    given = gaussian_mixture(1, components=1, context_features=1).double()
    context = torch.randn(2000, 1).double()
    alone = calibration(given, given.sample(1, context, seed=5)[0], context, draws=2, seed=7)
    assert alone.pool is None
    assert alone.coverage(0.5)[1] == pytest.approx(0.5 / 2000**0.5, rel=0.01)


def test_gaps_have_no_ranks_and_rows_with_gaps_no_region(float64):
    density = made()
    x = density.sample(50, seed=0, gaps=True)
    found = calibration(density, x, draws=10)
    assert torch.equal(found.ranks.isnan(), x.isnan())
    assert torch.equal(found.levels.isnan(), x.isnan().any(1))
    assert all(map(math.isnan, calibration(density, x[x.isnan().any(1)], draws=2).coverage(0.5)))


@pytest.mark.parametrize("name", NAMES)
def test_the_distribution_function_of_a_prediction_is_that_of_its_draws(name, float64):
    density, index = made(), NAMES.index(name)
    row = density.sample(1, seed=5)
    unknown = torch.zeros_like(row, dtype=torch.bool)
    unknown[:, index] = True
    drawn = density.fill(row.repeat(20_000, 1), unknown[0], seed=6)[:, index]
    prediction = density.predict(row, name)
    for value in (*drawn.quantile(torch.tensor([0.02, 0.3, 0.5, 0.8, 0.99])).tolist(), 40.25):
        share = (drawn <= value).double().mean().item()
        assert prediction.cdf(value).item() == pytest.approx(share, abs=0.016)
    values = drawn.sort().values[::500]
    assert (density.predict(row.repeat(len(values), 1), name).cdf(values).diff() >= -1e-12).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_quantile_is_the_least_value_of_its_probability(name, float64):
    density = made()
    prediction = density.predict(density.sample(3, seed=5), name)
    for share in (1e-4, 0.003, 0.02, 0.3, 0.5, 0.9, 0.997, 0.9999):
        quantile = prediction.quantile(share)
        assert (prediction.cdf(quantile) >= share - 1e-9).all()
        assert (prediction.cdf(quantile - 1e-4) <= share + 2e-3).all()  # nearer values are those of a grid


def test_values_given_all_others_are_uniform(float64):
    # The last column given all before it is exact; a net that is not trained has other conditionals of the others.
    density = made()
    x = density.sample(3000, seed=7)
    assert uniformity(conditional_pit(density, x, seed=1)[:, -1])[1] > 1e-3
    alone = independent_columns(density, x)
    drawn = alone.sample(3000, seed=8)
    found = conditional_pit(alone, drawn, seed=2)
    assert [name for name, each in zip(NAMES, found.T, strict=True) if uniformity(each)[1] < 1e-3] == []
    same = independent_columns(density, x).sample(3000, seed=2)
    assert uniformity(conditional_pit(alone, same, seed=2)[:, 0])[1] > 1e-3  # one seed for both
    drawn[:, 1] += 3
    assert uniformity(conditional_pit(alone, drawn)[:, 1])[1] < 1e-6
    with pytest.raises(SettingError, match="fixed order"):
        conditional_pit(mixed(2, order="given"), torch.zeros(3, 2))


def test_the_verdict_knows_good_from_poor_and_from_simple_models():
    moons = torch.from_numpy(make_moons(3000, noise=0.05, random_state=0)[0])
    density = gaussian_mixture(2, components=1).double()
    density.initialize(moons)
    nll = -density.log_prob(moons).mean().item()
    poor = verdict(density, moons, nll=nll, baselines={"Gaussian": nll + 1}, names=("a", "b"))
    assert poor.word == "poor"
    assert poor.miscalibrated
    assert "1.00 nats a row better than Gaussian" in poor.sentence
    assert verdict(density, moons, nll=nll, baselines={"Gaussian": nll - 1}).word == "no better than Gaussian"
    good = verdict(density, density.sample(3000, seed=3), nll=nll)
    assert good.word == "good"
    assert good.sentence.startswith("good: a classifier tells samples from held-out rows with AUC 0.")
    assert not good.miscalibrated
    assert good.coverage[0.9] == pytest.approx(0.9, abs=0.03)
    assert verdict(density, moons[:50], nll=nll).word == "unsure"


def test_the_verdict_names_the_best_simple_model_of_those_with_a_figure():
    density = gaussian_mixture(2, components=1).double()
    x = density.sample(60, seed=0)
    figures = {"A": None, "B": math.inf, "C": 2.0, "D": math.nan, "E": 2.5}
    found = verdict(density, x, nll=1.5, baselines=figures, lead_errors={"C": 0.125, "E": None})
    assert "; 0.50 ± 0.12 nats a row better than C; " in found.sentence
    assert "within 0.01 nats a row of C" in verdict(density, x, nll=2.0, baselines=figures).sentence
    for nll, others in ((1.5, {"A": None, "B": math.inf}), (math.nan, figures)):
        assert "nats a row" not in verdict(density, x, nll=nll, baselines=others).sentence


def test_the_verdict_does_not_depend_on_the_order_of_a_long_table():
    torch.manual_seed(0)
    density = gaussian_mixture(2, components=1).double()
    x = torch.randn(12_000, 2, dtype=torch.float64)
    density.initialize(x)
    assert verdict(density, x[x[:, 0].argsort()], nll=0.0).word == "good"


def test_samples_and_rows_are_compared_given_their_context():
    torch.manual_seed(0)
    context = torch.randn(1500, 1, dtype=torch.float64)
    x = context + 0.1 * torch.randn(1500, 1, dtype=torch.float64)
    right = gaussian_mixture(1, context_features=1, components=1).double()
    right.initialize(x, context)
    nll = -right.log_prob(x, context).mean().item()
    assert verdict(right, x, context, nll=nll).word == "good"
    assert verdict(right, x, context[torch.randperm(1500)], nll=nll).word == "poor"
    same = classifier_two_sample_test(x.numpy(), right.sample(1, context[torch.randperm(1500)], seed=0)[0].numpy())
    assert same.auc < 0.55  # without the context they look alike


def test_the_picture_shows_coverage_and_each_column():
    torch.manual_seed(0)
    density = flowstone.nice(3).double()
    figure = calibration_figure(calibration(density, density.sample(300, seed=1), draws=5), ["a", "b", "c"])
    assert [panel.get_title() for panel in figure.axes] == ["coverage", "a", "b", "c"]


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ShapeError, match="rows of columns"):
        calibration(flowstone.nice_image((1, 2, 2)), torch.zeros(2, 1, 2, 2))
    with pytest.raises(DataError, match="0 rows"):
        calibration(flowstone.nice(2), torch.zeros(0, 2))
    assert np.isnan(uniformity(torch.full((3,), torch.nan))[1])


def test_rows_that_stand_in_both_parts_are_counted():
    learned = torch.tensor([[1.0, torch.nan], [0.0, 2.0], [0.0, 2.0], [5.0, 6.0]])
    held_out = torch.tensor([[-0.0, 2.0], [1.0, torch.nan], [1.0, 2.0], [1.0, torch.nan]], dtype=torch.float64)
    assert shared_rows(learned, held_out) == 3
    assert shared_rows(learned.split(1), held_out) == 3
    assert shared_rows(learned, held_out[2:3]) == 0


@pytest.mark.parametrize("context", [[], ["b"]])
def test_test_rows_that_were_seen_are_counted_without_their_noise(tmp_path, context):
    draw = np.random.default_rng(0)
    x = np.column_stack((draw.integers(0, 60, 400), draw.integers(0, 3, 400), draw.normal(size=400).round(1)))
    np.savetxt(tmp_path / "table.csv", x, delimiter=",", header="a,b,c", comments="", fmt="%g")
    dataset = open_source(tmp_path / "table.csv", context=context, columns=["a", "b", "c"], mixed=False)
    names = [*dataset.columns, *dataset.context_columns]
    order = np.random.default_rng(0).permutation(400)
    rows = [tuple(row) for row in x[order][:, ["abc".index(name) for name in names]]]
    assert dataset.description["noise"]
    assert seen_rows(dataset) == sum(row in set(rows[80:]) for row in rows[:40]) > 0
