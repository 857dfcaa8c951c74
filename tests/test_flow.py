import math
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import flowstone
from cases import disturb
from flowstone.bijections import Affine, Bijection, Chain, Coupling, Dequantize, Permutation, Scaling, Standardize
from flowstone.errors import SettingError, ShapeError
from flowstone.evaluation.metrics import evaluate, log_prob, round_trip
from flowstone.flow import CHUNK
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
    assert flowstone.grid_integral(flow, (-12, -12), (12, 12), points=900) == pytest.approx(1, abs=0.005)


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


@given(n=st.sampled_from([0, 1, 7, CHUNK, CHUNK + 1, 3 * CHUNK - 5]), context=st.booleans())
def test_shapes_of_samples(n, context):
    flow = flowstone.nice(3, context_features=2 if context else 0, hidden=(4,))
    given_rows = torch.randn(5, 2) if context else None
    assert flow.sample(n, given_rows, seed=0).shape == ((n, 5, 3) if context else (n, 3))


def test_samples_of_each_context_row_follow_it(float64):
    flow = flowstone.realnvp(1, context_features=1, couplings=1, hidden=())
    assert flow.standardize_context is not None
    flow.bijection.links[1].net.output.weight.data = torch.tensor([[0.0], [1.0]])  # pyright: ignore
    context = torch.tensor([[10.0], [-10.0], [0.0]])
    samples = flow.sample(4000, context, seed=1)
    torch.testing.assert_close(samples.mean(0), -context, atol=0.1, rtol=0)


def test_seed_and_temperature():
    flow = wild(flowstone.spline, 2)
    assert torch.equal(flow.sample(100, seed=3), flow.sample(100, seed=3))
    assert not torch.equal(flow.sample(100, seed=3), flow.sample(100, seed=4))
    cold, warm = (flow.to_latent(flow.sample(500, seed=0, temperature=t))[0].std() for t in (0.5, 1.0))
    assert (cold / warm).item() == pytest.approx(0.5, abs=1e-3)


def test_samples_follow_the_density(float64):
    """Monte-Carlo change of measure: E_p[1/p restricted to a box] is the box's area."""
    flow = flowstone.spline(2, hidden=(8,))
    disturb(flow, 0.15)
    x = flow.sample(40_000, seed=0)
    inside = (x.abs() < 0.8).all(-1)
    weights = inside / flow.log_prob(x).exp()
    error = weights.std().item() / len(x) ** 0.5
    assert error < 0.2
    assert weights.mean().item() == pytest.approx(1.6**2, abs=4 * error)


def test_chunks_change_nothing(float64):
    flow = wild(flowstone.spline, 3)
    x = torch.randn(2 * CHUNK + 17, 3)
    with torch.no_grad():
        chunked = flow.log_prob(x)
    torch.testing.assert_close(chunked, flow.log_prob(x).detach(), atol=1e-12, rtol=0)


def kilobytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak can be read on Linux alone")
def test_memory_of_sampling_is_that_of_the_result():
    flow = flowstone.spline(2)
    flow.sample(4 * CHUNK, seed=0)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = kilobytes("VmRSS")
    result = flow.sample(1_000_000, seed=0)
    grown = 1024 * (kilobytes("VmHWM") - before)
    # At once, one activation of one hidden layer would be 256 MB.
    assert grown < result.numel() * result.element_size() + 32e6


def test_gradients_reach_the_context_and_the_data():
    flow = wild(flowstone.spline, 2, context_features=3)
    x, context = torch.randn(4, 2, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    flow.log_prob(x, context).sum().backward()
    assert x.grad is not None
    assert context.grad is not None
    assert context.grad.abs().sum() > 0


def test_shapes_that_do_not_fit_are_named():
    flow, conditional = flowstone.nice(2), flowstone.nice(2, context_features=3)
    x = torch.zeros(4, 2)
    with pytest.raises(ShapeError, match=r"expected shape \(batch, 2\), got \(4, 3\)"):
        flow.log_prob(torch.zeros(4, 3))
    with pytest.raises(ShapeError, match="takes no context"):
        flow.log_prob(x, torch.zeros(4, 1))
    with pytest.raises(ShapeError, match=r"needs a context of shape \(4, 3\)"):
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


FAULTS = """
import resource, torch, flowstone, flowstone.flow
torch.set_num_threads(1)
{}
flow, x = flowstone.realnvp(6, couplings=10), torch.randn(20_000, 6)
faults = [resource.getrusage(resource.RUSAGE_SELF).ru_minflt]
with torch.no_grad():
    for _ in range(10):
        flow.log_prob(x)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(min(after - before for before, after in zip(faults[-5:], faults[-4:])))  # the first ones fill the memory
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what glibc does with freed memory")
def test_freed_memory_is_used_again():
    """Else each array of a chunk would ask the system for its pages, one by one."""
    without = "flowstone.flow.reuse_memory = lambda: None"
    found = [
        int(
            subprocess.run(
                [sys.executable, "-c", FAULTS.format(line)], capture_output=True, text=True, check=True
            ).stdout
        )
        for line in ("", without)
    ]
    assert 4 * found[0] < found[1]


def test_a_stream_is_the_samples_in_pieces_and_refuses_at_once():
    flow = wild(flowstone.realnvp, 2, context_features=1)
    context = torch.randn(3, 1)
    parts = list(flow.stream(6000, context, seed=1, temperature=0.7))
    assert torch.equal(torch.cat(parts), flow.sample(6000, context, seed=1, temperature=0.7).flatten(0, 1))
    assert {len(part) for part in parts[:-1]} == {CHUNK}
    assert not parts[0].is_inference()
    assert not parts[0].requires_grad
    wrongs: tuple[dict[str, Any], ...] = (
        {"n": -1},
        {"n": 1, "temperature": 0.0},
        {"n": 1, "context": torch.randn(3, 2)},
    )
    for wrong in wrongs:
        with pytest.raises((SettingError, ShapeError)):
            flow.stream(**{"context": context, **wrong})
