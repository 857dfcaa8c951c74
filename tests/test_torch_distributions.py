"""torch.distributions says the same: densities in closed form, priors, and a flow as one of torch's own; in float64."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import distributions as td

from cases import disturb, same, set_from_data, vector
from flowstone import Flow, priors
from flowstone import bijections as b
from flowstone.distribution import BijectionTransform
from flowstone.nets import MADE, MLP
from flowstone.recipes import maf

seeds = st.integers(0, 2**32 - 1)


# --- densities in closed form -----------------------------------------------------------------------------------------


def gaussian_flow(*, kind: str = "zca") -> Flow:
    """One of every layer that is affine in all features, couplings and autoregressive ones by nets that are linear."""
    kept, moved = b.Coupling.sizes(4)
    linear = MLP(kept, 2 * moved, hidden=())
    masked = MADE(4, 2, hidden=())
    lu, normalized = b.LULinear(4), b.ActNorm(4)
    learned = [
        lu,
        normalized,
        b.Permutation.random(4),
        b.Coupling(4, b.Affine(moved), linear),
        b.Householder(4),
        b.Coupling(4, b.Affine(2, scale="soft"), MLP(2, 4, hidden=()), swap=True),
        b.Autoregressive(4, b.Affine(4, scale="soft"), masked),
        b.Scaling(4),
    ]
    for layer in learned:
        disturb(layer, 0.5)
    for net in (linear, learned[5].net, masked):
        net.output.weight.data[0::2] = 0  # the log-scale is a constant, the shift is linear
    batch_norm = b.BatchNorm(4)
    batch_norm.initialize(3 * torch.randn(50, 4) + 1)
    first = [set_from_data(b.Whiten(4, kind=kind), 4), set_from_data(b.Standardize(4), 4), batch_norm]
    return Flow(b.Chain(*first, *learned, b.Inverse(b.Scaling(4))), priors.StandardNormal(4)).eval()


def normal_of(flow: Flow) -> td.MultivariateNormal:
    """Basis vectors through the way back: x = mean + M z."""
    with torch.no_grad():
        mean = flow.from_latent(torch.zeros(1, 4))[0][0]
        transposed = flow.from_latent(torch.eye(4))[0] - mean
    upper = torch.linalg.qr(transposed).R  # M Mᵀ = Rᵀ R without its squared condition number
    return td.MultivariateNormal(mean, scale_tril=(upper.diagonal().sign()[:, None] * upper).T)


@pytest.mark.parametrize("kind", ["zca", "pca"])
@given(seed=seeds)
def test_flow_of_affine_layers_is_a_multivariate_normal(float64, kind, seed):
    torch.manual_seed(seed)
    flow = gaussian_flow(kind=kind)
    normal = normal_of(flow)
    x = normal.mean + 2 * (normal.sample((20,)) - normal.mean)
    same(flow.log_prob(x), normal.log_prob(x))
    same(flow.from_latent(torch.randn(3, 4))[1], normal.scale_tril.diagonal().log().sum().expand(3))


def bounded(name: str) -> tuple[b.Bijection, list[td.Transform]]:
    """A bijection, and torch's way from the latent to the data."""
    low, high = torch.tensor([-1.0, 0.0, 2.0]), torch.tensor([3.0, 0.5, 10.0])
    squeezed = td.AffineTransform(-0.05 / 0.9, 1 / 0.9)
    return {
        "Positive": lambda: (b.Positive(low=2.0), [td.SoftplusTransform(), td.AffineTransform(2.0, 1.0)]),
        "Interval": lambda: (
            b.Interval(low.tolist(), high.tolist()),
            [td.SigmoidTransform(), td.AffineTransform(low, high - low)],
        ),
        "Interval alpha": lambda: (
            b.Interval(-2.0, 3.0, alpha=0.05),
            [td.SigmoidTransform(), squeezed, td.AffineTransform(-2.0, 5.0)],
        ),
        "Logit": lambda: (b.Logit(), [td.SigmoidTransform()]),
        "Logit alpha": lambda: (b.Logit(alpha=0.05), [td.SigmoidTransform(), squeezed]),
    }[name]()


