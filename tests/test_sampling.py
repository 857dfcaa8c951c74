"""Samples of a flow: their shapes, seeds, temperature, memory, and that they follow the density."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import flowstone
from cases import disturb
from flowstone.errors import SettingError, ShapeError
from flowstone.kernels import CHUNK


def wild(recipe, *args, size: float = 0.3, **kwargs) -> flowstone.Flow:
    flow = recipe(*args, **kwargs)
    disturb(flow, size)
    return flow.eval()


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


def test_numbers_of_numpy_are_numbers():
    flow = wild(flowstone.realnvp, 2, context_features=1)
    context = torch.randn(2, 1)
    samples = flow.sample(np.int64(3), context, seed=np.uint32(5))  # pyright: ignore[reportArgumentType]
    assert torch.equal(samples, flow.sample(3, context, seed=5))


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
        *({"n": 1, "seed": seed} for seed in (-1, 1.5, "a", True, 2**64)),
        {"n": 1, "context": torch.randn(3, 2)},
    )
    for wrong in wrongs:
        with pytest.raises((SettingError, ShapeError)):
            flow.stream(**{"context": context, **wrong})
