"""Pyro takes a density as a distribution and a bijection as the transform of a guide."""

from typing import Any

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormalizingFlow
from pyro.optim import Adam  # pyright: ignore[reportAttributeAccessIssue] (made when it is imported)
from torch import distributions as td

from cases import disturb, ordered, same, soft, vector
from flowstone import BijectionTransform, Flow, priors
from flowstone import bijections as b
from gaussian import some_distribution


@pytest.fixture(autouse=True)
def clean():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)


# --- sites ------------------------------------------------------------------------------------------------------------


def test_a_site_draws_from_it_and_scores_it(float64):
    _, density, _ = some_distribution(None)
    x = pyro.sample("x", density)
    assert x.shape == (3,)
    trace: Any = poutine.trace(lambda: pyro.sample("x", density)).get_trace()
    trace.compute_log_prob()
    site = trace.nodes["x"]
    same(site["log_prob"], density.log_prob(site["value"]))
    assert site["value"].requires_grad == density.has_rsample


def test_plates_expand_it(float64):
    _, density, _ = some_distribution((4,))
    free: Any = some_distribution(None)[1]

    def model(seen=None):
        with pyro.plate("rows", 4):
            pyro.sample("x", density, obs=seen)
            with pyro.plate("draws", 5):
                return pyro.sample("y", free)

    trace: Any = poutine.trace(model).get_trace()
    trace.compute_log_prob()
    assert trace.nodes["x"]["value"].shape == (4, 3)
    assert trace.nodes["y"]["value"].shape == (5, 4, 3)
    same(trace.nodes["y"]["log_prob"], free.log_prob(trace.nodes["y"]["value"]))
    seen = torch.randn(4, 3)
    conditioned: Any = poutine.trace(model).get_trace(seen)
    conditioned.compute_log_prob()
    same(conditioned.nodes["x"]["log_prob"], density.log_prob(seen))


def test_what_pyro_adds_to_distributions_is_there(float64):
    density: Any = some_distribution((2, 4))[1]
    x = density.sample()
    assert density.event_dim == 1
    assert density.shape((5,)) == (5, 2, 4, 3)
    assert density().shape == (2, 4, 3)
    wide = density.expand_by((5,))
    assert (wide.batch_shape, type(wide)) == ((5, 2, 4), type(density))
    joint = density.to_event(1)
    assert (joint.batch_shape, joint.event_shape) == ((2,), (4, 3))
    same(joint.log_prob(x), density.log_prob(x).sum(-1))
    mask = torch.tensor([[True], [False]])
    same(density.mask(mask).log_prob(x), density.log_prob(x) * mask)
    assert joint.mask(False).to_event(1).log_prob(x).item() == 0


def test_a_prior_with_parameters_gives_samples_without_gradient():
    density: Any = Flow(b.Scaling(2), priors.StudentT(2)).distribution()
    trace: Any = poutine.trace(lambda: pyro.sample("x", density)).get_trace()
    trace.compute_score_parts()
    assert not trace.nodes["x"]["value"].requires_grad
    assert trace.nodes["x"]["score_parts"].score_function is not 0  # noqa: F632


@pytest.mark.parametrize("back", [False, True])
def test_clearing_the_cache_as_pyro_does_drops_what_was_kept(back):
    scaling, x = b.Scaling(2), torch.ones(3, 2)
    transform = BijectionTransform(scaling)
    way: Any = transform.inv if back else transform
    density: Any = dist.TransformedDistribution(dist.Normal(torch.zeros(2), 1.0).to_event(1), [way])
    same(way(x), x)
    scaling.log_scale.data += 1  # torch does not count this
    density.clear_cache()
    same(way(x), x / torch.e if back else x * torch.e, 1e-6)


# --- inference --------------------------------------------------------------------------------------------------------

MEAN, SCALE = torch.tensor([1.0, -2.0]), torch.tensor([[1.0, 0.0], [0.8, 0.6]])


def normal_model():
    return pyro.sample("x", dist.MultivariateNormal(MEAN, scale_tril=SCALE))


def losses_of(guide, steps: int = 150) -> list[float]:
    loss = Trace_ELBO(num_particles=32, vectorize_particles=True, max_plate_nesting=0)
    svi: Any = SVI(normal_model, guide, Adam({"lr": 0.05}), loss)
    return [float(svi.step()) for _ in range(steps)]


@pytest.mark.parametrize("back", [False, True])
def test_a_guide_is_made_of_a_bijection(back):
    """The optimum of the loss is 0: the guide can be the posterior."""
    layers: list[BijectionTransform] = []

    def make(features: int) -> td.Transform:
        layers.append(BijectionTransform(b.Inverse(b.LULinear(features)) if back else b.LULinear(features)))
        return layers[0].inv if back else layers[0]

    guide = AutoNormalizingFlow(normal_model, make)
    guide()
    assert len(list(guide.parameters())) == 4
    losses = losses_of(guide)
    assert sum(losses[:10]) / 10 > 1
    assert abs(sum(losses[-20:]) / 20) < 0.1
    assert (guide.get_posterior().sample((2000,)).mean(0) - MEAN).abs().max() < 0.3


def test_a_flow_is_a_guide():
    flow: Any = Flow(b.Inverse(ordered(2, soft)), priors.StandardNormal(2))

    def guide():
        pyro.module("flow", flow)
        pyro.sample("x", flow.distribution())

    losses = losses_of(guide)
    assert sum(losses[-20:]) < 0.3 * sum(losses[:20])


@pytest.mark.parametrize("prior", ["normal", "uniform"])
def test_nuts_over_a_model_whose_prior_is_a_flow(float64, prior):
    """Against the posterior on a grid."""
    latent = priors.StandardNormal(1) if prior == "normal" else priors.Uniform(1, low=-1.0, high=1.0)
    flow = Flow(b.Chain(b.Positive(low=0.5), vector(1, b.Affine)) if prior == "normal" else b.Scaling(1), latent)
    disturb(flow, 0.3)
    flow.requires_grad_(False)
    density: Any = flow.distribution()
    seen = torch.tensor(0.7)

    def model():
        x = pyro.sample("x", density)
        pyro.sample("y", dist.Normal(x[..., 0], 0.5), obs=seen)

    sampler = MCMC(NUTS(model), num_samples=200, warmup_steps=50, disable_progbar=True)
    sampler.run()
    x = sampler.get_samples()["x"]
    assert density.support.check(x).all()
    grid = torch.linspace(-4, 6, 20_001)
    weight = flow.log_prob(grid[:, None]) + td.Normal(grid, 0.5).log_prob(seen)
    weight = weight.softmax(0)
    mean = (weight * grid).sum()
    deviation = (weight * (grid - mean).square()).sum().sqrt()
    assert (x.mean() - mean).abs() < 0.4 * deviation
    assert 0.7 < x.std() / deviation < 1.4
