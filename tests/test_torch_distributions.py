"""A density as one of torch's distributions, in float64."""

import math
from typing import Any

import pytest
import torch
from torch import distributions as td

from cases import disturb
from flowstone import Flow, priors
from flowstone import bijections as b
from flowstone.recipes import maf
from gaussian import gaussian_flow, normal_of, some_distribution
from properties import same

batches = pytest.mark.parametrize("batch", [None, (5,), (2, 4), (1, 4)])


@batches
def test_shapes_are_those_of_a_normal_of_torch(float64, batch):
    _, ours, batch_shape = some_distribution(batch)
    theirs = td.Independent(td.Normal(torch.zeros(*batch_shape, 3), 1.0), 1)
    one: Any
    other: Any
    for one, other in ((ours, theirs), (ours.expand((6, 2, *batch_shape)), theirs.expand((6, 2, *batch_shape)))):
        assert (one.batch_shape, one.event_shape) == (other.batch_shape, other.event_shape)
        for shape in map(torch.Size, [(), (7,), (3, 2)]):
            x = one.sample(shape)
            assert x.shape == one.rsample(shape).shape == other.sample(shape).shape
            assert one.log_prob(x).shape == other.log_prob(x).shape
            assert one.support.check(x).shape == other.support.check(x).shape
    for value in (torch.zeros(3), torch.zeros(6, *(1 for _ in batch_shape), 3)):
        assert ours.log_prob(value).shape == theirs.log_prob(value).shape
    assert "FlowDistribution" in repr(ours)


def test_no_samples_and_no_contexts(float64):
    for batch, shape in (((2, 4), (0, 3)), ((0,), (6,)), (None, (0,))):
        _, density, batch_shape = some_distribution(batch)
        x = density.sample(shape)
        assert x.shape == (*shape, *batch_shape, 3)
        assert density.log_prob(x).shape == (*shape, *batch_shape)


@batches
def test_expanded_distribution_has_the_same_density(float64, batch):
    _, density, batch_shape = some_distribution(batch)
    expanded = density.expand((6, *batch_shape))
    x = expanded.sample((3,))
    same(expanded.log_prob(x), density.log_prob(x))


def test_expanding_repeats_a_context_of_one_row(float64):
    flow, density, _ = some_distribution((1,))
    x = torch.randn(4, 3)
    same(density.expand((4,)).log_prob(x), flow.log_prob(x, density.context.expand(4, 2)))


@batches
def test_density_and_samples_are_those_of_the_flow_row_by_row(float64, batch):
    flow, density, batch_shape = some_distribution(batch)
    x = torch.randn(3, *batch_shape, 3)
    rows = None if batch is None else density.context.expand(3, *batch_shape, 2).reshape(-1, 2)
    wanted = flow.log_prob(x.reshape(-1, 3), rows).reshape(3, *batch_shape)
    same(density.log_prob(x), wanted)
    torch.manual_seed(1)
    drawn = density.sample((3,))
    torch.manual_seed(1)
    latent = torch.randn(wanted.numel(), 3)
    same(drawn, flow.from_latent(latent, rows)[0].reshape(x.shape))


def test_batch_dimensions_can_be_reinterpreted(float64):
    _, density, _ = some_distribution((2, 4))
    joint = td.Independent(density, 1)
    assert (joint.batch_shape, joint.event_shape) == ((2,), (4, 3))
    x = joint.rsample((6,))
    assert x.shape == (6, 2, 4, 3)
    same(joint.log_prob(x), density.log_prob(x).sum(-1))
    same(joint.expand((5, 2)).log_prob(x[:, None]), density.log_prob(x).sum(-1)[:, None].expand(6, 5, 2))


def test_contexts_can_be_components_of_a_mixture(float64):
    _, density, _ = some_distribution((2, 4))
    weights = td.Categorical(logits=torch.randn(2, 4))
    mixture = td.MixtureSameFamily(weights, density)
    x = mixture.sample((6,))
    assert x.shape == (6, 2, 3)
    same(mixture.log_prob(x), (weights.logits + density.log_prob(x[:, :, None])).logsumexp(-1))


def test_divergence_of_two_flows_is_that_of_their_normals(float64):
    one, other = gaussian_flow(), gaussian_flow()
    p, q = one.distribution(), other.distribution()
    x = p.sample((20_000,))
    ratio = (p.log_prob(x) - q.log_prob(x)).detach()
    exact = td.kl_divergence(normal_of(one), normal_of(other))
    assert (ratio.mean() - exact).abs() < 5 * ratio.std() / math.sqrt(20_000)
    assert ratio.std() / math.sqrt(20_000) < 0.05 * exact


def test_samples_have_the_moments_of_the_normal(float64):
    flow = gaussian_flow()
    normal = normal_of(flow)
    x = flow.distribution().sample((20_000,))
    white = torch.linalg.solve_triangular(normal.scale_tril, (x - normal.mean).T, upper=False)
    assert (white.mean(1)).abs().max() < 5 / math.sqrt(20_000)
    assert (white.cov() - torch.eye(4)).abs().max() < 5 * math.sqrt(2 / 20_000)


def test_gradient_through_samples_is_that_of_torchs_normal(float64):
    norm, scaling = b.ActNorm(3), b.Scaling(3)
    flow = Flow(b.Chain(norm, scaling), priors.StandardNormal(3))
    disturb(flow)
    log_scale = (-norm.log_scale - scaling.log_scale).detach().requires_grad_()
    loc = norm.shift.detach().clone().requires_grad_()
    torch.manual_seed(1)
    ours = flow.distribution().rsample((50,))
    ours.sin().sum().backward()
    torch.manual_seed(1)
    theirs = td.Normal(loc, log_scale.exp()).rsample((50,))
    theirs.sin().sum().backward()
    same(ours, theirs)
    same(norm.shift.grad, loc.grad)
    assert log_scale.grad is not None
    same(norm.log_scale.grad, -log_scale.grad)
    same(scaling.log_scale.grad, -log_scale.grad)


def test_gradient_through_samples_reaches_every_parameter_and_the_context(float64):
    flow, _, _ = some_distribution((5,))
    context = torch.randn(5, 2, requires_grad=True)
    density = flow.distribution(context)
    assert density.has_rsample
    assert not density.sample((4,)).requires_grad
    density.rsample((4,)).square().sum().backward()
    for tensor in (context, *flow.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.abs().sum() > 0


@pytest.mark.parametrize("prior", [priors.StudentT(3), priors.GaussianMixture(3, components=2)])
def test_samples_carry_no_gradient_where_the_prior_has_parameters(prior):
    density = Flow(b.Scaling(3), prior).distribution()
    assert not density.has_rsample
    with pytest.raises(NotImplementedError):
        density.rsample()
    assert density.sample((4,)).shape == (4, 3)


def test_one_row_of_context_is_a_distribution_without_batch():
    flow = maf(2, context_features=1, layers=1, hidden=(8,))
    density = flow.distribution(torch.tensor([0.5]))
    assert density.batch_shape == ()
    assert density.sample(torch.Size((3,))).shape == (3, 2)


def test_the_gradient_reaches_a_prior_made_by_torch():
    mean = torch.zeros(2, requires_grad=True)
    flow = Flow(b.Scaling(2), td.Normal(mean, 1.0))
    flow.distribution().rsample(torch.Size((4,))).sum().backward()
    assert mean.grad is not None
    assert mean.grad.tolist() == [4.0, 4.0]
