"""Densities and priors against those that torch.distributions have in closed form, in float64."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import distributions as td

from cases import disturb, same
from flowstone import Flow, priors
from flowstone import bijections as b
from gaussian import gaussian_flow, normal_of

seeds = st.integers(0, 2**32 - 1)


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