def logistic() -> td.TransformedDistribution:
    return td.TransformedDistribution(td.Uniform(torch.zeros(3), torch.ones(3)), [td.SigmoidTransform().inv])


@pytest.mark.parametrize("name", ["Positive", "Interval", "Interval alpha", "Logit", "Logit alpha"])
@pytest.mark.parametrize("prior", ["normal", "logistic"])
@given(seed=seeds)
def test_bounded_density_is_that_of_torch(float64, name, prior, seed):
    torch.manual_seed(seed)
    bijection, transforms = bounded(name)
    flow = Flow(bijection, priors.make_prior(prior, 3))
    base = td.Normal(torch.zeros(3), torch.ones(3)) if prior == "normal" else logistic()
    theirs = td.Independent(td.TransformedDistribution(base, transforms), 1)
    x = theirs.sample((20,))
    same(flow.log_prob(x), theirs.log_prob(x))
    z = 3 * torch.randn(20, 3)
    way = td.ComposeTransform(transforms)
    same(flow.from_latent(z), (way(z), way.log_abs_det_jacobian(z, way(z)).sum(-1)))


def test_logistic_on_an_interval_is_uniform(float64):
    low, high = torch.tensor([-1.0, 0.0]), torch.tensor([3.0, 0.5])
    flow = Flow(b.Interval(low.tolist(), high.tolist()), priors.Logistic(2))
    uniform = td.Uniform(low, high)
    x = uniform.sample((20,))
    same(flow.log_prob(x), uniform.log_prob(x).sum(-1))


def test_logarithmic_tails_of_a_normal_are_log_normal(float64):
    flow = Flow(b.LogTails(bound=3.0), priors.StandardNormal(1))
    beyond = torch.logspace(math.log10(3.1), 6, 50)[:, None]
    log_normal = td.LogNormal(torch.tensor(math.log(3.0) - 1), torch.tensor(1 / 3))  # x = 3 exp(z / 3 - 1)
    for x in (beyond, -beyond):
        same(flow.log_prob(x), log_normal.log_prob(x.abs()).sum(-1))
    within = torch.linspace(-2.9, 2.9, 20)[:, None]
    same(flow.log_prob(within), td.Normal(0.0, 1.0).log_prob(within).sum(-1))


@given(seed=seeds)
def test_mixture_cdf_is_the_distribution_function_of_torchs_mixture(float64, seed):
    torch.manual_seed(seed)
    transform = b.LogisticMixtureCDF(components=3, limit=2.0)
    x, raw = torch.randn(20, 2), torch.randn(20, 2, 9)
    logits, means, log_scales = raw.split(3, -1)
    means = means * torch.tensor([0.5, 1.0, 1.5])
    scales = (4 / math.pi * torch.atan(math.pi * log_scales / 4)).exp()
    uniform = td.Uniform(torch.zeros(20, 2, 3), torch.ones(20, 2, 3))
    component = td.TransformedDistribution(uniform, [td.SigmoidTransform().inv, td.AffineTransform(means, scales)])
    mixture = td.MixtureSameFamily(td.Categorical(logits=logits), component)
    below = mixture.cdf(x)
    assert ((below > 1e-6) & (below < 1 - 1e-6)).all()  # where a logit of it has its digits
    z, log_slope = below.logit(), mixture.log_prob(x) - below.log() - (-below).log1p()
    same(transform(x, raw), (z, log_slope))
    same(transform.inverse(z, raw), (x, -log_slope))


# --- priors -----------------------------------------------------------------------------------------------------------


