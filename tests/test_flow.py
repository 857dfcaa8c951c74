"""The likelihood of a flow: that it is normalised, exact, in the units of the data, and asks for the right shapes."""

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

import flowstone
from cases import disturb
from flowstone.bijections import (
    ActNorm,
    Affine,
    Chain,
    Coupling,
    Inverse,
    MultiScale,
    Pad,
    Partial,
    Permutation,
    Scaling,
    Squeeze,
    Standardize,
)
from flowstone.errors import DataError, SettingError, ShapeError
from flowstone.kernels import CHUNK
from flowstone.nets import MLP
from flowstone.priors import StandardNormal


def wild(recipe, *args, size: float = 0.3, **kwargs) -> flowstone.Flow:
    flow = recipe(*args, **kwargs)
    disturb(flow, size)
    return flow.eval()


@pytest.mark.parametrize(
    ("recipe", "size"),
    # A wild spline has ridges thinner than the grid's cells.
    [
        (flowstone.nice, 0.3),
        (flowstone.realnvp, 0.3),
        (flowstone.spline, 0.1),
        (flowstone.glow, 0.3),
        (flowstone.maf, 0.3),
    ],
)
def test_density_integrates_to_one(recipe, size):
    flow = wild(recipe, 2, hidden=(16,), size=size)
    assert flowstone.grid_integral(flow, (-16, -16), (16, 16), points=500) == pytest.approx(1, abs=0.005)


def test_density_in_one_dimension_integrates_to_one(float64):
    flow = wild(flowstone.spline, 1, context_features=1, hidden=(8,))
    x = torch.linspace(-12, 12, 20_001)[:, None]
    density = flow.log_prob(x, torch.full((len(x), 1), 0.7)).exp()
    assert torch.trapezoid(density, x[:, 0]).item() == pytest.approx(1, abs=1e-5)


def test_likelihood_is_in_the_units_of_the_data(float64):
    """Data in other units: the same shape, its density divided by the change of scale."""
    flow = wild(flowstone.spline, 2)
    x = torch.randn(500, 2)
    scale = torch.tensor([1000.0, 0.01])
    flow.initialize(x)
    other = flowstone.spline(2)
    other.load_state_dict(flow.state_dict())
    other.bijection.links[0].standardize.initialized.fill_(False)  # pyright: ignore
    other.initialize(x * scale)
    torch.testing.assert_close(other.log_prob(x * scale), flow.log_prob(x) - scale.log().sum())


def test_affine_flow_is_the_normal_that_torch_knows(float64):
    """A chain of linear layers is a multivariate normal in closed form."""
    kept, moved = Coupling.sizes(2)
    net = MLP(kept, 2 * moved, hidden=())
    net.output.weight.data = torch.tensor([[0.0], [0.7]])
    net.output.bias.data = torch.tensor([0.3, -0.2])
    standardize = Standardize(2)
    standardize.initialize(torch.randn(100, 2) * 3 + 5)
    chain = Chain(standardize, Coupling(2, Affine(moved), net), Permutation.reverse(2), Scaling(2))
    flow = flowstone.Flow(chain, StandardNormal(2))
    origin = torch.zeros(2)
    matrix = torch.autograd.functional.jacobian(lambda v: flow.to_latent(v[None])[0][0], origin)
    assert isinstance(matrix, torch.Tensor)
    shift = flow.to_latent(origin[None])[0][0]
    covariance = torch.linalg.inv(matrix.T @ matrix)
    normal = torch.distributions.MultivariateNormal(-torch.linalg.solve(matrix, shift), covariance)
    x = normal.sample((50,))
    torch.testing.assert_close(flow.log_prob(x), normal.log_prob(x))
    samples = flow.sample(200_000, seed=0)
    torch.testing.assert_close(samples.T.cov(), covariance, atol=0.05 * covariance.max().item(), rtol=0)


def test_chunks_change_nothing(float64):
    flow = wild(flowstone.spline, 3)
    x = torch.randn(2 * CHUNK + 17, 3)
    with torch.no_grad():
        chunked = flow.log_prob(x)
    torch.testing.assert_close(chunked, flow.log_prob(x).detach(), atol=1e-12, rtol=0)


