"""ActNorm and BatchNorm: what data set in them, and what training does."""

import math

import pytest
import torch

import flowstone
from flowstone.bijections import (
    ActNorm,
    BatchNorm,
)


def test_act_norm_is_set_once_and_only_once():
    layer = ActNorm(2)
    x = torch.randn(500, 2, 3, 3) * torch.tensor([2.0, 0.1])[:, None, None] + 5
    layer.initialize(x)
    z, log_det = layer(x)
    assert z.mean((0, 2, 3)).abs().max() < 1e-4
    torch.testing.assert_close(z.std((0, 2, 3), correction=0), torch.ones(2), atol=1e-4, rtol=0)
    assert log_det[0].item() == pytest.approx(9 * (-math.log(0.2)), rel=0.02)
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    fresh = ActNorm(2)
    fresh.load_state_dict(state)
    fresh.initialize(100 * x)
    assert all(torch.equal(state[name], value) for name, value in fresh.state_dict().items())


@pytest.mark.parametrize("statistics", ["running", "batch"])
def test_batch_norm_trains_by_batches_and_evaluates_by_averages(float64, statistics):
    layer = BatchNorm(2, momentum=0.1, eps=1e-5, statistics=statistics)
    x = 3 * torch.randn(4000, 2) + 5
    assert torch.equal(layer.eval()(x)[0], x)
    assert torch.equal(layer(x)[1], torch.zeros(4000))
    layer.train()
    z, log_det = layer(x)
    variance, mean = torch.var_mean(x, 0, correction=0)
    torch.testing.assert_close(layer.mean, 0.1 * mean)
    torch.testing.assert_close(layer.variance, 0.9 * (1 - 1e-5) + 0.1 * variance)
    used = (layer.mean, layer.variance) if statistics == "running" else (mean, variance)
    torch.testing.assert_close(z, (x - used[0]) / (used[1] + 1e-5).sqrt())
    torch.testing.assert_close(log_det, -0.5 * (used[1] + 1e-5).log().sum().expand(4000))
    for _ in range(200):
        layer(x)
    layer.eval()
    torch.testing.assert_close(layer(x)[0].std(0, correction=0), torch.ones(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(layer.inverse(layer(x)[0])[0], x)


def test_the_gradient_flows_through_the_batch_s_own_part_of_the_average(float64):
    layer = BatchNorm(1, momentum=0.5).train()
    x = torch.randn(50, 1, requires_grad=True)
    z, _ = layer(x)
    (gradient,) = torch.autograd.grad(z[0].sum(), x)
    assert gradient[1].abs() > 1e-6  # row 0 follows from row 1 through the mean
    assert not layer.mean.requires_grad


@pytest.mark.parametrize(
    "make",
    [
        lambda: flowstone.maf(2, layers=2, hidden=(16,), batch_norm=True),
        lambda: flowstone.realnvp(2, couplings=2, hidden=(16,), batch_norm=True),
    ],
)
def test_a_flow_with_batch_norm_keeps_the_statistics_of_its_best_weights(make, tmp_path):
    torch.manual_seed(0)
    flow = make()
    x = torch.randn(3000, 2) * 4 + 1
    history = flowstone.fit(flow, x, validation=x[:1000], steps=60, validate_every=20, progress=False)
    assert -flow.log_prob(x[:1000]).mean().item() == pytest.approx(history.best.val_nll, abs=1e-4)
    flowstone.save(flow, tmp_path)
    assert torch.equal(flowstone.load(tmp_path).log_prob(x), flow.log_prob(x))