@given(seed=seeds)
def test_student_density_is_that_of_torch(float64, seed):
    torch.manual_seed(seed)
    prior = priors.StudentT(3, df=4.0)
    same(prior.df, torch.full((3,), 4.0))
    disturb(prior)
    z = 5 * torch.randn(20, 3)
    same(prior.log_prob(z), td.StudentT(prior.df).log_prob(z).sum(-1))


def test_student_samples_have_the_quantiles_of_torchs(float64):
    prior = priors.StudentT(1, df=2.5)
    ours, theirs = prior.sample(40_000).flatten(), td.StudentT(torch.tensor(2.5)).sample((40_000,))
    levels = torch.linspace(0.01, 0.99, 33)
    at = theirs.quantile(levels)
    share = (ours[:, None] < at).double().mean(0)
    error = (2 * levels * (1 - levels) / 40_000).sqrt()
    assert ((share - levels).abs() < 4.5 * error).all()


def test_uniform_density_is_that_of_torch(float64):
    prior = priors.Uniform(2, low=-1.0, high=3.0)
    z = 4 * torch.randn(200, 2)
    theirs = td.Uniform(torch.tensor(-1.0), torch.tensor(3.0), validate_args=False).log_prob(z).sum(-1)
    assert theirs.isfinite().any()
    assert theirs.isinf().any()
    same(prior.log_prob(z), theirs)
    drawn = prior.sample(1000)
    assert td.Uniform(-1.0, 3.0).support.check(drawn).all()  # pyright: ignore
    assert (drawn.mean(0) - 1).abs().max() < 5 * 4 / math.sqrt(12 * 1000)


def mixture_of_torch(prior: priors.GaussianMixture) -> td.MixtureSameFamily:
    factor = prior.below.tril(-1) + torch.diag_embed(prior.log_diagonal.exp())
    components = td.MultivariateNormal(prior.means, precision_matrix=factor.mT @ factor)
    return td.MixtureSameFamily(td.Categorical(logits=prior.logits), components)


@given(seed=seeds)
def test_mixture_density_is_that_of_torch(float64, seed):
    torch.manual_seed(seed)
    prior = priors.GaussianMixture(3, components=4)
    disturb(prior)
    z = 3 * torch.randn(20, 3)
    same(prior.log_prob(z), mixture_of_torch(prior).log_prob(z))


def test_mixture_samples_have_the_moments_of_torchs(float64):
    prior = priors.GaussianMixture(3, components=4)
    disturb(prior)
    theirs = mixture_of_torch(prior)
    z = prior.sample(40_000)
    for sampled, exact in ((z, theirs.mean), ((z - theirs.mean).square(), theirs.variance)):
        assert ((sampled.mean(0) - exact).abs() < 5 * sampled.std(0) / 200).all()
    # The correlations, which the marginal moments do not see: mean log-density against torch's own samples.
    drawn = theirs.sample((40_000,))
    ours, other = theirs.log_prob(z), theirs.log_prob(drawn)
    assert (ours.mean() - other.mean()).abs() < 5 * (ours.var() + other.var()).sqrt() / 200


def test_class_conditional_density_is_that_of_torch(float64):
    prior = priors.ClassConditional(3, classes=4, column=1)
    disturb(prior)
    label = torch.randint(4, (20,))
    context = torch.stack((torch.randn(20), label.double()), -1)
    z = 2 * torch.randn(20, 3)
    theirs = td.Normal(prior.means[label], prior.log_scales[label].exp())
    same(prior.log_prob(z, context), theirs.log_prob(z).sum(-1))


# --- a flow as a torch distribution -----------------------------------------------------------------------------------


def some_distribution(batch: tuple[int, ...] | None) -> tuple[Flow, Any, torch.Size]:
    """A flow, its distribution given contexts of shape ``batch`` (of a flow without context: None), its batch shape."""
    flow = Flow(
        b.Chain(vector(3, b.Affine, context=0 if batch is None else 2), b.Permutation.random(3), b.Scaling(3)),
        priors.StandardNormal(3),
        context_features=0 if batch is None else 2,
    )
    disturb(flow)
    if flow.standardize_context is None or batch is None:
        return flow, flow.distribution(), torch.Size()
    flow.standardize_context.initialize(3 * torch.randn(50, 2) + 1)
    return flow, flow.distribution(torch.randn(*batch, 2)), torch.Size(batch)


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


