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
from flowstone.kernels import kernels, spline_call
from flowstone.kernels import spline as spline_kernels
from test_kernels import DIRECTIONS, LAYOUTS, inputs, results, worst

pytest.importorskip("triton")
pytestmark = pytest.mark.filterwarnings(
    "ignore::RuntimeWarning"
)  # numpy's, of infinities on the way, which a GPU has not


@pytest.fixture(autouse=True, scope="module")
def interpreted():
    """In this module the kernels for GPUs run on the CPU."""
    gpu = import_module("flowstone.kernels.spline_gpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(spline_call.BACKENDS, "cpu", spline_call.BACKENDS["cuda"])
        spline_call.backend.cache_clear()
        yield gpu
    spline_call.backend.cache_clear()


@pytest.mark.parametrize("direction", DIRECTIONS)
@given(
    layout=st.sampled_from(sorted(LAYOUTS)),
    rows=st.integers(1, 8),
    bins=st.integers(2, 8),
    bound=st.floats(0.5, 6.0),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=8)
def test_the_same_numbers_as_the_plain_spline_in_float64(direction, layout, rows, bins, bound, seed):
    spline = RQSpline(bins=bins, bound=bound)
    x, parameters = inputs(rows, 3, layout, bins, seed, spread=bound / 2)
    exact = results(spline, direction, x, 0.3 * parameters, torch.float64, fused=False)
    ours = results(spline, direction, x, 0.3 * parameters, torch.float32, fused=True)
    assert max(worst(ours, exact)[:2]) < 1e-5
    assert max(worst(ours, exact)[2:]) < 1e-4


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_where_it_is_hard(direction):
    """At the bound, beyond it, on knots, with NaN, with parameters of any size, in bfloat16."""
    spline = RQSpline(bins=4, bound=2.0)
    x = torch.tensor([-9.0, -2.0, -1.0, 0.0, 1.0, 2.0, 9.0, float("nan")]).repeat(3)[:, None]
    drawn = torch.randn(24, 1, 11, generator=torch.Generator().manual_seed(0))
    parameters = drawn * torch.tensor([0.0, 1.0, 100.0]).repeat_interleave(8)[:, None, None]
    for dtype in (torch.float32, torch.bfloat16):
        raw = parameters.to(dtype)
        value, leaf = x.clone().requires_grad_(), raw.clone().requires_grad_()
        outputs = getattr(spline, direction)(value, leaf)
        assert f"_{direction.capitalize()}" in str(outputs[0].grad_fn)
        gradients = torch.autograd.grad(outputs, (value, leaf), [torch.ones_like(x)] * 2)
        with kernels(False):
            wide = x.double().requires_grad_(), raw.double().requires_grad_()
            plain = getattr(spline, direction)(*wide)
            right_gradients = torch.autograd.grad(plain, wide, [torch.ones_like(wide[0])] * 2)
        for ours, right in zip(outputs, plain, strict=True):
            torch.testing.assert_close(ours.double()[:16], right[:16], atol=1e-4, rtol=1e-4, equal_nan=True)
            assert torch.equal(ours.isnan()[..., 0], x.isnan()[..., 0])
        assert gradients[1].dtype == dtype
        loose, numbers = 1e-3 if dtype == torch.float32 else 1e-2, [*range(7), *range(8, 15)]
        for ours, right in zip(gradients, right_gradients, strict=True):
            torch.testing.assert_close(ours.double()[numbers], right[numbers], atol=loose, rtol=loose)


def test_a_kernel_that_disagrees_is_not_used(interpreted, monkeypatch):
    spline, raw = RQSpline(bins=4), torch.zeros(1, 1, 11)
    plain = RQSpline.forward.__wrapped__  # pyright: ignore[reportFunctionMemberAccess]
    monkeypatch.setattr(spline_kernels, "_AGREED", {})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for parameters in (raw, raw.bfloat16()):
            with torch.inference_mode():
                assert spline_kernels._agrees(spline_kernels._Forward, spline, plain, parameters)
    right = interpreted.run
    for wrong, said in (
        (lambda *a, **k: tuple(1.01 * part for part in right(*a, **k)), "off by"),
        (lambda *a, **k: (_ for _ in ()).throw(RuntimeError("no such instruction")), "no such instruction"),
    ):
        monkeypatch.setattr(spline_kernels, "_AGREED", {})
        monkeypatch.setattr(interpreted, "run", wrong)
        with pytest.warns(UserWarning, match=said):
            assert not spline_kernels._agrees(spline_kernels._Forward, spline, plain, raw)
        assert not spline_kernels._agrees(spline_kernels._Forward, spline, plain, raw)  # said once


FOR_GPUS = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from flowstone.kernels import spline_gpu

sizes = {"n": "i32", "bound": "fp32", "min_size": "fp32", "min_slope": "fp32", "zero_slope": "fp32"}
fixed = dict.fromkeys(("ALONG_Y", "BINS", "WIDE", "SIZE"), "constexpr")
for along_y, inner, kind in ((False, None, "*fp32"), (True, 1, "*fp32"), (True, None, "*bf16")):
    more = {"inner": "i32" if inner is None else "constexpr"}
    values = {"ALONG_Y": along_y, "BINS": 6, "WIDE": 8, "SIZE": 128} | ({} if inner is None else {"inner": inner})
    arrays = {
        "transform": {"value": "*fp32", "raw": kind, "result": "*fp32", "log_slope": "*fp32"},
        "backward": {"value": "*fp32", "raw": kind, "g_z": "*fp32", "g_log": "*fp32", "g_x": "*fp32", "g_raw": kind},
    }
    for name, tensors in arrays.items():
        kernel = getattr(spline_gpu, name)
        wanted = tensors | sizes | more | fixed
        source = ASTSource(kernel, signature={key: wanted[key] for key in kernel.arg_names}, constexprs=values)
        assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
"""


def without_interpreter(tmp_path) -> dict[str, str]:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    return environment | {"TRITON_CACHE_DIR": str(tmp_path)}


def test_they_compile_for_a_gpu(tmp_path):
    """Compiling takes no GPU."""
    run = subprocess.run(
        [sys.executable, "-c", FOR_GPUS], env=without_interpreter(tmp_path), capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="on a GPU: here there is none")
def test_on_the_gpu_itself(tmp_path):
    code = """
import torch
from flowstone.bijections import RQSpline
from flowstone.kernels import spline
for bins in (4, 8, 12):
    for name, function in (("forward", spline._Forward), ("inverse", spline._Inverse)):
        transform = RQSpline(bins=bins)
        plain = getattr(RQSpline, name).__wrapped__
        assert spline._difference(function, transform, plain, torch.device("cuda"), torch.float32) < 1e-3
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=without_interpreter(tmp_path))
