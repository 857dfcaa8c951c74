"""The first link: columns whose outliers hide their bulk, and all others left as they are."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import flowstone
from flowstone.bijections import CompressTails, Standardize, Whiten
from flowstone.recipes import build

Rows = Callable[[int, torch.Generator], Tensor]


def normal(n: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, generator=generator, dtype=torch.float64)


HONEST: dict[str, Rows] = {
    "normal": normal,
    "far": lambda n, g: 1.7e12 + 1e3 * normal(n, g),
    "huge": lambda n, g: 1e44 * normal(n, g),
    "tiny": lambda n, g: 1e-60 * normal(n, g),
    "exponential": lambda n, g: -torch.rand(n, generator=g, dtype=torch.float64).clamp_min(1e-9).log(),
    "Laplace": lambda n, g: normal(n, g) * (-2 * torch.rand(n, generator=g, dtype=torch.float64).log()).sqrt(),
    "counts": lambda n, g: torch.poisson(torch.full((n,), 2.0, dtype=torch.float64), generator=g),
    "mostly zero": lambda n, g: normal(n, g).abs() * (torch.rand(n, generator=g) < 0.05),
    "two far groups": lambda n, g: normal(n, g) + 1000 * (torch.rand(n, generator=g) < 0.3),
}


def contaminated(x: Tensor, part: float, size: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """X with that part of its rows replaced by numbers up to ``size``, and which rows are left."""
    outlier = torch.rand(len(x), generator=generator) < part
    outlier[:2] = True
    far = size * (0.5 + 0.5 * torch.rand(len(x), generator=generator, dtype=torch.float64))
    return torch.where(outlier, far, x), ~outlier


@pytest.mark.parametrize("name", HONEST)
def test_honest_columns_stay_as_they_are_to_the_last_bit(name):
    x = torch.stack([HONEST[name](4000, torch.Generator().manual_seed(seed)) for seed in (0, 1)], 1)
    layer = CompressTails(2).double()
    layer.initialize(x)
    for value, log_det in (layer(x), layer.inverse(x)):
        assert torch.equal(value, x)
        assert torch.equal(log_det, torch.zeros(len(x), dtype=torch.float64))


def test_the_gradient_at_the_farthest_row_is_its_slope():
    layer = CompressTails(1).double()
    layer.knots.copy_(torch.tensor([[-3.0], [3.0]]))
    layer.ranges.fill_(2.0)
    layer.statistics_changed()
    x = torch.tensor([[-5.0], [5.0]], dtype=torch.float64)
    for direction, start in ((layer, x), (layer.inverse, layer(x)[0])):
        start.requires_grad_()
        value, log_det = direction(start)
        (gradient,) = torch.autograd.grad(value.sum(), start)
        torch.testing.assert_close(gradient[:, 0].log(), log_det)


@given(
    seed=st.integers(0, 10_000),
    part=st.sampled_from([0.001, 0.01, 0.1]),
    size=st.sampled_from([1e5, -1e6, -1e9, 1e30]),
    scale=st.sampled_from([1e-30, 1.0, 1e20]),
)
def test_the_bulk_stays_at_size_one_and_outliers_come_near(seed, part, size, scale):
    generator = torch.Generator().manual_seed(seed)
    column, bulk = contaminated(normal(3000, generator) + 5, part, size, generator)
    x = scale * torch.stack((column, normal(3000, generator)), 1)
    layer = Standardize(2).double()
    layer.initialize(x)
    z, log_det = layer(x)
    assert 0.25 < z[bulk, 0].std() < 1.2
    assert z.abs().max() < 9
    back, log_det_back = layer.inverse(z)
    torch.testing.assert_close(back, x, rtol=1e-9, atol=1e-12 * scale)
    torch.testing.assert_close(log_det_back, -log_det)


def test_the_farthest_row_of_each_side_lies_at_its_reach():
    x = torch.cat((torch.linspace(-1, 1, 2000), torch.tensor([1e5, -3e2]))).double()[:, None]
    layer = CompressTails(1).double()
    layer.initialize(x)
    s = 0.75 * 2 / 2.3006987
    torch.testing.assert_close(layer(x)[0][-2:, 0], 5 * s * torch.tensor([1.0, -1.0]).double(), rtol=2e-3, atol=0)
    torch.testing.assert_close(layer.knots[:, 0], 3 * s * torch.tensor([-1.0, 1.0]).double(), rtol=2e-3, atol=0)


def test_beyond_the_farthest_row_it_is_a_line_with_the_slope_there():
    x = torch.cat((torch.linspace(-1, 1, 2000), torch.tensor([1e5, -3e2]))).double()[:, None]
    layer = CompressTails(1).double()
    layer.initialize(x)
    far = torch.tensor([[1e5 - 1.0], [1e5 + 1.0], [2e5], [3e5], [1e30], [-1e30]]).double()
    z, log_det = layer(far)
    torch.testing.assert_close(log_det, log_det[0].expand(6).where(far[:, 0] > 0, log_det[5]), rtol=1e-5, atol=0)
    torch.testing.assert_close((z[3] - z[2]).log(), math.log(1e5) + log_det[2:3], rtol=1e-9, atol=0)
    assert layer.inverse(torch.tensor([[50.0], [-50.0]]).double())[0].isfinite().all()
    torch.testing.assert_close(layer.inverse(z)[0], far, rtol=1e-9, atol=0)


def test_a_side_without_outliers_stays_as_it_is():
    x = torch.cat((torch.linspace(-1, 1, 2000), torch.tensor([1e5]))).double()[:, None]
    layer = CompressTails(1).double()
    layer.initialize(x)
    below = torch.tensor([[-7.0], [-1e4]]).double()
    assert torch.equal(layer(below)[0], below)


def test_value_and_slope_are_continuous_and_gradients_finite_at_the_knots():
    x = torch.cat((torch.linspace(-1, 1, 2000), torch.tensor([1e5, -3e2]))).double()[:, None]
    layer = CompressTails(1).double()
    layer.initialize(x)
    near = torch.cat([layer.knots + step for step in (-1e-9, 0.0, 1e-9)]).requires_grad_()
    z, log_det = layer(near)
    (slope,) = torch.autograd.grad(z.sum(), near, retain_graph=True)
    torch.testing.assert_close(slope, torch.ones_like(slope), atol=1e-6, rtol=0)
    torch.testing.assert_close(z, near, atol=1e-8, rtol=0)
    assert torch.autograd.grad(log_det.sum(), near)[0].isfinite().all()


def test_it_is_set_once():
    layer = CompressTails(1)
    layer.initialize(torch.randn(500, 1))
    layer.initialize(torch.cat((torch.randn(500, 1), torch.tensor([[1e6]]))))
    assert not layer.active


def test_an_outlier_of_one_column_leaves_the_correlations_alone():
    generator = torch.Generator().manual_seed(0)
    first = normal(5000, generator)
    clean = torch.stack((first, first + 0.03 * normal(5000, generator)), 1)
    dirty = clean.clone()
    dirty[:50, 0] = 1e4
    layers = []
    for x in (clean, dirty):
        layers.append(Whiten(2).double())
        layers[-1].initialize(x)
    z = [layer(clean)[0] for layer in layers]
    assert z[0].T.cov().allclose(torch.eye(2).double(), atol=0.01)
    spread = torch.linalg.eigvalsh(z[1][clean.abs().amax(1) < 1.5].T.cov())
    assert 0.2 < spread.min() < spread.max() < 1.5


def test_outliers_of_the_context_do_not_hide_its_bulk():
    context = torch.cat((torch.randn(1000, 1), torch.tensor([[1e6]])))
    flow = build("spline", {"features": 1, "context_features": 1})
    flow.initialize(torch.randn(1001, 1), context)
    assert flow.standardize_context is not None
    assert 0.8 < flow.standardize_context(context)[0][:-1].std() < 1.2


def test_files_without_these_statistics_load_as_they_were():
    x = torch.randn(300, 2) * 3 + 1
    old = build("spline", {"features": 2})
    old.initialize(x)
    state = {name: value for name, value in old.state_dict().items() if ".tails." not in name}
    new = build("spline", {"features": 2})
    new.load_state_dict(state)
    assert torch.equal(new.log_prob(x), old.log_prob(x))
    again = torch.cat((x, torch.tensor([[1e6, 0.0]])))
    new.initialize(again)
    assert torch.equal(new.log_prob(x), old.log_prob(x))


def test_statistics_are_saved_and_loaded(tmp_path):
    x = torch.cat((torch.randn(2000, 1), torch.tensor([[1e6]])))
    flow = build("spline", {"features": 1})
    flow.initialize(x)
    flowstone.save(flow, tmp_path)
    assert torch.equal(flowstone.load(tmp_path).log_prob(x), flow.log_prob(x))


@pytest.mark.parametrize(("recipe", "least", "cost"), [("spline", 0.99, 0.1), ("realnvp", 0.9, 0.3)])
@pytest.mark.filterwarnings("ignore:validation has not moved")  # a normal bulk is what the flow starts as
def test_outliers_do_not_hide_the_bulk(recipe, least, cost):
    """Without compression the density has only 3% of its mass on the bulk."""
    generator = torch.Generator().manual_seed(0)
    x = normal(20_000, generator)[:, None] + 5
    x[torch.randperm(len(x), generator=generator)[:20]] = 1e6 * torch.rand(20, 1, generator=generator).double()
    torch.manual_seed(0)
    flow = build(recipe, {"features": 1})
    flowstone.fit(flow, x, steps=150, progress=False)
    grid = torch.linspace(0, 10, 2001, dtype=torch.float64)[:, None]
    with torch.no_grad():
        mass = torch.trapezoid(flow.log_prob(grid).double().exp(), grid[:, 0]).item()
        clean = -flow.log_prob(normal(5000, generator)[:, None] + 5).mean().item()
    assert mass > least
    assert clean < 0.5 * math.log(2 * math.pi * math.e) + cost


def test_it_exports_with_a_batch_of_any_size():
    layer = Whiten(2)
    layer.initialize(torch.cat((torch.randn(500, 2), torch.tensor([[1e6, -1e5]]))))
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(layer, (torch.randn(4, 2),), dynamic_shapes=({0: batch},))
    x = torch.tensor([[0.0, 0.0], [1e4, 3.0], [-7.0, -1e7]])
    torch.testing.assert_close(program.module()(x), layer(x))
