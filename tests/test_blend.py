"""A blend is the weighted mixture of its parts."""

import math

import pytest
import torch

import flowstone
from flowstone import Flow
from flowstone.bijections import Chain, Dequantize, Standardize
from flowstone.blend import Blend
from flowstone.errors import DataError, SettingError, ShapeError
from flowstone.priors import StandardNormal
from flowstone.recipes import blend, gaussian_mixture, mixed, nice, realnvp

PARTS = [
    {"recipe": "gaussian_mixture", "arguments": {"components": 2}},
    {"recipe": "nice", "arguments": {"hidden": [8]}},
    {"recipe": "mixed", "arguments": {"width": 8}},
]


def made() -> Blend:
    torch.manual_seed(0)
    found = blend(2, parts=PARTS, weights=[0.5, 0.3, 0.2])
    x = torch.randn(300, 2, dtype=torch.float64)
    found.initialize(torch.cat((x - 4, 0.3 * x + 2)))
    return found.eval()


def test_its_density_is_the_weighted_sum_and_integrates_to_one(float64):
    density = made()
    x = torch.randn(50, 2)
    terms = [w * part.log_prob(x).exp() for w, part in zip((0.5, 0.3, 0.2), density.densities, strict=True)]
    torch.testing.assert_close(density.log_prob(x).exp(), torch.stack(terms).sum(0), rtol=1e-9, atol=0)
    light = Blend(density.densities[:2], [0.6, 0.4])  # the tails of mixed are polynomial
    assert flowstone.grid_integral(light, (-90, -90), (90, 90), points=1500) == pytest.approx(1, abs=2e-3)


def test_samples_come_from_the_parts_as_often_as_they_weigh(float64):
    far = [gaussian_mixture(1, components=1) for _ in range(2)]
    far[0].initialize(torch.randn(100, 1) - 50)
    far[1].initialize(torch.randn(100, 1) + 50)
    density = Blend(far, [3, 1])
    drawn = density.sample(20_000, seed=0)
    share = (drawn < 0).double().mean().item()
    assert abs(share - 0.75) < 4 * (0.75 * 0.25 / 20_000) ** 0.5
    assert torch.equal(drawn, density.sample(20_000, seed=0))
    x, log_prob = density.sample_and_log_prob(10, seed=1)
    torch.testing.assert_close(log_prob, density.log_prob(x))
    assert density.heaviest is far[0]
    assert density.sample(0).shape == (0, 1)


def test_each_part_is_given_the_context(float64):
    density = blend(2, context_features=3, parts=PARTS[::2], weights=[1, 3])
    context = torch.randn(200, 3)
    density.initialize(context[:, :2] + 0.1 * torch.randn(200, 2), context)
    x, c = torch.randn(20, 2), torch.randn(20, 3)
    terms = [w * part.log_prob(x, c).exp() for w, part in zip((0.25, 0.75), density.densities, strict=True)]
    torch.testing.assert_close(density.log_prob(x, c).exp(), torch.stack(terms).sum(0), rtol=1e-9, atol=0)
    drawn, log_prob = density.sample_and_log_prob(4, c, seed=0)
    again = density.log_prob(drawn.flatten(0, 1), c.repeat(4, 1)).unflatten(0, (4, 20))
    torch.testing.assert_close(log_prob, again)


def test_it_comes_back_from_a_folder(tmp_path):
    density = made()
    flowstone.save(density, tmp_path)
    again = flowstone.load(tmp_path)
    x = torch.randn(20, 2)
    assert torch.equal(again.log_prob(x), density.log_prob(x))
    assert torch.equal(again.sample(5, seed=0), density.sample(5, seed=0))


def test_it_trains():
    density = blend(2, parts=PARTS)
    history = flowstone.fit(density, torch.randn(400, 2) ** 3, steps=30, validate_every=10, progress=False)
    assert history.best.val_nll < history.records[0].val_nll


def test_parts_and_weights_that_cannot_be_are_refused():
    with pytest.raises(ShapeError, match=r"got \(2,\) with 0 context features and \(3,\) with 0"):
        Blend([nice(2), nice(3)])
    with pytest.raises(ShapeError, match=r"\(2,\) with 1 context features and \(2,\) with 0"):
        Blend([realnvp(2, context_features=1), realnvp(2)])
    with pytest.raises(SettingError, match="one positive number for each of 2"):
        Blend([nice(2), mixed(2, width=8)], [1.0])
    with pytest.raises(SettingError, match="one positive number"):
        Blend([nice(2), nice(2)], [1.0, 0.0])
    with pytest.raises(SettingError, match="one positive number"):
        Blend([nice(2), nice(2)], [1.0, math.inf])
    with pytest.raises(SettingError, match="at least one"):
        Blend([])


def test_it_reads_what_all_parts_read_and_draws_noise_where_one_does(float64):
    tables, flow = Blend([mixed(2, width=8), mixed(2, width=8)]), Blend([mixed(2, width=8), nice(2)])
    assert (tables.accepts_gaps, flow.accepts_gaps, tables.stochastic) == (True, False, False)
    x = torch.tensor([[0.5, math.nan]])
    alone = torch.stack([part.log_prob(x) for part in tables.densities]).logsumexp(0) - math.log(2)
    torch.testing.assert_close(tables.log_prob(x), alone)
    noisy = Flow(Chain(Dequantize(), Standardize(2)), StandardNormal(2))
    assert Blend([noisy, nice(2)]).stochastic
    columns = [{"name": "a", "atoms": [0, 1], "rest": None}, {"name": "b"}]
    with pytest.raises(DataError, match="column 'a' is 2"):
        Blend([mixed(2, columns=columns, width=8)]).require_possible(torch.tensor([[2.0, 0.0]]), "x")


def test_each_sample_is_given_its_own_context(float64):
    parts = [gaussian_mixture(1, context_features=1, components=1) for _ in range(2)]
    context = torch.randn(500, 1) * 10
    for part in parts:
        part.initialize(context + 0.01 * torch.randn(500, 1), context)
    asked = torch.arange(-20.0, 20.0)[:, None]
    drawn = Blend(parts, [1, 1]).sample(50, asked, seed=0)
    assert (drawn - asked).abs().max() < 0.5  # they lie 1 apart