def test_gradients_reach_the_context_and_the_data():
    flow = wild(flowstone.spline, 2, context_features=3)
    x, context = torch.randn(4, 2, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    flow.log_prob(x, context).sum().backward()
    assert x.grad is not None
    assert context.grad is not None
    assert context.grad.abs().sum() > 0


def test_latents_of_any_precision_are_taken():
    flow = wild(flowstone.spline, 2)
    z = torch.randn(4, 2)
    for given in (z.double(), z.double().requires_grad_()):
        assert torch.equal(flow.from_latent(given)[0], flow.from_latent(z)[0])
        assert torch.equal(flow.inverse_states(given)[-1].value, flow.from_latent(z)[0])
    assert flow.from_latent(torch.ones(4, 2, dtype=torch.long))[0].dtype == torch.float32


def test_no_rows_set_nothing():
    for flow in (flowstone.spline(2), flowstone.Flow(ActNorm(2), StandardNormal(2))):
        with pytest.raises(DataError, match="no rows"):
            flow.initialize(torch.zeros(0, 2))
        assert flow.log_prob(torch.zeros(0, 2)).shape == (0,)
        assert flow.log_prob(torch.zeros(3, 2)).isfinite().all()


def test_what_makes_no_flow_is_named():
    prior = StandardNormal(2)
    wrongs: dict[str, Callable[[], Any]] = {
        "Flow takes a bijection first, got the class Scaling": lambda: flowstone.Flow(Scaling, prior),  # pyright: ignore
        "Flow takes a prior, or a distribution of torch, got a NoneType": (
            lambda: flowstone.Flow(Scaling(2), None)  # pyright: ignore
        ),
        "Chain takes bijections one by one, as in Chain(a, b), got a list": lambda: Chain([Scaling(2)]),  # pyright: ignore
        "Inverse takes a bijection, got the class Scaling": lambda: Inverse(Scaling),  # pyright: ignore
        "Partial takes a bijection, got a NoneType": lambda: Partial(2, None),  # pyright: ignore
        "MultiScale takes a bijection for each scale, got the class Squeeze": (
            lambda: MultiScale((1, 4, 4), [Squeeze])  # pyright: ignore
        ),
        "Coupling takes a univariate transform, got the class Affine": (
            lambda: Coupling(2, Affine, MLP(1, 2))  # pyright: ignore
        ),
    }
    for message, make in wrongs.items():
        with pytest.raises(SettingError, match=re.escape(message)):
            make()


def test_shapes_that_do_not_fit_are_named():
    flow, conditional = flowstone.nice(2), flowstone.nice(2, context_features=3)
    x = torch.zeros(4, 2)
    with pytest.raises(ShapeError, match=r"expected shape \(batch, 2\), got \(4, 3\)"):
        flow.log_prob(torch.zeros(4, 3))
    with pytest.raises(ShapeError, match="takes no context"):
        flow.log_prob(x, torch.zeros(4, 1))
    with pytest.raises(ShapeError, match=r"needs a context of shape \(batch, 3\)"):
        conditional.log_prob(x)
    with pytest.raises(ShapeError, match=r"context of shape \(4, 3\), got \(5, 3\)"):
        conditional.log_prob(x, torch.zeros(5, 3))
    with pytest.raises(ShapeError, match="conditional"):
        conditional.sample(3)
    with pytest.raises(SettingError, match="n=-1"):
        flow.sample(-1)
    with pytest.raises(SettingError, match="temperature=nan"):
        flow.sample(1, temperature=math.nan)


def test_a_flow_works_on_another_device_throughout():
    """On the meta device nothing is computed, but a tensor left on the CPU is an error."""
    flow = flowstone.spline(3, context_features=2).to("meta")
    assert flow.device.type == "meta"
    x, context = torch.empty(7, 3, device="meta"), torch.empty(7, 2, device="meta")
    assert flow.log_prob(x, context).device.type == "meta"
    with torch.no_grad():
        assert flow.log_prob(x, context).shape == (7,)
    z, _ = flow.to_latent(x, context)
    assert flow.from_latent(z, context)[0].device.type == "meta"
    assert flow.sample(4, context).shape == (4, 7, 3)


def test_samples_of_a_flow_with_noise_have_the_likelihood_of_log_prob(float64):
    """Here the bound is tight: the added pixels are independent of the image."""
    flow = flowstone.Flow(Pad((1, 1, 2), (2, 2)), StandardNormal((1, 2, 2)))
    x, log_prob = flow.sample_and_log_prob(50, seed=0)
    assert x.shape == (50, 1, 1, 2)
    torch.testing.assert_close(log_prob, torch.distributions.Normal(0.0, 1.0).log_prob(x).flatten(1).sum(1))
    again, same = flow.sample_and_log_prob(50, seed=0)
    assert torch.equal(again, x)
    assert torch.equal(same, log_prob)
