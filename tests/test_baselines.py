"""Simple models beside which densities are judged: normalized, and no worse than the truth allows."""

import itertools
import math

import pytest
import torch

from flowstone.evaluation import (
    LatentClasses,
    baseline_nll,
    baselines,
    column_bits,
    independent_columns,
    reference_metrics,
)
from flowstone.recipes import mixed, realnvp, spline

NAN = math.nan
DISCRETE = [
    {"name": "level", "atoms": [0, 1, 2], "rest": None},
    {"name": "gap", "atoms": [0, 1], "rest": None, "gaps": True},
    {"name": "count", "atoms": [1, 2], "rest": "grid", "step": 1, "low": 0, "high": 4},
]
CONTINUOUS = {
    "real": {"rest": "real"},
    "with an atom": {"rest": "real", "atoms": [0.0]},
    "positive": {"rest": "positive"},
    "interval": {"rest": "interval", "low": -1.0, "high": 3.0},
    "circle": {"rest": "circle", "low": 0.0, "high": 4.0},
}


def classes(columns: list, rows: torch.Tensor) -> LatentClasses:
    density = mixed(len(columns), columns=columns, width=8)
    density.initialize(rows)
    return LatentClasses(density.columns, density.encoder, rows)


def discrete_rows(n: int, seed: int = 0) -> torch.Tensor:
    """Two classes, which decide all three columns and the gaps."""
    random = torch.Generator().manual_seed(seed)
    kind = torch.rand(n, generator=random) < 0.4
    noise = torch.rand(n, 4, generator=random)
    level = torch.where(kind, (noise[:, 0] < 0.1).double(), 1 + (noise[:, 0] < 0.5).double())
    gap = (noise[:, 1] < torch.where(kind, 0.9, 0.2)).double()
    count = torch.where(kind, 4 - (noise[:, 2] < 0.3).double(), (4 * noise[:, 2]).floor().double())
    gap[noise[:, 3] < torch.where(kind, 0.5, 0.05)] = NAN
    return torch.stack((level, gap, count), 1)


def test_probabilities_of_a_discrete_table_sum_to_one():
    model = classes(DISCRETE, discrete_rows(2000))
    table = torch.tensor(list(itertools.product([0, 1, 2], [0, 1, NAN], [0, 1, 2, 3, 4])), dtype=torch.float64)
    assert model.log_prob(table, gaps="event").exp().sum().item() == pytest.approx(1, abs=1e-9)
    whole = table[~table.isnan().any(1)]
    assert model.log_prob(whole).exp().sum().item() == pytest.approx(1, abs=1e-9)
    absent = torch.tensor([[1, NAN, 3]], dtype=torch.float64)
    same = whole[(whole[:, 0] == 1) & (whole[:, 2] == 3)]
    assert model.log_prob(absent).exp().item() == pytest.approx(model.log_prob(same).exp().sum().item(), abs=1e-9)


def test_a_level_that_was_not_learned_has_the_probability_of_the_density():
    columns = [{"name": "level", "atoms": [0, 1], "rest": None, "unseen": 0.01}, {"name": "y"}]
    rows = torch.randn(200, 2, dtype=torch.float64)
    rows[:, 0] = (rows[:, 0] > 0).double()
    unseen = torch.tensor([[2.0, NAN]], dtype=torch.float64)
    for model in baselines(mixed(2, columns=columns, width=8).double(), rows).values():
        assert model(unseen).exp().item() == pytest.approx(0.01)


@pytest.mark.parametrize("rest", CONTINUOUS.values(), ids=CONTINUOUS)
def test_densities_integrate_to_one(rest):
    random = torch.Generator().manual_seed(1)
    z = torch.randn(3000, generator=random, dtype=torch.float64)
    x = {"positive": z.exp(), "interval": 4 * z.sigmoid() - 1, "circle": z % 4}.get(rest["rest"], z)
    x = torch.where(z > 0.5, 0.0, x) if "atoms" in rest else x
    flag = (z + torch.randn(3000, generator=random) > 0).double()
    rows = torch.stack((x, flag), 1)
    model = classes([{"name": "x", **rest}, {"name": "flag", "atoms": [0, 1], "rest": None}], rows)
    low, high = {"positive": (0, 400), "interval": (-1, 3), "circle": (0, 4)}.get(rest["rest"], (-200, 200))
    grid = torch.linspace(low, high, 200_001, dtype=torch.float64)
    middle = (grid[1:] + grid[:-1]) / 2
    total = 0.0
    for value in (0.0, 1.0):
        likelihood = model.log_prob(torch.stack((middle, torch.full_like(middle, value)), 1)).exp()
        total += likelihood.mean() * (high - low)
        if "atoms" in rest:
            total += model.log_prob(torch.tensor([[0.0, value]], dtype=torch.float64)).exp().sum()
    assert float(total) == pytest.approx(1, abs=5e-3)


