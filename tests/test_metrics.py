"""Figures of a density on data: negative log-likelihood, bits per dimension, round trips."""

import math

import pytest
import torch

import flowstone
from cases import disturb
from flowstone.bijections import Bijection, Chain, Dequantize, Permutation
from flowstone.errors import SettingError
from flowstone.evaluation.metrics import evaluate, likelihood_terms, log_prob, round_trip
from flowstone.priors import StandardNormal


def wild(recipe, *args, size: float = 0.3, **kwargs) -> flowstone.Flow:
    flow = recipe(*args, **kwargs)
    disturb(flow, size)
    return flow.eval()


def test_a_context_far_from_zero_keeps_its_digits():
    torch.manual_seed(0)
    context = 1.7e9 + torch.arange(500, dtype=torch.float64)[:, None]
    x = (context - 1.7e9) / 100 + 0.01 * torch.randn(500, 1)
    flow = flowstone.realnvp(1, context_features=1, couplings=2, hidden=(16,))
    flowstone.fit(flow, x, context=context, steps=300, progress=False)
    assert evaluate(flow, x, context)["nll_nats"] < 0.5  # float32 would leave 4 distinct contexts, and 1.4 nats


def test_evaluate_counts_nan_and_never_drops_it():
    x = torch.randn(50, 2)
    flow = flowstone.nice(2)
    figures = evaluate(flow, x)
    assert figures["bits_per_dim"] == pytest.approx(figures["nll_nats"] / 2 / 0.6931471805599453)
    assert figures["nll_stderr"] == pytest.approx((-flow.log_prob(x)).std().item() / 50**0.5, rel=1e-5)
    x[3, 1] = float("nan")
    figures = evaluate(flow, x)
    assert math.isnan(figures["nll_nats"])
    assert math.isnan(figures["round_trip_max"])
    assert figures["n_not_finite"] == 1


@pytest.mark.parametrize(
    ("make", "x"),
    [
        (lambda: wild(flowstone.realnvp, 2), torch.randn(9000, 2, generator=torch.Generator().manual_seed(0))),
        (
            lambda: wild(flowstone.realnvp_image, (1, 4, 4), channels=4, blocks=1, size=0.1),
            torch.randint(256, (40, 1, 4, 4), generator=torch.Generator().manual_seed(0)),
        ),
    ],
)
def test_the_two_terms_add_up_to_the_likelihood(make, x):
    torch.manual_seed(0)
    flow = make()
    prior, log_det = likelihood_terms(flow, x)
    torch.testing.assert_close(prior + log_det, log_prob(flow, x))
    assert prior.std() > 0.1
    assert log_det.std() > 0.1
    figures = evaluate(flow, x)
    assert figures["log_prior"] == pytest.approx(prior.double().mean().item(), rel=1e-5)
    assert figures["log_det"] == pytest.approx(log_det.double().mean().item(), rel=1e-4)
    assert figures["log_prior"] + figures["log_det"] == pytest.approx(-figures["nll_nats"], rel=1e-4)


def test_the_terms_of_a_conditional_flow_take_its_context():
    torch.manual_seed(0)
    flow, x, context = wild(flowstone.realnvp, 2, context_features=1), torch.randn(50, 2), torch.randn(50, 1)
    prior, log_det = likelihood_terms(flow, x, context)
    torch.testing.assert_close(prior + log_det, flow.log_prob(x, context).detach())


def test_round_trip_sees_a_wrong_inverse():
    flow = wild(flowstone.realnvp, 2)
    assert round_trip(flow, torch.randn(100, 2)) < 1e-4

    class Wrong(Permutation):
        def inverse(self, z, context=None):
            return z, z.new_zeros(len(z))

    assert round_trip(flowstone.Flow(Wrong(torch.tensor([1, 0])), StandardNormal(2)), torch.randn(100, 2)) > 0.1


def test_round_trip_of_images_is_that_of_their_noise():
    flow = wild(flowstone.realnvp_image, (1, 4, 4), channels=4, blocks=1, size=0.05)
    x = torch.randint(256, (300, 1, 4, 4), dtype=torch.uint8)
    off = round_trip(flow, x)
    assert 0 < off < 0.05
    assert isinstance(flow.bijection, Chain)
    flow.bijection.links[-1].register_forward_hook(lambda module, inputs, output: (output[0] + 1e-3, output[1]))
    assert round_trip(flow, x) > max(2 * off, 1e-3)  # far from enough to reach another integer


def test_more_draws_of_the_noise_make_the_bound_tighter():
    flow = wild(flowstone.realnvp_image, (1, 4, 4), channels=4, blocks=1, alpha=1e-6, size=0.2)
    x = 255 * torch.randint(2, (400, 1, 4, 4), dtype=torch.uint8)  # at the borders the logit is steep
    one, four, many = (evaluate(flow, x, bound_samples=k) for k in (1, 4, 16))
    assert one["bits_per_dim"] > four["bits_per_dim"] > many["bits_per_dim"]
    assert one["bound_samples"] == 1
    assert one == evaluate(flow, x)  # the same noise each time
    dimensions = 16 * math.log(2)
    assert one["bits_per_dim_stderr"] == pytest.approx(one["nll_stderr"] / dimensions)
    by_hand = []
    for seed in range(4):
        torch.manual_seed(seed)
        by_hand.append(log_prob(flow, x, bound_samples=16))
    assert torch.equal(by_hand[0], by_hand[1])
    vector = flowstone.nice(2)
    assert torch.equal(log_prob(vector, torch.zeros(3, 2), bound_samples=5), vector.log_prob(torch.zeros(3, 2)))
    with pytest.raises(SettingError, match="bound_samples=0"):
        evaluate(flow, x, bound_samples=0)


def test_the_bound_of_many_draws_is_the_log_of_their_mean():
    """A flow whose density over each unit cell is known: linear in the noise."""
    flow = flowstone.Flow(Chain(Dequantize(levels=2), Logit2()), StandardNormal(1))
    x = torch.tensor([[0.0], [1.0]])
    exact = torch.tensor([0.25, 0.75]).log()  # of the density z/2 on [0, 2]
    bound = log_prob(flow, x.expand(2, 1), bound_samples=4000)
    torch.testing.assert_close(bound, exact, atol=0.03, rtol=0)


class Logit2(Bijection):
    """A uniform density's logit on [0, 2], bent so that the density of x is x / 2."""

    def forward(self, x, context=None):
        u = (x / 2).square().clamp(1e-6, 1 - 1e-6)
        z = math.sqrt(2) * torch.erfinv(2 * u - 1)
        log_normal = -0.5 * (z.square() + math.log(2 * math.pi))
        return z, ((x / 2).log() - log_normal).sum(-1)

    def inverse(self, z, context=None):
        raise NotImplementedError
