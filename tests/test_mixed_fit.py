"""Densities of mixed columns are trained by fit as they are, with gaps, and learn what depends on what."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import flowstone
from flowstone.errors import DataError, NonFiniteError
from flowstone.mixed import MixedDensity
from flowstone.recipes import mixed

QUICK: dict[str, Any] = {"progress": False, "batch_size": 128, "validate_every": 50}
COLUMNS = [
    {"name": "level", "atoms": [0, 1, 2], "rest": None},
    {"name": "number", "atoms": [0.0], "rest": "real"},
    {"name": "count", "rest": "grid", "step": 1.0, "low": 0.0, "atoms": [0, 1, 2, 3]},
    {"name": "late", "rest": "positive", "gaps": True},
]
both_orders = pytest.mark.parametrize("order", ["any", "given"])


def rows(n: int, seed: int = 0) -> Tensor:
    """A level; a number around 2 * level or exactly 0; a count of rate level + 0.5; one often missing at level 2."""
    random = torch.Generator().manual_seed(seed)
    level = torch.randint(3, (n,), generator=random).double()
    number = 2 * level + 0.3 * torch.randn(n, generator=random).double()
    number = number.masked_fill(torch.rand(n, generator=random) < 0.25, 0.0)
    count = torch.poisson((level + 0.5).float(), generator=random).double()
    late = (0.2 * torch.randn(n, generator=random).double() + level).exp()
    late = late.masked_fill((torch.rand(n, generator=random) < 0.8) & (level == 2), math.nan)
    return torch.stack((level, number, count, late), 1)


def true_nll(x: Tensor) -> float:
    """Mean negative log-likelihood of the rows above under what they were drawn from, gaps as events."""
    level, number, count, late = x.unbind(1)
    normal = torch.distributions.Normal(2 * level, 0.3).log_prob(number) + math.log(0.75)
    log_prob = -math.log(3) + torch.where(number == 0, math.log(0.25), normal)
    log_prob += torch.distributions.Poisson(level + 0.5).log_prob(count)
    there = torch.distributions.LogNormal(level, 0.2).log_prob(late.nan_to_num(1.0))
    there += torch.where(level == 2, math.log(0.2), 0.0)
    return -(log_prob + torch.where(late.isnan(), math.log(0.8), there)).mean().item()


def trained(order: str, x: Tensor, **settings) -> MixedDensity:
    torch.manual_seed(0)
    density = mixed(4, columns=COLUMNS, order=order, width=48, blocks=1)
    flowstone.fit(density, x, **QUICK | {"steps": 300, "lr": 5e-3} | settings)
    return density


@pytest.fixture(scope="module")
def any_order() -> MixedDensity:
    return trained("any", rows(4000))


@both_orders
def test_training_comes_near_to_the_truth(order, any_order):
    density, test = any_order if order == "any" else trained(order, rows(4000)), rows(4000, seed=1)
    with torch.no_grad():
        found = -density.log_prob(test, gaps="event").mean().item()
    assert true_nll(test) - 0.05 < found < true_nll(test) + 0.15
    drawn = density.sample(4000, seed=0, gaps=True)
    missing = drawn[:, 3].isnan()
    assert missing[drawn[:, 0] == 2].double().mean().item() == pytest.approx(0.8, abs=0.08)
    assert missing[drawn[:, 0] < 2].double().mean().item() < 0.03
    assert (drawn[:, 1] == 0).double().mean().item() == pytest.approx(0.25, abs=0.04)


def test_any_columns_can_be_given_after_training(any_order):
    density, test = any_order, rows(2000, seed=1)
    told = density.predict(test[:, :].clone().index_fill(1, torch.tensor([3]), math.nan), "level")
    seen = test[:, 1] != 0  # the number tells the level
    right = (told.mode() == test[:, 0])[seen].double().mean()
    assert right > 0.93
    filled = density.fill(test, torch.tensor([True, False, False, True]), seed=0)
    assert (filled[:, 0] == test[:, 0])[seen].double().mean() > 0.85


def test_rows_with_gaps_teach_what_is_there():
    x = rows(4000).masked_fill(torch.rand(4000, 4, generator=torch.Generator().manual_seed(3)) < 0.3, math.nan)
    density, test = trained("any", x), rows(4000, seed=1)
    whole = test[~test.isnan().any(1)]
    told = density.predict(whole, "number").mean()
    slope = torch.corrcoef(torch.stack((told, whole[:, 0])))[0, 1]
    assert slope > 0.9
    with torch.no_grad():
        assert -density.log_prob(test).mean() < true_nll(test) + 0.3


def test_a_step_on_a_wide_table_learns_some_columns_and_means_all():
    """The mean over steps is the objective of all columns."""
    torch.manual_seed(0)
    density = mixed(40, width=8, blocks=1).train()
    x = torch.randn(300, 40, dtype=torch.float64) * torch.linspace(0.5, 3, 40)
    found = torch.stack([density(x).mean().detach() for _ in range(80)])
    density.eval()
    assert density._drawn_columns() is not None
    some, whole = found.mean(), density.column_log_prob(x).mean(0).sum()
    assert some.item() == pytest.approx(whole.item(), rel=0.03)


def test_infinity_is_refused_and_a_gap_is_not():
    x = rows(100)
    density = mixed(4, columns=COLUMNS, width=8, blocks=1)
    infinite = x.clone()
    infinite[3, 1] = math.inf
    with pytest.raises(DataError, match="row 3, feature 1 is inf"):
        flowstone.fit(density, infinite, **QUICK)
    with pytest.raises(DataError, match="is nan"):
        flowstone.fit(flowstone.nice(4), x, **QUICK)


@both_orders
def test_a_resumed_training_is_the_unbroken_one(tmp_path, order):
    x = rows(400)

    def train(steps: int, folder) -> MixedDensity:
        torch.manual_seed(0)
        density = mixed(4, columns=COLUMNS, order=order, width=8, blocks=1)
        settings = QUICK | {"validate_every": 5, "schedule": "constant", "warmup": 0.0, "dropout": 0.1}
        flowstone.fit(density, x, steps=steps, resume=folder, **settings)
        return density

    whole = train(20, tmp_path / "whole")
    train(10, tmp_path / "parts")
    resumed = train(20, tmp_path / "parts")
    same = zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    assert all(torch.equal(one, two) for one, two in same)


def test_a_density_suggests_settings_of_its_training():
    density = mixed(4, columns=COLUMNS, width=8, blocks=1)
    suggested = density.training_settings(1000)
    plan = flowstone.train.Settings(lr=1e-4).for_data((4,), 1000, suggested)
    assert plan.lr == 1e-4
    assert plan.dropout == suggested["dropout"] > 0
    assert plan.steps == suggested["steps"]
    assert mixed(4, columns=COLUMNS, width=8, order="given").training_settings(1000)["steps"] < plan.steps
    continuous = mixed(4, width=8).training_settings(1000)
    assert continuous["steps"] > suggested["steps"]
    assert continuous["dropout"] < suggested["dropout"]


def test_impossible_rows_are_named_before_the_training_begins():
    columns = [
        {"name": "a", "atoms": [0, 1], "rest": None},
        {"name": "b", "rest": "positive"},
        {"name": "c", "rest": "grid", "step": 0.5, "low": 0.0},
    ]
    x = torch.tensor([[0.0, 1.0, 2.5], [1.0, 2.0, 0.5]], dtype=torch.float64).repeat(50, 1)
    for column, value, message in (
        (0, 2.0, "column 'a' is 2; it can be 0, 1$"),
        (1, -0.25, "column 'b' is -0.25; it can be any number from 0$"),
        (2, 0.75, r"column 'c' is 0.75; it can be any number from 0 on the grid 0 \+ k \* 0.5$"),
    ):
        bad = x.clone()
        bad[7, column] = value
        density = mixed(3, columns=columns, width=8)
        with pytest.raises(DataError, match=f"data: row 7, {message}"):
            flowstone.fit(density, bad, steps=2, progress=False)
        with pytest.raises(DataError, match="validation: row 7"):
            flowstone.fit(density, x, validation=bad, steps=2, progress=False)
        assert not density.initialized


@both_orders
@pytest.mark.parametrize(
    ("layer", "spoil", "said"),
    [
        ("embedding", lambda _, __, tokens: tokens * math.nan, "embedding, ColumnEmbedding"),
        ("net", lambda _, __, parameters: [each * math.nan for each in parameters], "net, (AnyOrder|Ordered)Net"),
    ],
)
def test_a_layer_that_is_not_finite_is_named(order, layer, spoil, said):
    density = mixed(4, columns=COLUMNS, width=8, order=order)
    getattr(density, layer).register_forward_hook(spoil)
    with pytest.raises(NonFiniteError, match=f"first bad output: {said}"):
        flowstone.fit(density, rows(200), steps=2, progress=False)
