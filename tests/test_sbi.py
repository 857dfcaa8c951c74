"""Densities inside the library sbi."""

import pytest
import torch

pytest.importorskip("sbi", reason="sbi is not installed")

from sbi.inference import NLE, NPE
from torch.distributions import MultivariateNormal

from flowstone.sbi import density_estimator, likelihood_estimator


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """The library writes its logs into the working directory."""
    monkeypatch.chdir(tmp_path)


SHIFT = torch.tensor([1.0, -2.0])


def simulate(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    theta = torch.randn(n, 2)
    return theta, theta + SHIFT + 0.5 * torch.randn(n, 2)


@pytest.mark.parametrize("recipe", ["spline", "mixed", "gaussian_mixture"])
def test_it_has_the_shapes_and_the_densities_that_sbi_asks_for(recipe):
    torch.manual_seed(0)
    theta, x = simulate(300)
    estimator = density_estimator(recipe)(theta, x)
    with torch.no_grad():
        assert estimator.loss(theta[:7], x[:7]).shape == (7,)
        drawn, log_prob = estimator.eval().sample_and_log_prob(torch.Size((5,)), x[:3])
        assert drawn.shape == (5, 3, 2)
        assert log_prob.shape == (5, 3)
        each = estimator.density.log_prob(drawn[:, 1], x[1].expand(5, -1))
    torch.testing.assert_close(log_prob[:, 1], each.float(), rtol=1e-4, atol=1e-4)


def test_conditions_may_be_arrays():
    theta, x = torch.randn(50, 2), torch.randn(50, 3, 4)
    estimator = density_estimator("nice")(theta, x)
    assert estimator.loss(theta[:5], x[:5]).shape == (5,)
    drawn, log_prob = estimator.sample_and_log_prob(torch.Size((6,)), x[:5])
    assert (drawn.shape, log_prob.shape) == ((6, 5, 2), (6, 5))
    torch.testing.assert_close(estimator.log_prob(theta[None, :5], x[:5])[0], -estimator.loss(theta[:5], x[:5]))


def test_the_likelihood_is_the_same_each_time_while_the_loss_draws_an_order():
    torch.manual_seed(0)
    theta, x = simulate(100)
    estimator = density_estimator("mixed", width=16, blocks=1)(theta @ torch.ones(2, 3), x).train()
    for parameter in estimator.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    theta = theta @ torch.ones(2, 3)
    assert torch.equal(estimator.log_prob(theta[None], x), estimator.log_prob(theta[None], x))
    assert not torch.equal(estimator.loss(theta, x), estimator.loss(theta, x))


@pytest.mark.filterwarnings("ignore:Maximum number of epochs")
def test_sbi_trains_it_and_samples_its_posterior():
    torch.manual_seed(0)
    prior = MultivariateNormal(torch.zeros(2), torch.eye(2))
    theta, x = simulate(1500)
    inference = NPE(prior, density_estimator=density_estimator("spline", couplings=2, hidden=(16, 16)))
    inference.append_simulations(theta, x).train(max_num_epochs=15, learning_rate=5e-3)
    observed = torch.tensor([[1.5, -1.0]])
    drawn = inference.build_posterior().sample((2000,), x=observed, show_progress_bars=False)
    wanted = (observed[0] - SHIFT) / 1.25  # the prior has deviation 1, the noise 0.5
    torch.testing.assert_close(drawn.mean(0), wanted, atol=0.2, rtol=0)
    torch.testing.assert_close(drawn.std(0), torch.full((2,), 0.2**0.5), atol=0.1, rtol=0)


@pytest.mark.filterwarnings("ignore:Maximum number of epochs")
def test_sbi_trains_it_as_a_likelihood():
    """Of x given theta, which sbi hands to its builder in the other order."""
    torch.manual_seed(0)
    prior = MultivariateNormal(torch.zeros(2), torch.eye(2))
    theta, x = simulate(1500)
    x = torch.cat((x, 100 + torch.randn(len(x), 1)), 1)
    inference = NLE(prior, density_estimator=likelihood_estimator("gaussian_mixture", components=1))
    estimator = inference.append_simulations(theta, x).train(max_num_epochs=1)
    assert (estimator.input_shape, estimator.condition_shape) == ((3,), (2,))
    drawn = estimator.sample(torch.Size((2000,)), torch.tensor([[1.0, 1.0]]))[:, 0]
    torch.testing.assert_close(drawn.mean(0), torch.tensor([2.0, -1.0, 100.0]), atol=0.15, rtol=0)


def test_shapes_that_do_not_fit_are_named():
    estimator = density_estimator("spline")(*simulate(100))
    with pytest.raises(ValueError, match="condition"):
        estimator.log_prob(torch.zeros(1, 2, 2), torch.zeros(2, 3))