def test_classes_find_the_dependence_that_independent_columns_lack():
    density = mixed(3, columns=DISCRETE, width=8)
    rows, x = discrete_rows(5000), discrete_rows(5000, seed=1)
    density.initialize(rows)
    found = {name: -model(x).mean().item() for name, model in baselines(density, rows).items()}
    assert list(found) == ["independent columns", "mixture of independent columns"]
    whole = x[~x.isnan().any(1)]
    model = classes(DISCRETE, rows)
    alone = -density.log_prob(x, gaps="event").mean().item()
    assert -model.log_prob(x, gaps="event").mean().item() < alone - 0.3
    assert -model.log_prob(whole).mean().item() < -density.log_prob(whole).mean().item() - 0.1


@pytest.mark.parametrize("order", ["any", "given"])
def test_independent_columns_depend_on_nothing(order):
    density, rows = mixed(3, columns=DISCRETE, width=8, order=order), discrete_rows(500)
    alone = independent_columns(density, rows)
    x = rows[~rows.isnan().any(1)]
    each = [alone.log_prob(x.masked_fill(torch.arange(3) != column, NAN)) for column in range(3)]
    torch.testing.assert_close(torch.stack(each).sum(0), alone.log_prob(x), rtol=1e-6, atol=1e-6)


def test_gaussians_are_exact_on_gaussian_rows():
    random = torch.Generator().manual_seed(0)
    factor = torch.tensor([[2.0, 0.0], [1.5, 0.5]])
    rows, x = (torch.randn(20_000, 2, generator=random) @ factor.T + 7 for _ in range(2))
    truth = torch.distributions.MultivariateNormal(torch.tensor([7.0, 7.0]), scale_tril=factor)
    for density in (spline(2), mixed(2)):
        density.initialize(rows[:100])
        found = baseline_nll(density, rows, x)
        assert found["Gaussian"] == pytest.approx(-truth.log_prob(x).mean().item(), abs=2e-3)
        assert found["mixture of Gaussians"] == pytest.approx(found["Gaussian"], abs=2e-2)


def test_columns_without_a_value_cost_no_bits_and_are_not_listed():
    columns = [{"name": "a", "gaps": True}, {"name": "b", "atoms": [1.0, 2.0], "rest": None}]
    density = mixed(2, columns=columns, width=8)
    density.initialize(torch.tensor([[0.0, 1.0], [2.0, 2.0]]))
    bits = column_bits(density, torch.tensor([[math.nan, 1.0]] * 3))
    assert bits == {"b": pytest.approx(1, abs=0.01)}


def test_there_are_none_for_contexts_and_images():
    assert baselines(realnvp(2, context_features=1), torch.randn(50, 2)) == {}
    columns = [{"name": "a", "rest": "circle", "low": 0.0, "high": 1.0}, {"name": "b"}]
    density = mixed(2, columns=columns, width=8)
    density.initialize(torch.rand(100, 2))
    assert "Gaussian" not in baselines(density, torch.rand(100, 2))


def test_the_error_of_a_lead_is_that_of_the_differences():
    """Rows that are unlikely under all models make each likelihood unsure, and their difference no less sure."""
    draw = torch.Generator().manual_seed(0)
    rows, x = torch.randn(2, 300, 2, generator=draw).unbind(0)
    density = realnvp(2, couplings=1, hidden=(4,)).eval()
    density.initialize(rows)
    found = reference_metrics(density, x, rows)
    for name, model in baselines(density, rows).items():
        lead = density.log_prob(x).double() - model(x).double()
        assert found["baselines_lead_stderr"][name] == pytest.approx(lead.std().item() / math.sqrt(300), rel=1e-6)
        assert found["baselines_nll_nats"][name] == pytest.approx(-model(x).double().mean().item())
    assert found["baselines_lead_stderr"]["Gaussian"] < 0.5 * density.log_prob(x).std() / math.sqrt(300)
