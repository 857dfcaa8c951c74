import math

import pytest
import torch
from torch.distributions import MultivariateNormal

import flowstone
from cases import reset_outputs
from flowstone.errors import DataError, NonFiniteError, SettingError, ShapeError
from flowstone.train import Weighted

TARGET = MultivariateNormal(torch.tensor([1.0, -0.5]), torch.tensor([[0.6, 0.3], [0.3, 0.4]]))
LOG_Z = 2.5  # the density is handed over unnormalised


def log_density(x):
    return TARGET.log_prob(x) + LOG_Z


def banana(x):
    return -0.5 * (x[:, 0] / 1.5).square() - 2 * (x[:, 1] - 0.5 * x[:, 0].square() + 1).square()


QUICK = {"progress": False, "batch_size": 256, "n_samples": 4000}


@pytest.mark.parametrize("recipe", [flowstone.realnvp, flowstone.spline, flowstone.iaf, flowstone.maf])
def test_it_finds_the_density_and_its_normalizer(recipe):
    torch.manual_seed(0)
    kind = {"layers": 2} if recipe in (flowstone.iaf, flowstone.maf) else {"couplings": 4}
    flow = recipe(2, hidden=(32,), **kind)
    fit = flowstone.fit_to_density(flow, log_density, steps=300, **QUICK)
    assert fit.effective_sample_size > 0.9
    assert fit.sample.log_normalizer == pytest.approx(LOG_Z, abs=0.05)
    assert fit.losses[-1] < fit.losses[0]
    mean = (fit.sample.weights[:, None] * fit.sample.x).sum(0)
    torch.testing.assert_close(mean, TARGET.mean.double(), atol=0.08, rtol=0)
    assert not flow.training


def test_a_bent_density_of_known_mass():
    """Of the banana the mass is known: it is a normal bent without a change of volume."""
    torch.manual_seed(0)
    fit = flowstone.fit_to_density(flowstone.spline(2, couplings=4, hidden=(32,)), banana, steps=500, **QUICK)
    assert fit.effective_sample_size > 0.7
    assert fit.sample.log_normalizer == pytest.approx(math.log(2 * math.pi * 1.5 * 0.5), abs=0.05)


def test_the_path_gradient_vanishes_where_the_flow_is_the_density(float64):
    """Every single gradient, not just their mean: with the score term it would be noise of order one."""
    from flowstone.train.density import _path_loss

    flow = flowstone.realnvp(2, couplings=2, hidden=(8,))
    reset_outputs(flow)
    normal = MultivariateNormal(torch.zeros(2), torch.eye(2))
    _path_loss(flow, normal.log_prob, None, 16, 0).backward()
    for parameter in flow.parameters():
        if parameter.grad is not None:
            assert parameter.grad.abs().max() < 1e-12
    wrong = MultivariateNormal(torch.ones(2), torch.eye(2))
    _path_loss(flow, wrong.log_prob, None, 16, 0).backward()
    assert max(p.grad.abs().max().item() for p in flow.parameters() if p.grad is not None) > 0.1


def test_the_same_seed_gives_the_same_flow():
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        flow = flowstone.realnvp(2, couplings=2, hidden=(8,))
        results.append(flowstone.fit_to_density(flow, log_density, steps=20, seed=3, **QUICK))
    assert results[0].losses == results[1].losses
    assert torch.equal(results[0].sample.x, results[1].sample.x)


def test_a_conditional_flow_is_fitted_at_its_context():
    torch.manual_seed(0)
    flow = flowstone.realnvp(2, context_features=1, couplings=2, hidden=(16,))
    fit = flowstone.fit_to_density(flow, log_density, context=torch.tensor([0.3]), steps=200, **QUICK)
    assert fit.effective_sample_size > 0.8


def test_running_statistics_stay_where_they_are():
    torch.manual_seed(0)
    flow = flowstone.maf(2, layers=2, hidden=(16,), batch_norm=True)
    before = {name: value.clone() for name, value in flow.named_buffers()}
    fit = flowstone.fit_to_density(flow, log_density, steps=200, **QUICK)
    assert fit.effective_sample_size > 0.9
    assert all(torch.equal(value, before[name]) for name, value in flow.named_buffers())


def test_effective_sample_size_tells_a_bad_fit():
    flow = flowstone.realnvp(2)
    far = MultivariateNormal(torch.full((2,), 6.0), torch.eye(2))
    assert flowstone.importance_sample(flow, far.log_prob, 1000).effective_sample_size < 0.02


def test_resampled_samples_are_of_the_density():
    """By moments of 20,000 draws, from 200,000 samples with an effective size of about 50,000."""
    weighted = flowstone.importance_sample(flowstone.realnvp(2), log_density, 200_000)
    drawn = weighted.resample(20_000, seed=1)
    torch.testing.assert_close(drawn.mean(0), TARGET.loc, atol=0.03, rtol=0)
    torch.testing.assert_close(drawn.T.cov(), TARGET.covariance_matrix, atol=0.04, rtol=0)
    assert torch.equal(drawn, weighted.resample(20_000, seed=1))
    assert not torch.equal(drawn, weighted.resample(20_000, seed=2))


def test_samples_are_drawn_as_often_as_their_weights_say():
    x, shares = torch.arange(4.0)[:, None], torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    drawn = Weighted(x, shares.log() + 7).resample(100_000)[:, 0]
    torch.testing.assert_close(drawn.long().bincount() / len(drawn), shares.float(), atol=0.01, rtol=0)


def test_samples_without_weight_are_never_drawn():
    x = torch.arange(5.0)[:, None]
    weighted = Weighted(x, torch.tensor([-math.inf, 0.0, -math.inf, 1.0, -math.inf], dtype=torch.float64))
    drawn = weighted.resample(1000)
    assert sorted(set(drawn[:, 0].tolist())) == [1.0, 3.0]
    with pytest.raises(DataError, match="none of the 5 samples has a weight above 0"):
        Weighted(x, torch.full((5,), -math.inf, dtype=torch.float64)).resample(1)
    for value in (math.nan, math.inf):
        with pytest.raises(DataError, match="a weight is not finite"):
            Weighted(x, torch.full((5,), value)).resample(1)
    with pytest.raises(SettingError, match=r"seed=2\.5 must be a whole number"):
        weighted.resample(1, seed=2.5)  # pyright: ignore
    with pytest.raises(SettingError, match=r"n=0 must be a whole number, at least 1"):
        weighted.resample(0)


def test_what_goes_wrong_is_said():
    flow = flowstone.realnvp(2)
    with pytest.raises(ShapeError, match=r"log_density gave shape \(512, 2\) for 512 rows"):
        flowstone.fit_to_density(flow, lambda x: x, steps=1, progress=False)
    with pytest.raises(NonFiniteError, match="step 0: the loss is"):
        flowstone.fit_to_density(flow, lambda x: x.sum(-1) * float("nan"), steps=1, progress=False)
    with pytest.raises(SettingError, match="the prior may have no parameters of its own"):
        flowstone.fit_to_density(flowstone.realnvp(2, prior="student"), log_density, steps=1, progress=False)


def test_a_flow_with_nothing_to_train_is_refused():
    flow = flowstone.nice(2).requires_grad_(False)
    with pytest.raises(SettingError, match="no parameters to train"):
        flowstone.fit_to_density(flow, lambda x: -x.square().sum(-1), steps=2, progress=False)