@batches
def test_transformed_distribution_has_the_density_of_the_flow(float64, batch):
    flow, density, batch_shape = some_distribution(batch)
    context = None
    if flow.standardize_context is not None:
        context = flow.standardize_context(density.context.reshape(-1, 2))[0].reshape(*batch_shape, 2)
    base = td.MultivariateNormal(torch.zeros(*batch_shape, 3), torch.eye(3))
    transform = BijectionTransform(flow.bijection, context)
    theirs = td.TransformedDistribution(base, [transform.inv])
    assert (theirs.batch_shape, theirs.event_shape) == (density.batch_shape, density.event_shape)
    x = theirs.rsample((3, 4))
    same(theirs.log_prob(x), density.log_prob(x))
    torch.manual_seed(1)
    drawn = theirs.sample()
    torch.manual_seed(1)
    same(drawn, density.sample())


def test_transform_composes_with_those_of_torch(float64):
    flow, density, _ = some_distribution(None)
    unit: Any = td.AffineTransform(torch.tensor([1.0, 0.0, -2.0]), torch.tensor([2.0, 0.1, 30.0]), event_dim=1)
    base = td.Independent(td.Normal(torch.zeros(3), 1.0), 1)
    theirs = td.TransformedDistribution(base, [BijectionTransform(flow.bijection).inv, unit])
    x: Any = theirs.sample((20,))
    same(theirs.log_prob(x), density.log_prob((x - unit.loc) / unit.scale) - unit.scale.log().sum())


def test_transform_has_the_log_determinant_of_its_jacobian(float64):
    flow, _, _ = some_distribution(None)
    transform = BijectionTransform(flow.bijection)
    way: Any
    for way in (transform, transform.inv):
        x = torch.randn(3)
        jacobian = torch.autograd.functional.jacobian(way, x)
        same(way.log_abs_det_jacobian(x, way(x)), torch.linalg.slogdet(jacobian).logabsdet)
        same(way.inv(way(x)), x)
        assert way.forward_shape(torch.Size((5, 3))) == way.inverse_shape(torch.Size((5, 3))) == (5, 3)


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


# --- what the shapes and contexts of a transform may be --------------------------------------------------------------


def test_a_transform_that_changes_shapes_makes_whole_distributions(float64):
    shape = torch.Size((1, 4, 4))
    for bijection, latent in ((b.Squeeze(), (4, 2, 2)), (b.MultiScale(shape, [b.Squeeze(), b.Squeeze()]), (16,))):
        base = td.Independent(td.Normal(torch.zeros(latent), 1.0), len(latent))
        transform = BijectionTransform(bijection, event_dim=3)
        density = td.TransformedDistribution(base, [transform.inv])
        assert density.event_shape == shape
        x = density.sample(torch.Size((5,)))
        assert x is not None
        assert x.shape == (5, *shape)
        z, log_det = bijection(x)
        torch.testing.assert_close(density.log_prob(x), base.log_prob(z) + log_det)


def test_a_transform_s_context_broadcasts(float64):
    layer = maf(2, context_features=1, layers=1, hidden=(8,)).bijection
    for parameter in layer.parameters():
        parameter.data.normal_()
    context = torch.randn(3, 1)
    transform = BijectionTransform(layer, context)
    x = torch.randn(2)
    torch.testing.assert_close(transform(x), layer(x.expand(3, 2), context)[0])
    base = td.MultivariateNormal(torch.zeros(2), torch.eye(2))
    density = td.TransformedDistribution(base, [transform.inv])
    assert density.batch_shape == (3,)
    assert density.rsample(torch.Size((4,))).shape == (4, 3, 2)


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
