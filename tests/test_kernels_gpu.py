"""The spline's kernels for GPUs, by Triton's interpreter on the CPU: the same code, run without a GPU."""

import os
import subprocess
import sys
import warnings
from importlib import import_module

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowstone.bijections import RQSpline
from flowstone.kernels import kernels
from flowstone.kernels import spline as spline_kernels
from test_kernels import DIRECTIONS, LAYOUTS, inputs, results, worst

pytest.importorskip("triton")
pytestmark = pytest.mark.filterwarnings(
    "ignore::RuntimeWarning"
)  # numpy's, of infinities on the way, which a GPU has not


@pytest.fixture(autouse=True, scope="module")
def interpreted():
    """In this module the CPU is taken for a GPU."""
    gpu = import_module("flowstone.kernels.spline_gpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(spline_kernels.BACKENDS, "cpu", spline_kernels.BACKENDS["cuda"])
        spline_kernels._backend.cache_clear()
        yield gpu
    spline_kernels._backend.cache_clear()


@pytest.mark.parametrize("direction", DIRECTIONS)
@given(
    layout=st.sampled_from(sorted(LAYOUTS)),
    rows=st.integers(1, 30),
    bins=st.integers(2, 12),
    bound=st.floats(0.5, 6.0),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=15)
def test_the_same_numbers_as_the_plain_spline_in_float64(direction, layout, rows, bins, bound, seed):
    spline = RQSpline(bins=bins, bound=bound)
    x, parameters = inputs(rows, 3, layout, bins, seed, spread=bound / 2)
    exact = results(spline, direction, x, 0.3 * parameters, torch.float64, fused=False)
    ours = results(spline, direction, x, 0.3 * parameters, torch.float32, fused=True)
    assert max(worst(ours, exact)[:2]) < 1e-5
    assert max(worst(ours, exact)[2:]) < 1e-4


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_numbers_of_the_cpu_where_it_is_hard(direction):
    """At the bound, beyond it, on knots, with NaN, with parameters of any size, in bfloat16."""
    spline = RQSpline(bins=4, bound=2.0)
    x = torch.tensor([-9.0, -2.0, -1.0, 0.0, 1.0, 2.0, 9.0, float("nan")]).repeat(3)[:, None]
    drawn = torch.randn(24, 1, 11, generator=torch.Generator().manual_seed(0))
    parameters = drawn * torch.tensor([0.0, 1.0, 100.0]).repeat_interleave(8)[:, None, None]
    for dtype in (torch.float32, torch.bfloat16):
        raw = parameters.to(dtype)
        value, told = x.clone().requires_grad_(), raw.clone().requires_grad_()
        outputs = getattr(spline, direction)(value, told)
        assert "ward" in str(outputs[0].grad_fn) or "Inverse" in str(outputs[0].grad_fn)
        gradients = torch.autograd.grad(outputs, (value, told), [torch.ones_like(x)] * 2)
        with kernels(False):
            plain = getattr(spline, direction)(x.double(), raw.double())
        for ours, right in zip(outputs, plain, strict=True):
            torch.testing.assert_close(ours.double()[:16], right[:16], atol=1e-4, rtol=1e-4, equal_nan=True)
            assert torch.equal(ours.isnan()[..., 0], x.isnan()[..., 0])
        assert gradients[1].dtype == dtype


def test_a_kernel_that_disagrees_is_not_used(interpreted, monkeypatch):
    spline, device = RQSpline(bins=4), torch.device("cpu")
    plain = RQSpline.forward.__wrapped__  # pyright: ignore[reportFunctionMemberAccess]
    monkeypatch.setattr(spline_kernels, "_AGREED", {})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert spline_kernels._agrees(spline_kernels._Forward, spline, plain, device)
    right = interpreted.run
    for wrong, said in (
        (lambda *a, **k: tuple(1.01 * part for part in right(*a, **k)), "off by"),
        (lambda *a, **k: (_ for _ in ()).throw(RuntimeError("no such instruction")), "no such instruction"),
    ):
        monkeypatch.setattr(spline_kernels, "_AGREED", {})
        monkeypatch.setattr(interpreted, "run", wrong)
        with pytest.warns(UserWarning, match=said):
            assert not spline_kernels._agrees(spline_kernels._Forward, spline, plain, device)
        assert not spline_kernels._agrees(spline_kernels._Forward, spline, plain, device)  # said once


@pytest.mark.skipif(not torch.cuda.is_available(), reason="on a GPU: here there is none")
def test_on_the_gpu_itself():
    code = """
import torch
from flowstone.bijections import RQSpline
from flowstone.kernels import spline
for bins in (4, 8, 12):
    for name, function in (("forward", spline._Forward), ("inverse", spline._Inverse)):
        transform = RQSpline(bins=bins)
        plain = getattr(RQSpline, name).__wrapped__
        assert spline._difference(function, transform, plain, torch.device("cuda")) < 1e-3
"""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
